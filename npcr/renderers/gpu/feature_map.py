# SPDX-License-Identifier: Apache-2.0
"""What the blocks of the gated U-Net give to each other on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

KEPT = torch.bfloat16  # of what is kept for gradients, and of gradients: float32's range, so that no loss is scaled

UNIT = 64.0  # packed weights are times this: the low half of a small weight is then no subnormal number


class FeatureMap(NamedTuple):
    """A feature map (B, C, H, W), channels_last, C a multiple of 8."""

    high: Tensor  # float16
    low: Tensor | None  # float16: the number is high + low; None: it is high
    kept: Tensor | None  # `KEPT`, which carries the gradient: the number, or `affine` normalized it; None without
    affine: Tensor | None  # of `join_moments`, where `kept` is what a norm normalized and `restore` gives the number
    channels: int  # of the network; those behind are 0

    @property
    def shape(self) -> torch.Size:
        """(B, C, H, W)."""
        return self.high.shape


class Packed(NamedTuple):
    """Weights for `convolve`: (rows, columns), `UNIT` times the number, which is high + low where there is low."""

    high: Tensor  # float16
    low: Tensor | None


class Convolved(NamedTuple):
    """What `convolve` gives of a gated convolution."""

    gated: Tensor  # (B, C, H, W) sigmoid(gate) * value, float32 where the sources are split, else float16
    means: Tensor  # (B, tiles, C) float32, of each tile's pixels
    squares: Tensor  # (B, tiles, C), sums of squared deviations from them
    tile_pixels: int  # of a tile but the last
    share: Tensor | None  # (B, C, H, W) uint8, 255 sigmoid(gate); None without gradients


def padded(channels: int) -> int:
    """Return the channels of memory that a feature map has, so that loads are of 16 bytes.

    Args:
        channels: of the network.

    Returns:
        The next multiple of 8.
    """
    return (channels + 7) // 8 * 8


def empty_map(batch: int, channels: int, height: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an uninitialized tensor in channels_last memory without gaps.

    Args:
        batch, channels, height, width: its shape.
        dtype, device: its own.

    Returns:
        (B, C, H, W).
    """
    return torch.empty(batch, height, width, channels, dtype=dtype, device=device).permute(0, 3, 1, 2)
