# SPDX-License-Identifier: Apache-2.0
"""Quad meshes: normals, areas, spheres, sampling of points. z is up; colors are linear RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Mesh:
    """V vertices and F quads; a triangle is a quad whose last two corners are one vertex."""

    vertices: np.ndarray  # (V, 3) float64
    quads: np.ndarray  # (F, 4) int64, counter-clockwise seen from outside
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)  # diffuse reflectance
    roughness: float = 0.35  # of its specular coating

    @property
    def triangles(self) -> np.ndarray:
        """(2 F or fewer, 3) vertex indices: each quad split into two triangles."""
        first, second = self.quads[:, [0, 1, 2]], self.quads[:, [0, 2, 3]]
        return np.concatenate([first, second[self.quads[:, 2] != self.quads[:, 3]]])

    @property
    def quad_areas(self) -> np.ndarray:
        """(F,) area of each quad."""
        a, b, c, d = (self.vertices[self.quads[:, i]] for i in range(4))
        return 0.5 * (np.linalg.norm(np.cross(b - a, c - a), axis=1) + np.linalg.norm(np.cross(c - a, d - a), axis=1))

    @property
    def normals(self) -> np.ndarray:
        """(V, 3) unit vertex normals, the mean of the adjacent faces' weighted by area; 0 at a vertex without faces."""
        corners = self.vertices[self.triangles]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sums = np.zeros_like(self.vertices)
        for i in range(3):
            np.add.at(sums, self.triangles[:, i], across)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-30)

    def transformed(self, scale: float, offset: np.ndarray) -> Mesh:
        """Return the mesh with vertices `scale * x + offset`."""
        return replace(self, vertices=scale * self.vertices + offset)


def sphere_mesh(center: tuple[float, float, float], radius: float, color: tuple[float, float, float],
                roughness: float = 0.08, resolution: int = 8) -> Mesh:
    """Make a sphere of quads.

    Args:
        center: world coordinates.
        radius: world units.
        color: diffuse reflectance, linear RGB.
        roughness: of the specular coating.
        resolution: quads along an edge of the cube that is projected onto the sphere.

    Returns:
        A closed mesh of 6 resolution² quads.
    """
    directions, quads = cube_sphere(resolution)
    return Mesh(np.asarray(center) + radius * directions, quads, color, roughness)


def to_z_up(points: np.ndarray, up: str) -> np.ndarray:
    """Rotate points so that their up axis becomes z.

    Args:
        points: (N, 3).
        up: the axis that points upwards, "y" or "z".

    Returns:
        (N, 3) with z up.
    """
    return points[:, [0, 2, 1]] * [1, -1, 1] if up == "y" else points


def sample_mesh(mesh: Mesh, weights: np.ndarray, count: int,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sample points on a mesh, stratified and shuffled.

    Args:
        mesh: to sample.
        weights: (F,) relative density of points on each quad, per area.
        count: number of points.
        rng: source of the random numbers.

    Returns:
        Positions, (count, 3), and unit normals, (count, 3), interpolated between the vertices.
    """
    cumulative = np.cumsum(mesh.quad_areas * weights)
    position = (np.arange(count) + rng.random(count)) / count * cumulative[-1]  # one in each of `count` equal strata
    face = np.minimum(np.searchsorted(cumulative, position, side="right"), len(cumulative) - 1)
    corners, normals = mesh.vertices[mesh.quads[face]], mesh.normals[mesh.quads[face]]
    u, v = rng.random((2, count))
    is_triangle = mesh.quads[face, 2] == mesh.quads[face, 3]
    u = np.where(is_triangle & (u + v > 1), 1 - u, u)
    v = np.where(is_triangle & (u + v > 1), 1 - v, v) if is_triangle.any() else v
    barycentric = np.where(is_triangle[:, None], np.stack([1 - u - v, u, v, 0 * u], axis=1),
                           np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=1))[..., None]
    normal = (normals * barycentric).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    order = rng.permutation(count)
    return (corners * barycentric).sum(1)[order], normal[order]


def cube_sphere(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Project the faces of a cube, divided into quads, onto the unit sphere.

    Args:
        resolution: quads along an edge of the cube.

    Returns:
        Unit vertices, (V, 3), and quads of vertex indices, (6 resolution², 4).
    """
    angle = np.tan(np.linspace(-np.pi / 4, np.pi / 4, resolution + 1))
    a, b = (grid.ravel() for grid in np.meshgrid(angle, angle, indexing="ij"))
    one = np.ones_like(a)
    sides = []
    for axis in range(3):
        for sign in (1, -1):
            columns = [sign * one, sign * a, b]  # a right-handed frame (axis, axis + 1, axis + 2)
            sides.append(np.stack([columns[(i - axis) % 3] for i in range(3)], axis=1))
    points = np.concatenate(sides)
    index = np.arange((resolution + 1) ** 2).reshape(resolution + 1, resolution + 1)
    quad = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], axis=-1).reshape(-1, 4)
    quads = np.concatenate([quad + side * index.size for side in range(6)])
    unique, index_of = np.unique(np.round(points, 9), axis=0, return_inverse=True)
    return unique / np.linalg.norm(unique, axis=1, keepdims=True), index_of.ravel()[quads]
