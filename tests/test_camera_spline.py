# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from npcr.camera_paths import look_at
from npcr.camera_spline import (
    Keyframe,
    duration,
    field_of_view,
    focal_length,
    frame_count,
    interpolate,
    sample_path,
)
from npcr.errors import NpcrError


def around(angles: list[float], radius: float = 3.0) -> list[Keyframe]:
    """Keyframes on a circle that look at its center."""
    places = [(radius * np.cos(a), radius * np.sin(a), 0.5) for a in np.radians(angles)]
    return [Keyframe(look_at(place, (0, 0, 0)), 30 + number, float(np.linalg.norm(place)), 1.0, number / len(places))
            for number, place in enumerate(places)]


def test_the_path_passes_its_keyframes_at_their_seconds() -> None:
    keyframes = around([0, 40, 100, 130])
    keyframes[2] = dataclasses.replace(keyframes[2], seconds=3.0)
    assert duration(keyframes) == 5
    for second, keyframe in zip([0, 1, 4, 5], keyframes, strict=True):
        frame = interpolate(keyframes, np.array([float(second)]))[0]
        np.testing.assert_allclose(frame.cam_to_world, keyframe.cam_to_world, atol=1e-9)
        assert frame.fov == pytest.approx(keyframe.fov)
        assert frame.time == pytest.approx(keyframe.time)


def test_what_keyframes_look_at_stays_in_the_middle() -> None:
    frames = sample_path(around([0, 70, 140]), fps=30)
    assert len(frames) == frame_count(around([0, 70, 140]), 30) == 61
    for frame in frames:
        center = frame.cam_to_world[:3, :3].T @ -frame.cam_to_world[:3, 3]
        np.testing.assert_allclose(center[:2], 0, atol=1e-9)
        assert center[2] > 2.5


def test_a_loop_has_no_frame_twice_and_no_corner() -> None:
    keyframes = around([0, 90, 180, 270])
    frames = sample_path(keyframes, fps=25, loop=True)
    assert duration(keyframes, loop=True) == 4
    places = np.array([frame.cam_to_world[:3, 3] for frame in frames])
    assert len(places) == 100
    steps = np.diff(np.vstack([places, places[:2]]), axis=0)
    assert np.linalg.norm(steps, axis=1).min() > 0.1
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).max() < 0.02
    np.testing.assert_allclose(np.linalg.norm(places[:, :2], axis=1), 3, rtol=0.03)


def test_roll_and_two_or_one_keyframes() -> None:
    rolled = around([0])[0]
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    rolled = dataclasses.replace(rolled, cam_to_world=rolled.cam_to_world @ turn)
    frames = sample_path([rolled], fps=30)
    assert len(frames) == 1
    np.testing.assert_allclose(frames[0].cam_to_world, rolled.cam_to_world, atol=1e-12)
    halfway = interpolate(around([0, 10]), np.array([0.5]))[0]
    ends = [keyframe.cam_to_world[:3, 3] for keyframe in around([0, 10])]
    np.testing.assert_allclose(halfway.cam_to_world[:3, 3], (ends[0] + ends[1]) / 2, atol=1e-12)


def test_what_is_no_path_is_said() -> None:
    with pytest.raises(NpcrError, match="at least one keyframe"):
        sample_path([], 30)
    with pytest.raises(NpcrError, match="keyframe 2: its transition takes 0 seconds"):
        sample_path([around([0])[0], dataclasses.replace(around([9])[0], seconds=0.0)], 30)


def test_field_of_view_and_focal_length() -> None:
    assert focal_length(90, 200) == pytest.approx(100)
    assert field_of_view(focal_length(37, 480), 480) == pytest.approx(37)
