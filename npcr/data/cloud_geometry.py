# SPDX-License-Identifier: Apache-2.0
"""Point clouds measured against cameras: spacing of the points, splat sizes, and where the object's center falls."""

from __future__ import annotations

import numpy as np
import torch

from npcr.cameras import Cameras, project
from npcr.errors import SceneError

LEAST_RADIUS = 0.35  # pixels, at the object: what the published Hair2 configuration amounts to
_NEIGHBOR = 6


def near_far_size(points: np.ndarray, cameras: Cameras) -> list[float]:
    """[near, far, max_size] that let the splats of `points` (N, 3) close up without covering each other.

    A splat should shrink as the gaps between projected points do, with 1/z; the radius falls linearly, so it
    follows the line that touches that curve at the median depth. near is where the nearest points are. The
    radius there makes a splat 1.5 times as wide as the points' spacing. Raises `SceneError` where no camera
    sees a point.
    """
    sample = torch.from_numpy(_subset(points, 20000)).float()
    depths = np.concatenate([_seen_depths(sample, cameras[i]) for i in range(len(cameras))])
    if not len(depths):
        raise SceneError("none of the cameras sees a point of the cloud; do cloud and cameras belong together?")
    middle, near = float(np.median(depths)), 0.98 * float(np.percentile(depths, 0.5))
    focal = float(cameras.intrinsics[:, 0, 0].median())
    gap = focal * point_spacing(points) / middle
    radius = max(LEAST_RADIUS, (1.5 * gap - 1) / 2)
    return [_rounded(near), _rounded(2 * middle), _rounded(radius * (2 - near / middle))]


def point_spacing(points: np.ndarray) -> float:
    """Side of the square that a point of a cloud (N, 3) on a surface has to itself, median over the cloud."""
    if len(points) <= _NEIGHBOR:
        return 0.0
    cloud = torch.from_numpy(_subset(points, 100000)).float()
    probes = cloud[torch.linspace(0, len(cloud) - 1, min(len(cloud), 512)).long()]
    # By differences: cdist's fast path loses nearby points in rounding.
    nearest = [torch.cdist(chunk, cloud, compute_mode="donot_use_mm_for_euclid_dist")
               .topk(_NEIGHBOR + 1, largest=False).values[:, -1] for chunk in probes.split(64)]
    # The disc out to the k-th neighbor holds k points besides its own; a subset lies sparser than the cloud.
    spacing = float(torch.cat(nearest).median()) * np.sqrt(np.pi / _NEIGHBOR)
    return float(spacing * np.sqrt(len(cloud) / len(points)))


def object_centers(points: np.ndarray, cameras: Cameras) -> list[int]:
    """CENTER: [y, x] of the cloud's middle, one pair where it hardly moves between cameras, else one each."""
    middle = torch.from_numpy(np.median(points, axis=0)).float()
    pixels, depth = project(middle.expand(len(cameras), 1, 3), cameras)
    width, height = cameras.size
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    pixels = torch.where((depth > 0)[..., None] & pixels.isfinite(), pixels, center)[:, 0]
    pixels = torch.stack([pixels[:, 0].clamp(0, width - 1), pixels[:, 1].clamp(0, height - 1)], dim=1)
    mean = pixels.mean(0, keepdim=True)
    if (pixels - mean).abs().max() <= 0.1 * min(width, height):
        pixels = mean
    return [round(v) for v in pixels.flip(1).flatten().tolist()]


def _seen_depths(points: torch.Tensor, camera: Cameras) -> np.ndarray:
    """Depths of the points (N, 3) that fall into the picture of one camera."""
    pixels, depth = project(points[None], camera)
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor(camera.size)).all(-1)
    return depth[inside].numpy()


def _subset(points: np.ndarray, limit: int) -> np.ndarray:
    if len(points) <= limit:
        return points
    return points[np.random.default_rng(0).choice(len(points), limit, replace=False)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
