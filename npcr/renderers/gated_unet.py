# SPDX-License-Identifier: Apache-2.0
"""The gated U-Net: a layer's feature image to color and alpha (NPCR; 13.0 M parameters at 35 channels)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from npcr.renderers.cpu import autograd as fast
from npcr.renderers.gated_blocks import DoubleConv, Down, Out, Up
from npcr.renderers.receptive_field import Window, block_regions, zero_outside

SMALLEST_PICTURE = 24  # pixels; four halvings must leave something for the last border to reflect


class GatedUNet(nn.Module):
    """(B, in_channels, H, W) to (B, 4, H, W): color, then alpha, neither bounded. H and W at least 24.

    Alpha is a second, shallower U-Net that also sees the color and the color net's encoder.
    `norm` is instance, batch or none (`npcr.renderers.gated_blocks.make_norm`).
    """

    def __init__(self, in_channels: int, norm: str = "instance") -> None:
        super().__init__()
        self.in_channels = in_channels
        self.enter = DoubleConv(in_channels, 24, norm)
        self.down1 = Down(24, 48, norm)
        self.down2 = Down(48, 96, norm)
        self.down3 = Down(96, 384, norm)
        self.down4 = Down(384, 384, norm)
        self.up1 = Up(384 + 384, 192, norm)
        self.up2 = Up(96 + 192, 48, norm)
        self.up3 = Up(48 + 48, 48, norm)
        self.up4 = Up(24 + 48, 30, norm)
        self.out = Out(30, 3)

        self.alpha_enter = DoubleConv(in_channels + 3, 16, norm)
        self.alpha_down1 = Down(16, 32, norm)
        self.alpha_down2 = Down(32, 64, norm)
        self.alpha_up1 = Up(48 + 32 + 64, 32, norm)
        self.alpha_up2 = Up(24 + 16 + 32, 8, norm)
        self.alpha_out = Out(8, 1)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        """With a window, the same values inside it and 0 outside.

        Where no norm looks at the whole picture, only what the window depends on is then computed.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < SMALLEST_PICTURE:
            raise ValueError(f"GatedUNet: x must be (B, {self.in_channels}, H, W) with H and W at least "
                             f"{SMALLEST_PICTURE}, is {tuple(x.shape)}")
        if len(x) > 1 and fast.serves(x) and not torch.is_grad_enabled():  # one by one they stay in the caches
            return torch.cat([GatedUNet.forward(self, one, window) for one in x.split(1)])
        if window is None:
            return self._through(x, {})
        whole = self._through(x, block_regions(window) if fast.supports_regions(self, x) else {})
        return zero_outside(whole, window)

    def _through(self, x: Tensor, windows: dict[str, Window]) -> Tensor:
        """`windows`: the pixels that a block must compute, by its name; a block that is not there, all."""

        def run(name: str, *inputs: Tensor) -> Tensor:
            result: Tensor = getattr(self, name)(*inputs, window=windows.get(name))
            return result

        level1 = run("enter", x)
        level2 = run("down1", level1)
        level3 = run("down2", level2)
        level4 = run("down3", level3)
        up = run("up1", run("down4", level4), level4)
        up = run("up2", up, level3)
        up = run("up3", up, level2)
        color = run("out", run("up4", up, level1))

        alpha1 = run("alpha_enter", x, color)
        alpha2 = run("alpha_down1", alpha1)
        up = run("alpha_up1", run("alpha_down2", alpha2), level2, alpha2)
        alpha = run("alpha_out", run("alpha_up2", up, level1, alpha1))
        return torch.cat([color, alpha], dim=1)
