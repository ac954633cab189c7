# SPDX-License-Identifier: Apache-2.0
"""NHR's and ConvNeRF's layouts become this project's, frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npcr.config import load_config
from npcr.data.scene import load_clouds, load_scene
from npcr.errors import SceneError
from npcr.importers.nhr import read_nhr
from npcr.importers.scene_writer import import_capture
from npcr.io.camera_files import read_cam_poses, write_cam_poses, write_intrinsics
from npcr.io.images import read_image, write_image
from npcr.io.points import PointCloud, write_points
from tests.captures import SIZE, points, poses


def write_nhr(folder: Path, masks: str = "img/{}/mask/img_{:04d}.jpg") -> Path:
    """Two frames of four cameras, numbered from 0."""
    write_cam_poses(folder / "CamPose.inf", poses())
    write_intrinsics(folder / "Intrinsic.inf", np.tile([[50.0, 0, 23.5], [0, 50, 17.5], [0, 0, 1]], (4, 1, 1)))
    for frame in range(2):
        for i in range(4):
            write_image(folder / f"img/{frame}/img_{i:04d}.jpg",
                        np.full((SIZE[1], SIZE[0], 3), 40 * i + 90 * frame, np.uint8))
            if masks:
                write_image(folder / masks.format(frame, i), np.full((SIZE[1], SIZE[0]), 200 + i, np.uint8))
        write_points(folder / "pointclouds" / f"frame{frame + 1}.obj",
                     PointCloud((points() + frame).astype(np.float32)))
    return folder


@pytest.mark.parametrize("masks", ["img/{}/mask/img_{:04d}.jpg", "{}/mask/img_{:04d}.jpg",
                                   "img/{}/img_{:04d}_alpha.png"])
def test_frames_mattes_and_clouds(tmp_path, masks):
    import_capture(read_nhr(write_nhr(tmp_path / "nhr", masks)), tmp_path / "scene")
    cfg = load_config(tmp_path / "scene/scene.yml")
    assert (cfg.DATASETS.FRAME_NUM, cfg.DATASETS.MASK) == (2, True)
    scene = load_scene(cfg.DATASETS.TRAIN, size_raw=cfg.INPUT.SIZE_RAW, frame_num=2, mask=True, center=[])
    assert [len(frame.images) for frame in scene.frames] == [4, 4]
    assert scene.frames[1].images[2].read_bytes() == (tmp_path / "nhr/img/1/img_0002.jpg").read_bytes()
    assert abs(int(read_image(scene.frames[1].mattes[3])[0, 0, 0]) - 203) <= 1
    assert abs(load_clouds(tmp_path / "scene", 2)[1].positions - points() - 1).max() < 1e-6
    np.testing.assert_allclose(read_cam_poses(tmp_path / "scene/CamPose.inf"), poses(), atol=1e-12)


def test_the_first_frames_only_and_without_mattes(tmp_path):
    import_capture(read_nhr(write_nhr(tmp_path / "nhr", ""), frames=1), tmp_path / "scene")
    cfg = load_config(tmp_path / "scene/scene.yml")
    assert (cfg.DATASETS.FRAME_NUM, cfg.DATASETS.MASK) == (1, False)
    assert not (tmp_path / "scene/img/1").exists()


@pytest.mark.parametrize(("remove", "message"), [
    ("CamPose.inf", "CamPose.inf"), ("img/1/img_0003.jpg", "3 photographs for the 4 cameras"),
    ("pointclouds/frame2.obj", "no point cloud frame2"),
])
def test_what_is_missing_is_named(tmp_path, remove, message):
    write_nhr(tmp_path / "nhr")
    (tmp_path / "nhr" / remove).unlink()
    with pytest.raises(SceneError, match=message):
        read_nhr(tmp_path / "nhr")


def test_frames_are_checked(tmp_path):
    with pytest.raises(SceneError, match="no such folder"):
        read_nhr(tmp_path / "nothing")
    with pytest.raises(SceneError, match="--frames is 0"):
        read_nhr(write_nhr(tmp_path / "nhr"), frames=0)
