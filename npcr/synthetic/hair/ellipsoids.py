# SPDX-License-Identifier: Apache-2.0
"""Meshes of blended ellipsoids: the zero level of a smooth minimum of their signed distances."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npcr.camera_paths import rotation
from npcr.synthetic.hair.meshes import Mesh, cube_sphere

_BLEND_WIDTH = 0.05  # distance over which two ellipsoids blend


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with rotated axes."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt: tuple[float, float] = (0.0, 0.0)  # degrees about x, then about y

    def signed_distance(self, points: np.ndarray) -> np.ndarray:
        """Return the approximate signed distance, (N,), of points (N, 3); its zero level is exact."""
        axes = rotation((0, 1, 0), np.radians(self.tilt[1])) @ rotation((1, 0, 0), np.radians(self.tilt[0]))
        local = (points - self.center) @ axes
        level = np.linalg.norm(local / self.radii, axis=1)
        slope = np.linalg.norm(local / np.square(self.radii), axis=1)
        return level * (level - 1) / np.maximum(slope, 1e-9)


def blended_mesh(parts: tuple[Ellipsoid, ...], resolution: int, *, floor: float = -np.inf,
                 color: tuple[float, float, float] = (0.5, 0.5, 0.5), roughness: float = 0.35) -> Mesh:
    """Make the mesh of blended ellipsoids by moving the vertices of a sphere outwards along rays from the origin.

    Args:
        parts: ellipsoids; their union contains the origin.
        resolution: quads along an edge of the cube that is projected onto the sphere.
        floor: height below which the mesh is cut off flat.
        color: diffuse reflectance, linear RGB.
        roughness: of the specular coating.

    Returns:
        A closed mesh; behind an overhang only the outermost surface.
    """
    directions, quads = cube_sphere(resolution)
    radius = _outermost_crossing(directions, parts)
    below = directions[:, 2] < 0
    radius[below] = np.minimum(radius[below], floor / directions[below, 2])
    return Mesh(directions * radius[:, None], quads, color, roughness)


def _outermost_crossing(directions: np.ndarray, parts: tuple[Ellipsoid, ...]) -> np.ndarray:
    """(N,) distance from the origin to the last zero along unit directions (N, 3): by steps, then by bisection."""
    reach = max(float(np.linalg.norm(part.center)) + max(part.radii) for part in parts) + 4 * _BLEND_WIDTH
    inner = np.zeros(len(directions))
    for step in np.linspace(0, reach, 56):
        inner = np.where(_blended_distance(directions * step, parts) < 0, step, inner)
    outer = inner + reach / 55
    for _ in range(14):
        middle = (inner + outer) / 2
        inside = _blended_distance(directions * middle[:, None], parts) < 0
        inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
    return (inner + outer) / 2


def _blended_distance(points: np.ndarray, parts: tuple[Ellipsoid, ...]) -> np.ndarray:
    """(N,) smooth minimum of the ellipsoids' signed distances."""
    distances = np.stack([part.signed_distance(points) for part in parts])
    least = distances.min(0)
    return least - _BLEND_WIDTH * np.log(np.exp((least - distances) / _BLEND_WIDTH).sum(0))
