# SPDX-License-Identifier: Apache-2.0
"""Signed distance from a mesh, by which hair is kept outside of the skin."""

from __future__ import annotations

import numpy as np
import torch

from npcr.synthetic.hair.meshes import Mesh, sample_mesh

_SAMPLES = 2500  # points on the mesh; distances are to their tangent planes
_NODES = 32  # of the grid along each axis


class SignedDistanceField:
    """Signed distance from a closed mesh, positive outside, interpolated trilinearly between the nodes of a grid.

    A node's distance is to the tangent plane at the nearest of `_SAMPLES` points on the mesh.

    Args:
        mesh: closed.
        margin: how far the grid extends beyond the mesh, world units; further out the values at its border hold.
    """

    def __init__(self, mesh: Mesh, margin: float) -> None:
        points, normals = sample_mesh(mesh, np.ones(len(mesh.quads)), _SAMPLES, np.random.default_rng(0))
        self._low = mesh.vertices.min(0) - margin
        self._high = mesh.vertices.max(0) + margin
        axes = [np.linspace(low, high, _NODES) for low, high in zip(self._low, self._high, strict=True)]
        nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        targets = torch.from_numpy(points).float()
        half_squares = 0.5 * targets.square().sum(1)
        # Half the squared distance, but for a term that is the same for all targets of a node.
        nearest = np.concatenate([(half_squares - torch.from_numpy(chunk).float() @ targets.T).argmin(1).numpy()
                                  for chunk in np.array_split(nodes, 64)])
        values = ((nodes - points[nearest]) * normals[nearest]).sum(1)
        # grid_sample takes coordinates in the order of the last axis to the first.
        self._values = torch.from_numpy(values.reshape(_NODES, _NODES, _NODES).transpose(2, 1, 0)[None, None].copy())

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the signed distances, (N,), of points (N, 3)."""
        normalized = 2 * (points - self._low) / (self._high - self._low) - 1
        grid = torch.from_numpy(normalized.reshape(1, -1, 1, 1, 3))
        return torch.nn.functional.grid_sample(self._values, grid, padding_mode="border",
                                               align_corners=True).reshape(-1).numpy()

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Return the unit gradients of the distance, (N, 3), at points (N, 3)."""
        step = 0.5 * float((self._high - self._low).max()) / _NODES
        slopes = [self(points + step * axis) - self(points - step * axis) for axis in np.eye(3)]
        gradient = np.stack(slopes, axis=1)
        return gradient / np.maximum(np.linalg.norm(gradient, axis=1, keepdims=True), 1e-12)

    def push_out(self, points: np.ndarray, clearance: np.ndarray) -> np.ndarray:
        """Return points (N, 3), those nearer to the mesh than `clearance` (N,) moved outwards to it."""
        depth = clearance - self(points)
        inside = depth > 0
        pushed = points.copy()
        if inside.any():
            pushed[inside] += depth[inside, None] * self.normals(points[inside])
        return pushed
