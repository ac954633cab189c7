# SPDX-License-Identifier: Apache-2.0
"""A procedural animal: ellipsoids with skin, and strands of fur that grow on them.

z is up, the animal looks along -y, and it fits into the sphere of `creature_scene` (`CENTER`, `RADIUS`). Colors are
linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from npcr.camera_paths import rotation

_RUST, _CREAM, _DARK = np.array([0.62, 0.20, 0.045]), np.array([0.86, 0.74, 0.55]), np.array([0.075, 0.04, 0.03])
_BLACK, _PINK = np.array([0.012, 0.010, 0.012]), np.array([0.55, 0.24, 0.22])


@dataclass(frozen=True)
class BodyPart:
    """An ellipsoid of the body and the fur on it; lengths in world units."""

    name: str
    center: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt: tuple[float, float] = (0.0, 0.0)  # degrees about x, then about y
    fur: float = 0.2  # mean strand length; 0: bare and glossy
    lift: float = 0.75  # 1: strands leave the skin along its normal, 0: along the comb direction
    curl: float = 0.012  # radius of the helix
    density: float = 1.0  # strands per area, relative

    @property
    def axes(self) -> np.ndarray:
        """(3, 3) rotation, with the ellipsoid's axes as columns."""
        return rotation((0, 1, 0), np.radians(self.tilt[1])) @ rotation((1, 0, 0), np.radians(self.tilt[0]))


def _mirrored(name: str, center: tuple[float, float, float], radii: tuple[float, float, float],
              tilt: tuple[float, float] = (0.0, 0.0), **rest: float) -> list[BodyPart]:
    x, y, z = center
    return [BodyPart(f"{name} right", (-x, y, z), radii, (tilt[0], -tilt[1]), **rest),
            BodyPart(f"{name} left", center, radii, tilt, **rest)]


PARTS = (
    BodyPart("body", (0, 0.02, -0.14), (0.68, 0.66, 0.62), fur=0.25, lift=0.55, curl=0.016),
    BodyPart("head", (0, -0.22, 0.42), (0.52, 0.46, 0.44), fur=0.17, lift=0.55),
    *_mirrored("cheek", (0.37, -0.42, 0.27), (0.17, 0.16, 0.15), fur=0.24, lift=0.6, curl=0.008),
    BodyPart("muzzle", (0, -0.66, 0.29), (0.18, 0.17, 0.13), fur=0.05, lift=0.5, curl=0.001, density=2.5),
    *_mirrored("ear", (0.37, -0.14, 0.86), (0.15, 0.075, 0.19), (-12, 24), fur=0.11, lift=0.5, curl=0.006,
               density=2.5),
    *_mirrored("foot", (0.33, -0.48, -0.66), (0.17, 0.25, 0.12), fur=0.09, lift=0.5, curl=0.003, density=1.5),
    BodyPart("tail 1", (0.18, 0.66, -0.36), (0.20, 0.20, 0.20), fur=0.21, lift=0.72, density=1.5),
    BodyPart("tail 2", (0.34, 0.86, -0.22), (0.20, 0.20, 0.20), fur=0.22, lift=0.72, density=1.5),
    BodyPart("tail 3", (0.46, 0.97, -0.02), (0.19, 0.19, 0.20), fur=0.23, lift=0.72, density=1.5),
    BodyPart("tail 4", (0.50, 0.98, 0.23), (0.17, 0.17, 0.19), fur=0.23, lift=0.72, density=1.5),
    BodyPart("tail 5", (0.47, 0.92, 0.44), (0.12, 0.12, 0.15), fur=0.24, lift=0.72, density=1.5),
    *_mirrored("eye", (0.20, -0.635, 0.50), (0.092, 0.08, 0.098), fur=0),
    BodyPart("nose", (0, -0.825, 0.335), (0.062, 0.045, 0.045), fur=0),
)
_FUR = np.array([part.fur for part in PARTS])
_NAMES = np.array([part.name.split()[0] for part in PARTS])


