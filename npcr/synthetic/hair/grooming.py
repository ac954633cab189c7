# SPDX-License-Identifier: Apache-2.0
"""Procedural grooms: roots on the skin, strands that follow the style, then clumping, curls and frizz.

All random numbers come from one seed. z is up and the face looks along -y.
"""

from __future__ import annotations

import numpy as np

from npcr.synthetic.hair.bodies import Body
from npcr.synthetic.hair.meshes import sample_mesh
from npcr.synthetic.hair.presets import Groom
from npcr.synthetic.hair.signed_distance import SignedDistanceField
from npcr.synthetic.hair.strands import Strands
from npcr.synthetic.hair.styling import clump, curl, frizz, resample

_POINTS = {"combed": 28, "fur": 10, "tied": 36}  # of each strand
_STEPS = 48  # of a simulated strand
_TIE, _TIE_RADIUS = np.array([0.0, 1.06, 0.26]), 0.075  # of a ponytail
_PARTING = 0.16  # x of the parting


def grow_strands(body: Body, groom: Groom, seed: int) -> Strands:
    """Grow the strands of a groom on a body.

    Args:
        body: of radius 1 or so, to which the lengths of `groom` refer.
        groom: the hair style.
        seed: of the random numbers.

    Returns:
        `groom.number` strands.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    field = SignedDistanceField(body.skin, margin=0.5)
    roots, normals = sample_mesh(body.skin, body.root_density, groom.number, rng)
    lay = {"combed": _lay_combed, "fur": _lay_fur, "tied": _lay_tied}[groom.style]
    lines = lay(roots, normals, groom, field, rng)
    lines = resample(lines, _POINTS[groom.style])
    flyaway = rng.random(len(lines)) < groom.flyaways
    lines, guide = clump(lines, groom, flyaway, rng)
    lines = curl(lines, groom, guide, flyaway, rng)
    lines = frizz(lines, groom, flyaway, rng)
    lines = _push_out_of_skin(lines, roots, field, rng)
    return _to_strands(lines, roots, groom, rng)


def _to_strands(lines: np.ndarray, roots: np.ndarray, groom: Groom, rng: np.random.Generator) -> Strands:
    count, points = lines.shape[:2]
    share = np.linspace(0, 1, points)
    taper = 0.5 * groom.thickness * (1 - 0.65 * share**2)
    radii = taper * np.exp(0.15 * rng.normal(size=(count, 1)))
    tone = np.exp(groom.mottle * rng.normal(size=count))
    if groom.style == "fur":
        tone = tone * _fur_tone(roots + 0.03 * rng.normal(size=roots.shape))
    pigment = tone[:, None] * [groom.melanin, groom.redness]
    return Strands(lines.reshape(-1, 3), radii.ravel(), np.full(count, points), pigment)


def _fur_tone(roots: np.ndarray) -> np.ndarray:
    """(N,) factor on the pigment of fur by position: a pale face, chest and belly, a darker back and ears."""
    x, y, z = roots.T
    pale = np.clip((0.30 - np.hypot(0.9 * x, z - 0.10)) / 0.10 + 0.5, 0, 1) * (y < -0.45)
    pale = np.maximum(pale, np.clip((0.42 - np.hypot(x, 0.8 * (z + 0.42))) / 0.12 + 0.5, 0, 1) * (y < -0.2))
    dark = np.clip((y - 0.25) / 0.5 + 0.6 * (z - 0.2), 0, 1) + np.clip((z - 0.80) / 0.1, 0, 1)
    return np.where(pale > 0.5, 0.16, 1.0) * (1 + 1.5 * np.clip(dark, 0, 1))


def _lay_combed(roots: np.ndarray, normals: np.ndarray, groom: Groom, field: SignedDistanceField,
                rng: np.random.Generator) -> np.ndarray:
    """(N, steps, 3) strands that fall to both sides of a parting and, behind the crown, to all sides."""
    x, y = roots.T[:2]
    side = np.tanh((x - _PARTING + 0.02 * rng.normal(size=len(x))) / 0.04)
    behind = np.clip((y - 0.25) / 0.3, 0, 1)  # behind the crown
    comb = np.stack([side * (1 - behind) + 1.5 * x * behind, 0.3 + 0.7 * behind, -0.3 + 0 * x], axis=1)
    length = groom.length * np.exp(0.10 * rng.normal(size=len(roots))).clip(0.75, 1.3)
    return _trace(roots, normals, comb, length, groom, field, rng)


def _lay_fur(roots: np.ndarray, normals: np.ndarray, groom: Groom, field: SignedDistanceField,
             rng: np.random.Generator) -> np.ndarray:
    """(N, steps, 3) strands combed back and down, shorter on the face."""
    x, y, z = roots.T
    comb = np.stack([0.5 * x, 0.55 + 0.2 * y, -0.75 - 0.2 * z], axis=1)
    face = (y < -0.45) & (z > 0)
    comb[face] = (roots[face] - [0, -0.95, 0.30]) * [1, 1, 1.3]
    swirl = np.stack([np.sin(5 * z + 3 * y), np.sin(4 * x - 2 * z), np.sin(6 * y + x)], axis=1)
    comb = comb / np.linalg.norm(comb, axis=1, keepdims=True) + 0.25 * swirl
    eye = np.hypot(np.hypot(np.abs(x) - 0.20, y + 0.70), z - 0.43)
    nose = np.hypot(np.hypot(x, y + 0.90), z - 0.27)
    trim = np.clip(np.minimum(2.4 * eye, 2.0 * nose) + 0.05, 0.25, 1) * np.where(z > 0.72, 0.6, 1)
    length = groom.length * trim * np.exp(0.2 * rng.normal(size=len(roots))).clip(0.6, 1.6)
    return _trace(roots, normals, comb, length, groom, field, rng)


def _trace(roots: np.ndarray, normals: np.ndarray, comb: np.ndarray, length: np.ndarray, groom: Groom,
           field: SignedDistanceField, rng: np.random.Generator) -> np.ndarray:
    """(N, steps, 3) strands that start between normal and comb direction, bend to gravity and stay outside the skin."""
    count = len(roots)
    comb = comb - (comb * normals).sum(1, keepdims=True) * normals
    comb /= np.linalg.norm(comb, axis=1, keepdims=True) + 1e-9
    direction = groom.lift * normals + (1 - groom.lift) * comb + 0.08 * rng.normal(size=roots.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    step = length / (_STEPS - 1)
    clearance = groom.volume * (0.08 + 0.92 * rng.random(count)) * np.exp(0.1 * rng.normal(size=count))
    lines = np.empty((count, _STEPS, 3))
    lines[:, 0] = position = roots
    down = np.array([0.0, 0.0, -1.0])
    for i in range(1, _STEPS):
        traveled = i * step
        direction = direction + (2.2 * groom.weight * step)[:, None] * (down + 0.1 * comb)
        # Near the skin strands follow it, at a clearance that grows from 0 at the root.
        wanted = clearance * (1 - np.exp(-traveled / (0.12 + 0.5 * groom.volume)))
        close = field(position + direction * step[:, None]) < wanted
        if close.any():
            normal = field.normals(position[close])
            inward = np.minimum((direction[close] * normal).sum(1, keepdims=True), 0)
            direction[close] -= inward * normal
        direction /= np.linalg.norm(direction, axis=1, keepdims=True) + 1e-12
        position = field.push_out(position + direction * step[:, None], wanted)
        lines[:, i] = position
    return lines if groom.cut is None else _cut(lines, groom.cut, rng)


def _cut(lines: np.ndarray, height: float, rng: np.random.Generator) -> np.ndarray:
    """Strands (N, S, 3) cut where they first fall below `height`, slightly uneven."""
    level = height + 0.025 * rng.normal(size=len(lines)) - 0.10 * np.clip(lines[:, 0, 1] + 0.2, 0, 1)
    below = lines[..., 2] < level[:, None]
    end = np.where(below.any(1), below.argmax(1), lines.shape[1] - 1).clip(3)
    index = np.minimum(np.arange(lines.shape[1])[None], end[:, None])
    return np.take_along_axis(lines, index[..., None], axis=1)


def _lay_tied(roots: np.ndarray, normals: np.ndarray, groom: Groom, field: SignedDistanceField,
              rng: np.random.Generator) -> np.ndarray:
    """(N, steps, 3) strands combed over the skull to a tie, from which they fall as a ponytail."""
    count = len(roots)
    clearance = groom.volume * (0.15 + 0.85 * rng.random(count))
    steps = _STEPS
    over = np.empty((count, steps, 3))
    over[:, 0] = position = roots
    angle, out = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.random(count))
    offset = np.stack([out * np.cos(angle), 0 * angle, out * np.sin(angle)], axis=1) * _TIE_RADIUS
    goal = _TIE + offset
    for i in range(1, steps):
        share = i / (steps - 1)
        # The straight line to the tie, pushed out of the skull.
        position = position + (goal - position) / (steps - i)
        wanted = clearance * np.minimum(1, 6 * share) * np.clip((1 - share) / 0.15, 0, 1)
        position = field.push_out(position, wanted)
        over[:, i] = position
    tail = _tail(goal, offset, groom, field, rng)
    return np.concatenate([over, tail[:, 1:]], axis=1)


def _tail(goal: np.ndarray, offset: np.ndarray, groom: Groom, field: SignedDistanceField,
          rng: np.random.Generator) -> np.ndarray:
    """(N, steps, 3) strands from the tie out and down, wide in the middle and thin at the end."""
    count, steps = len(goal), _STEPS // 2
    share = np.linspace(0, 1, steps)
    reach = 0.55 * groom.length * np.exp(0.08 * rng.normal(size=count)).clip(0.75, 1.25)
    t = share[None] * reach[:, None]
    back = 0.30 * (1 - np.exp(-t / 0.22))
    fall = t - 0.22 * (1 - np.exp(-t / 0.22)) - 0.10 * t * np.exp(-t / 0.25)
    width = 1 + 2.4 * np.sin(np.pi * np.clip(share, 0, 1) ** 0.7) ** 1.0
    lines = _TIE + offset[:, None] * width[None, :, None]
    lines[..., 1] += back + offset[:, 2:] * np.minimum(1, t / 0.3) * 1.5
    lines[..., 2] -= fall
    lines[..., 0] += 0.05 * np.sin(2.2 * t)
    flat = lines.reshape(-1, 3)
    return field.push_out(flat, np.full(len(flat), 0.02)).reshape(lines.shape)


def _push_out_of_skin(lines: np.ndarray, roots: np.ndarray, field: SignedDistanceField,
                      rng: np.random.Generator) -> np.ndarray:
    """Push strands that styling moved into the skin out of it; roots (N, 3) stay where they were."""
    free = lines[:, 1:].reshape(-1, 3)
    clearance = 0.006 + 0.012 * rng.random(len(lines))
    ramp = np.minimum(1, np.arange(1, lines.shape[1]) / 3)
    pushed = field.push_out(free, (clearance[:, None] * ramp).ravel())
    return np.concatenate([roots[:, None], pushed.reshape(len(lines), -1, 3)], axis=1)
