# SPDX-License-Identifier: Apache-2.0
"""Bodies on which hair grows: a mannequin's head and an animal, both of radius 1 or so, and mesh files.

z is up and a face looks along -y.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npcr.errors import SceneError
from npcr.extras import import_extra
from npcr.synthetic.hair.ellipsoids import Ellipsoid, blended_mesh
from npcr.synthetic.hair.meshes import Mesh, sphere_mesh, to_z_up

_SKIN, _DARK_SKIN, _BLACK = (0.56, 0.33, 0.24), (0.12, 0.07, 0.05), (0.012, 0.010, 0.010)


@dataclass(frozen=True)
class Body:
    """A skin with a density of hair roots, and parts without hair (eyes, a nose)."""

    skin: Mesh
    root_density: np.ndarray  # (F,) of each quad of the skin, relative, per area; 0: no hair
    hairless: tuple[Mesh, ...] = ()

    @property
    def meshes(self) -> tuple[Mesh, ...]:
        """All meshes, the skin first."""
        return (self.skin, *self.hairless)

    def transformed(self, scale: float, offset: np.ndarray) -> Body:
        """Return the body with vertices `scale * x + offset`."""
        return Body(self.skin.transformed(scale, offset), self.root_density,
                    tuple(mesh.transformed(scale, offset) for mesh in self.hairless))


def _both_sides(center: tuple[float, float, float], radii: tuple[float, float, float],
                tilt: tuple[float, float] = (0.0, 0.0)) -> tuple[Ellipsoid, Ellipsoid]:
    x, y, z = center
    return Ellipsoid(center, radii, tilt), Ellipsoid((-x, y, z), radii, (tilt[0], -tilt[1]))


_HEAD = (
    Ellipsoid((0, 0.10, 0.10), (0.66, 0.84, 0.76)),  # cranium
    Ellipsoid((0, -0.26, -0.28), (0.50, 0.46, 0.62)),  # face
    Ellipsoid((0, -0.46, -0.76), (0.25, 0.22, 0.18)),  # chin
    *_both_sides((0.32, -0.16, -0.56), (0.15, 0.34, 0.18)),  # jaw
    *_both_sides((0.27, -0.52, -0.26), (0.17, 0.14, 0.14)),  # cheeks
    *_both_sides((0.20, -0.66, 0.01), (0.20, 0.07, 0.05)),  # brows
    Ellipsoid((0, -0.74, -0.20), (0.055, 0.08, 0.24), (-14, 0)),  # nose
    Ellipsoid((0, -0.80, -0.34), (0.10, 0.10, 0.07)),
    Ellipsoid((0, -0.68, -0.545), (0.13, 0.06, 0.035)),  # lips
    Ellipsoid((0, -0.66, -0.62), (0.11, 0.06, 0.035)),
    *_both_sides((0.66, 0.10, -0.20), (0.05, 0.16, 0.24), (0, 8)),  # ears
    Ellipsoid((0, 0.16, -1.0), (0.36, 0.38, 0.95)),  # neck
)
_ANIMAL = (
    Ellipsoid((0, 0.05, -0.28), (0.66, 0.74, 0.60)),  # body
    Ellipsoid((0, -0.34, 0.34), (0.48, 0.44, 0.42)),  # head
    Ellipsoid((0, -0.74, 0.24), (0.19, 0.16, 0.14)),  # muzzle
    *_both_sides((0.34, -0.28, 0.74), (0.17, 0.06, 0.18), (0, 28)),  # ears
    *_both_sides((0.34, -0.52, -0.74), (0.18, 0.24, 0.12)),  # feet
    Ellipsoid((0, 0.84, -0.42), (0.22, 0.24, 0.20)),  # tail
)


def make_head() -> Body:
    """Make a mannequin's head and neck; hair grows above the hairline.

    Returns:
        The body, about 1 in radius.
    """
    skin = blended_mesh(_HEAD, 32, floor=-1.45, color=_SKIN)
    x, y, z = skin.vertices[skin.quads].mean(1).T
    hairline = np.where(y < -0.3, 0.47 - 0.25 * (y + 0.3) - 0.55 * x * x, 0.05 - 0.9 * y + 0.10)
    hairline = np.maximum(hairline, -0.62)
    # Behind and around the ears the hairline follows their bases.
    ears = np.hypot((y - 0.10) / 0.20, (z + 0.20) / 0.27) < 1.15
    root_density = np.clip((z - hairline) / 0.06, 0, 1) * ~(ears & (np.abs(x) > 0.5))
    return Body(skin, root_density, _closed_eyes(0.235, -0.55, -0.10, 0.105))


def make_animal() -> Body:
    """Make a plump, sitting animal; hair grows everywhere but on the eyes, the nose and the underside.

    Returns:
        The body, about 1 in radius.
    """
    skin = blended_mesh(_ANIMAL, 32, floor=-0.86, color=_DARK_SKIN)
    middle = skin.vertices[skin.quads].mean(1)
    nose = sphere_mesh((0, -0.90, 0.29), 0.062, _BLACK, 0.12)
    eyes = tuple(sphere_mesh((side * 0.20, -0.70, 0.43), 0.072, _BLACK) for side in (-1, 1))
    gap = np.min([np.linalg.norm(middle - mesh.vertices.mean(0), axis=1) for mesh in (nose, *eyes)], axis=0)
    underside = middle[:, 2] <= -0.859
    return Body(skin, (gap > 0.10) * ~underside * 1.0, (nose, *eyes))


def _closed_eyes(x: float, y: float, z: float, radius: float) -> tuple[Mesh, ...]:
    """Two skin-colored spheres as eyelids, symmetric about x = 0."""
    return tuple(sphere_mesh((side * x, y, z), radius, _SKIN, 0.35, 12) for side in (-1, 1))


def read_body(path: str | Path, up: str = "z", min_height: float = 0.0) -> Body:
    """Read a body from a mesh file (.obj, .ply, .stl, .glb …) with trimesh.

    Args:
        path: the mesh file.
        up: the file's axis that points upwards, "y" or "z".
        min_height: fraction of the height, 0 to 1, above which hair grows.

    Returns:
        The body, with z up.

    Raises:
        SceneError: the file cannot be read, has no faces, or none above `min_height`.
        MissingExtraError: trimesh is not installed.
    """
    path = Path(path)
    trimesh = import_extra("trimesh", path)
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
    mesh = Mesh(to_z_up(vertices, up), faces[:, [0, 1, 2, 2]], (0.45, 0.28, 0.21))
    height = mesh.vertices[mesh.quads].mean(axis=1)[:, 2]
    low, high = mesh.vertices[:, 2].min(), mesh.vertices[:, 2].max()
    root_density = (height >= low + min_height * (high - low)).astype(float)
    if not (mesh.quad_areas * root_density).sum() > 0:
        raise SceneError(f"{path}: no face with an area lies above {min_height:g} of the height; lower --region-above")
    return Body(mesh, root_density)


BODIES = {"head": make_head, "animal": make_animal}
