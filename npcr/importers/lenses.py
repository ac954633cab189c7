# SPDX-License-Identifier: Apache-2.0
"""Lenses with distortion, and the pinhole camera that a photograph is undistorted to.

A lens first distorts normalized image coordinates (points of the plane z = 1), then scales and shifts them to pixels.
Only this direction is needed, so any model can be used: OpenCV's two are here, Metashape's and COLMAP's in the files
of their importers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError

MAX_ANGLE = 60.0  # degrees off the axis; beyond, a pinhole image spends its pixels on stretched corners
_ZOOMS = (0.1, 10.0)
_ROWS = 256  # of an undistortion map computed at once


class Distortion(Protocol):
    """A lens's distortion of normalized image coordinates (N, 2). Instances are hashable."""

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class BrownDistortion:
    """OpenCV's radial and tangential model: k1 k2 p1 p2 k3; with k4 k5 k6 a quotient, with s1 s2 s3 s4 a thin prism."""

    coefficients: tuple[float, ...]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return _distort_by_opencv(cv2.projectPoints, points, self.coefficients)


@dataclass(frozen=True)
class FisheyeDistortion:
    """OpenCV's fisheye model: k1 k2 k3 k4, a polynomial of the angle."""

    coefficients: tuple[float, ...]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return _distort_by_opencv(cv2.fisheye.projectPoints, points, self.coefficients)


@dataclass(frozen=True)
class Lens:
    """Intrinsics and distortion of a photograph of `size`, in this project's pixel coordinates."""

    focal: tuple[float, float]  # pixels
    center: tuple[float, float] | None  # principal point; None: the image's middle
    size: tuple[int, int] | None  # (width, height) that the numbers refer to; None: the photograph's own
    distortion: Distortion | None = None
    skew: float = 0.0  # pixels

    def resized(self, size: tuple[int, int]) -> Lens:
        """Return the lens of the photograph resized to `size`, with `center` and `size` filled in."""
        stated = self.size or size
        scale = (size[0] / stated[0], size[1] / stated[1])
        x, y = self.center or ((stated[0] - 1) / 2, (stated[1] - 1) / 2)
        return Lens((self.focal[0] * scale[0], self.focal[1] * scale[1]),
                    ((x + 0.5) * scale[0] - 0.5, (y + 0.5) * scale[1] - 0.5), size, self.distortion,
                    self.skew * scale[0])

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project normalized image coordinates (N, 2) to pixels (N, 2); `center` must be filled in."""
        assert self.center is not None
        distorted = points if self.distortion is None else self.distortion(points)
        return np.stack([distorted[:, 0] * self.focal[0] + distorted[:, 1] * self.skew + self.center[0],
                         distorted[:, 1] * self.focal[1] + self.center[1]], axis=1)


@dataclass(frozen=True)
class UndistortedCamera:
    """The pinhole camera of `size` that a photograph taken through `lens` is undistorted to."""

    lens: Lens  # resized to the photograph
    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """(3, 3) K of the pinhole image."""
        return np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1]])

    @property
    def changes_pixels(self) -> bool:
        """Whether the undistorted image differs from the photograph."""
        return self.lens.distortion is not None or self.lens.skew != 0 or self.size != self.lens.size

    @property
    def zoom(self) -> float:
        """How many times the middle of the photograph is magnified."""
        return self.focal[0] / self.lens.focal[0]

    @property
    def kept_share(self) -> float:
        """The share of the photograph's area (cropped to `size`) that the image shows."""
        x, y = self.lens.project(self.unproject(_border(self.size))).T
        area = 0.5 * abs(float(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))))
        return area / max(1, (self.size[0] - 1) * (self.size[1] - 1))

    def unproject(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the normalized image coordinates (N, 2) of pixels (N, 2)."""
        return (pixels - self.center) / self.focal


@cache
def undistorted_camera(lens: Lens, size: tuple[int, int]) -> UndistortedCamera:
    """Fit a pinhole camera whose image has no empty border.

    Its focal lengths are the lens's times one zoom: the smallest that keeps the image's border within the photograph
    and within `MAX_ANGLE` of the axis.

    Args:
        lens: resized to its photograph.
        size: (width, height) of the image, cropped from the photograph's middle where it is smaller.

    Returns:
        The camera.

    Raises:
        SceneError: no zoom serves, because the distortion folds the image.
    """
    assert lens.size is not None
    assert lens.center is not None
    center = (lens.center[0] - (lens.size[0] - size[0]) // 2, lens.center[1] - (lens.size[1] - size[1]) // 2)
    result = UndistortedCamera(lens, lens.focal, center, size)
    if lens.distortion is None and not lens.skew:
        return result
    low, high = map(math.log, _ZOOMS)
    if not _has_no_empty_border(_zoomed(result, math.exp(high))):
        raise SceneError(f"the lens's distortion folds the picture over itself: {lens.distortion}")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _has_no_empty_border(_zoomed(result, math.exp(middle))) else (middle, high)
    return _zoomed(result, math.exp(high))


@lru_cache(maxsize=4)
def undistortion_maps(camera: UndistortedCamera) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute where in the photograph each pixel of the pinhole image comes from, as cv2.remap takes it.

    Args:
        camera: the pinhole camera.

    Returns:
        x and y in the photograph, (H, W) each, pixels.
    """
    width, height = camera.size
    maps = np.empty((2, height, width), np.float32)
    for top in range(0, height, _ROWS):
        y, x = np.mgrid[top:min(top + _ROWS, height), :width]
        normalized = camera.unproject(np.stack([x.ravel(), y.ravel()], 1).astype(np.float64))
        maps[:, top:top + _ROWS] = camera.lens.project(normalized).T.reshape(2, *x.shape)
    return maps[0], maps[1]


def _zoomed(camera: UndistortedCamera, zoom: float) -> UndistortedCamera:
    return replace(camera, focal=(camera.focal[0] * zoom, camera.focal[1] * zoom))


def _has_no_empty_border(camera: UndistortedCamera) -> bool:
    """Whether the image's border lies within the photograph, and the distortion is monotonic on the way to it."""
    assert camera.lens.size is not None
    normalized = camera.unproject(_border(camera.size))
    if np.linalg.norm(normalized, axis=1).max() > math.tan(math.radians(MAX_ANGLE)):
        return False
    steps = np.linspace(0, 1, 17)[:, None, None]
    seen = camera.lens.project((steps * normalized).reshape(-1, 2)).reshape(17, -1, 2)
    if not np.isfinite(seen).all():
        return False
    outermost = np.array(camera.lens.size) - 0.5 + 1e-6
    inside = (seen[-1] >= -0.5 - 1e-6).all() and (seen[-1] <= outermost).all()
    return bool(inside and (np.diff(np.linalg.norm(seen - seen[0], axis=2), axis=0) >= 0).all())


def _border(size: tuple[int, int]) -> NDArray[np.float64]:
    """(132, 2): pixels around an image's border, in order."""
    along, back = np.linspace(0, 1, 33), np.linspace(1, 0, 33)
    zeros, ones = np.zeros(33), np.ones(33)
    sides = ((along, zeros), (ones, along), (back, ones), (zeros, back))
    return np.concatenate([np.stack(side, 1) for side in sides]) * (np.array(size) - 1.0)


def _distort_by_opencv(project: Callable[..., Any], points: NDArray[np.float64],
                       coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    rays = np.concatenate([points, np.ones((len(points), 1))], axis=1)[:, None]
    distorted = project(rays, np.zeros(3), np.zeros(3), np.eye(3), np.array(coefficients))
    return np.asarray(distorted[0], np.float64).reshape(-1, 2)
