# SPDX-License-Identifier: Apache-2.0
"""Which pixels of each of the U-Net's levels a window of its result depends on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """Pixels left <= x < right, top <= y < bottom of a picture of `size` (height, width)."""

    left: int
    top: int
    right: int
    bottom: int
    size: tuple[int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self[:4]

    def grown(self, pixels: int) -> Window:
        """With so many more to each side, where the picture has them: a 3x3 convolution's input for 1."""
        return Window(max(0, self.left - pixels), max(0, self.top - pixels), min(self.size[1], self.right + pixels),
                      min(self.size[0], self.bottom + pixels), self.size)

    def before_doubling(self) -> Window:
        """What bilinear doubling with aligned corners reads for this window: pixel o lies at o (n-1) / (2n-1)."""
        height, width = self.size[0] // 2, self.size[1] // 2
        return Window(max(0, (self.left - 1) // 2), max(0, (self.top - 1) // 2),
                      min(width, (self.right - 1) // 2 + 2), min(height, (self.bottom - 1) // 2 + 2), (height, width))

    def before_halving(self, size: tuple[int, int]) -> Window:
        """What max-pool and blur read for this window, of a picture of `size`."""
        return Window(max(0, 2 * self.left - 1), max(0, 2 * self.top - 1), min(size[1], 2 * self.right + 1),
                      min(size[0], 2 * self.bottom + 1), size)

    def joined(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(min(self.left, other.left), min(self.top, other.top), max(self.right, other.right),
                      max(self.bottom, other.bottom), self.size)


def zero_outside(picture: Tensor, window: Window) -> Tensor:
    """(B, C, H, W) with 0 outside the window."""
    result = torch.zeros_like(picture)
    left, top, right, bottom = window.box
    result[:, :, top:bottom, left:right] = picture[:, :, top:bottom, left:right]
    return result


def bounding_region(mask: Tensor, margin: int) -> Window | None:
    """The rectangle around the True pixels of mask (H, W), `margin` wider on each side; None where there are none."""
    rows, columns = (torch.nonzero(mask.any(dim=axis)).flatten() for axis in (1, 0))
    if len(rows) == 0:
        return None
    box = Window(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1, (mask.shape[0], mask.shape[1]))
    return box.grown(margin)


def block_regions(wanted: Window) -> dict[str, Window]:
    """For each block of `GatedUNet`, by its name, the pixels of its result that `wanted` of the network's needs.

    From the result backwards: a double convolution reads two pixels around its window, the last one reads one.
    """
    plan = {"alpha_out": wanted, "alpha_up2": wanted.grown(1)}
    # What an Up reads beside the doubled picture, and the window of that picture.
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
    plan["down1"] = _with_down(skips[1].joined(skip2), plan["down2"])
    plan["enter"] = _with_down(skips[0].joined(skip1), plan["down1"])
    return plan


def _with_down(skip: Window, down: Window) -> Window:
    """What a level's Up (or output) wants of its encoder, and what the Down below it reads."""
    return skip.joined(down.grown(2).before_halving(skip.size))
