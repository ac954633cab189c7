# SPDX-License-Identifier: Apache-2.0
"""Lenses with distortion, and the pinhole camera that a photograph is undistorted to.

A lens first moves points of the plane z = 1 (its distortion), then scales and shifts them to pixels. Only this
direction is asked for, so that any model serves: OpenCV's two here, Metashape's and COLMAP's in their readers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError

WIDEST = 60.0  # degrees off the axis; beyond, a pinhole picture spends its pixels on stretched corners
_ZOOMS = (0.1, 10.0)
_ROWS = 256  # of a map made at once


class Distortion(Protocol):
    """Where a lens moves points (N, 2) of the plane z = 1. Instances are hashable."""

    def __call__(self, plane: NDArray[np.float64]) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class BrownDistortion:
    """OpenCV's radial and tangential model: k1 k2 p1 p2 k3."""

    coefficients: tuple[float, ...]

    def __call__(self, plane: NDArray[np.float64]) -> NDArray[np.float64]:
        return _by_opencv(cv2.projectPoints, plane, self.coefficients)


@dataclass(frozen=True)
class FisheyeDistortion:
    """OpenCV's fisheye model: k1 k2 k3 k4, a polynomial of the angle."""

    coefficients: tuple[float, ...]

    def __call__(self, plane: NDArray[np.float64]) -> NDArray[np.float64]:
        return _by_opencv(cv2.fisheye.projectPoints, plane, self.coefficients)


@dataclass(frozen=True)
class Lens:
    """Intrinsics and distortion of a photograph of `size`, in this project's pixel coordinates."""

    focal: tuple[float, float]  # pixels
    center: tuple[float, float] | None  # None: the picture's middle
    size: tuple[int, int] | None  # (width, height) that the numbers refer to; None: the photograph's own
    distortion: Distortion | None = None
    skew: float = 0.0  # pixels

    def fitted(self, size: tuple[int, int]) -> Lens:
        """The same lens for the photograph resized to `size`, with nothing left open."""
        stated = self.size or size
        scale = (size[0] / stated[0], size[1] / stated[1])
        x, y = self.center or ((stated[0] - 1) / 2, (stated[1] - 1) / 2)
        return Lens((self.focal[0] * scale[0], self.focal[1] * scale[1]),
                    ((x + 0.5) * scale[0] - 0.5, (y + 0.5) * scale[1] - 0.5), size, self.distortion,
                    self.skew * scale[0])

    def pixels(self, plane: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N, 2) pixels of points (N, 2) of the plane z = 1, for a fitted lens."""
        assert self.center is not None
        moved = plane if self.distortion is None else self.distortion(plane)
        return np.stack([moved[:, 0] * self.focal[0] + moved[:, 1] * self.skew + self.center[0],
                         moved[:, 1] * self.focal[1] + self.center[1]], axis=1)


@dataclass(frozen=True)
class Rectified:
    """A photograph of `lens` made into a pinhole picture of `size`."""

    lens: Lens  # fitted to the photograph
    focal: tuple[float, float]
    center: tuple[float, float]
    size: tuple[int, int]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """K of the pinhole picture."""
        return np.array([[self.focal[0], 0, self.center[0]], [0, self.focal[1], self.center[1]], [0, 0, 1]])

    @property
    def changes_pixels(self) -> bool:
        return self.lens.distortion is not None or self.lens.skew != 0 or self.size != self.lens.size

    def plane(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        return (pixels - self.center) / self.focal


@cache
def rectify(lens: Lens, size: tuple[int, int]) -> Rectified:
    """The pinhole picture of `size`, cut from the photograph's middle where smaller, with no empty border.

    lens: fitted to its photograph. The focal lengths are the lens's times one zoom: the smallest that keeps the
    border within the photograph and within `WIDEST` of the axis. Raises `SceneError` where there is none.
    """
    assert lens.size is not None
    assert lens.center is not None
    center = (lens.center[0] - (lens.size[0] - size[0]) // 2, lens.center[1] - (lens.size[1] - size[1]) // 2)
    result = Rectified(lens, lens.focal, center, size)
    if lens.distortion is None and not lens.skew:
        return result
    low, high = map(math.log, _ZOOMS)
    if not _fills(_zoomed(result, math.exp(high))):
        raise SceneError(f"the lens's distortion folds the picture over itself: {lens.distortion}")
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _fills(_zoomed(result, math.exp(middle))) else (middle, high)
    return _zoomed(result, math.exp(high))


@lru_cache(maxsize=4)
def undistortion_maps(picture: Rectified) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """cv2.remap's two maps (H, W): where in the photograph each pixel of the pinhole picture comes from."""
    width, height = picture.size
    maps = np.empty((2, height, width), np.float32)
    for top in range(0, height, _ROWS):
        y, x = np.mgrid[top:min(top + _ROWS, height), :width]
        pixels = picture.lens.pixels(picture.plane(np.stack([x.ravel(), y.ravel()], 1).astype(np.float64)))
        maps[:, top:top + _ROWS] = pixels.T.reshape(2, *x.shape)
    return maps[0], maps[1]


def _zoomed(picture: Rectified, zoom: float) -> Rectified:
    return replace(picture, focal=(picture.focal[0] * zoom, picture.focal[1] * zoom))


def _fills(picture: Rectified) -> bool:
    """Whether the picture's border lies within the photograph, and the lens does not fold on the way to it."""
    assert picture.lens.size is not None
    (width, height), around = picture.size, np.linspace(0, 1, 33)
    border = np.concatenate([np.stack([around * (width - 1), np.full(33, y)], 1) for y in (0, height - 1)]
                            + [np.stack([np.full(33, x), around * (height - 1)], 1) for x in (0, width - 1)])
    plane = picture.plane(border.astype(np.float64))
    if np.linalg.norm(plane, axis=1).max() > math.tan(math.radians(WIDEST)):
        return False
    steps = np.linspace(0, 1, 17)[:, None, None]
    seen = picture.lens.pixels((steps * plane).reshape(-1, 2)).reshape(17, -1, 2)
    if not np.isfinite(seen).all():
        return False
    outermost = np.array(picture.lens.size) - 0.5 + 1e-6
    inside = (seen[-1] >= -0.5 - 1e-6).all() and (seen[-1] <= outermost).all()
    return bool(inside and (np.diff(np.linalg.norm(seen - seen[0], axis=2), axis=0) >= 0).all())


def _by_opencv(draw: object, plane: NDArray[np.float64], coefficients: tuple[float, ...]) -> NDArray[np.float64]:
    points = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)[:, None]
    drawn = draw(points, np.zeros(3), np.zeros(3), np.eye(3), np.array(coefficients))  # type: ignore[operator]
    return np.asarray(drawn[0], np.float64).reshape(-1, 2)
