# SPDX-License-Identifier: Apache-2.0
"""A point cloud of a hair model, sampled from its quads and curves."""

from __future__ import annotations

import numpy as np

from npcr.synthetic.hair.meshes import sample_mesh
from npcr.synthetic.hair.model import Model
from npcr.synthetic.hair.strands import splines_of


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
