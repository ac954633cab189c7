# SPDX-License-Identifier: Apache-2.0
"""What the steady refiner minimizes between neighboring frames: how far they are from saying the same.

A point that two frames see should look the same in both. Frames are premultiplied RGBA. Where a frame sees a
point is asked of the renderer's own depth, which is noisy on hair: agreement is weighted softly.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.temporal import RenderedFrame, find_warp, sample_smoothly, surface_depth

OUTLINE = 20  # how many times as much the anchor counts at outlines


def look_up(current: RenderedFrame, other: RenderedFrame, depth_tolerance: float) -> tuple[Tensor, Tensor]:
    """The current frame's points in the other picture: samples (B, C, H, W), and trust (B, 1, H, W) in 0..1.

    Samples carry gradients to `other.image`. They are cubic: a bilinear one is blurred, and who is to agree with it
    learns to blur. Trust is that of `npcr.temporal.reprojection.find_warp`, without gradient.
    """
    with torch.no_grad():
        surfaces = [surface_depth(frame.depth) for frame in (current, other)]
        warp = find_warp(surfaces[0], current.cameras, surfaces[1], other.cameras, depth_tolerance)
    return sample_smoothly(other.image, warp.grid), warp.confidence[:, None]


def steady_loss(frames: Sequence[RenderedFrame], depth_tolerance: float) -> Tensor:
    """How far neighboring frames disagree; a scalar, with gradients to every picture.

    Each frame is looked up in the next and in the one before. Squared differences are averaged over what both
    saw, at full and at half resolution: the half sees past the single pixel's noise of a hair's depth. They count by
    how far both frames cover the pixel and those around it (`covered`), for an outline does not move as the surface
    behind it does: held to that, it smears.
    """
    terms = []
    for first, second in pairwise(frames):
        for current, other in ((first, second), (second, first)):
            sample, trust = look_up(current, other, depth_tolerance)
            trust = trust * covered(current) * sample[:, 3:].detach().clamp(0, 1)
            terms.append(_weighted_mse(sample, current.image, trust))
            weight = F.avg_pool2d(trust, 2).clamp_min(1e-6)
            halves = [F.avg_pool2d(image * trust, 2) / weight for image in (sample, current.image)]
            terms.append(_weighted_mse(halves[0], halves[1], weight))
    return torch.stack(terms).mean()


def anchor_loss(frame: RenderedFrame, wanted: RenderedFrame) -> Tensor:
    """Mean squared difference of two renderings of one view, with gradients to the first one's picture.

    Outlines and what lies around them count `OUTLINE` times more: the steadiness has no say there.
    """
    weight = OUTLINE - (OUTLINE - 1) * covered(wanted)
    return ((frame.image - wanted.image).square() * weight).mean()


@torch.no_grad()
def covered(frame: RenderedFrame) -> Tensor:
    """(B, 1, H, W) in 0..1: the least alpha of the 5x5 pixels around each; 1 well within, 0 at outlines and outside."""
    return -F.max_pool2d(-frame.image[:, 3:].clamp(0, 1), 5, stride=1, padding=2)


@torch.no_grad()
def flicker(frames: Sequence[RenderedFrame], depth_tolerance: float) -> float:
    """Mean absolute color difference (0-255) between each frame and the one before, reprojected.

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