@dataclass
class ShadingPoints:
    """Points on skin or strands, with the inputs of shading."""

    positions: np.ndarray  # (N, 3) float32
    normals: np.ndarray  # (N, 3) unit, of the skin at the root
    tangents: np.ndarray  # (N, 3) of the strand, unit; 0 on skin
    albedo: np.ndarray  # (N, 3) linear RGB
    occlusion: np.ndarray  # (N,) fraction of ambient light that reaches the point, 0..1
    gloss: np.ndarray  # (N,) strength of a glossy highlight


def grow_fur(strands: int, spacing: float, rng: np.random.Generator) -> ShadingPoints:
    """Grow fur on the animal.

    Args:
        strands: their number.
        spacing: largest distance between neighboring points of a strand, world units.
        rng: source of the random numbers.

    Returns:
        The points of the strands, strand by strand.
    """
    roots, normals, part = _sample_surface(strands, rng, furry=True)
    length = _FUR[part] * np.exp(0.22 * rng.normal(size=strands)).clip(0.5, 1.7)
    flyaway = rng.random(strands) < 0.04
    length *= np.where(flyaway, 1.25, 1) * _trim(roots, part)
    steps = int(np.ceil(1.1 * length.max() / spacing)) + 1
    share = np.linspace(0, 1, steps, dtype=np.float32)
    curves = _curves(roots, normals, part, length, flyaway, share, rng)
    tangents = np.gradient(curves, axis=1)
    tangents /= np.linalg.norm(tangents, axis=2, keepdims=True) + 1e-9
    albedo = _strand_colors(roots, part, share, rng)
    # Light reaches the tips of a coat and hardly its roots.
    occlusion = 0.16 + 0.84 * share**0.8
    # Each strand keeps as many points as its own length needs.
    keep = np.floor(np.arange(steps)[None] * (length / length.max())[:, None])
    keep = np.diff(keep, axis=1, prepend=-1) > 0
    return ShadingPoints(
        positions=curves[keep].astype(np.float32),
        normals=np.broadcast_to(normals[:, None], curves.shape)[keep].astype(np.float32),
        tangents=tangents[keep].astype(np.float32),
        albedo=albedo[keep].astype(np.float32),
        occlusion=np.broadcast_to(occlusion, keep.shape)[keep].astype(np.float32),
        gloss=np.zeros(int(keep.sum()), np.float32),
    )


def cover_skin(count: int, rng: np.random.Generator) -> ShadingPoints:
    """Sample points on the skin, the eyes and the nose.

    Args:
        count: number of points.
        rng: source of the random numbers.

    Returns:
        The points; eyes and nose are glossy.
    """
    positions, normals, part = _sample_surface(count, rng, furry=False)
    bare = _FUR[part] == 0
    albedo = np.where(bare[:, None], _BLACK, 0.35 * _fur_color(positions, part))
    return ShadingPoints(
        positions=positions.astype(np.float32),
        normals=normals.astype(np.float32),
        tangents=np.zeros_like(positions, dtype=np.float32),
        albedo=albedo.astype(np.float32),
        occlusion=np.where(bare, 1.0, 0.16).astype(np.float32),
        gloss=bare.astype(np.float32),
    )


