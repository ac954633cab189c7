# SPDX-License-Identifier: Apache-2.0
"""Smooth camera paths through keyframes: splines of position, look-at point, up direction, field of view and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from npcr.camera_paths import look_at
from npcr.errors import NpcrError

Array = NDArray[np.float64]
FIELD_OF_VIEW = (1.0, 170.0)  # degrees that a camera may have


@dataclass(frozen=True)
class Keyframe:
    """A camera that a path passes."""

    cam_to_world: Array  # (4, 4)
    fov: float  # vertical field of view, degrees
    distance: float = 1.0  # world units from the camera to the point that it looks at
    seconds: float = 2.0  # from the keyframe before to this one; of the first: from the last one to it, where they loop
    time: float = 0.0  # 0 to 1, from the first frame of the scene to its last


@dataclass(frozen=True)
class PathFrame:
    """One camera of a path."""

    cam_to_world: Array  # (4, 4)
    fov: float  # vertical field of view, degrees
    time: float  # 0 to 1, from the first frame of the scene to its last


def duration(keyframes: Sequence[Keyframe], loop: bool = False) -> float:
    """Add up the seconds of a path.

    Args:
        keyframes: in order.
        loop: whether the path goes on from the last keyframe to the first.

    Returns:
        Seconds; 0 for less than two keyframes.
    """
    return float(_moments(keyframes, loop)[-1]) if len(keyframes) > 1 else 0.0


def frame_count(keyframes: Sequence[Keyframe], fps: float, loop: bool = False) -> int:
    """Count the frames of a path.

    Args:
        keyframes: in order.
        fps: frames per second.
        loop: as in `duration`.

    Returns:
        At least 1.
    """
    return max(1, round(duration(keyframes, loop) * fps) + (0 if loop else 1))


def sample_path(keyframes: Sequence[Keyframe], fps: float, loop: bool = False) -> list[PathFrame]:
    """Sample the smooth path through keyframes.

    The first frame is the first keyframe, and the last frame the last one; a loop ends one frame before it, so that it
    repeats without a double frame.

    Args:
        keyframes: at least one, in order.
        fps: frames per second, above 0.
        loop: whether the path goes on from the last keyframe to the first, as smooth there as elsewhere.

    Returns:
        `frame_count` frames.

    Raises:
        NpcrError: there is no keyframe, a transition is not above 0 seconds, or a camera meets what it looks at.
    """
    count = frame_count(keyframes, fps, loop)
    end = duration(keyframes, loop)
    seconds = np.linspace(0, end, count, endpoint=not loop) if count > 1 else np.zeros(1)
    return interpolate(keyframes, seconds, loop)


def interpolate(keyframes: Sequence[Keyframe], seconds: Array, loop: bool = False) -> list[PathFrame]:
    """Interpolate a path at given moments by natural cubic splines, periodic ones of a loop.

    Args:
        keyframes: at least one, in order.
        seconds: (B,) from 0 to `duration`; what lies beyond is at the path's ends.
        loop: as in `sample_path`.

    Returns:
        B frames.

    Raises:
        NpcrError: as in `sample_path`.
    """
    if not keyframes:
        raise NpcrError("a camera path needs at least one keyframe")
    short = [(number, one.seconds) for number, one in enumerate(keyframes, 1) if not one.seconds > 0]
    if short:
        raise NpcrError(f"keyframe {short[0][0]}: its transition takes {short[0][1]:g} seconds; it must be above 0")
    rows = np.array([_numbers(one) for one in keyframes])
    if len(keyframes) == 1:
        values = np.repeat(rows, len(seconds), 0)
    else:
        moments = _moments(keyframes, loop)
        rows = np.vstack([rows, rows[:1]]) if loop else rows
        spline = CubicSpline(moments, rows, bc_type="periodic" if loop else "natural")
        values = spline(np.clip(seconds, 0, moments[-1]))
    return [PathFrame(look_at(row[:3], row[3:6], row[6:9]), float(np.clip(row[9], *FIELD_OF_VIEW)),
                      float(np.clip(row[10], 0, 1))) for row in values]


def focal_length(fov: float, height: float) -> float:
    """Compute a focal length.

    Args:
        fov: vertical field of view, degrees.
        height: of the image, pixels.

    Returns:
        Pixels.
    """
    return height / 2 / math.tan(math.radians(fov) / 2)


def field_of_view(focal: float, height: float) -> float:
    """Compute a vertical field of view.

    Args:
        focal: focal length, pixels.
        height: of the image, pixels.

    Returns:
        Degrees.
    """
    return 2 * math.degrees(math.atan(height / 2 / focal))


def _moments(keyframes: Sequence[Keyframe], loop: bool) -> Array:
    """The seconds at which the path passes its keyframes, and at last the first one again where it loops."""
    steps = [one.seconds for one in keyframes[1:]] + ([keyframes[0].seconds] if loop else [])
    return np.concatenate([[0.0], np.cumsum(steps)])


def _numbers(keyframe: Keyframe) -> Array:
    """(11,) position, the point that it looks at, up, field of view, time."""
    pose = keyframe.cam_to_world
    eye, down, forward = pose[:3, 3], pose[:3, 1], pose[:3, 2]
    return np.concatenate([eye, eye + keyframe.distance * forward, -down, [keyframe.fov, keyframe.time]])
