# SPDX-License-Identifier: Apache-2.0
"""Networks on a region of an image: the pixels that they would give of the whole one, in plain torch.

A patch is a part of an image that knows where it lies. A convolution sees zeros beyond a patch's border, as it does
beyond the image's; so what is computed is wider than what is kept, but where both borders are one.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.renderers.gated_blocks import DoubleConv, Down, Out, Up, blur_halve
from npcr.renderers.receptive_field import PixelRegion


class Patch(NamedTuple):
    """The pixels of a region of an image."""

    pixels: Tensor  # (B, C, h, w)
    region: PixelRegion

    def part(self, wanted: PixelRegion) -> Tensor:
        """The pixels (B, C, h', w') of a region within this one, a view."""
        top, left = wanted.top - self.region.top, wanted.left - self.region.left
        return self.pixels[..., top:top + wanted.bottom - wanted.top, left:left + wanted.right - wanted.left]


@runtime_checkable
class RegionalNetwork(Protocol):
    """A network that can compute a region of its result from a part of its input."""

    @abstractmethod
    def input_region(self, wanted: PixelRegion) -> PixelRegion:
        """Return the pixels of the input on which the region `wanted` of the result depends."""

    @abstractmethod
    def forward_region(self, x: Patch, wanted: PixelRegion) -> Tensor:
        """Compute a region of the result.

        Args:
            x: the pixels of `input_region(wanted)` at least.
            wanted: the region.

        Returns:
            (B, C, h, w), to rounding what `forward` gives there of the whole image.

        Raises:
            ValueError: the network looks at the whole image.
        """


def run_on_region(block: nn.Module, wanted: PixelRegion, *inputs: Patch) -> Tensor:
    """Run a block of `npcr.renderers.gated_unet.GatedUNet` for a region of its result.

    Args:
        block: a DoubleConv, Down, Up or Out.
        wanted: the region.
        inputs: as the block's `forward` takes them, with the pixels that `block_regions` names.

    Returns:
        (B, C, h, w), the pixels of the region.
    """
    if isinstance(block, Out):
        around = wanted.grown(1)
        return Patch(block(inputs[0].part(around)), around).part(wanted)
    around = wanted.grown(2)
    if isinstance(block, Down):
        return Patch(block.conv(halved(inputs[0], around)), around).part(wanted)
    if isinstance(block, Up):
        x, *skips = inputs
        sources = [*(skip.part(around) for skip in skips), doubled(x, around, align_corners=True)]
        return Patch(block.conv(*sources), around).part(wanted)
    assert isinstance(block, DoubleConv)
    return Patch(block(*(x.part(around) for x in inputs)), around).part(wanted)


def halved(x: Patch, wanted: PixelRegion) -> Tensor:
    """Max-pool and halve as `npcr.renderers.gated_blocks.Down` does.

    Args:
        x: has the pixels of `wanted.before_halving(...)`.
        wanted: a region of the halved image.

    Returns:
        (B, C, h, w), the pixels of the region.
    """
    pixels = F.max_pool2d(x.part(wanted.before_halving(x.region.size)), 2, stride=1)
    # Its first row is 2 top - 1, but at the image's border, where it is 0 and the row before it is reflected.
    borders = (wanted.left == 0, wanted.top == 0, 2 * wanted.right == x.region.size[1],
               2 * wanted.bottom == x.region.size[0])
    return blur_halve(pixels, borders)


def doubled(x: Patch, wanted: PixelRegion, *, align_corners: bool) -> Tensor:
    """Double bilinearly, as `torch.nn.functional.interpolate` does, a region alone.

    Args:
        x: of an image of half the size of `wanted`'s, with the pixels of `wanted.before_doubling()`, or of its
            `before_resizing()` where corners are not aligned.
        wanted: a region of the doubled image.
        align_corners: True: the last row of an odd size is 0, as in `npcr.renderers.gated_blocks.double`. False: an odd
            size is resized to, as by `size=` of interpolate.

    Returns:
        (B, C, h, w), the pixels of the region.
    """
    pixels = x.pixels
    for axis, source, first, last in ((3, (x.region.left, x.region.right), wanted.left, wanted.right),
                                      (2, (x.region.top, x.region.bottom), wanted.top, wanted.bottom)):
        before, after = x.region.size[axis - 2], wanted.size[axis - 2]
        place = torch.arange(first, last, dtype=torch.float32, device=pixels.device)
        # The positions are rounded as torch rounds them.
        if align_corners:
            position = place * ((torch.tensor(before) - 1.0) / (2 * before - 1)).item()
        else:
            position = ((place + 0.5) * (torch.tensor(float(before)) / after).item() - 0.5).clamp(min=0)
        low = position.long().clamp(max=before - 1)
        share = (position - low).to(pixels.dtype).view([-1 if i == axis else 1 for i in range(4)])
        rows = [(row.clamp(source[0], source[1] - 1) - source[0]) for row in (low, (low + 1).clamp(max=before - 1))]
        near, far = (pixels.index_select(axis, row) for row in rows)
        pixels = near * (1 - share) + far * share
        if align_corners and last > 2 * before:
            pixels.narrow(axis, 2 * before - first, last - 2 * before).zero_()
    return pixels
