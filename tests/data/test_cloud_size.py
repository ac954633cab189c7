# SPDX-License-Identifier: Apache-2.0
"""Clouds thinned or repeated to a number of points."""

from __future__ import annotations

import numpy as np
import pytest

from npcr.data.cloud_geometry import point_spacing
from npcr.data.cloud_size import with_size
from npcr.io.points import PointCloud


def make_cloud(count: int, colored: bool = True) -> PointCloud:
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (count, 3)).astype(np.uint8) if colored else None
    return PointCloud(rng.random((count, 3)).astype(np.float32), colors)


@pytest.mark.parametrize("size", [0, 100])
def test_a_cloud_of_that_size_stays_as_it_is(size: int, caplog: pytest.LogCaptureFixture) -> None:
    cloud = make_cloud(100)
    assert with_size(cloud, size, (0, 0), "frame 1") is cloud
    assert not caplog.text


def test_a_larger_cloud_is_thinned_and_this_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "npcr")
    cloud = make_cloud(100)
    thin, again, other = (with_size(cloud, 30, seeds, "frame 1") for seeds in ((0, 0), (0, 0), (0, 1)))
    assert "frame 1: MODEL.MAX_SPLATS 30 keeps so many of 100 points" in caplog.text
    rows = [int(np.flatnonzero((cloud.positions == point).all(1))[0]) for point in thin.positions]
    assert rows == sorted(set(rows))
    assert len(rows) == 30
    assert (thin.colors == cloud.colors[rows]).all()
    assert (thin.positions == again.positions).all()
    assert (thin.positions != other.positions).any()


@pytest.mark.parametrize("colored", [True, False])
def test_a_smaller_cloud_is_repeated_beside_itself(colored: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "npcr")
    cloud = make_cloud(100, colored)
    dense = with_size(cloud, 250, (0, 0), "frame 2")
    assert "frame 2: MODEL.MAX_SPLATS 250 repeats points of 100" in caplog.text
    assert (dense.positions[:100] == cloud.positions).all()
    assert len(dense) == len(np.unique(dense.positions, axis=0)) == 250
    distances = np.linalg.norm(dense.positions[100:, None] - cloud.positions, axis=2).min(1)
    assert 0.1 < np.median(distances) / point_spacing(cloud.positions) < 1
    if colored:
        assert dense.colors.shape == (250, 3)
        assert {tuple(color) for color in dense.colors} == {tuple(color) for color in cloud.colors}
    else:
        assert dense.colors is None
