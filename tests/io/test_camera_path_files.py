# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from npcr.camera_paths import look_at
from npcr.camera_spline import Keyframe
from npcr.cameras import Cameras, project
from npcr.errors import SceneError
from npcr.io.camera_path_files import CameraPath, make_cameras, read_camera_path, write_camera_path

POSES = [look_at((3, y, 1), (0, 0, 0.2)) for y in (-1.0, 0.0, 2.0)]


def nerfstudio_file(**changes: Any) -> dict[str, Any]:
    """A path as nerfstudio's viewer writes it: two cameras on z that look along -z (OpenGL's axes), y up."""
    camera = {"fov": 90.0, "aspect": 2.0}
    return {
        "default_fov": 75.0, "default_transition_sec": 2.0, "camera_type": "perspective", "render_height": 100,
        "render_width": 200, "fps": 24, "seconds": 4.0, "is_cycle": False, "smoothness_value": 0.0,
        "keyframes": [{"matrix": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 5, 0, 0, 0, 1], "fov": 75.0, "aspect": 2.0,
                       "override_transition_enabled": False, "override_transition_sec": None}],
        "camera_path": [{"camera_to_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, z, 0, 0, 0, 1], **camera}
                        for z in (5, 6)],
        **changes}


def write(path: Path, values: Any) -> Path:
    path.write_text(json.dumps(values))
    return path


def test_nerfstudios_conventions(tmp_path: Path) -> None:
    path = read_camera_path(write(tmp_path / "path.json", nerfstudio_file()))
    assert (len(path.cameras), path.cameras.size, path.fps, path.times, path.loop) == (2, (200, 100), 24, None, False)
    # Right and up in the world are right and up in the picture; 90 degrees reach from its lower to its upper edge.
    points = torch.tensor([[0.0, 0, 0], [5.0, 0, 0], [0, 5.0, 0]]).expand(2, 3, 3)
    pixels, depth = project(points, path.cameras)
    np.testing.assert_allclose(depth[0], [5, 5, 5])
    np.testing.assert_allclose(pixels[0], [[99.5, 49.5], [149.5, 49.5], [99.5, -0.5]], atol=1e-4)
    assert depth[1, 0] == 6
    keyframe = path.keyframes[0]
    assert (keyframe.fov, keyframe.seconds) == (75, 2)
    np.testing.assert_allclose(keyframe.cam_to_world[:3, 2], [0, 0, -1])


def test_what_is_written_reads_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keyframes = tuple(Keyframe(pose, 40.0 + n, 3.2 + n, 1.5 + n, n / 2) for n, pose in enumerate(POSES))
    written = CameraPath(make_cameras(POSES, [40, 41.5, 43], (320, 180)), 25.0, np.array([0, 0.5, 1]), keyframes, True)
    write_camera_path(tmp_path / "path.json", written)
    read = read_camera_path(tmp_path / "path.json")
    assert not caplog.records
    torch.testing.assert_close(read.cameras.cam_to_world, written.cameras.cam_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(read.cameras.intrinsics, written.cameras.intrinsics, atol=1e-4, rtol=0)
    assert (read.cameras.size, read.fps, read.loop) == ((320, 180), 25, True)
    np.testing.assert_allclose(read.times, [0, 0.5, 1])
    for ours, theirs in zip(keyframes, read.keyframes, strict=True):
        np.testing.assert_allclose(theirs.cam_to_world, ours.cam_to_world, atol=1e-12)
        assert (theirs.fov, theirs.distance, theirs.seconds, theirs.time) == pytest.approx(
            (ours.fov, ours.distance, ours.seconds, ours.time))


def test_the_keys_that_nerfstudio_reads_are_written(tmp_path: Path) -> None:
    write_camera_path(tmp_path / "path.json", CameraPath(make_cameras(POSES, [60] * 3, (320, 180)), 30.0))
    values = json.loads((tmp_path / "path.json").read_text())
    assert {key: values[key] for key in ("render_width", "render_height", "fps", "seconds", "camera_type")} == {
        "render_width": 320, "render_height": 180, "fps": 30, "seconds": 0.1, "camera_type": "perspective"}
    camera = values["camera_path"][1]
    assert camera["fov"] == pytest.approx(60)
    assert camera["aspect"] == pytest.approx(16 / 9)
    matrix = np.reshape(camera["camera_to_world"], (4, 4))
    np.testing.assert_allclose(matrix[:3, 3], [3, 0, 1], atol=1e-6)
    np.testing.assert_allclose(matrix[:3, 2], np.array([3, 0, 0.8]) / math.hypot(3, 0.8), atol=1e-6)  # z points back


def test_what_the_format_cannot_hold_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    matrix = torch.tensor([[200.0, 1, 150], [0, 210, 99.5], [0, 0, 1]])
    cameras = Cameras(torch.from_numpy(POSES[0]).float()[None], matrix[None], (320, 200))
    write_camera_path(tmp_path / "path.json", CameraPath(cameras))
    messages = " ".join(caplog.messages)
    for part in ("moves there by up to 9.5 pixels", "fx differs from fy by up to 4.8%", "no skew"):
        assert part in messages


@pytest.mark.parametrize(("changes", "message"), [
    ({"camera_path": []}, "needs 'camera_path', a list of at least one camera"),
    ({"camera_type": "fisheye"}, "camera_type is fisheye"),
    ({"render_width": None}, "render_width is missing"),
    ({"render_height": 99.5}, "render_height is 99.5; it must be a whole number"),
    ({"fps": 0}, "fps is 0; it must be a number from 1 to 1000"),
    ({"camera_path": [3]}, "camera 1: needs an object, found int"),
    ({"camera_path": [{"camera_to_world": [1, 2], "fov": 50}]}, "camera 1: camera_to_world needs 16 numbers"),
    ({"camera_path": [{"camera_to_world": np.eye(4).ravel().tolist()}]}, "camera 1: fov is missing"),
    ({"camera_path": [{"camera_to_world": np.eye(4).ravel().tolist(), "fov": 190}]}, "fov is 190"),
    ({"camera_path": [{"camera_to_world": (np.eye(4) * [2, 1, 1, 1]).ravel().tolist(), "fov": 50}]},
     "camera 1: camera_to_world: pose: the rotation is not orthonormal"),
    ({"camera_path": [{"camera_to_world": [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 2, 5, 1], "fov": 50}]},
     "it looks written column by column"),
])
def test_mistakes_are_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SceneError) as caught:
        read_camera_path(write(tmp_path / "path.json", nerfstudio_file(**changes)))
    assert message in str(caught.value)
    assert str(tmp_path / "path.json") in str(caught.value)


def test_other_files_are_no_camera_path(tmp_path: Path) -> None:
    for text in ("[1]", "{", '{"frames": []}', '{"fps": 1, "fps": 2}'):
        (tmp_path / "path.json").write_text(text)
        with pytest.raises(SceneError, match=r"path\.json"):
            read_camera_path(tmp_path / "path.json")


def test_what_is_passed_over_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = nerfstudio_file(keyframes=[{"matrix": "[1,0,0,0]", "fov": 50}])  # of nerfstudio before 1.0: text
    values["camera_path"][0] |= {"aspect": 1.0, "render_time": 0.5}
    path = read_camera_path(write(tmp_path / "path.json", values))
    assert (path.keyframes, path.times) == ((), None)
    messages = " ".join(caplog.messages)
    for part in ("1 cameras have an aspect such as 1", "1 of 2 cameras have no render_time",
                 "its keyframes are not read, its 2 cameras are"):
        assert part in messages