def _sample_surface(count: int, rng: np.random.Generator, furry: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (count, 3), outward normals and part indices, uniform over the union's surface."""
    # Eyes and nose have no fur over them: four times the points give their highlights smooth borders.
    weights = np.array([_area(p) * (p.density * (p.fur > 0) if furry else 1 + 3 * (p.fur == 0)) for p in PARTS])
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while sum(len(f[0]) for f in found) < count:
        part = rng.choice(len(PARTS), size=2 * count, p=weights / weights.sum())
        points, normals = np.empty((2 * count, 3)), np.empty((2 * count, 3))
        keep = np.ones(2 * count, dtype=bool)
        for i, p in enumerate(PARTS):
            members = np.flatnonzero(part == i)
            sphere = rng.normal(size=(len(members), 3))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
            gradient = sphere / p.radii
            stretch = np.linalg.norm(gradient, axis=1)
            # Rejection sampling by the ratio of the area elements makes the density on the ellipsoid uniform.
            keep[members] = rng.random(len(members)) < stretch * min(p.radii)
            points[members] = (sphere * p.radii) @ p.axes.T + p.center
            normals[members] = (gradient / stretch[:, None]) @ p.axes.T
        for i, p in enumerate(PARTS):
            local = (points - p.center) @ p.axes / p.radii
            keep &= ~(((local**2).sum(1) < 0.999) & (part != i))
        found.append((points[keep], normals[keep], part[keep]))
    return tuple(np.concatenate(f)[:count] for f in zip(*found, strict=True))  # type: ignore[return-value]


def _area(part: BodyPart) -> float:
    """Area of an ellipsoid by Thomsen's approximation."""
    a, b, c = (r**1.6 for r in part.radii)
    return 4 * np.pi * ((a * b + a * c + b * c) / 3) ** (1 / 1.6)


def _curves(roots: np.ndarray, normals: np.ndarray, part: np.ndarray, length: np.ndarray, flyaway: np.ndarray,
            share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(strands, steps, 3) points of strands: combed, bent by gravity, clumped, curled, frizzed."""
    count = len(roots)
    lift = np.array([p.lift for p in PARTS])[part][:, None]
    comb = _comb(roots, normals, part)
    direction = lift * normals + (1 - lift) * comb + 0.10 * rng.normal(size=roots.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    sag = 0.28 * length[:, None] * (comb + [0, 0, -0.7])
    s = share[None, :, None]
    curves = (roots[:, None] + length[:, None, None] * s * direction[:, None] + s**2 * sag[:, None]).astype(np.float32)

    guide = _clump_guides(roots, part, rng)
    gather = np.where(flyaway, 0.1, rng.uniform(0.55, 0.9, count))[:, None, None]
    tips = roots[guide][:, None] + (curves[guide] - roots[guide][:, None]) * (length / length[guide])[:, None, None]
    curves = curves + gather * s**1.5 * (tips - curves)

    across = np.cross(direction, rng.normal(size=(count, 3))[guide])
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(direction, across)
    turns = rng.uniform(0.7, 1.6, count)[guide] + 0.1 * rng.normal(size=count)
    phase = rng.uniform(0, 2 * np.pi, count)[guide] + 0.5 * rng.normal(size=count)
    angle = 2 * np.pi * turns[:, None] * share + phase[:, None]
    radius = np.array([p.curl for p in PARTS])[part] * np.exp(0.3 * rng.normal(size=count))
    swing = (np.cos(angle)[..., None] * across[:, None] + np.sin(angle)[..., None] * other[:, None])
    curves = curves + radius[:, None, None] * s * swing
    frizz = 0.018 * length * np.where(flyaway, 3.5, 1)
    wobble = np.sin(2 * np.pi * rng.uniform(2, 4.5, (count, 1)) * share + rng.uniform(0, 6.3, (count, 1)))
    sideways = rng.normal(size=(count, 3))
    return curves + (frizz[:, None] * share * wobble)[..., None] * sideways[:, None]


def _trim(roots: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(strands,) factor on the length; short around the eyes and on the bridge of the nose."""
    eye = np.hypot(np.hypot(np.abs(roots[:, 0]) - 0.2, roots[:, 1] + 0.62), roots[:, 2] - 0.5)
    bridge = np.hypot(np.hypot(0.8 * roots[:, 0], roots[:, 1] + 0.68), roots[:, 2] - 0.46)
    return np.where(_NAMES[part] == "head", np.clip(np.minimum(3.0 * eye, 2.4 * bridge) + 0.04, 0.2, 1), 1)


def _comb(roots: np.ndarray, normals: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(strands, 3) unit comb directions: down and away from the face, out on the cheeks, up on the tail."""
    flow = np.broadcast_to([0.0, 0.45, -0.8], roots.shape).copy()
    names = _NAMES[part]
    side = np.sign(roots[:, :1])
    flow = np.where((names == "cheek")[:, None], np.concatenate([side, 0.3 + 0 * side, -0.5 + 0 * side], 1), flow)
    face = (names == "head")[:, None] & (roots[:, 1:2] < -0.3)
    flow = np.where(face, (roots - [0, -0.7, 0.34]) * [1, 1, 1.3], flow)
    flow = np.where((names == "muzzle")[:, None], roots - [0, -0.83, 0.34], flow)
    flow = np.where((names == "ear")[:, None], [0, 0.1, 1.0], flow)
    flow = np.where((names == "tail")[:, None], np.array([0.25, 0.25, 1.0]), flow)
    # A smooth swirl makes the partings irregular.
    swirl = np.stack([np.sin(5 * roots[:, 2] + 3 * roots[:, 1]), np.sin(4 * roots[:, 0] - 2 * roots[:, 2]),
                      np.sin(6 * roots[:, 1] + roots[:, 0])], axis=1)
    flow = flow + 0.25 * swirl
    flow -= (flow * normals).sum(1, keepdims=True) * normals
    return flow / (np.linalg.norm(flow, axis=1, keepdims=True) + 1e-6)


def _clump_guides(roots: np.ndarray, part: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(strands,) index of each strand's guide: the nearest one on the same part."""
    guide = np.empty(len(roots), dtype=np.int64)
    for i in np.unique(part):
        members = np.flatnonzero(part == i)
        guides = rng.choice(members, size=max(1, len(members) // 22), replace=False)
        for chunk in np.array_split(members, max(1, len(members) // 2000)):
            distance = ((roots[chunk, None] - roots[None, guides]) ** 2).sum(2)
            guide[chunk] = guides[distance.argmin(1)]
    return guide


def _fur_color(points: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(N, 3) linear RGB of the fur by position: rust, a cream face and belly, dark legs, a ringed tail."""
    x, y, z = points.T
    names = _NAMES[part]
    color = np.broadcast_to(_RUST, points.shape).copy()

    def paint(share: np.ndarray, tone: np.ndarray) -> None:
        color[:] += np.clip(share, 0, 1)[:, None] * (tone - color)

    paint((names == "body") * _ramp(0.33 - np.hypot(x, 0.8 * (z + 0.2)), 0.05) * (y < 0), _CREAM)
    paint((names == "body") * _ramp(-z - 0.46, 0.08), _DARK)
    paint((names == "cheek") * 1.0, _CREAM)
    brow = np.hypot((np.abs(x) - 0.21) / 1.2, z - 0.665) < 0.072
    paint((names == "head") * (y < -0.3) * brow, _CREAM)
    tear = (np.abs(np.abs(x) - 0.27 - 0.12 * (0.5 - z)) < 0.045) & (z < 0.46)
    paint((names == "head") * (y < -0.3) * _ramp(0.44 - z - 0.2 * np.abs(x), 0.04) * 0.8, _CREAM)
    paint((names == "head") * (y < -0.3) * tear, 0.6 * _RUST)
    paint((names == "muzzle") * 1.0, _CREAM)
    paint((names == "ear") * 1.0, _CREAM)
    paint((names == "ear") * (y > -0.14), _DARK)
    paint((names == "foot") * 1.0, _DARK)
    ring = np.sin(2 * np.pi * (np.hypot(y - 0.66, z + 0.36) * 2.6))
    paint((names == "tail") * _ramp(ring, 0.25), 1.15 * np.array([0.80, 0.46, 0.20]))
    paint((names == "tail") * _ramp(z - 0.46, 0.04), _DARK)
    return color


def _ramp(value: np.ndarray, softness: float) -> np.ndarray:
    """Ramp from 0 to 1, of width 2 `softness`, around value 0."""
    return np.clip(value / (2 * softness) + 0.5, 0, 1)


def _strand_colors(roots: np.ndarray, part: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(strands, steps, 3) color of the fur, varied from strand to strand, darker at the root, lighter at the tip."""
    position = roots + 0.025 * rng.normal(size=roots.shape)  # makes borders between colors irregular
    color = _fur_color(position, part) * np.exp(0.16 * rng.normal(size=(len(roots), 1)))
    color *= np.exp(0.05 * rng.normal(size=color.shape))
    along = (0.55 + 0.5 * share + 0.15 * share**4).astype(np.float32)
    return np.clip(color[:, None] * along[None, :, None], 0, 1)
