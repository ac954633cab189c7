# SPDX-License-Identifier: Apache-2.0
"""Reprojection as the published implementation does it, number for number (docs/method.md, "Legacy")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.cameras import project, unproject
from npcr.temporal.reprojection import RenderedFrame


def reproject_legacy(current: RenderedFrame, earlier: RenderedFrame, images: Sequence[Tensor], *,
                     color_threshold: float) -> list[Tensor]:
    """Warp images of an earlier frame onto the current one: half a pixel off, nearest neighbor, no visibility test.

    The sample is `grid_sample` at (2u/W - 1, 2v/H - 1), nearest, align_corners=False, zeros outside. Pixels that
    differ too much, and after that every single channel that equals 0, take the current frame's value.

    Args:
        current: the frame onto whose pixels the images are warped.
        earlier: another frame; its cameras are used.
        images: (B, C, H, W) each, of the earlier view, C >= 3.
        color_threshold: the largest squared RGB distance to the current frame, in the images' own units.

    Returns:
        The warped images, (B, C, H, W) each.
    """
    width, height = earlier.cameras.size
    points = unproject(current.depth, current.cameras).permute(0, 2, 3, 1)
    pixels, _ = project(points, earlier.cameras)
    grid = torch.stack([2 * pixels[..., 0] / width - 1, 2 * pixels[..., 1] / height - 1], dim=-1)
    # Points in the earlier camera's own plane give NaN or infinity, which devices turn into different pixels.
    grid = grid.nan_to_num(-4.0).clamp(-4.0, 4.0)
    result = []
    for image in images:
        sampled = F.grid_sample(image, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        differs = _squared_rgb_distance(sampled, current.image) > color_threshold
        sampled = torch.where(differs[:, None], current.image, sampled)
        result.append(torch.where(sampled == 0, current.image, sampled))
    return result


def _squared_rgb_distance(first: Tensor, second: Tensor) -> Tensor:
    """(B, H, W), of two images (B, 3 or more, H, W)."""
    return (first[:, :3] - second[:, :3]).square().sum(dim=1)
