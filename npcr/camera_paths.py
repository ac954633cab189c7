# SPDX-License-Identifier: Apache-2.0
"""Camera paths made from one pose: orbits, waves of elevation, dollies, random rotations.

Poses are camera-to-world, 4x4, float64, with OpenCV's axes (x right, y down, z forward). A path moves the
camera rigidly about a center, so whatever the first camera frames stays framed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from npcr.errors import NpcrError

AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def orbit(pose: np.ndarray, count: int, *, axis: ArrayLike = AXES["z"], center: ArrayLike = (0.0, 0.0, 0.0),
          degrees: float = 360.0, elevation_wave: tuple[float, float] = (0.0, 1.0),
          dolly: float = 1.0) -> np.ndarray:
    """(count, 4, 4): `pose` turned about the line through `center` along `axis`; the first camera is `pose`.

    degrees: turn of the whole path, negative for the other way round. Whole turns close on the first
        camera without repeating it; on any other arc the last camera stands at `degrees`.
    elevation_wave: (degrees, cycles): the camera rises and sinks about the center on a sine of that height.
    dolly: half way along the path the distance to the center is this many times the first one; it changes
        smoothly and comes back, so that a looped video does not jump.

    Raises `NpcrError` for a pose, count, axis or dolly that no path can be made of.
    """
    if count < 1:
        raise NpcrError(f"orbit: count is {count}; a path has at least 1 camera")
    _require_finite(center=center, degrees=degrees, elevation_wave=elevation_wave, dolly=dolly)
    if not dolly > 0:
        raise NpcrError(f"orbit: dolly is {dolly:g}; the distance is multiplied by it, so it must be above 0")
    start = orthonormal_pose(pose)
    pivot = np.asarray(center, dtype=np.float64)
    along = unit(axis)
    sideways = _sideways(start, along, pivot)
    whole_turns = degrees != 0 and math.isclose(degrees % 360, 0, abs_tol=1e-9)
    steps = count if whole_turns else max(count - 1, 1)
    height, cycles = elevation_wave
    poses = []
    for share in np.arange(count) / steps:
        lift = rotation(sideways, math.radians(height) * math.sin(2 * math.pi * cycles * share))
        turn = rotation(along, math.radians(degrees) * share)
        distance = dolly ** ((1 - math.cos(2 * math.pi * share)) / 2)
        poses.append(move_about(start, turn @ lift, pivot, distance))
    return np.stack(poses)


def random_views(pose: np.ndarray, count: int, *, center: ArrayLike = (0.0, 0.0, 0.0),
                 seed: int = 0) -> np.ndarray:
    """(count, 4, 4): `pose` under rotations about `center` drawn evenly from all rotations."""
    if count < 1:
        raise NpcrError(f"random_views: count is {count}; at least 1 camera is needed")
    _require_finite(center=center)
    start = orthonormal_pose(pose)
    pivot = np.asarray(center, dtype=np.float64)
    quaternions = np.random.default_rng(seed).normal(size=(count, 4))
    return np.stack([move_about(start, _from_quaternion(q), pivot) for q in quaternions])


def sphere_band(count: int, radius: float, *, elevation: tuple[float, float] = (-20.0, 45.0),
                center: ArrayLike = (0.0, 0.0, 0.0)) -> np.ndarray:
    """(count, 4, 4): cameras spread evenly over a band of a sphere about +z, all looking at its center.

    elevation: lowest and highest angle above the horizon, degrees. Neighbors in the list lie a golden
    angle apart, so that every subsequence is spread evenly as well.
    """
    low, high = (math.sin(math.radians(angle)) for angle in elevation)
    golden = math.pi * (3 - math.sqrt(5))
    # The heights follow a second low-discrepancy sequence: in order of the index they would make every
    # Nth camera climb steadily.
    heights = low + (high - low) * ((np.arange(count) * 0.7548776662466927 + 0.5) % 1)
    pivot = np.asarray(center, dtype=np.float64)
    poses = []
    for i, height in enumerate(heights):
        flat = math.sqrt(1 - height * height)
        direction = np.array([flat * math.cos(golden * i), flat * math.sin(golden * i), height])
        poses.append(look_at(pivot + radius * direction, pivot))
    return np.stack(poses)


def look_at(eye: ArrayLike, target: ArrayLike, up: ArrayLike = AXES["z"]) -> np.ndarray:
    """(4, 4): a camera at `eye` that looks at `target`, with `up` upwards in the picture.

    Where `up` lies along the view another axis takes its place. Raises `NpcrError` where eye and target
    coincide.
    """
    position = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    if not np.linalg.norm(forward) > 0:
        raise NpcrError(f"look_at: the camera stands at {position.tolist()}, the very point it is to look at")
    forward = unit(forward)
    right = np.cross(forward, unit(up))
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right = unit(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def orthonormal_pose(pose: np.ndarray) -> np.ndarray:
    """`pose` (4, 4) with the nearest true rotation in place of its printed one (polar decomposition).

    Raises `NpcrError` where it is further than rounding from a rotation (1e-3), mirrored or not finite.
    """
    pose = np.asarray(pose, dtype=np.float64)
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise NpcrError("pose: a finite 4x4 camera-to-world matrix is needed, found\n" + str(pose))
    left, stretch, right = np.linalg.svd(pose[:3, :3])
    if np.abs(stretch - 1).max() > 1e-3 or np.linalg.det(pose[:3, :3]) < 0:
        raise NpcrError("pose: the rotation is not orthonormal and right-handed: singular values "
                        f"{np.round(stretch, 4).tolist()}, determinant {np.linalg.det(pose[:3, :3]):.4f}")
    clean = np.eye(4)
    clean[:3, :3] = left @ right
    clean[:3, 3] = pose[:3, 3]
    return clean


def rotation(axis: ArrayLike, angle: float) -> np.ndarray:
    """(3, 3): rotation about `axis` by `angle` radians, counter-clockwise seen from its tip (Rodrigues)."""
    x, y, z = unit(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def unit(vector: ArrayLike | Sequence[float]) -> np.ndarray:
    """`vector` (3,) at length 1; raises `NpcrError` where it has no direction."""
    values = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if values.shape != (3,) or not math.isfinite(length) or length == 0:
        raise NpcrError(f"a direction needs three numbers that are not all 0, found {values.tolist()}")
    return values / length


def move_about(pose: np.ndarray, turn: np.ndarray, pivot: np.ndarray, distance: float = 1.0) -> np.ndarray:
    """`pose` (4, 4) turned by `turn` (3, 3) about `pivot`, its distance to it multiplied."""
    moved = np.eye(4)
    moved[:3, :3] = turn @ pose[:3, :3]
    moved[:3, 3] = pivot + distance * (turn @ (pose[:3, 3] - pivot))
    return moved


def _require_finite(**numbers: ArrayLike) -> None:
    for name, value in numbers.items():
        if not np.isfinite(value).all():
            raise NpcrError(f"{name} is {np.asarray(value).tolist()}; every number must be finite")


def _sideways(pose: np.ndarray, axis: np.ndarray, pivot: np.ndarray) -> np.ndarray:
    """The axis about which a small turn lifts the camera along `axis`; the camera's own right at the pole."""
    sideways = np.cross(pose[:3, 3] - pivot, axis)
    return sideways if np.linalg.norm(sideways) > 1e-9 else pose[:3, 0]


def _from_quaternion(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])
