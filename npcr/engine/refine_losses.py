# SPDX-License-Identifier: Apache-2.0
"""What the steady refiner minimises between neighbouring frames: how far they are from saying the same.

A point that two frames see should look the same in both. Frames are premultiplied RGBA. Where a frame sees a
point is asked of the renderer's own depth, which is noisy on hair: agreement is weighted softly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.cameras import project, unproject
from npcr.temporal import Frame


def look_up(current: Frame, other: Frame, depth_tolerance: float) -> tuple[Tensor, Tensor]:
    """The current frame's points in the other picture: samples (B, C, H, W), and trust (B, 1, H, W) in 0..1.

    Samples are bilinear and carry gradients to `other.image`. Trust is the share of the four neighbours that
    saw the point, each by a Gaussian of its relative depth difference with `depth_tolerance` as deviation; 0
    where the current frame has no depth. It carries no gradient.
    """
    width, height = other.cameras.size
    with torch.no_grad():
        pixels, z = project(unproject(current.depth, current.cameras).permute(0, 2, 3, 1), other.cameras)
        # One pixel beyond the border already has no neighbour inside; it also keeps NaN and infinity out.
        x = pixels[..., 0].nan_to_num(-2.0).clamp(-2.0, width + 1.0)
        y = pixels[..., 1].nan_to_num(-2.0).clamp(-2.0, height + 1.0)
        left, top = x.floor(), y.floor()
        there = (current.depth > 0) & (z > 0)
    flat, depth = other.image.flatten(2), other.depth.flatten(1)
    sample = torch.zeros_like(current.image)
    trust = torch.zeros_like(z)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        with torch.no_grad():
            column, row = left.long() + dx, top.long() + dy
            inside = there & (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (column.clamp(0, width - 1) + row.clamp(0, height - 1) * width).flatten(1)
            found = depth.gather(1, index).view_as(z)
            off = (found - z) / (depth_tolerance * z).clamp_min(1e-12)
            share = (1 - (x - column).abs()).clamp_min(0) * (1 - (y - row).abs()).clamp_min(0)
            seen = share * inside * (found > 0) * torch.exp(-0.5 * off.square())
        values = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1)).view_as(sample)
        sample = sample + values * seen[:, None]
        trust = trust + seen
    return sample / trust[:, None].clamp_min(1e-6), trust[:, None]


def steady_loss(frames: Sequence[Frame], depth_tolerance: float) -> Tensor:
    """How far neighbouring frames disagree; a scalar, with gradients to every picture.

    Each frame is looked up in the next and in the one before. Squared differences are averaged over what both
    saw, at full and at half resolution: the half sees past the single pixel's noise of a hair's depth.
    """
    terms = []
    for first, second in pairwise(frames):
        for current, other in ((first, second), (second, first)):
            sample, trust = look_up(current, other, depth_tolerance)
            terms.append(_weighted_mse(sample, current.image, trust))
            weight = F.avg_pool2d(trust, 2).clamp_min(1e-6)
            halves = [F.avg_pool2d(image * trust, 2) / weight for image in (sample, current.image)]
            terms.append(_weighted_mse(halves[0], halves[1], weight))
    return torch.stack(terms).mean()


@torch.no_grad()
def flicker(frames: Sequence[Frame], depth_tolerance: float) -> float:
    """Mean absolute colour difference (0-255) between each frame and the one before, reprojected.

    Over pixels whose point the earlier frame saw (trust of at least half) inside the matte (alpha above half);
    0 where there are none.
    """
    total, count = 0.0, 0
    for earlier, current in pairwise(frames):
        sample, trust = look_up(current, earlier, depth_tolerance)
        counted = (trust[:, 0] >= 0.5) & (current.image[:, 3] > 0.5)
        difference = (sample - current.image)[:, :3].abs().mean(dim=1)
        total += float(difference[counted].sum())
        count += int(counted.sum())
    return 255 * total / max(count, 1)


def _weighted_mse(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of (B, C, H, W) by `weight` (B, 1, H, W)."""
    squares = (first - second).square() * weight
    return squares.sum() / (weight.sum() * first.shape[1]).clamp_min(1.0)
