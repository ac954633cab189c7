# SPDX-License-Identifier: Apache-2.0
"""Filters that make a point cloud fit for training: crop, outlier removal, downsampling."""

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
_MAX_VOXELS = 2**62  # voxels along an axis that an integer can number


@dataclass(frozen=True)
class PointFilters:
    """Filters for a cloud, applied in this order; None leaves one out."""

    crop: tuple[float, ...] | None = None  # x0 y0 z0 x1 y1 z1: lowest and highest corner kept
    outliers: float | None = None  # in standard deviations: see `remove_outliers`
    voxel: float | None = None  # side of the voxels that one point each is kept of, world units
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
        """Filter a cloud; log how many points each filter keeps.

        Args:
            cloud: any cloud; it stays as it is.

        Returns:
            The filtered cloud.

        Raises:
            SceneError: no point is left.
        """
        if self.crop is not None:
            cloud = _checked("--crop", cloud, crop_to_box(cloud, self.crop))
        if self.outliers is not None:
            cloud = _checked("--outliers", cloud, remove_outliers(cloud, self.outliers))
        if self.voxel is not None:
            cloud = _checked("--voxel", cloud, voxel_downsample(cloud, self.voxel))
        if self.max_points is not None:
            cloud = _checked("--max-points", cloud, random_downsample(cloud, self.max_points))
        return cloud


def _checked(option: str, before: PointCloud, after: PointCloud) -> PointCloud:
    """`after`, which must not be empty; logs what the option's filter kept."""
    if not len(after):
        raise SceneError(f"{option} leaves none of the cloud's {len(before)} points")
    logger.info("%s: %d of %d points are kept", option, len(after), len(before))
    return after


def select_points(cloud: PointCloud, which: NDArray[np.bool_] | NDArray[np.intp]) -> PointCloud:
    """Select points, with their colors.

    Args:
        cloud: N points.
        which: mask (N,) or indices (M,).

    Returns:
        The points selected.
    """
    return PointCloud(cloud.positions[which], None if cloud.colors is None else cloud.colors[which])


def merge_clouds(one: PointCloud, other: PointCloud) -> PointCloud:
    """Merge two clouds; colors are kept where both have them, else dropped with a warning.

    Args:
        one: comes first.
        other: comes second.

    Returns:
        The points of both.
    """
    colors = None
    if one.colors is not None and other.colors is not None:
        colors = np.concatenate([one.colors, other.colors])
    elif one.colors is not None or other.colors is not None:
        logger.warning("%d points with colors are merged with %d that have none; all are kept without colors",
                       *((len(one), len(other)) if other.colors is None else (len(other), len(one))))
    return PointCloud(np.concatenate([one.positions, other.positions]), colors)


def crop_to_box(cloud: PointCloud, box: tuple[float, ...]) -> PointCloud:
    """Keep the points within a box.

    Args:
        cloud: any cloud.
        box: x0 y0 z0 x1 y1 z1, its lowest and highest corner, world coordinates.

    Returns:
        The points within.
    """
    low, high = np.array(box, np.float32).reshape(2, 3)
    return select_points(cloud, np.asarray(((cloud.positions >= low) & (cloud.positions <= high)).all(1)))


def remove_outliers(cloud: PointCloud, deviations: float) -> PointCloud:
    """Remove points that are far from their neighbors (statistical outlier removal, as in the Point Cloud Library).

    Args:
        cloud: any cloud; one of `OUTLIER_NEIGHBORS` points or fewer stays as it is.
        deviations: a point is removed where the mean distance to its nearest neighbors is above the cloud's average
            of it by more than this many standard deviations.

    Returns:
        The other points.
    """
    from scipy.spatial import cKDTree

    if len(cloud) <= OUTLIER_NEIGHBORS:
        logger.warning("--outliers: the cloud has %d points; outliers are told by %d neighbors, so all are kept",
                       len(cloud), OUTLIER_NEIGHBORS)
        return cloud
    distances, _ = cKDTree(cloud.positions).query(cloud.positions, OUTLIER_NEIGHBORS + 1, workers=-1)
    mean = distances[:, 1:].mean(1)
    kept = np.asarray(mean <= mean.mean() + deviations * mean.std())
    return select_points(cloud, kept)


def voxel_downsample(cloud: PointCloud, side: float) -> PointCloud:
    """Replace the points of each voxel by their mean.

    Args:
        cloud: any cloud.
        side: of the voxels, above 0, world units.

    Returns:
        A point for each occupied voxel, colors averaged too, in the order of the voxels' first points.

    Raises:
        SceneError: the voxels are too many to be numbered.
    """
    voxels = np.floor(cloud.positions.astype(np.float64) / side)
    if np.abs(voxels).max() > _MAX_VOXELS:
        raise SceneError(f"--voxel {side:g} is too fine for coordinates up to {np.abs(cloud.positions).max():g}")
    _, first, voxel, counts = np.unique(_keys(voxels.astype(np.int64)), return_index=True, return_inverse=True,
                                        return_counts=True)
    order = np.argsort(first)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = np.stack([np.bincount(voxel, column, len(counts)) for column in values.T], axis=1)
        return (sums / counts[:, None])[order]

    colors = None if cloud.colors is None else np.rint(mean(cloud.colors.astype(np.float64))).astype(np.uint8)
    return PointCloud(mean(cloud.positions.astype(np.float64)).astype(np.float32), colors)


def random_downsample(cloud: PointCloud, count: int) -> PointCloud:
    """Draw points at random, always the same ones.

    Args:
        cloud: any cloud.
        count: how many to draw.

    Returns:
        The points drawn, in their order; the cloud itself where it has no more.
    """
    if len(cloud) <= count:
        return cloud
    return select_points(cloud, np.sort(np.random.default_rng(0).choice(len(cloud), count, replace=False)))


def _keys(voxels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) one number for each distinct row of (N, 3)."""
    voxels = voxels - voxels.min(0)
    extent = [int(size) + 1 for size in voxels.max(0)]
    if math.prod(extent) > _MAX_VOXELS:  # number the rows axis by axis, which takes a sort more
        voxels = np.stack([np.unique(column, return_inverse=True)[1] for column in voxels.T], axis=1)
        extent = [int(size) + 1 for size in voxels.max(0)]
    return np.asarray((voxels[:, 0] * extent[1] + voxels[:, 1]) * extent[2] + voxels[:, 2])
