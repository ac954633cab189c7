# SPDX-License-Identifier: Apache-2.0
"""Point clouds made fit for training: cropped, freed from outliers, thinned, bounded in number."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.io.points import PointCloud

logger = logging.getLogger("npcr")

OUTLIER_NEIGHBORS = 16
_FINEST = 2**62  # cells along an axis that an integer can number


@dataclass(frozen=True)
class CloudEdit:
    """What to do to a cloud, in this order; None leaves a step out."""

    crop: tuple[float, ...] | None = None  # x0 y0 z0 x1 y1 z1: lowest and highest corner kept
    outliers: float | None = None  # in standard deviations: see `without_outliers`
    voxel: float | None = None  # side of the cells that one point each is kept of
    max_points: int | None = None

    def __post_init__(self) -> None:
        if self.crop is not None and not all(a < b for a, b in zip(self.crop[:3], self.crop[3:], strict=True)):
            raise SceneError(f"--crop is {' '.join(f'{v:g}' for v in self.crop)}; the lowest corner comes first")
        for name, value in (("--outliers", self.outliers), ("--voxel", self.voxel)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise SceneError(f"{name} is {value:g}; it must be above 0")
        if self.max_points is not None and self.max_points < 1:
            raise SceneError(f"--max-points is {self.max_points}; it must be at least 1")

    def apply(self, cloud: PointCloud) -> PointCloud:
        """The edited cloud; says how many points each step leaves. Raises `SceneError` where none is left."""
        steps = [(self.crop, lambda c: cropped(c, self.crop), "--crop"),
                 (self.outliers, lambda c: without_outliers(c, self.outliers), "--outliers"),
                 (self.voxel, lambda c: thinned(c, self.voxel), "--voxel"),
                 (self.max_points, lambda c: at_most(c, self.max_points), "--max-points")]
        for wanted, step, name in steps:
            if wanted is None:
                continue
            before, cloud = len(cloud), step(cloud)
            if not len(cloud):
                raise SceneError(f"{name} leaves none of the cloud's {before} points")
            logger.info("%s: %d of %d points are kept", name, len(cloud), before)
        return cloud


def chosen(cloud: PointCloud, which: NDArray[np.bool_] | NDArray[np.intp]) -> PointCloud:
    """The points that a mask or indices choose."""
    return PointCloud(cloud.positions[which], None if cloud.colors is None else cloud.colors[which])


def joined(one: PointCloud, other: PointCloud) -> PointCloud:
    """Both clouds as one; colors are kept where both have them."""
    colors = None
    if one.colors is not None and other.colors is not None:
        colors = np.concatenate([one.colors, other.colors])
    return PointCloud(np.concatenate([one.positions, other.positions]), colors)


def cropped(cloud: PointCloud, box: tuple[float, ...] | None) -> PointCloud:
    """The points within the box x0 y0 z0 x1 y1 z1."""
    low, high = np.array(box, np.float32).reshape(2, 3)
    return chosen(cloud, np.asarray(((cloud.positions >= low) & (cloud.positions <= high)).all(1)))


def without_outliers(cloud: PointCloud, deviations: float | None) -> PointCloud:
    """Leaves out points whose mean distance to their nearest neighbors is above the cloud's average of it by more
    than `deviations` standard deviations (statistical outlier removal, as in the Point Cloud Library)."""
    from scipy.spatial import cKDTree

    if len(cloud) <= OUTLIER_NEIGHBORS:
        return cloud
    distances, _ = cKDTree(cloud.positions).query(cloud.positions, OUTLIER_NEIGHBORS + 1, workers=-1)
    mean = distances[:, 1:].mean(1)
    kept = np.asarray(mean <= mean.mean() + (deviations or 0) * mean.std())
    return chosen(cloud, kept)


def thinned(cloud: PointCloud, side: float | None) -> PointCloud:
    """One point for each occupied cell of a grid: the mean of its points (and colors), in the order of the first."""
    cells = np.floor(cloud.positions.astype(np.float64) / (side or 1))
    if np.abs(cells).max() > _FINEST:
        raise SceneError(f"--voxel {side:g} is too fine for coordinates up to {np.abs(cloud.positions).max():g}")
    _, first, cell, counts = np.unique(_keys(cells.astype(np.int64)), return_index=True, return_inverse=True,
                                       return_counts=True)
    order = np.argsort(first)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.stack([np.bincount(cell, column, len(counts)) for column in values.T], axis=1)
        return (sums / counts[:, None])[order]

    colors = None if cloud.colors is None else np.rint(mean(cloud.colors.astype(np.float64))).astype(np.uint8)
    return PointCloud(mean(cloud.positions.astype(np.float64)).astype(np.float32), colors)


def _keys(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) one number for each distinct row of (N, 3)."""
    cells = cells - cells.min(0)
    extent = [int(size) + 1 for size in cells.max(0)]
    if math.prod(extent) > _FINEST:  # number the rows axis by axis, which takes a sort more
        cells = np.stack([np.unique(column, return_inverse=True)[1] for column in cells.T], axis=1)
        extent = [int(size) + 1 for size in cells.max(0)]
    return np.asarray((cells[:, 0] * extent[1] + cells[:, 1]) * extent[2] + cells[:, 2])


def at_most(cloud: PointCloud, count: int | None) -> PointCloud:
    """`count` points drawn at random (always the same ones), in their order."""
    if count is None or len(cloud) <= count:
        return cloud
    return chosen(cloud, np.sort(np.random.default_rng(0).choice(len(cloud), count, replace=False)))
