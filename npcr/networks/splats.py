# SPDX-License-Identifier: Apache-2.0
"""Points of all layers to one feature image: soft splats, composited front to back by learned opacity.

Where the published method gives each layer a U-Net pass of its own and composites the results, this composites
first and leaves one pass for all layers, so that a further layer costs a gather. A splat is round and soft, with
a learned width: what a point adds to a pixel changes smoothly as the camera moves, which a z-buffer of hard
squares does not (compare 3D Gaussian Splatting, Kerbl et al. 2023, and TRIPS, Franke et al. 2024; here the K
points of each pixel come from depth peeling, and a network finishes the picture).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from npcr.cameras import Cameras, pixel_grid, project
from npcr.projection import Fragments, gather_features

OPAQUE = 0.99  # the most that one splat covers, so that light, and gradients, still reach those behind
MAX_DEGREE = 2  # of spherical harmonics
_SMALLEST = 0.6  # pixels: standard deviation of the smallest splat before training
_COVERED = 1e-3  # coverage from which on a pixel has a depth


class Splats(NamedTuple):
    """A cloud's learned numbers, as a renderer keeps them. A splat is one soft dot, or a row of them: a strand."""

    dots: Tensor  # (N * M, 3) world; the M dots of one point follow each other
    values: Tensor  # (N, C) what is composited
    opacity: Tensor  # (N, 1) before the sigmoid
    log_width: Tensor  # (N, 1) logarithm of the splat's standard deviation in units of `start_width`
    background: Tensor  # (C,) what shows through


class SplatImage(NamedTuple):
    """What one camera sees, before the network."""

    values: Tensor  # (C, H, W)
    alpha: Tensor  # (H, W) coverage, 0 to 1
    depth: Tensor  # (H, W) camera-space z, the mean over what covers the pixel, 0 where nothing does; no gradient


def start_width(depth: Tensor, splat: tuple[float, float, float]) -> Tensor:
    """Standard deviation in pixels of an untrained splat at camera-space `depth`: in step with the radius that
    INPUT.NEAR_FAR_SIZE, `splat`, gives it (design, "Projection"), and never below what a pixel can show.
    """
    near, far, max_size = splat
    return _SMALLEST * (1 + max_size * (1 - (depth - near) / (far - near)).clamp(0, 1))


def composite_splats(splats: Splats, camera: Cameras, fragments: Fragments,
                     splat: tuple[float, float, float]) -> SplatImage:
    """Composite the points of each pixel: `w_k = a_k prod_{j<k}(1 - a_j)`, `a = sigmoid(o) exp(-d² / 2 s²)`.

    d is the distance in pixels from the pixel's centre to the projected point, s = start_width exp(log_width).
    camera: a batch of one. fragments: its dots, (1, K, H, W), nearest first. splat: (near, far, max_size).
    Differentiable in all of `splats`, the choice of the points apart.
    """
    pixels, depths = (result[0] for result in project(splats.dots[None], camera))
    dots = len(splats.dots) // len(splats.values)
    width = start_width(depths.detach(), splat)[:, None] * torch.exp(splats.log_width).repeat_interleave(dots, dim=0)
    where = _gather(torch.cat([pixels, 0.5 / width.square()], dim=1), fragments.index)
    points = torch.where(fragments.index >= 0, fragments.index // dots, -1)
    what = _gather(torch.cat([torch.sigmoid(splats.opacity), splats.values], dim=1), points)
    away = (where[..., :2] - pixel_grid(camera.size, pixels.device)).square().sum(-1)
    coverage = what[..., 0] * torch.exp(-away * where[..., 2])
    weights = front_to_back(torch.where(points[0] >= 0, coverage, 0).clamp(max=OPAQUE))
    alpha = weights.sum(0)
    values = torch.einsum("khw,khwc->chw", weights, what[..., 1:])
    values = values + (1 - alpha) * splats.background[:, None, None]
    with torch.no_grad():
        depth = torch.where(alpha > _COVERED, (weights * fragments.depth[0]).sum(0) / alpha, 0)
    return SplatImage(values, alpha, depth)


def _gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of `table` (N, C) at index (1, K, H, W), zeros where that is negative: (K, H, W, C)."""
    return gather_features(table, table.new_zeros(table.shape[1]), index)[0].movedim(1, -1)


def front_to_back(coverage: Tensor) -> Tensor:
    """(K, ...) shares that layers cover, nearest first, to the shares of the picture that they get."""
    passing = torch.cumprod(1 - coverage, dim=0)
    return coverage * torch.cat([torch.ones_like(passing[:1]), passing[:-1]])


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """(N, 3) unit vectors to the real spherical harmonics up to `degree` (0 to 2), (N, (degree + 1)²)."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, 0.28209479)]
    if degree >= 1:
        values += [-0.48860251 * y, 0.48860251 * z, -0.48860251 * x]
    if degree >= 2:
        values += [1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * z * z - x * x - y * y),
                   -1.09254843 * x * z, 0.54627422 * (x * x - y * y)]
    return torch.stack(values, dim=-1)
