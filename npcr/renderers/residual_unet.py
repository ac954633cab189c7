# SPDX-License-Identifier: Apache-2.0
"""A light U-Net whose output is added to a composited image, for detail that splats cannot represent."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.renderers.patches import Patch, doubled
from npcr.renderers.receptive_field import PixelRegion

LEVELS = 3  # halvings
MAX_WIDENING = 8  # channels at most, relative to full resolution


class ResidualUNet(nn.Module):
    """A U-Net of 3x3 convolutions with ReLU, whose output is 0 everywhere before training.

    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015). Images are halved by
    2x2 means and doubled bilinearly: neither changes abruptly when the image shifts by a pixel.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        width: channels at its highest resolution; there are twice as many after each halving.
        halvings: of the input before the first convolution; the output is doubled as often.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, halvings: int = 0) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.halvings = halvings
        widths = [width * min(2**level, MAX_WIDENING) for level in range(LEVELS + 1)]
        self.enter = _double_conv(in_channels, widths[0])
        self.down = nn.ModuleList(_double_conv(a, b) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_double_conv(a + b, a) for a, b in pairwise(widths))
        self.out = nn.Conv2d(widths[0], out_channels, 3, padding=1)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W), H and W at least 24, to (B, out_channels, H, W)."""
        sizes = []
        for _ in range(self.halvings):
            sizes.append(x.shape[2:])
            x = F.avg_pool2d(x, 2)
        levels = [self.enter(x.contiguous(memory_format=torch.channels_last))]
        for down in self.down:
            levels.append(down(F.avg_pool2d(levels[-1], 2)))
        y = levels.pop()
        for up in reversed(self.up):
            skip = levels.pop()
            y = up(torch.cat([skip, _resized(y, skip.shape[2:])], 1))
        result: Tensor = self.out(y)
        for size in reversed(sizes):
            result = _resized(result, size)
        return result

    def input_region(self, wanted: PixelRegion) -> PixelRegion:
        """As `npcr.renderers.patches.RegionalNetwork.input_region`."""
        return self._inputs(wanted)[0].union(wanted)  # an odd last row of the picture is in no mean

    def forward_region(self, x: Patch, wanted: PixelRegion) -> Tensor:
        """As `npcr.renderers.patches.RegionalNetwork.forward_region`."""
        results = self._results(wanted)
        encoded, decoded = _regions(results[-1])
        for region in self._inputs(wanted)[1:]:
            x = Patch(F.avg_pool2d(x.part(region.before_mean(x.region.size)), 2), region)
        levels = [_on_region(self.enter, x.part(encoded[0].grown(2)), encoded[0])]
        for down, region in zip(self.down, encoded[1:], strict=True):
            around = region.grown(2)
            halved = F.avg_pool2d(levels[-1].part(around.before_mean(levels[-1].region.size)), 2)
            levels.append(_on_region(down, halved, region))
        y = levels.pop()
        for up, region in zip(reversed(self.up), reversed(decoded), strict=True):
            around = region.grown(2)
            skip = levels.pop().part(around)
            y = _on_region(up, torch.cat([skip, doubled(y, around, align_corners=False)], 1), region)
        last = results.pop()
        result = Patch(Patch(self.out(y.part(last.grown(1))), last.grown(1)).part(last), last)
        for region in reversed(results):
            result = Patch(doubled(result, region, align_corners=False), region)
        return result.pixels

    def _inputs(self, wanted: PixelRegion) -> list[PixelRegion]:
        """The regions of the input that are read: of the input itself, and after each halving."""
        results = self._results(wanted)
        regions = [_regions(results[-1])[0][0].grown(2)]
        for larger in reversed(results[:-1]):
            regions.insert(0, regions[0].before_mean(larger.size))
        return regions

    def _results(self, wanted: PixelRegion) -> list[PixelRegion]:
        """The regions of the output that are computed: the one wanted, and before each doubling."""
        regions = [wanted]
        for _ in range(self.halvings):
            regions.append(regions[-1].before_resizing())
        return regions


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _regions(wanted: PixelRegion) -> tuple[list[PixelRegion], list[PixelRegion]]:
    """What the encoder, LEVELS + 1 of them, and the decoder, LEVELS, must compute, from full resolution down."""
    decoded = [wanted.grown(1)]
    for _ in range(LEVELS - 1):
        decoded.append(decoded[-1].grown(2).before_resizing())
    encoded = [decoded[-1].grown(2).before_resizing()]
    for region in reversed(decoded):
        skip = region.grown(2)
        encoded.insert(0, skip.union(encoded[0].grown(2).before_mean(skip.size)))
    return encoded, decoded


def _on_region(double_conv: nn.Module, pixels: Tensor, region: PixelRegion) -> Patch:
    """A double convolution of the pixels of a region and two around it."""
    return Patch(Patch(double_conv(pixels), region.grown(2)).part(region), region)


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.ReLU())
