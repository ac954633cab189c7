# SPDX-License-Identifier: Apache-2.0
"""The built-in surfaces: a mannequin's head and a small plump animal, both about 1 in radius."""

from __future__ import annotations

import numpy as np

from npcr.synthetic.hair.meshes import Ellipsoid, Mesh, Surface, ball, blended_mesh

_SKIN, _DARK_SKIN, _BLACK = (0.56, 0.33, 0.24), (0.12, 0.07, 0.05), (0.012, 0.010, 0.010)


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


def head() -> Surface:
    """A mannequin's head and neck; hair grows above the hairline."""
    skin = blended_mesh(_HEAD, 32, floor=-1.45, color=_SKIN)
    x, y, z = skin.vertices[skin.quads].mean(1).T
    hairline = np.where(y < -0.3, 0.47 - 0.25 * (y + 0.3) - 0.55 * x * x, 0.05 - 0.9 * y + 0.10)
    hairline = np.maximum(hairline, -0.62)
    # Behind and around the ears the line runs along their roots.
    ears = np.hypot((y - 0.10) / 0.20, (z + 0.20) / 0.27) < 1.15
    growth = np.clip((z - hairline) / 0.06, 0, 1) * ~(ears & (np.abs(x) > 0.5))
    return Surface(skin, growth, _eyes(0.235, -0.55, -0.10, 0.105))


def animal() -> Surface:
    """A plump animal that sits; hair grows everywhere but on eyes and nose."""
    skin = blended_mesh(_ANIMAL, 32, floor=-0.86, color=_DARK_SKIN)
    middle = skin.vertices[skin.quads].mean(1)
    nose = ball((0, -0.90, 0.29), 0.062, _BLACK, 0.12)
    eyes = tuple(ball((side * 0.20, -0.70, 0.43), 0.072, _BLACK) for side in (-1, 1))
    gap = np.min([np.linalg.norm(middle - mesh.vertices.mean(0), axis=1) for mesh in (nose, *eyes)], axis=0)
    under = middle[:, 2] <= -0.859  # it sits on this
    return Surface(skin, (gap > 0.10) * ~under * 1.0, (nose, *eyes))


def _eyes(x: float, y: float, z: float, radius: float) -> tuple[Mesh, ...]:
    """Closed lids: skin-colored balls that stand a little proud of their sockets."""
    return tuple(ball((side * x, y, z), radius, _SKIN, 0.35, 12) for side in (-1, 1))


BODIES = {"head": head, "animal": animal}
