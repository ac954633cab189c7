# SPDX-License-Identifier: Apache-2.0
"""The pixels of each of a U-Net's levels on which a region of its result depends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PixelRegion(NamedTuple):
    """Pixels left <= x < right, top <= y < bottom of an image of `size` (height, width)."""

    left: int
    top: int
    right: int
    bottom: int
    size: tuple[int, int]

    @classmethod
    def whole(cls, size: tuple[int, int]) -> PixelRegion:
        """All pixels of an image of `size` (height, width)."""
        return cls(0, 0, size[1], size[0], size)

    def within(self, images: Tensor) -> Tensor:
        """Its part of images (..., H, W) of `size`, a view."""
        return images[..., self.top:self.bottom, self.left:self.right]

    def intersection(self, other: PixelRegion) -> PixelRegion | None:
        """The pixels of both; None where there are none."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        right, bottom = min(self.right, other.right), min(self.bottom, other.bottom)
        return PixelRegion(left, top, right, bottom, self.size) if left < right and top < bottom else None

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom)."""
        return self[:4]

    def grown(self, pixels: int) -> PixelRegion:
        """Add so many pixels on each side, where the image has them: a 3x3 convolution's input for 1."""
        return PixelRegion(max(0, self.left - pixels), max(0, self.top - pixels),
                           min(self.size[1], self.right + pixels), min(self.size[0], self.bottom + pixels), self.size)

    def before_doubling(self) -> PixelRegion:
        """The input of bilinear doubling with aligned corners: pixel o lies at o (n-1) / (2n-1)."""
        height, width = self.size[0] // 2, self.size[1] // 2
        return PixelRegion(max(0, (self.left - 1) // 2), max(0, (self.top - 1) // 2),
                           min(width, (self.right - 1) // 2 + 2), min(height, (self.bottom - 1) // 2 + 2),
                           (height, width))

    def before_resizing(self) -> PixelRegion:
        """The input of bilinear resizing of n to N = 2n or 2n + 1 pixels: pixel o lies at (o + 0.5) n / N - 0.5."""
        return self.before_doubling().grown(1)

    def before_mean(self, size: tuple[int, int]) -> PixelRegion:
        """The input of means over 2x2 pixels, in an image of `size` (height, width)."""
        return PixelRegion(2 * self.left, 2 * self.top, 2 * self.right, 2 * self.bottom, size)

    def before_halving(self, size: tuple[int, int]) -> PixelRegion:
        """The input of max-pool and blur, in an image of `size` (height, width)."""
        return PixelRegion(max(0, 2 * self.left - 1), max(0, 2 * self.top - 1), min(size[1], 2 * self.right + 1),
                           min(size[0], 2 * self.bottom + 1), size)

    def union(self, other: PixelRegion) -> PixelRegion:
        """The smallest region that contains both."""
        return PixelRegion(min(self.left, other.left), min(self.top, other.top), max(self.right, other.right),
                           max(self.bottom, other.bottom), self.size)


def zero_outside(images: Tensor, region: PixelRegion) -> Tensor:
    """Set the pixels outside a region to 0.

    Args:
        images: (B, C, H, W), not changed.
        region: of images of this size.

    Returns:
        (B, C, H, W), a copy.
    """
    result = torch.zeros_like(images)
    left, top, right, bottom = region.box
    result[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right]
    return result


def bounding_region(mask: Tensor, margin: int) -> PixelRegion | None:
    """Find the rectangle around the True pixels of a mask.

    Args:
        mask: (H, W) bool.
        margin: pixels by which it is wider on each side, where the image has them.

    Returns:
        The region; None where the mask has no True pixel.
    """
    rows, columns = (torch.nonzero(mask.any(dim=axis)).flatten() for axis in (1, 0))
    if len(rows) == 0:
        return None
    box = PixelRegion(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1,
                      (mask.shape[0], mask.shape[1]))
    return box.grown(margin)


def block_regions(wanted: PixelRegion) -> dict[str, PixelRegion]:
    """Find the pixels that each block of `npcr.renderers.gated_unet.GatedUNet` must compute for a region of the result.

    It goes from the result backwards: a double convolution reads two pixels around its region, the last one reads one.

    Args:
        wanted: the region of the network's result.

    Returns:
        For each block, by its name, the region of its result.
    """
    plan = {"alpha_out": wanted, "alpha_up2": wanted.grown(1)}
    # What an Up reads beside the doubled feature map, and the region of that map.
    skip1 = plan["alpha_up2"].grown(2)
    plan["alpha_up1"] = skip1.before_doubling()
    skip2 = plan["alpha_up1"].grown(2)
    plan["alpha_down2"] = skip2.before_doubling()
    plan["alpha_down1"] = _with_down(skip2, plan["alpha_down2"])
    plan["alpha_enter"] = _with_down(skip1, plan["alpha_down1"])

    plan["out"] = plan["alpha_enter"].grown(2)
    plan["up4"] = plan["out"].grown(1)
    skips = [plan["up4"].grown(2)]  # of levels 1 to 4
    for name in ("up3", "up2", "up1"):
        plan[name] = skips[-1].before_doubling()
        skips.append(plan[name].grown(2))
    plan["down4"] = skips[3].before_doubling()
    plan["down3"] = _with_down(skips[3], plan["down4"])
    plan["down2"] = _with_down(skips[2], plan["down3"])
    plan["down1"] = _with_down(skips[1].union(skip2), plan["down2"])
    plan["enter"] = _with_down(skips[0].union(skip1), plan["down1"])
    return plan


def _with_down(skip: PixelRegion, down: PixelRegion) -> PixelRegion:
    """What a level's Up (or output) reads of its encoder, and what the Down below it reads."""
    return skip.union(down.grown(2).before_halving(skip.size))
