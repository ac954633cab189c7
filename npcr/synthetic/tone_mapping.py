# SPDX-License-Identifier: Apache-2.0
"""From linear light to the pictures that are stored."""

from __future__ import annotations

import torch
from torch import Tensor


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light to sRGB values in 0..1, with a soft shoulder above 0.6 in place of clipping."""
    bent = torch.where(linear < 0.6, linear, 0.6 + 0.4 * (1 - torch.exp(-(linear - 0.6) / 0.4)))
    low = 12.92 * bent
    high = 1.055 * bent.clamp_min(1e-6) ** (1 / 2.4) - 0.055
    return torch.where(bent <= 0.0031308, low, high).clamp(0, 1)
