# SPDX-License-Identifier: Apache-2.0
"""A point cloud of a hair model, sampled from its quads and curves, and its colours from the photographs."""

from __future__ import annotations

import numpy as np
import torch

from npcr.cameras import Cameras, project
from npcr.data.hair.model import Model
from npcr.data.hair.strands import splines_of
from npcr.data.hair.surfaces import sample_mesh
from npcr.data.scene_config import near_far_size, point_spacing
from npcr.projection import rasterise


def sample_cloud(model: Model, count: int, skin_share: float, seed: int) -> np.ndarray:
    """(count, 3) float32: `skin_share` of the points on the surface, by area, the others in the strands, by length."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    on_skin = round(skin_share * count) if model.surface else 0
    parts = [_in_strands(model, count - on_skin, rng)]
    meshes = model.surface.meshes if model.surface else ()
    areas = np.array([mesh.quad_areas.sum() for mesh in meshes])
    counts = rng.multinomial(on_skin, areas / areas.sum()) if on_skin else np.zeros(0, int)
    parts += [sample_mesh(mesh, np.ones(len(mesh.quads)), int(n), rng)[0]
              for mesh, n in zip(meshes, counts, strict=False)]
    return np.concatenate(parts).astype(np.float32)


def _in_strands(model: Model, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) along the curves and anywhere across their width."""
    splines = splines_of(model.strands)
    first, _ = splines.segments
    middle = np.full(len(first), 0.5)
    length = np.linalg.norm(splines.at(first, middle)[1][:, :3], axis=1)
    chosen = rng.choice(len(first), size=count, p=length / length.sum())
    place, slope = splines.at(first[chosen], rng.random(count))
    tangent = slope[:, :3] / np.maximum(np.linalg.norm(slope[:, :3], axis=1, keepdims=True), 1e-30)
    across = rng.normal(size=(count, 3))
    across -= (across * tangent).sum(1, keepdims=True) * tangent
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30)
    return place[:, :3] + place[:, 3:] * np.sqrt(rng.random((count, 1))) * across


def mean_colors(points: np.ndarray, cameras: Cameras, photographs: list[np.ndarray]) -> np.ndarray:
    """(N, 3) uint8: each point's mean colour over the straight RGBA `photographs` (H, W, 4) that see it.

    A photograph sees a point where no other lies in front of it by more than four spacings of the cloud; it
    counts by its alpha there. Points that none sees get the mean colour of the others.
    """
    cloud = torch.from_numpy(points).float()
    near, far, radius = near_far_size(points, cameras)
    tolerance = 4 * point_spacing(points)
    total = torch.zeros(len(cloud), 4)
    limit = torch.tensor(cameras.size) - 0.5
    for i, photograph in enumerate(photographs):
        front = rasterise(cloud, cameras.cam_to_world[i:i + 1], cameras.intrinsics[i:i + 1], cameras.size, near=near,
                          far=far, max_size=radius, layers=1).depth[0, 0]
        pixels, depth = (result[0] for result in project(cloud[None], cameras[i]))
        inside = (depth > 0) & (pixels > -0.5).all(1) & (pixels < limit).all(1)
        x, y = torch.where(inside[:, None], pixels, torch.zeros(())).round().long().T
        visible = inside & (depth <= front[y, x] + tolerance)
        seen = torch.from_numpy(photograph).float()[y, x] / 255
        total += visible[:, None] * seen[:, 3:] * torch.cat([seen[:, :3], torch.ones(len(cloud), 1)], dim=1)
    known = total[:, 3] > 0
    colors = total[:, :3] / total[:, 3:].clamp_min(1e-9)
    if known.any():
        colors[~known] = colors[known].mean(0)
    return (colors * 255).round().byte().numpy()
