# SPDX-License-Identifier: Apache-2.0
"""Where the steady refiner looks: short windows of neighboring cameras, of a given path or anywhere.

Poses are camera-to-world; what is drawn depends on the generator alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from npcr.camera_paths import move_about, rotation, unit
from npcr.cameras import Cameras
from npcr.errors import TrainingError

# A random view lies between a camera and one of so many that look from nearest by.
NEIGHBORS = 3
# The smallest turn from frame to frame, as a share of the largest: slow moves flicker too.
SLOWEST = 0.15


class Windows(Protocol):
    """A source of windows."""

    def draw(self, rng: np.random.Generator) -> Cameras:
        """The cameras of a few neighboring frames, on the CPU."""
        ...


@dataclass(frozen=True)
class PathClips:
    """Neighboring frames of a given path."""

    cameras: Cameras
    length: int  # frames of a window; a path that is shorter is one window

    def __post_init__(self) -> None:
        if len(self.cameras) < 2:
            raise TrainingError(f"refining needs a path of at least 2 cameras; this one has {len(self.cameras)}")

    def draw(self, rng: np.random.Generator) -> Cameras:
        length = min(self.length, len(self.cameras))
        start = int(rng.integers(len(self.cameras) - length + 1))
        return self.cameras[start:start + length]


@dataclass(frozen=True)
class ArcClips:
    """Fine arcs about the object, in any direction, begun anywhere between neighboring `cameras`.

    Cameras turn rigidly about `pivot` (3,), so that what a camera frames stays framed. The turn from frame to
    frame is at most `degrees`, and small turns are drawn as often as large ones (uniform in its logarithm).
    """

    cameras: Cameras
    length: int
    degrees: float
    pivot: np.ndarray

    def draw(self, rng: np.random.Generator) -> Cameras:
        which = int(rng.integers(len(self.cameras)))
        poses = self.cameras.cam_to_world.double().cpu().numpy()
        start = self._between(poses, which, rng)
        axis = _across(start[:3, 3] - self.pivot, rng)
        turn = math.radians(self.degrees) * SLOWEST ** rng.random()
        arc = [move_about(start, rotation(axis, turn * step), self.pivot) for step in range(self.length)]
        return Cameras(torch.from_numpy(np.stack(arc)).float(),
                       self.cameras.intrinsics[which].expand(self.length, 3, 3).clone(), self.cameras.size)

    def _between(self, poses: np.ndarray, which: int, rng: np.random.Generator) -> np.ndarray:
        """Camera `which` of `poses` (N, 4, 4), moved part of the way towards one of those nearest to it."""
        towards = poses[:, :3, 3] - self.pivot
        distances = np.linalg.norm(towards, axis=1)
        directions = towards / distances[:, None]
        angles = np.arccos(np.clip(directions @ directions[which], -1, 1))
        nearest = np.argsort(angles, kind="stable")[1:NEIGHBORS + 1]
        choice, share = rng.random(2)  # always two draws
        if not len(nearest):
            return poses[which]
        other = int(nearest[int(choice * len(nearest))])
        axis = np.cross(directions[which], directions[other])
        nearer = (distances[other] / distances[which]) ** share
        if np.linalg.norm(axis) < 1e-9:
            return move_about(poses[which], np.eye(3), self.pivot, nearer)
        return move_about(poses[which], rotation(axis, share * float(angles[other])), self.pivot, nearer)


def _across(direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random axis (3,) at right angles to `direction`."""
    ray = unit(direction)
    sideways = np.cross(ray, np.eye(3)[np.argmin(np.abs(ray))])
    return rotation(ray, 2 * math.pi * rng.random()) @ unit(sideways)
