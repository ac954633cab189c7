# SPDX-License-Identifier: Apache-2.0
"""Sources of clips, short runs of neighboring cameras that the steady refiner renders: of a path, or anywhere.

Poses are camera-to-world. What is drawn depends on the generator alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from npcr.camera_paths import normalize, rotation, transform_about
from npcr.cameras import Cameras
from npcr.errors import TrainingError

# A random view lies between a camera and one of this many nearest to it in direction.
NEIGHBORS = 3
# The smallest turn from frame to frame, as a share of the largest: slow moves flicker too.
SMALLEST_TURN = 0.15


class ClipSource(Protocol):
    """A source of clips."""

    def draw(self, rng: np.random.Generator) -> Cameras:
        """The cameras of a few neighboring frames, on the CPU."""
        ...


@dataclass(frozen=True)
class PathClips:
    """Draws neighboring frames of a given path."""

    cameras: Cameras  # the path, at least 2
    length: int  # frames of a clip; a path that is shorter is one clip

    def __post_init__(self) -> None:
        if len(self.cameras) < 2:
            raise TrainingError(f"refining needs a path of at least 2 cameras; this one has {len(self.cameras)}")

    def draw(self, rng: np.random.Generator) -> Cameras:
        length = min(self.length, len(self.cameras))
        start = int(rng.integers(len(self.cameras) - length + 1))
        return self.cameras[start:start + length]


@dataclass(frozen=True)
class ArcClips:
    """Draws fine arcs around the object, in any direction, that begin anywhere between neighboring cameras.

    Cameras turn rigidly about the pivot, so that the object stays in the frame. Small turns from frame to frame are
    drawn as often as large ones (uniform in the logarithm).
    """

    cameras: Cameras  # between which arcs begin
    length: int  # frames of a clip
    degrees: float  # the largest turn from frame to frame
    pivot: np.ndarray  # (3,) world coordinates

    def draw(self, rng: np.random.Generator) -> Cameras:
        camera = int(rng.integers(len(self.cameras)))
        poses = self.cameras.cam_to_world.double().cpu().numpy()
        start = self._between(poses, camera, rng)
        axis = _perpendicular(start[:3, 3] - self.pivot, rng)
        turn = math.radians(self.degrees) * SMALLEST_TURN ** rng.random()
        arc = [transform_about(start, rotation(axis, turn * step), self.pivot) for step in range(self.length)]
        return Cameras(torch.from_numpy(np.stack(arc)).float(),
                       self.cameras.intrinsics[camera].expand(self.length, 3, 3).clone(), self.cameras.size)

    def _between(self, poses: np.ndarray, camera: int, rng: np.random.Generator) -> np.ndarray:
        """Pose number `camera` of `poses` (N, 4, 4), moved part of the way towards one of those nearest to it."""
        offsets = poses[:, :3, 3] - self.pivot
        distances = np.linalg.norm(offsets, axis=1)
        directions = offsets / distances[:, None]
        angles = np.arccos(np.clip(directions @ directions[camera], -1, 1))
        nearest = np.argsort(angles, kind="stable")[1:NEIGHBORS + 1]
        choice, share = rng.random(2)  # always two draws
        if not len(nearest):
            return poses[camera]
        other = int(nearest[int(choice * len(nearest))])
        axis = np.cross(directions[camera], directions[other])
        scale = (distances[other] / distances[camera]) ** share
        if np.linalg.norm(axis) < 1e-9:
            return transform_about(poses[camera], np.eye(3), self.pivot, scale)
        return transform_about(poses[camera], rotation(axis, share * float(angles[other])), self.pivot, scale)


def _perpendicular(direction: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random axis (3,) at right angles to `direction`."""
    ray = normalize(direction)
    sideways = np.cross(ray, np.eye(3)[np.argmin(np.abs(ray))])
    return rotation(ray, 2 * math.pi * rng.random()) @ normalize(sideways)
