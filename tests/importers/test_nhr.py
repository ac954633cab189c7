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


def test_a_plain_capture_is_read_without_a_word(tmp_path, caplog):
    assert len(read_nhr(write_nhr(tmp_path / "nhr")).views) == 8
    assert caplog.text == ""


def test_folders_that_are_no_frames_are_said(tmp_path, caplog):
    (write_nhr(tmp_path / "nhr") / "img/backup").mkdir()
    assert len(read_nhr(tmp_path / "nhr").views) == 8
    assert [record.getMessage().partition(" are passed over")[0] for record in caplog.records] == [
        f"{tmp_path / 'nhr' / 'img'}: 1 of 3 entries"]
    assert "first backup" in caplog.text


@pytest.mark.parametrize(("frames", "message"), [
    (("0", "3"), "img: has no folder 1; frames .* --frames takes those before a gap"),
    (("0", "00"), "img/00: has the number of 0; keep one of them"),
    (("a", "b"), r"img: has no folder of a frame; photographs belong in .*img/0"),
])
def test_frames_numbered_in_another_way_are_refused(tmp_path, frames, message):
    folder = write_nhr(tmp_path / "nhr")
    for old, new in zip(("0", "1"), frames, strict=True):
        (folder / "img" / old).rename(folder / "img" / new)
    with pytest.raises(SceneError, match=message):
        read_nhr(folder)


def test_frames_before_a_gap_can_be_taken(tmp_path):
    folder = write_nhr(tmp_path / "nhr")
    (folder / "img/1").rename(folder / "img/3")
    assert len(read_nhr(folder, frames=1).views) == 4


def test_mattes_that_others_hide_are_said(tmp_path, caplog):
    folder = write_nhr(tmp_path / "nhr", "img/{}/img_{:04d}_alpha.png")
    for number in range(4):
        write_image(folder / f"img/1/mask/img_{number:04d}.png", np.zeros((SIZE[1], SIZE[0]), np.uint8))
    views = read_nhr(folder).views
    assert {view.mask.name for view in views if view.mask} == {f"img_{i:04d}_alpha.png" for i in range(4)}
    assert "img/1: 4 of 8 mattes are not used, first " in caplog.text
    assert "img/1/mask/img_0000.png" in caplog.text


def test_mattes_numbered_otherwise_than_photographs_are_refused(tmp_path):
    folder = write_nhr(tmp_path / "nhr")
    (folder / "img/0/mask/img_0000.jpg").rename(folder / "img/0/mask/img_0004.jpg")
    with pytest.raises(SceneError, match=r"mask/img_0004.jpg: is the matte of no photograph, and .*img/0/img_0000.jpg "
                                         r"has none \(1 of 4 mattes, 1 of 4 photographs\)"):
        read_nhr(folder)


@pytest.mark.parametrize("blocks", [1, 4])
def test_one_block_of_intrinsics_does_not_serve_two_sizes(tmp_path, blocks):
    folder = write_nhr(tmp_path / "nhr")
    write_intrinsics(folder / "Intrinsic.inf", np.tile([[50.0, 0, 23.5], [0, 50, 17.5], [0, 0, 1]], (blocks, 1, 1)))
    write_image(folder / "img/1/img_0002.jpg", np.zeros((18, 24, 3), np.uint8))
    with pytest.raises(SceneError, match=r"img/1/img_0002.jpg: is 24x18, .*img/0/img_000[02].jpg is 48x36; the same"):
        read_nhr(folder)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_intrinsics_of_another_size_are_said(tmp_path, caplog, factor):
    folder = write_nhr(tmp_path / "nhr")
    matrix = np.array([[50 * factor, 0, 24 * factor - 0.5], [0, 50 * factor, 18 * factor - 0.5], [0, 0, 1]])
    write_intrinsics(folder / "Intrinsic.inf", np.tile(matrix, (4, 1, 1)))
    read_nhr(folder)
    assert f"as in photographs of about {48 * factor:.0f}x{36 * factor:.0f}, but these are 48x36" in caplog.text
