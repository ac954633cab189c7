# SPDX-License-Identifier: Apache-2.0
"""How far points lie from a surface, so that hair can be kept out of it."""

from __future__ import annotations

import numpy as np
import torch

from npcr.synthetic.hair.meshes import Mesh, sample_mesh

_SAMPLES = 2500  # of the surface; distances are to their tangent planes
_CELLS = 32  # of the grid along each axis


class DistanceField:
    """Signed distance from a closed mesh, positive outside, interpolated between the nodes of a grid.

    A node's distance is that from the tangent plane at the nearest of `_SAMPLES` points of the surface. The
    grid reaches `margin` beyond the mesh; further out its border's values hold.
    """

    def __init__(self, mesh: Mesh, margin: float) -> None:
        points, normals = sample_mesh(mesh, np.ones(len(mesh.quads)), _SAMPLES, np.random.default_rng(0))
        self._low = mesh.vertices.min(0) - margin
        self._high = mesh.vertices.max(0) + margin
        axes = [np.linspace(low, high, _CELLS) for low, high in zip(self._low, self._high, strict=True)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        targets = torch.from_numpy(points).float()
        half_squares = 0.5 * targets.square().sum(1)
        # The squared distance, less what a node shares with all of them.
        nearest = np.concatenate([(half_squares - torch.from_numpy(chunk).float() @ targets.T).argmin(1).numpy()
                                  for chunk in np.array_split(nodes, 64)])
        values = ((nodes - points[nearest]) * normals[nearest]).sum(1)
        # grid_sample counts its coordinates from the last axis to the first.
        self._values = torch.from_numpy(values.reshape(_CELLS, _CELLS, _CELLS).transpose(2, 1, 0)[None, None].copy())

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """(N,) distances of points (N, 3)."""
        share = 2 * (points - self._low) / (self._high - self._low) - 1
        grid = torch.from_numpy(share.reshape(1, -1, 1, 1, 3))
        return torch.nn.functional.grid_sample(self._values, grid, padding_mode="border",
                                               align_corners=True).reshape(-1).numpy()

    def outward(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) unit directions in which the distance grows fastest."""
        step = 0.5 * float((self._high - self._low).max()) / _CELLS
        slopes = [self(points + step * axis) - self(points - step * axis) for axis in np.eye(3)]
        gradient = np.stack(slopes, axis=1)
        return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)

    def pushed_out(self, points: np.ndarray, clearance: np.ndarray) -> np.ndarray:
        """Points (N, 3), those nearer than `clearance` (N,) moved out to it."""
        lacking = clearance - self(points)
        inside = lacking > 0
        moved = points.copy()
        if inside.any():
            moved[inside] += lacking[inside, None] * self.outward(points[inside])
        return moved
