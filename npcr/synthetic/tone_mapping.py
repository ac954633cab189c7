# SPDX-License-Identifier: Apache-2.0
"""Tone mapping of rendered images."""

from __future__ import annotations

import torch
from torch import Tensor


def to_srgb(linear: Tensor) -> Tensor:
    """Encode linear light in sRGB, with a soft shoulder above 0.6 in place of clipping.

    Args:
        linear: of any shape, at least 0.

    Returns:
        Of the same shape, in [0, 1].
    """
    compressed = torch.where(linear < 0.6, linear, 0.6 + 0.4 * (1 - torch.exp(-(linear - 0.6) / 0.4)))
    low = 12.92 * compressed
    high = 1.055 * compressed.clamp_min(1e-6) ** (1 / 2.4) - 0.055
    return torch.where(compressed <= 0.0031308, low, high).clamp(0, 1)
