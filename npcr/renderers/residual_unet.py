# SPDX-License-Identifier: Apache-2.0
"""A light U-Net whose output is added to a composited image, for detail that splats cannot represent."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 3  # halvings
MAX_WIDENING = 8  # channels at most, relative to full resolution


class ResidualUNet(nn.Module):
    """A U-Net of 3x3 convolutions with ReLU, whose output is 0 everywhere before training.

    Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation" (2015). Images are halved by
    2x2 means and doubled bilinearly: neither changes abruptly when the image shifts by a pixel.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        width: channels at full resolution; there are twice as many after each halving.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        super().__init__()
        self.in_channels = in_channels
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
        levels = [self.enter(x.contiguous(memory_format=torch.channels_last))]
        for down in self.down:
            levels.append(down(F.avg_pool2d(levels[-1], 2)))
        y = levels.pop()
        for up in reversed(self.up):
            skip = levels.pop()
            y = up(torch.cat([skip, F.interpolate(y, size=skip.shape[2:], mode="bilinear", align_corners=False)], 1))
        result: Tensor = self.out(y)
        return result


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(channels_out, channels_out, 3, padding=1), nn.ReLU())
