# SPDX-License-Identifier: Apache-2.0
"""What hair grows on: quad meshes, made of blended ellipsoids or read from a file.

z is up and a face looks along -y. Colors are linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from npcr.camera_paths import rotation
from npcr.errors import MissingExtraError, SceneError

_BLEND = 0.05  # over which two ellipsoids run into each other


@dataclass(frozen=True)
class Mesh:
    """V vertices and F quads; a triangle is a quad whose last two corners are one vertex."""

    vertices: np.ndarray  # (V, 3) float64
    quads: np.ndarray  # (F, 4) int64, counter-clockwise seen from outside
    color: tuple[float, float, float] = (0.5, 0.5, 0.5)  # diffuse reflectance
    roughness: float = 0.35  # of the varnish over it

    @property
    def triangles(self) -> np.ndarray:
        """(2F or fewer, 3): the quads, split; triangles stay single."""
        first, second = self.quads[:, [0, 1, 2]], self.quads[:, [0, 2, 3]]
        return np.concatenate([first, second[self.quads[:, 2] != self.quads[:, 3]]])

    @property
    def quad_areas(self) -> np.ndarray:
        """(F,)"""
        a, b, c, d = (self.vertices[self.quads[:, i]] for i in range(4))
        return 0.5 * (np.linalg.norm(np.cross(b - a, c - a), axis=1) + np.linalg.norm(np.cross(c - a, d - a), axis=1))

    @property
    def normals(self) -> np.ndarray:
        """(V, 3) unit, the mean of the faces around each vertex weighted by area; 0 where there are none."""
        corners = self.vertices[self.triangles]
        across = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        sums = np.zeros_like(self.vertices)
        for i in range(3):
            np.add.at(sums, self.triangles[:, i], across)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-30)


@dataclass(frozen=True)
class Surface:
    """A skin on which hair grows, and what lies on it and stays bare (eyes, a nose)."""

    skin: Mesh
    growth: np.ndarray  # (F,) density of hair on each quad of the skin, relative, 0: bare
    bare: tuple[Mesh, ...] = ()

    @property
    def meshes(self) -> tuple[Mesh, ...]:
        return (self.skin, *self.bare)

    def moved(self, scale: float, offset: np.ndarray) -> Surface:
        """The surface at `scale * x + offset`."""
        def move(mesh: Mesh) -> Mesh:
            return replace(mesh, vertices=scale * mesh.vertices + offset)
        return Surface(move(self.skin), self.growth, tuple(move(mesh) for mesh in self.bare))


@dataclass(frozen=True)
class Ellipsoid:
    """A part of a blended surface; `tilt` in degrees about x, then about y."""

    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt: tuple[float, float] = (0.0, 0.0)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N,) approximate signed distance of points (N, 3); its zero is exact."""
        turn = rotation((0, 1, 0), np.radians(self.tilt[1])) @ rotation((1, 0, 0), np.radians(self.tilt[0]))
        local = (points - self.center) @ turn
        level = np.linalg.norm(local / self.radii, axis=1)
        slope = np.linalg.norm(local / np.square(self.radii), axis=1)
        return level * (level - 1) / np.maximum(slope, 1e-9)


def blended_mesh(parts: tuple[Ellipsoid, ...], resolution: int, *, floor: float = -np.inf,
                 color: tuple[float, float, float] = (0.5, 0.5, 0.5), roughness: float = 0.35) -> Mesh:
    """The outside of blended ellipsoids as seen from the origin, which must lie inside: a cube of quads, blown up.

    resolution: quads along an edge of the cube. floor: what lies below this height is cut off flat.
    """
    directions, quads = _cube_sphere(resolution)
    radius = _outermost(directions, parts)
    below = directions[:, 2] < 0
    radius[below] = np.minimum(radius[below], floor / directions[below, 2])
    return Mesh(directions * radius[:, None], quads, color, roughness)


def ball(center: tuple[float, float, float], radius: float, color: tuple[float, float, float],
         roughness: float = 0.08, resolution: int = 8) -> Mesh:
    """A sphere of quads."""
    directions, quads = _cube_sphere(resolution)
    return Mesh(np.asarray(center) + radius * directions, quads, color, roughness)


