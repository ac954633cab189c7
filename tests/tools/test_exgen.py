# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.camera_paths import look_at
from npcr.cameras import Cameras, project
from npcr.commands import orbit as command
from npcr.commands.demo import orbit_arguments
from npcr.errors import NpcrError
from npcr.io.camera_files import read_cam_poses, read_cameras, write_cam_poses
from npcr.io.camera_path_files import read_camera_path
from npcr.io.images import read_image
from npcr.io.points import PointCloud, read_points, write_points

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "ExParamGen" / "exgen.py"
BOB = ROOT / "datasets" / "bob"


@pytest.fixture
def exgen():
    def run(*arguments: object) -> None:
        command.main([*map(str, arguments)])
    return run


def test_the_published_orbit_comes_from_the_example_pose(exgen, tmp_path):
    exgen("--output", tmp_path / "CamPose.inf")
    path = read_cam_poses(tmp_path / "CamPose.inf")
    assert path.shape == (500, 4, 4)
    for i, angle in enumerate(np.linspace(0, 2 * np.pi, 500)):  # the first pose faces -x from x = 0.45, z is up
        c, s = np.cos(angle), np.sin(angle)
        np.testing.assert_allclose(path[i], [[-s, 0, -c, 0.45 * c], [c, 0, -s, 0.45 * s], [0, -1, 0, 0.0433],
                                             [0, 0, 0, 1]], atol=1e-12)
    picture = read_image(tmp_path / "CamPose.png")
    assert picture.shape == (720, 960, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_the_demos_orbit_keeps_the_whole_object_in_the_picture(exgen, tmp_path):
    exgen(*orbit_arguments(BOB, tmp_path / "path.inf", 60))
    path = read_cam_poses(tmp_path / "path.inf")
    assert np.abs(path[-1] - path[0]).max() > 0.1  # a loop has no camera twice
    cameras = read_cameras(BOB / "CamPose.inf", BOB / "Intrinsic.inf", (200, 200))
    orbit = Cameras(torch.from_numpy(path).float(), cameras.intrinsics, cameras.size)
    points = torch.from_numpy(read_points(BOB / "pointclouds" / "frame1.ply").positions)
    pixels, depth = project(points.expand(60, -1, 3), orbit)
    assert (depth > 0).all()
    assert pixels.min() > 10
    assert pixels.max() < 189


def test_options_reach_the_path(exgen, tmp_path):
    write_cam_poses(tmp_path / "pose.inf", look_at((2, 0, 0), (5, 5, 5))[None])
    rng = np.random.default_rng(0)
    write_points(tmp_path / "cloud.ply", PointCloud(rng.normal(size=(500, 3)).astype(np.float32), None))
    exgen("--input", tmp_path / "pose.inf", "--output", tmp_path / "out" / "path.inf", "--count", 9,
          "--axis", 0, -1, 0, "--center", 0.5, 0, 0, "--degrees", 90, "--look-at-center", "--dolly", 2,
          "--cloud", tmp_path / "cloud.ply", "--preview", tmp_path / "view.png")
    path = read_cam_poses(tmp_path / "out" / "path.inf")
    offset = path[:, :3, 3] - [0.5, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1)[[0, 4, 8]], [1.5, 3, 1.5])
    np.testing.assert_allclose(offset[-1], [0, 0, 1.5], atol=1e-12)  # about -y, x turns to z
    np.testing.assert_allclose(path[:, :3, 2], -offset / np.linalg.norm(offset, axis=1)[:, None], atol=1e-12)
    assert (tmp_path / "view.png").exists()


def test_random_rotations_repeat_with_their_seed(exgen, tmp_path):
    for name in ("a", "b"):
        exgen("--random", 12, "--seed", 4, "--output", tmp_path / f"{name}.inf")
    assert (tmp_path / "a.inf").read_bytes() == (tmp_path / "b.inf").read_bytes()
    assert len(read_cam_poses(tmp_path / "a.inf")) == 12


@pytest.mark.parametrize(("arguments", "message"), [
    (["--axis", "q"], "--axis is q"),
    (["--axis", "0", "0"], "--axis is 0 0"),
    (["--axis", "0", "0", "0"], "not all 0"),
    (["--center", "1", "2"], "--center is 1 2"),
    (["--center", "cloud"], "--cloud FILE"),
    (["--count", "0"], "count is 0"),
    (["--dolly", "0"], "dolly is 0"),
    (["--input", "nowhere.inf"], "nowhere.inf"),
    (["--cloud", "nowhere.ply"], "nowhere.ply"),
])
def test_mistakes_are_named_and_leave_nothing(exgen, tmp_path, arguments, message):
    with pytest.raises(NpcrError, match=message):
        exgen("--output", tmp_path / "CamPose.inf", *arguments)
    assert not (tmp_path / "CamPose.inf").exists()


def test_the_script_runs_from_anywhere_and_ends_in_one_line(tmp_path):
    done = subprocess.run([sys.executable, str(SCRIPT), "--count", "0", "--output", "CamPose.inf"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "count is 0" in done.stderr


def test_a_path_as_json_has_the_cameras_of_the_other_files(exgen, tmp_path):
    common = ("--input", BOB / "CamPose.inf", "--count", 5, "--loop")
    exgen(*common, "--output", tmp_path / "path.inf")
    exgen(*common, "--output", tmp_path / "path.json", "--size", 100, 100, "--fps", 12,
          "--intrinsics", BOB / "Intrinsic.inf", "--intrinsics-size", 200, 200)
    path = read_camera_path(tmp_path / "path.json")
    cameras = read_cameras(tmp_path / "path.inf", BOB / "Intrinsic.inf", (200, 200)).resized((100, 100))
    torch.testing.assert_close(path.cameras.cam_to_world, cameras.cam_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(path.cameras.intrinsics, cameras.intrinsics, atol=0.05, rtol=0)
    assert (path.fps, path.loop) == (12, True)
    # and back: the first camera is where a path may start, with its field of view
    exgen("--input", tmp_path / "path.json", "--output", tmp_path / "again.json", "--count", 5, "--loop")
    again = read_camera_path(tmp_path / "again.json").cameras
    torch.testing.assert_close(again.cam_to_world, cameras.cam_to_world, atol=1e-5, rtol=0)
    assert again.size == (800, 800)
    assert float(again.intrinsics[0, 1, 1]) == pytest.approx(8 * float(cameras.intrinsics[0, 1, 1]), rel=1e-4)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--fov", "0.5"], "--fov is 0.5; it must be from 1 to 170 degrees"),
    (["--size", "0", "9"], "--size is 0 9; it must be at least 1"),
    (["--fps", "0"], "--fps is 0; it must be at least 1"),
])
def test_a_path_as_json_needs_a_picture(exgen, tmp_path, arguments, message):
    with pytest.raises(NpcrError, match=message):
        exgen("--count", 2, "--output", tmp_path / "path.json", *arguments)
