# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.io.points import PointCloud
from npcr.reconstruction.point_filters import (
    PointFilters,
    crop_to_box,
    merge_clouds,
    random_downsample,
    remove_outliers,
    voxel_downsample,
)


def cloud(*rows: tuple[float, float, float], colors: bool = True) -> PointCloud:
    positions = np.array(rows, np.float32)
    values = np.arange(3 * len(rows)).reshape(-1, 3) % 256
    return PointCloud(positions, values.astype(np.uint8) if colors else None)


def test_crop_keeps_what_is_inside():
    kept = crop_to_box(cloud((0, 0, 0), (1, 1, 1), (2, 0, 0)), (-1, -1, -1, 1, 1, 1))
    assert kept.positions.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert kept.colors.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_voxel_keeps_the_mean_of_its_points_in_the_order_of_the_first():
    kept = voxel_downsample(cloud((5.1, 0, 0), (0.1, 0, 0), (0.3, 0, 0), (-0.1, 0, 0)), 1.0)
    np.testing.assert_allclose(kept.positions, [[5.1, 0, 0], [0.2, 0, 0], [-0.1, 0, 0]], atol=1e-6)
    assert kept.colors.tolist() == [[0, 1, 2], [4, 6, 6], [9, 10, 11]]
    assert voxel_downsample(cloud((0, 0, 0), (0, 0, 0), colors=False), 1.0).colors is None


def test_outliers_are_found_far_from_the_rest(caplog):
    rng = np.random.default_rng(0)
    positions = np.concatenate([rng.normal(size=(500, 3)) * 0.1, [[5, 5, 5], [-4, 0, 3]]]).astype(np.float32)
    kept = remove_outliers(PointCloud(positions), 3.0)
    assert 480 < len(kept) <= 500
    assert np.abs(kept.positions).max() < 1
    assert not caplog.records
    assert len(remove_outliers(PointCloud(positions[:10]), 0.1)) == 10  # too few to tell
    assert "--outliers: the cloud has 10 points; outliers are told by 16 neighbors" in caplog.text


def test_random_downsampling_is_the_same_choice_every_time():
    whole = PointCloud(np.arange(300, dtype=np.float32).reshape(-1, 3))
    first = random_downsample(whole, 20)
    assert len(first) == 20
    assert (np.diff(first.positions[:, 0]) > 0).all()
    np.testing.assert_array_equal(first.positions, random_downsample(whole, 20).positions)
    assert random_downsample(whole, 1000) is whole


def test_merging_keeps_colors_where_both_have_them(caplog):
    assert merge_clouds(cloud((0, 0, 0)), cloud((1, 1, 1))).colors.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert merge_clouds(cloud((0, 0, 0), colors=False), cloud((1, 1, 1), colors=False)).colors is None
    assert not caplog.records
    colored, plain = cloud((0, 0, 0), (1, 1, 1)), cloud((2, 2, 2), colors=False)
    for one, other in ((colored, plain), (plain, colored)):
        caplog.clear()
        assert merge_clouds(one, other).colors is None
        assert "2 points with colors are merged with 1 that have none" in caplog.text


def test_what_each_filter_keeps_is_logged(caplog):
    with caplog.at_level("INFO", "npcr"):
        PointFilters(crop=(-1, -1, -1, 1, 1, 1), max_points=1).apply(cloud((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    assert [record.getMessage() for record in caplog.records] == [
        "--crop: 2 of 3 points are kept", "--max-points: 1 of 2 points are kept"]


@pytest.mark.parametrize(("values", "message"), [
    ({"crop": (0, 0, 0, 1, 1, 0)}, "--crop"), ({"voxel": 0.0}, "--voxel is 0"),
    ({"voxel": float("inf")}, "--voxel is inf"), ({"outliers": -1.0}, "--outliers is -1"),
    ({"max_points": 0}, "--max-points is 0"),
])
def test_settings_are_checked(values, message):
    with pytest.raises(SceneError, match=message):
        PointFilters(**values)


def test_nothing_left_is_an_error():
    with pytest.raises(SceneError, match="--crop leaves none of the cloud's 2 points"):
        PointFilters(crop=(5, 5, 5, 6, 6, 6)).apply(cloud((0, 0, 0), (1, 1, 1)))
    with pytest.raises(SceneError, match="too fine"):
        PointFilters(voxel=1e-30).apply(cloud((0, 0, 0), (1, 1, 1)))


def test_voxels_of_a_cloud_that_is_huge_for_them():
    """The cells' numbers do not fit one integer side by side; the outcome is the same."""
    kept = voxel_downsample(cloud((1e9, -1e9, 1e9), (0.1, 0.2, 0.3), (0.2, 0.2, 0.3), (-1e9, 1e9, -1e9)), 0.5)
    np.testing.assert_allclose(kept.positions, [[1e9, -1e9, 1e9], [0.15, 0.2, 0.3], [-1e9, 1e9, -1e9]], rtol=1e-6)
