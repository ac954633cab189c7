# SPDX-License-Identifier: Apache-2.0
"""What is done to strands once they run: resampling, clumps, curls, frizz.

Strands are arrays (N, S, 3) from root to tip.
"""

from __future__ import annotations

import numpy as np

from npcr.synthetic.hair.presets import Groom


def resample(lines: np.ndarray, points: int) -> np.ndarray:
    """(N, points, 3): the polylines (N, S, 3) at even steps of their length."""
    steps = np.linalg.norm(np.diff(lines, axis=1), axis=2)
    along = np.concatenate([np.zeros((len(lines), 1)), np.cumsum(steps, axis=1)], axis=1)
    wanted = along[:, -1:] * np.linspace(0, 1, points)
    # One sorted list for all strands: strand i's lengths are shifted beyond those of strand i - 1.
    shift = np.arange(len(lines))[:, None] * (2 * along.max() + 1)
    index = np.searchsorted((along + shift).ravel(), (wanted + shift).ravel(), side="right").reshape(wanted.shape)
    index = np.clip(index - np.arange(len(lines))[:, None] * lines.shape[1], 1, lines.shape[1] - 1)
    low, high = (np.take_along_axis(along, index - k, axis=1) for k in (1, 0))
    share = np.clip((wanted - low) / np.maximum(high - low, 1e-12), 0, 1)[..., None]
    first, second = (np.take_along_axis(lines, (index - k)[..., None], axis=1) for k in (1, 0))
    return first + share * (second - first)


def clump(lines: np.ndarray, groom: Groom, stray: np.ndarray,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Strands drawn towards the leader of their clump, more so to the tip, and the leaders' numbers (N,)."""
    leader = _leaders(lines, max(1, len(lines) // groom.per_clump), rng)
    share = np.linspace(0, 1, lines.shape[1])
    pull = groom.clump * rng.uniform(0.6, 1, len(lines)) * np.where(stray, 0.15, 1)
    weight = (pull[:, None] * share**1.3)[..., None]
    return lines + weight * (lines[leader] - lines), leader


def curl(lines: np.ndarray, groom: Groom, leader: np.ndarray, stray: np.ndarray,
         rng: np.random.Generator) -> np.ndarray:
    """Strands wound in a helix about the way they ran; those of a clump wind together."""
    if not groom.curl:
        return lines
    across, other = _frames(lines)
    length = np.linalg.norm(np.diff(lines, axis=1), axis=2).sum(1)
    share = np.linspace(0, 1, lines.shape[1])
    pitch = groom.pitch * np.exp(0.18 * rng.normal(size=len(lines)))[leader]
    pitch *= np.exp(0.04 * rng.normal(size=len(lines)))
    # More turns than the points can follow would come out as noise.
    turns = np.minimum(length / pitch, lines.shape[1] / 5)
    hand = np.where(rng.random(len(lines)) < 0.5, -1, 1)[leader]
    phase = rng.uniform(0, 2 * np.pi, len(lines))[leader] + np.where(stray, 1.5, 0.35) * rng.normal(size=len(lines))
    angle = hand[:, None] * 2 * np.pi * turns[:, None] * share + phase[:, None]
    radius = groom.curl * np.exp(0.25 * rng.normal(size=len(lines)))[leader] * np.exp(0.1 * rng.normal(size=len(lines)))
    grown = radius[:, None] * (1 - np.exp(-share * length[:, None] / (2 * groom.pitch + 1e-9)))
    swing = np.cos(angle)[..., None] * across + np.sin(angle)[..., None] * other
    return lines + grown[..., None] * swing


def frizz(lines: np.ndarray, groom: Groom, stray: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strands with waves of their own, three lengths of wave, growing from the root."""
    if not groom.frizz:
        return lines
    length = np.linalg.norm(np.diff(lines, axis=1), axis=2).sum(1)
    share = np.linspace(0, 1, lines.shape[1])
    size = groom.frizz * length * np.where(stray, 1.8, 1.0) * np.exp(0.4 * rng.normal(size=len(lines)))
    moved = lines.copy()
    for waves, strength in ((1.0, 1.0), (2.3, 0.6), (4.7, 0.3)):
        count = waves * rng.uniform(0.7, 1.4, (len(lines), 1))
        wave = np.sin(2 * np.pi * count * share + rng.uniform(0, 2 * np.pi, (len(lines), 1)))
        sideways = rng.normal(size=(len(lines), 1, 3))
        moved += (strength * size[:, None] * np.minimum(1, 2 * share) * wave)[..., None] * sideways
    return moved


def _leaders(lines: np.ndarray, clumps: int, rng: np.random.Generator) -> np.ndarray:
    """(N,): the number of the leader whose strand, at the root and half way along, lies nearest."""
    heads = rng.choice(len(lines), size=clumps, replace=False)
    place = np.concatenate([lines[:, 0], lines[:, lines.shape[1] // 2]], axis=1)
    owner = np.empty(len(lines), np.int64)
    for chunk in np.array_split(np.arange(len(lines)), max(1, len(lines) // 1000)):
        owner[chunk] = heads[((place[chunk, None] - place[None, heads]) ** 2).sum(2).argmin(1)]
    return owner


def _frames(lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two unit vectors across the strands, each (N, S, 3), that turn as little as they must."""
    tangent = np.gradient(lines, axis=1)
    tangent /= np.linalg.norm(tangent, axis=2, keepdims=True) + 1e-12
    across = np.empty_like(lines)
    least = np.eye(3)[np.abs(tangent[:, 0]).argmin(1)]
    across[:, 0] = np.cross(tangent[:, 0], least)
    for i in range(1, lines.shape[1]):
        across[:, i] = across[:, i - 1]
        across[:, i] -= (across[:, i] * tangent[:, i]).sum(1, keepdims=True) * tangent[:, i]
        across[:, i] /= np.linalg.norm(across[:, i], axis=1, keepdims=True) + 1e-12
    across[:, 0] /= np.linalg.norm(across[:, 0], axis=1, keepdims=True) + 1e-12
    return across, np.cross(tangent, across)
