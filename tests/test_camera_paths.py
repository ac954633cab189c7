# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from npcr.camera_paths import look_at, orbit, orthonormal_pose, random_views, rotation, sphere_band
from npcr.errors import NpcrError

POSE = look_at((0.45, 0.0, 0.0433), (0.0, 0.0, 0.0433))


def assert_rigid(poses: np.ndarray) -> None:
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(rotations.transpose(0, 2, 1) @ rotations, np.broadcast_to(np.eye(3), rotations.shape),
                               atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(rotations), 1, atol=1e-14)
    np.testing.assert_array_equal(poses[:, 3], np.broadcast_to([0, 0, 0, 1], (len(poses), 4)))


def angles(poses: np.ndarray) -> np.ndarray:
    """Azimuth of each camera about z, degrees, unwrapped."""
    return np.degrees(np.unwrap(np.arctan2(poses[:, 1, 3], poses[:, 0, 3])))


def test_look_at_has_opencv_axes():
    np.testing.assert_allclose(POSE[:3, 0], [0, 1, 0])  # facing -x with z up, right is +y
    np.testing.assert_allclose(POSE[:3, 1], [0, 0, -1])
    np.testing.assert_allclose(POSE[:3, 2], [-1, 0, 0])


def test_look_at_along_up_is_still_a_rotation():
    assert_rigid(look_at((0, 0, 3), (0, 0, 0))[None])


def test_a_loop_starts_at_the_pose_and_does_not_repeat_it():
    path = orbit(POSE, 500, endpoint=False)
    assert path.shape == (500, 4, 4)
    assert_rigid(path)
    np.testing.assert_allclose(path[0], POSE, atol=1e-15)
    np.testing.assert_allclose(angles(path), np.arange(500) * 0.72, atol=1e-9)
    np.testing.assert_allclose(np.hypot(path[:, 0, 3], path[:, 1, 3]), 0.45)
    np.testing.assert_allclose(path[:, 2, 3], 0.0433)
    assert np.abs(path[-1] - path[0]).max() > 1e-3


def test_the_published_path_has_both_ends_of_the_turn():
    path = orbit(POSE, 500)
    np.testing.assert_allclose(angles(path), np.degrees(np.linspace(0, 2 * math.pi, 500)), atol=1e-9)
    np.testing.assert_allclose(path[-1], path[0], atol=1e-15)


def test_an_arc_ends_at_its_last_degree():
    path = orbit(POSE, 7, degrees=-90)
    np.testing.assert_allclose(angles(path)[-1], -90, atol=1e-9)
    np.testing.assert_allclose(np.diff(angles(path)), -15, atol=1e-9)


def test_zero_degrees_keep_the_camera():
    np.testing.assert_allclose(orbit(POSE, 5, degrees=0), np.broadcast_to(POSE, (5, 4, 4)), atol=1e-15)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 3, 0), (1, -2, 0.5)])
def test_any_axis_through_any_center(axis):
    center = np.array([0.3, -0.2, 1.0])
    path = orbit(POSE, 24, axis=axis, center=center)
    assert_rigid(path)
    direction = np.asarray(axis) / np.linalg.norm(axis)
    offset = path[:, :3, 3] - center
    np.testing.assert_allclose(offset @ direction, offset[0] @ direction)
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), np.linalg.norm(offset[0]))
    # A point on the axis stays at the same place of the picture.
    seen = np.einsum("bji,bj->bi", path[:, :3, :3], center + 0.7 * direction - path[:, :3, 3])
    np.testing.assert_allclose(seen, np.broadcast_to(seen[0], seen.shape), atol=1e-12)


def test_elevation_wave_rises_and_sinks():
    level = look_at((2, 0, 0), (0, 0, 0))
    path = orbit(level, 400, elevation_wave=(20, 2), endpoint=False)
    assert_rigid(path)
    elevation = np.degrees(np.arcsin(path[:, 2, 3] / np.linalg.norm(path[:, :3, 3], axis=1)))
    expected = 20 * np.sin(4 * math.pi * np.arange(400) / 400)
    np.testing.assert_allclose(elevation, expected, atol=1e-9)
    np.testing.assert_allclose(path[:, :3, 2], -path[:, :3, 3] / 2, atol=1e-12)  # still looks at the center


def test_dolly_reaches_its_factor_half_way_and_comes_back():
    path = orbit(POSE, 100, dolly=0.5, endpoint=False)
    distance = np.linalg.norm(path[:, :3, 3], axis=1) / np.linalg.norm(POSE[:3, 3])
    assert distance[0] == pytest.approx(1)
    assert distance[50] == pytest.approx(0.5)
    assert distance.min() == pytest.approx(0.5)
    np.testing.assert_allclose(distance[1:], distance[1:][::-1])


def test_random_views_are_seeded_rotations_about_the_center():
    center = (1.0, 2.0, 3.0)
    first, again, other = (random_views(POSE, 2000, center=center, seed=s) for s in (5, 5, 6))
    assert_rigid(first)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    offset = first[:, :3, 3] - center
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), np.linalg.norm(POSE[:3, 3] - center))
    assert np.linalg.norm(offset.mean(0)) < 0.1 * np.linalg.norm(offset[0])  # no side is favored


def test_sphere_band_covers_its_band_evenly():
    poses = sphere_band(200, 3.0, elevation=(-10, 40), center=(0, 0, 1))
    assert_rigid(poses)
    offset = poses[:, :3, 3] - [0, 0, 1]
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 3)
    np.testing.assert_allclose(poses[:, :3, 2], -offset / 3, atol=1e-12)
    elevation = np.degrees(np.arcsin(offset[:, 2] / 3))
    assert -10 <= elevation.min() < -8
    assert 38 < elevation.max() <= 40
    gaps = 3 - np.sort((offset @ offset.T) / 3, axis=1)[:, -2]
    assert gaps.max() < 0.1  # nobody stands alone


def test_rounded_poses_become_orthonormal():
    rough = np.round(random_views(POSE, 1, seed=1)[0], 4)
    clean = orthonormal_pose(rough)
    assert_rigid(clean[None])
    np.testing.assert_allclose(clean, rough, atol=1e-4)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: orbit(POSE, 0), "count is 0"),
    (lambda: orbit(POSE, 3, dolly=-1), "dolly is -1"),
    (lambda: orbit(POSE, 3, degrees=math.nan), "degrees is nan"),
    (lambda: orbit(POSE, 3, center=(0, math.inf, 0)), "center is"),
    (lambda: orbit(POSE, 3, axis=(0, 0, 0)), "not all 0"),
    (lambda: orbit(POSE * 2, 3), "not orthonormal"),
    (lambda: orbit(POSE @ np.diag([-1, 1, 1, 1]), 3), "right-handed"),
    (lambda: random_views(POSE, 0), "count is 0"),
    (lambda: look_at((1, 1, 1), (1, 1, 1)), "very point"),
])
def test_errors_name_the_value(call, message):
    with pytest.raises(NpcrError, match=message):
        call()


def test_rotation_is_counter_clockwise():
    np.testing.assert_allclose(rotation((0, 0, 2), math.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
