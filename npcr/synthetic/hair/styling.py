# SPDX-License-Identifier: Apache-2.0
"""Styling of strands as grooming tools do it: resampling, clumping, curls, frizz.

Strands are arrays (N, S, 3) from root to tip. A flyaway is a strand that largely leaves its clump.
"""

from __future__ import annotations

import numpy as np

from npcr.synthetic.hair.presets import Groom


def resample(lines: np.ndarray, points: int) -> np.ndarray:
    """Resample polylines at equal steps of their length.

    Args:
        lines: (N, S, 3).
        points: number of points of each result, at least 2.

    Returns:
        (N, points, 3), with the same ends.
    """
    steps = np.linalg.norm(np.diff(lines, axis=1), axis=2)
    along = np.concatenate([np.zeros((len(lines), 1)), np.cumsum(steps, axis=1)], axis=1)
    wanted = along[:, -1:] * np.linspace(0, 1, points)
    # One sorted array for all strands: the lengths of strand i are shifted beyond those of strand i - 1.
    shift = np.arange(len(lines))[:, None] * (2 * along.max() + 1)
    index = np.searchsorted((along + shift).ravel(), (wanted + shift).ravel(), side="right").reshape(wanted.shape)
    index = np.clip(index - np.arange(len(lines))[:, None] * lines.shape[1], 1, lines.shape[1] - 1)
    low, high = (np.take_along_axis(along, index - k, axis=1) for k in (1, 0))
    weight = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0, 1)[..., None]
    first, second = (np.take_along_axis(lines, (index - k)[..., None], axis=1) for k in (1, 0))
    return first + weight * (second - first)


def clump(lines: np.ndarray, groom: Groom, flyaway: np.ndarray,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pull strands towards the guide strand of their clump, the more the nearer to the tip.

    Args:
        lines: (N, S, 3).
        groom: gives `clump` and `per_clump`.
        flyaway: (N,) bool.
        rng: source of the random numbers.

    Returns:
        Strands, (N, S, 3), and the index of each strand's guide, (N,).
    """
    guide = _clump_guides(lines, max(1, len(lines) // groom.per_clump), rng)
    share = np.linspace(0, 1, lines.shape[1])
    pull = groom.clump * rng.uniform(0.6, 1, len(lines)) * np.where(flyaway, 0.15, 1)
    weight = (pull[:, None] * share**1.3)[..., None]
    return lines + weight * (lines[guide] - lines), guide


def curl(lines: np.ndarray, groom: Groom, guide: np.ndarray, flyaway: np.ndarray,
         rng: np.random.Generator) -> np.ndarray:
    """Wind strands in helices about their own lines; those of a clump wind together.

    Args:
        lines: (N, S, 3).
        groom: gives `curl` (radius) and `pitch`.
        guide: (N,) index of each strand's guide.
        flyaway: (N,) bool.
        rng: source of the random numbers.

    Returns:
        Strands, (N, S, 3).
    """
    if not groom.curl:
        return lines
    normal, binormal = _parallel_frames(lines)
    length = np.linalg.norm(np.diff(lines, axis=1), axis=2).sum(1)
    share = np.linspace(0, 1, lines.shape[1])
    pitch = groom.pitch * np.exp(0.18 * rng.normal(size=len(lines)))[guide]
    pitch *= np.exp(0.04 * rng.normal(size=len(lines)))
    # More turns than the points can sample would alias.
    turns = np.minimum(length / pitch, lines.shape[1] / 5)
    handedness = np.where(rng.random(len(lines)) < 0.5, -1, 1)[guide]
    phase = rng.uniform(0, 2 * np.pi, len(lines))[guide] + np.where(flyaway, 1.5, 0.35) * rng.normal(size=len(lines))
    angle = handedness[:, None] * 2 * np.pi * turns[:, None] * share + phase[:, None]
    radius = groom.curl * np.exp(0.25 * rng.normal(size=len(lines)))[guide] * np.exp(0.1 * rng.normal(size=len(lines)))
    grown_radius = radius[:, None] * (1 - np.exp(-share * length[:, None] / (2 * groom.pitch + 1e-9)))
    return lines + grown_radius[..., None] * (np.cos(angle)[..., None] * normal + np.sin(angle)[..., None] * binormal)


def frizz(lines: np.ndarray, groom: Groom, flyaway: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add irregular waves of three wavelengths to each strand, growing from the root.

    Args:
        lines: (N, S, 3).
        groom: gives `frizz`.
        flyaway: (N,) bool.
        rng: source of the random numbers.

    Returns:
        Strands, (N, S, 3).
    """
    if not groom.frizz:
        return lines
    length = np.linalg.norm(np.diff(lines, axis=1), axis=2).sum(1)
    share = np.linspace(0, 1, lines.shape[1])
    amplitude = groom.frizz * length * np.where(flyaway, 1.8, 1.0) * np.exp(0.4 * rng.normal(size=len(lines)))
    frizzed = lines.copy()
    for waves, strength in ((1.0, 1.0), (2.3, 0.6), (4.7, 0.3)):
        count = waves * rng.uniform(0.7, 1.4, (len(lines), 1))
        wave = np.sin(2 * np.pi * count * share + rng.uniform(0, 2 * np.pi, (len(lines), 1)))
        direction = rng.normal(size=(len(lines), 1, 3))
        frizzed += (strength * amplitude[:, None] * np.minimum(1, 2 * share) * wave)[..., None] * direction
    return frizzed


def _clump_guides(lines: np.ndarray, clumps: int, rng: np.random.Generator) -> np.ndarray:
    """(N,) index of the guide that is nearest at the root and halfway along."""
    guides = rng.choice(len(lines), size=clumps, replace=False)
    key = np.concatenate([lines[:, 0], lines[:, lines.shape[1] // 2]], axis=1)
    nearest = np.empty(len(lines), np.int64)
    for chunk in np.array_split(np.arange(len(lines)), max(1, len(lines) // 1000)):
        nearest[chunk] = guides[((key[chunk, None] - key[None, guides]) ** 2).sum(2).argmin(1)]
    return nearest


def _parallel_frames(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit normals and binormals, (N, S, 3) each, of frames transported in parallel along the strands."""
    tangent = np.gradient(lines, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-12
    normal = np.empty_like(lines)
    least = np.eye(3)[np.abs(tangent[:, 0]).argmin(1)]
    normal[:, 0] = np.cross(tangent[:, 0], least)
    for i in range(1, lines.shape[1]):
        normal[:, i] = normal[:, i - 1]
        normal[:, i] -= (normal[:, i] * tangent[:, i]).sum(1, keepdims=True) * tangent[:, i]
        normal[:, i] /= np.linalg.norm(normal[:, i], axis=1, keepdims=True) + 1e-12
    normal[:, 0] /= np.linalg.norm(normal[:, 0], axis=1, keepdims=True) + 1e-12
    return normal, np.cross(tangent, normal)
