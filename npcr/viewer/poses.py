# SPDX-License-Identifier: Apache-2.0
"""Between the browser's camera and this project's: a quaternion and a position, with the same axes (OpenCV's)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def pose_from_browser(wxyz: ArrayLike, position: ArrayLike) -> Array:
    """Make a pose of what a browser sends.

    Args:
        wxyz: (4,) quaternion from camera to world, of any length.
        position: (3,) world.

    Returns:
        (4, 4) camera-to-world.

    Raises:
        ValueError: a number is not finite, or the quaternion is 0.
    """
    quaternion, place = np.asarray(wxyz, np.float64), np.asarray(position, np.float64)
    length = float(np.linalg.norm(quaternion))
    if not (np.isfinite(quaternion).all() and np.isfinite(place).all() and length > 0):
        raise ValueError(f"no pose: quaternion {quaternion.tolist()}, position {place.tolist()}")
    w, x, y, z = quaternion / length
    pose = np.eye(4)
    pose[:3, :3] = [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
                    [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
                    [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]
    pose[:3, 3] = place
    return pose


def look_at_distance(pose: Array, center: Array) -> float:
    """Choose how far in front of a camera the point lies that it looks at.

    Args:
        pose: (4, 4) camera-to-world.
        center: (3,) of the scene, world.

    Returns:
        The center's distance along the camera's axis; its whole distance where it lies behind or beside the camera.
    """
    offset = center - pose[:3, 3]
    along, whole = float(offset @ pose[:3, 2]), float(np.linalg.norm(offset))
    return along if along > 0.1 * whole else max(whole, 1e-6)


def fit_window(window: tuple[int, int], largest: int) -> tuple[int, int]:
    """Fit a picture into a window.

    Args:
        window: (width, height), pixels; 0 before a browser has told it.
        largest: pixels of the picture's longer side at most.

    Returns:
        (width, height), with the window's proportions.
    """
    width, height = max(window[0], 24), max(window[1], 24)
    scale = min(1.0, largest / max(width, height))
    return max(24, round(width * scale)), max(24, round(height * scale))