def read_surface(path: str | Path, up: str = "z", above: float = 0.0) -> Surface:
    """A surface from a mesh file (.obj, .ply, .stl, .glb …), read by trimesh; hair grows on it.

    up: the file's axis that points upwards, "y" or "z". above: share of the height, 0..1, above which hair
    grows. Raises `SceneError` where the file cannot be read or holds no face, `MissingExtraError` without trimesh.
    """
    path = Path(path)
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError(f"{path}: reading a mesh needs trimesh: pip install 'npcr[hair]'") from None
    if not path.is_file():
        raise SceneError(f"{path}: no such mesh")
    try:
        loaded = trimesh.load_mesh(path, process=False)
    except Exception as error:  # each of trimesh's many readers raises its own
        raise SceneError(f"{path}: cannot be read as a mesh: {error}") from None
    vertices = np.asarray(getattr(loaded, "vertices", ()), np.float64).reshape(-1, 3)
    faces = np.asarray(getattr(loaded, "faces", ()), np.int64)
    if not len(faces):
        raise SceneError(f"{path}: has no faces; hair needs a surface to grow on")
    if not np.isfinite(vertices).all():
        raise SceneError(f"{path}: has coordinates that are not finite")
    mesh = Mesh(upright(vertices, up), faces[:, [0, 1, 2, 2]], (0.45, 0.28, 0.21))
    height = mesh.vertices[mesh.quads].mean(axis=1)[:, 2]
    low, high = mesh.vertices[:, 2].min(), mesh.vertices[:, 2].max()
    growth = (height >= low + above * (high - low)).astype(float)
    if not (mesh.quad_areas * growth).sum() > 0:
        raise SceneError(f"{path}: no face with an area lies above {above:g} of the height; lower --region-above")
    return Surface(mesh, growth)


def upright(points: np.ndarray, up: str) -> np.ndarray:
    """Points (N, 3) with the axis `up` ("y" or "z") turned to z."""
    return points[:, [0, 2, 1]] * [1, -1, 1] if up == "y" else points


def sample_mesh(mesh: Mesh, weights: np.ndarray, count: int,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 3) on the quads and their unit normals, as dense as area times `weights` (F,).

    Each of `count` equal shares of the surface, in the order of the quads, gets one point: they come out more
    even than by chance. They are shuffled.
    """
    share = np.cumsum(mesh.quad_areas * weights)
    place = (np.arange(count) + rng.random(count)) / count * share[-1]
    face = np.minimum(np.searchsorted(share, place, side="right"), len(share) - 1)
    corners, normals = mesh.vertices[mesh.quads[face]], mesh.normals[mesh.quads[face]]
    u, v = rng.random((2, count))
    is_triangle = mesh.quads[face, 2] == mesh.quads[face, 3]
    u = np.where(is_triangle & (u + v > 1), 1 - u, u)
    v = np.where(is_triangle & (u + v > 1), 1 - v, v) if is_triangle.any() else v
    shares = np.where(is_triangle[:, None], np.stack([1 - u - v, u, v, 0 * u], axis=1),
                      np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=1))[..., None]
    normal = (normals * shares).sum(1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    order = rng.permutation(count)
    return (corners * shares).sum(1)[order], normal[order]


def _outermost(directions: np.ndarray, parts: tuple[Ellipsoid, ...]) -> np.ndarray:
    """(N,) distance from the origin to the last crossing of the blended surface along unit directions (N, 3)."""
    reach = max(float(np.linalg.norm(part.center)) + max(part.radii) for part in parts) + 4 * _BLEND
    inner = np.zeros(len(directions))
    for step in np.linspace(0, reach, 56):
        inner = np.where(_field(directions * step, parts) < 0, step, inner)
    outer = inner + reach / 55
    for _ in range(14):
        middle = (inner + outer) / 2
        inside = _field(directions * middle[:, None], parts) < 0
        inner, outer = np.where(inside, middle, inner), np.where(inside, outer, middle)
    return (inner + outer) / 2


def _field(points: np.ndarray, parts: tuple[Ellipsoid, ...]) -> np.ndarray:
    """Smooth minimum of the parts' distances."""
    distances = np.stack([part.distance(points) for part in parts])
    least = distances.min(0)
    return least - _BLEND * np.log(np.exp((least - distances) / _BLEND).sum(0))


def _cube_sphere(resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit directions (V, 3) and quads (6 resolution^2, 4) of a cube's faces blown up to a sphere."""
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
    unique, owner = np.unique(np.round(points, 9), axis=0, return_inverse=True)
    return unique / np.linalg.norm(unique, axis=1, keepdims=True), owner.ravel()[quads]
