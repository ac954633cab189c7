# SPDX-License-Identifier: Apache-2.0
"""Camera paths from one pose: orbits, elevation waves, dollies, random rotations.

Poses are (4, 4) float64 camera-to-world matrices with OpenCV's axes (x right, y down, z forward). A path rotates the
camera about a center, so that what is at the center of the first image stays there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from npcr.errors import NpcrError

AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}


def orbit(pose: np.ndarray, count: int, *, axis: ArrayLike = AXES["z"], center: ArrayLike = (0.0, 0.0, 0.0),
          degrees: float = 360.0, elevation_wave: tuple[float, float] = (0.0, 1.0), dolly: float = 1.0,
          endpoint: bool = True) -> np.ndarray:
    """Rotate a pose about an axis through a center; the first camera of the path is `pose`.

    With the defaults it is the published path: angles from 0 to 360 degrees, both included.

    Args:
        pose: (4, 4) camera-to-world.
        count: number of cameras, at least 1.
        axis: (3,) direction of the axis of rotation, of any length.
        center: (3,) point on the axis, world coordinates.
        degrees: angle of the path, negative for clockwise.
        elevation_wave: (amplitude in degrees, cycles) of a sine by which the camera rises and sinks about the center.
        dolly: factor on the distance to the center halfway along the path; it changes smoothly from 1 and back,
            so that a looped video does not jump.
        endpoint: whether the last camera is at `degrees`, as in numpy.linspace; a full turn then ends where it began.
            Without it a full turn repeats seamlessly: no camera is there twice.

    Returns:
        (count, 4, 4) float64 camera-to-world.

    Raises:
        NpcrError: the pose is not rigid, `count` is below 1, `axis` is zero, `dolly` is not above 0, or a number is
            not finite.
    """
    if count < 1:
        raise NpcrError(f"orbit: count is {count}; a path has at least 1 camera")
    _require_finite(center=center, degrees=degrees, elevation_wave=elevation_wave, dolly=dolly)
    if not dolly > 0:
        raise NpcrError(f"orbit: dolly is {dolly:g}; the distance is multiplied by it, so it must be above 0")
    start = orthonormal_pose(pose)
    pivot = np.asarray(center, dtype=np.float64)
    axis = normalize(axis)
    elevation_axis = _elevation_axis(start, axis, pivot)
    amplitude, cycles = elevation_wave
    poses = []
    for t in np.linspace(0, 1, count, endpoint=endpoint):
        elevation = rotation(elevation_axis, math.radians(amplitude) * math.sin(2 * math.pi * cycles * t))
        azimuth = rotation(axis, math.radians(degrees) * t)
        scale = dolly ** ((1 - math.cos(2 * math.pi * t)) / 2)
        poses.append(transform_about(start, azimuth @ elevation, pivot, scale))
    return np.stack(poses)


def random_views(pose: np.ndarray, count: int, *, center: ArrayLike = (0.0, 0.0, 0.0),
                 seed: int = 0) -> np.ndarray:
    """Rotate a pose about a center by rotations drawn uniformly from SO(3).

    Args:
        pose: (4, 4) camera-to-world.
        count: number of cameras, at least 1.
        center: (3,) world coordinates.
        seed: of the random rotations.

    Returns:
        (count, 4, 4) float64 camera-to-world.

    Raises:
        NpcrError: the pose is not rigid, `count` is below 1, or a number is not finite.
    """
    if count < 1:
        raise NpcrError(f"random_views: count is {count}; at least 1 camera is needed")
    _require_finite(center=center)
    start = orthonormal_pose(pose)
    pivot = np.asarray(center, dtype=np.float64)
    quaternions = np.random.default_rng(seed).normal(size=(count, 4))
    return np.stack([transform_about(start, _quaternion_to_matrix(q), pivot) for q in quaternions])


def sphere_band(count: int, radius: float, *, elevation: tuple[float, float] = (-20.0, 45.0),
                center: ArrayLike = (0.0, 0.0, 0.0)) -> np.ndarray:
    """Spread cameras evenly over a band of a sphere about +z, all looking at its center.

    Azimuths follow the golden angle, so that every subsequence is spread evenly as well.

    Args:
        count: number of cameras.
        radius: of the sphere, world units.
        elevation: lowest and highest angle above the horizon, degrees.
        center: (3,) of the sphere, world coordinates.

    Returns:
        (count, 4, 4) float64 camera-to-world.
    """
    low, high = (math.sin(math.radians(angle)) for angle in elevation)
    golden_angle = math.pi * (3 - math.sqrt(5))
    # Heights follow a second low-discrepancy sequence: in order of the index, every Nth camera would climb steadily.
    heights = low + (high - low) * ((np.arange(count) * 0.7548776662466927 + 0.5) % 1)
    pivot = np.asarray(center, dtype=np.float64)
    poses = []
    for i, height in enumerate(heights):
        flat = math.sqrt(1 - height * height)
        direction = np.array([flat * math.cos(golden_angle * i), flat * math.sin(golden_angle * i), height])
        poses.append(look_at(pivot + radius * direction, pivot))
    return np.stack(poses)


def look_at(eye: ArrayLike, target: ArrayLike, up: ArrayLike = AXES["z"]) -> np.ndarray:
    """Return the pose of a camera at `eye` that looks at `target`.

    Args:
        eye: (3,) camera center, world coordinates.
        target: (3,) point at the center of the image.
        up: (3,) direction that points upwards in the image; another axis replaces it where it is parallel to the view.

    Returns:
        (4, 4) float64 camera-to-world.

    Raises:
        NpcrError: eye and target coincide.
    """
    position = np.asarray(eye, dtype=np.float64)
    forward = np.asarray(target, dtype=np.float64) - position
    if not np.linalg.norm(forward) > 0:
        raise NpcrError(f"look_at: the camera stands at {position.tolist()}, the very point it is to look at")
    forward = normalize(forward)
    right = np.cross(forward, normalize(up))
    if np.linalg.norm(right) < 1e-6:
        right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
    right = normalize(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = position
    return pose


def orthonormal_pose(pose: np.ndarray) -> np.ndarray:
    """Replace a pose's rotation, rounded in a file, by the nearest orthonormal one (polar decomposition).

    Args:
        pose: (4, 4) camera-to-world.

    Returns:
        (4, 4) float64 camera-to-world, orthonormal.

    Raises:
        NpcrError: the rotation's singular values differ from 1 by more than 1e-3, it is left-handed, or the pose is
            not a finite 4x4 matrix.
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
    """Return the matrix of a rotation about an axis (Rodrigues' formula).

    Args:
        axis: (3,) of any length.
        angle: radians, counter-clockwise when the axis points at the viewer.

    Returns:
        (3, 3) float64.

    Raises:
        NpcrError: the axis is zero or not finite.
    """
    x, y, z = normalize(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def normalize(vector: ArrayLike | Sequence[float]) -> np.ndarray:
    """Scale a vector to unit length.

    Args:
        vector: (3,).

    Returns:
        (3,) float64.

    Raises:
        NpcrError: the vector is zero, not finite, or not of three numbers.
    """
    values = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if values.shape != (3,) or not math.isfinite(length) or length == 0:
        raise NpcrError(f"a direction needs three numbers that are not all 0, found {values.tolist()}")
    return values / length


def transform_about(pose: np.ndarray, matrix: np.ndarray, center: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """Rotate a pose about a center and scale its distance to it.

    Args:
        pose: (4, 4) camera-to-world.
        matrix: (3, 3) rotation.
        center: (3,) world coordinates.
        scale: factor on the distance.

    Returns:
        (4, 4) float64 camera-to-world.
    """
    transformed = np.eye(4)
    transformed[:3, :3] = matrix @ pose[:3, :3]
    transformed[:3, 3] = center + scale * (matrix @ (pose[:3, 3] - center))
    return transformed


def _require_finite(**numbers: ArrayLike) -> None:
    for name, value in numbers.items():
        if not np.isfinite(value).all():
            raise NpcrError(f"{name} is {np.asarray(value).tolist()}; every number must be finite")


def _elevation_axis(pose: np.ndarray, axis: np.ndarray, center: np.ndarray) -> np.ndarray:
    """(3,) axis about which a small rotation raises the camera along `axis`; the camera's own x axis at the pole."""
    tangent = np.cross(pose[:3, 3] - center, axis)
    return tangent if np.linalg.norm(tangent) > 1e-9 else pose[:3, 0]


def _quaternion_to_matrix(quaternion: np.ndarray) -> np.ndarray:
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])
