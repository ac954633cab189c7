# SPDX-License-Identifier: Apache-2.0
"""Clouds of another number of points, the same on every machine and in every process."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from npcr.data.cloud_geometry import assumed_spacing
from npcr.io.points import PointCloud

_BESIDE = 0.5  # spacings: standard deviation of each coordinate of a repeated point
logger = logging.getLogger("npcr")


def with_size(cloud: PointCloud, size: int, seeds: Sequence[int], name: str) -> PointCloud:
    """Thin a cloud at random, or repeat its points beside themselves; says so.

    Args:
        cloud: of N points.
        size: the number of points wanted, at least 1; 0: as many as it has.
        seeds: from which the choice follows.
        name: of the cloud, for the message.

    Returns:
        The cloud itself where it has that size; some of its points, in their order; or all of them and then copies,
        each half a spacing away in a random direction, no point twice as often as another.
    """
    count = len(cloud)
    if size in (0, count):
        return cloud
    rng = np.random.default_rng(seeds)
    if size < count:
        logger.info("%s: MODEL.MAX_SPLATS %d keeps so many of %d points, chosen at random", name, size, count)
        rows = np.sort(rng.choice(count, size, replace=False))
        return PointCloud(cloud.positions[rows], None if cloud.colors is None else cloud.colors[rows])
    logger.info("%s: MODEL.MAX_SPLATS %d repeats points of %d beside themselves", name, size, count)
    rounds = [rng.permutation(count) for _ in range(-(-(size - count) // count))]
    rows = np.concatenate(rounds)[:size - count]
    shifts = rng.normal(0, _BESIDE * assumed_spacing(cloud.positions), (len(rows), 3))
    positions = np.concatenate([cloud.positions, (cloud.positions[rows] + shifts).astype(np.float32)])
    return PointCloud(positions, None if cloud.colors is None else np.concatenate([cloud.colors, cloud.colors[rows]]))
