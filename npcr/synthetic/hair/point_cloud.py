# SPDX-License-Identifier: Apache-2.0
"""A point cloud of a hair model, sampled from its meshes and strands."""

from __future__ import annotations

import numpy as np

from npcr.synthetic.hair.meshes import sample_mesh
from npcr.synthetic.hair.model import HairModel
from npcr.synthetic.hair.strands import to_splines


def sample_point_cloud(model: HairModel, count: int, skin_share: float, seed: int) -> np.ndarray:
    """Sample points on the meshes, uniform by area, and in the strands, uniform by length.

    Args:
        model: to sample.
        count: number of points.
        skin_share: fraction of them on the meshes, 0 to 1; without a body all are in the strands.
        seed: of the random numbers.

    Returns:
        (count, 3) float32 world coordinates.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 3]))
    on_skin = round(skin_share * count) if model.body else 0
    parts = [_sample_strands(model, count - on_skin, rng)]
    meshes = model.body.meshes if model.body else ()
    areas = np.array([mesh.quad_areas.sum() for mesh in meshes])
    counts = rng.multinomial(on_skin, areas / areas.sum()) if on_skin else np.zeros(0, int)
    parts += [sample_mesh(mesh, np.ones(len(mesh.quads)), int(n), rng)[0]
              for mesh, n in zip(meshes, counts, strict=False)]
    return np.concatenate(parts).astype(np.float32)


def _sample_strands(model: HairModel, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) points uniform along the splines and over their cross sections."""
    splines = to_splines(model.strands)
    first, _ = splines.segments
    middle = np.full(len(first), 0.5)
    length = np.linalg.norm(splines.evaluate(first, middle)[1][:, :3], axis=1)
    chosen = rng.choice(len(first), size=count, p=length / length.sum())
    point, slope = splines.evaluate(first[chosen], rng.random(count))
    tangent = slope[:, :3] / np.maximum(np.linalg.norm(slope[:, :3], axis=1, keepdims=True), 1e-30)
    across = rng.normal(size=(count, 3))
    across -= (across * tangent).sum(1, keepdims=True) * tangent
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30)
    return point[:, :3] + point[:, 3:] * np.sqrt(rng.random((count, 1))) * across
