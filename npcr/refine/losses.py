# SPDX-License-Identifier: Apache-2.0
"""Losses of the steady refiner, and the flicker that it is measured by.

A point that two frames see should have the same color in both. Frames are premultiplied RGBA. Visibility comes from the
renderer's own depth, which is noisy on hair: differences are weighted softly, by confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.temporal import RenderedFrame, find_warp, sample_smoothly, surface_depth

OUTLINE_WEIGHT = 20  # of the anchor's squared differences at outlines, relative to those within the matte


def sample_other_frame(current: RenderedFrame, other: RenderedFrame, depth_tolerance: float) -> tuple[Tensor, Tensor]:
    """Sample another frame's image at the current frame's points.

    Samples are cubic: bilinear ones are blurred, and a model that is trained to agree with them learns to blur.

    Args:
        current: B frames, whose pixels are looked up.
        other: B frames, of the same size.
        depth_tolerance: relative, see `npcr.temporal.find_warp`.

    Returns:
        Samples (B, C, H, W), with gradients to `other.image`; and confidence (B, 1, H, W) in [0, 1], without.
    """
    with torch.no_grad():
        surfaces = [surface_depth(frame.depth) for frame in (current, other)]
        warp = find_warp(surfaces[0], current.cameras, surfaces[1], other.cameras, depth_tolerance)
    return sample_smoothly(other.image, warp.grid), warp.confidence[:, None]


def steady_loss(frames: Sequence[RenderedFrame], depth_tolerance: float) -> Tensor:
    """Compute how far neighboring frames differ where both see the same point.

    Each frame is compared with the next and with the one before. Squared differences are averaged over what both
    see, at full and at half resolution: the half is less affected by single pixels' noise in the depth of hair. They
    are weighted by the eroded alpha of both frames, for an outline does not move as the surface behind it does, and
    would be smeared if it had to.

    Args:
        frames: two or more neighbors, premultiplied RGBA.
        depth_tolerance: relative, see `npcr.temporal.find_warp`.

    Returns:
        A scalar, with gradients to every image.
    """
    terms = []
    for first, second in pairwise(frames):
        for current, other in ((first, second), (second, first)):
            sample, confidence = sample_other_frame(current, other, depth_tolerance)
            weight = confidence * eroded_alpha(current) * sample[:, 3:].detach().clamp(0, 1)
            terms.append(_weighted_mse(sample, current.image, weight))
            half_weight = F.avg_pool2d(weight, 2).clamp_min(1e-6)
            halves = [F.avg_pool2d(image * weight, 2) / half_weight for image in (sample, current.image)]
            terms.append(_weighted_mse(halves[0], halves[1], half_weight))
    return torch.stack(terms).mean()


def anchor_loss(frame: RenderedFrame, reference: RenderedFrame) -> Tensor:
    """Compute the mean squared difference of two renderings of one view.

    Outlines and what lies outside them count `OUTLINE_WEIGHT` times more, for `steady_loss` does not apply there.

    Args:
        frame: the refined model's, premultiplied RGBA.
        reference: the unrefined model's.

    Returns:
        A scalar, with gradients to the first one's image.
    """
    weight = OUTLINE_WEIGHT - (OUTLINE_WEIGHT - 1) * eroded_alpha(reference)
    return ((frame.image - reference.image).square() * weight).mean()


@torch.no_grad()
def eroded_alpha(frame: RenderedFrame) -> Tensor:
    """Compute the least alpha of the 5x5 pixels around each.

    Args:
        frame: premultiplied RGBA.

    Returns:
        (B, 1, H, W) in [0, 1]: 1 well within the matte, 0 at outlines and outside.
    """
    return -F.max_pool2d(-frame.image[:, 3:].clamp(0, 1), 5, stride=1, padding=2)


@torch.no_grad()
def flicker(frames: Sequence[RenderedFrame], depth_tolerance: float) -> float:
    """Measure the mean absolute color difference between each frame and the one before, reprojected.

    It is taken over pixels within the matte (alpha above half) whose point the earlier frame saw (confidence of at
    least half).

    Args:
        frames: neighbors, premultiplied RGBA.
        depth_tolerance: relative, see `npcr.temporal.find_warp`.

    Returns:
        The difference, on a scale of 0 to 1; 0 where there are no such pixels.
    """
    total, count = 0.0, 0
    for earlier, current in pairwise(frames):
        sample, confidence = sample_other_frame(current, earlier, depth_tolerance)
        counted = (confidence[:, 0] >= 0.5) & (current.image[:, 3] > 0.5)
        difference = (sample - current.image)[:, :3].abs().mean(dim=1)
        total += float(difference[counted].sum())
        count += int(counted.sum())
    return total / max(count, 1)


def _weighted_mse(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Mean squared difference of (B, C, H, W) by `weight` (B, 1, H, W)."""
    squares = (first - second).square() * weight
    return squares.sum() / (weight.sum() * first.shape[1]).clamp_min(1.0)
