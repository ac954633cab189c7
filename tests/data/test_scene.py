# SPDX-License-Identifier: Apache-2.0
"""Every layout of a scene's folder reads the same; what does no harm is warned of."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from npcr.data.scene import Scene, load_clouds, load_frame, load_scene, split_holdout
from npcr.data.scene_files import find_cloud
from npcr.errors import ConfigError, SceneError
from npcr.io.images import read_image
from tests.scenes import SIZE, orbit_poses, photograph, write_tiny_scene


def _load(folder: Path, **options: Any) -> Scene:
    return load_scene(folder, **({"size_raw": SIZE, "frame_num": 1, "mask": True, "center": []} | options))


@pytest.mark.parametrize("layout", [
    {}, {"first_image": 0}, {"digits": 1}, {"digits": 6, "image_suffix": ".jpg"}, {"image_suffix": ".jpeg"},
    {"image_suffix": ".PNG"}, {"mattes": "mask", "first_image": 0}, {"mattes": "outer_mask"},
    {"mattes": "rgba"}, {"first_frame": 1}, {"first_cloud": 0}, {"cloud_suffix": ".xzy"},
    {"cloud_suffix": ".txt"}, {"blocks": 4}, {"blocks": 4, "first_block": 1}, {"cameras": 12, "digits": 1},
], ids=lambda layout: "-".join(f"{k}={v}" for k, v in layout.items()) or "native")
def test_every_layout_reads_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                     layout: dict[str, Any]) -> None:
    with caplog.at_level(logging.WARNING, "npcr"):
        scene = _load(write_tiny_scene(tmp_path / "s", **layout))
        cloud = load_clouds(tmp_path / "s", 1)[0]
    assert not caplog.records
    count = layout.get("cameras", 4)
    assert len(scene.cameras) == len(scene.frames[0].images) == len(scene.frames[0].mattes) == count
    assert scene.cameras.size == SIZE
    np.testing.assert_allclose(scene.cameras.cam_to_world.numpy(), orbit_poses(count), atol=1e-6)
    assert len(cloud) == 20
    for camera, (image, matte) in enumerate(zip(scene.frames[0].images, scene.frames[0].mattes, strict=True)):
        assert np.abs(read_image(image)[..., :3].astype(int) - photograph(camera)[..., :3]).mean() < 12
        assert matte is not None
        assert (matte == image) == (layout.get("mattes") == "rgba")


def test_frames_have_their_own_pictures_and_clouds(tmp_path: Path) -> None:
    write_tiny_scene(tmp_path / "s", frames=3)
    scene = _load(tmp_path / "s", frame_num=3)
    assert [frame.name for frame in scene.frames] == ["0", "1", "2"]
    assert [frame.cloud_path.name for frame in scene.frames] == ["frame1.xyz", "frame2.xyz", "frame3.xyz"]
    clouds = load_clouds(tmp_path / "s", 3)
    assert not np.array_equal(clouds[0].positions, clouds[2].positions)
    assert not np.array_equal(read_image(scene.frames[0].images[0]), read_image(scene.frames[2].images[0]))


def test_clouds_need_nothing_else_of_the_scene(tmp_path: Path) -> None:
    write_tiny_scene(tmp_path / "s", frames=2)
    for name in ("img", "CamPose.inf"):
        path = tmp_path / "s" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert [len(cloud) for cloud in load_clouds(tmp_path / "s", 2)] == [20, 20]


def test_centers_are_spread_evenly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tiny_scene(tmp_path / "s", cameras=6)
    assert _load(tmp_path / "s").centers.tolist() == [[8, 12]] * 6
    assert _load(tmp_path / "s", center=[3, 4]).centers.tolist() == [[3, 4]] * 6
    scene = _load(tmp_path / "s", center=[3, 4, 5, 6])
    assert scene.centers.tolist() == [[3, 4]] * 3 + [[5, 6]] * 3
    assert scene.centers.dtype == torch.float32
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "npcr"):
        uneven = _load(tmp_path / "s", center=[1, 1, 2, 2, 3, 3, 4, 4])
    assert uneven.centers[:, 0].tolist() == [1, 1, 2, 3, 3, 4]
    assert "6 cameras do not split evenly over 4 pairs" in caplog.text


def test_without_mask_nothing_needs_a_matte(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tiny_scene(tmp_path / "s", mattes="none")
    with caplog.at_level(logging.WARNING, "npcr"):
        assert _load(tmp_path / "s", mask=False).frames[0].mattes == [None] * 4
    assert not caplog.records


def _extra_file(folder: Path) -> None:
    (folder / "img" / "0" / "Thumbs.db").write_bytes(b"x")


def _extra_cloud(folder: Path) -> None:
    (folder / "pointclouds" / "notes.md").write_text("x")


def _second_frame(folder: Path) -> None:
    shutil.copytree(folder / "img" / "0", folder / "img" / "1")


def _second_cloud(folder: Path) -> None:
    shutil.copy(folder / "pointclouds" / "frame1.xyz", folder / "pointclouds" / "frame2.xyz")


def _alpha_beside_matte(folder: Path) -> None:
    Image.fromarray(photograph(0)).save(folder / "img" / "0" / "img_0001.png")


@pytest.mark.parametrize(("change", "options", "message"), [
    (_extra_file, {}, "SCENE/img/0: 1 other files are passed over, such as Thumbs.db"),
    (_extra_cloud, {}, "SCENE/pointclouds: 1 other files are passed over, such as notes.md"),
    (_second_frame, {}, "SCENE/img: has 2 frame folders; DATASETS.FRAME_NUM 1 uses the first ones"),
    (_second_cloud, {}, "SCENE/pointclouds: has 2 point clouds; DATASETS.FRAME_NUM 1 uses the first ones"),
    (_alpha_beside_matte, {}, "SCENE/img/0: 1 of 4 photographs have alpha channels beside their mattes, first "
                              "img_0001.png; the mattes are used"),
    (lambda folder: (folder / "img" / "more").mkdir(), {}, "SCENE/img: 1 of 2 entries are passed over, first more;"),
    (None, {"mask": False}, "SCENE/img/0: has mattes, but DATASETS.MASK is False"),
])
def test_what_does_no_harm_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Any,
                                        options: dict[str, Any], message: str) -> None:
    write_tiny_scene(tmp_path / "s")
    if change:
        change(tmp_path / "s")
    with caplog.at_level(logging.WARNING, "npcr"):
        assert len(_load(tmp_path / "s", **options).frames) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.records[0].getMessage().replace(str(tmp_path / "s"), "SCENE").startswith(message)


def test_mattes_that_are_not_used_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    masks = folder / "img" / "0" / "mask"
    masks.mkdir()
    for number in (2, 9):
        shutil.copy(folder / "img/0/img_0002_alpha.png", masks / f"img_{number:04d}.png")
    (masks / "left.png").write_bytes(b"x")
    frame = _load(folder).frames[0]
    assert frame.mattes == [folder / "img" / "0" / f"img_{number:04d}_alpha.png" for number in range(1, 5)]
    messages = [record.getMessage().replace(str(folder), "SCENE") for record in caplog.records]
    assert messages == [
        "SCENE/img/0/mask: 1 other files are passed over, such as left.png; expected are img_0001.png or img_0001.jpg",
        "SCENE/img/0: 2 of 6 mattes are not used, first SCENE/img/0/mask/img_0002.png; their photographs have others "
        "(one beside a photograph comes before one in mask/), or no photograph has their number"]


def test_held_out_views_say_whose_cloud_they_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    shutil.rmtree(write_tiny_scene(folder / "test") / "pointclouds")
    with caplog.at_level(logging.INFO, "npcr"):
        assert _load(folder / "test").frames[0].cloud_path == folder / "pointclouds" / "frame1.xyz"
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"{folder / 'test' / 'pointclouds'}: no such folder; the clouds of {folder} are used")]


def test_one_frame_needs_no_configuration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_scene(tmp_path / "s", frames=3)
    cameras, frame = load_frame(folder, 2, mask=None)
    assert (cameras.size, frame.name, find_cloud(folder, 2).name) == (SIZE, "1", "frame2.xyz")
    assert frame.mattes[0] == folder / "img" / "1" / "img_0001_alpha.png"
    assert not caplog.records
    with pytest.raises(SceneError, match=r"img/3: no such frame folder; the scene has 3 frames"):
        load_frame(folder, 4, mask=None)
    with pytest.raises(SceneError, match="--frame is 0; frames count from 1"):
        load_frame(folder, 0, mask=None)
    with pytest.raises(SceneError, match=r"pointclouds: has no point cloud frame4"):
        find_cloud(folder, 4)
    Image.fromarray(photograph(0, (16, 24))).save(folder / "img" / "0" / "img_0002.png")
    with pytest.raises(SceneError, match=r"img_0002.png: is 16x24; img_0001.png is 24x16"):
        load_frame(folder, 1, mask=None)


def test_mattes_of_some_photographs_only_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    (folder / "img" / "0" / "img_0003_alpha.png").unlink()
    assert load_frame(folder, 1, mask=None)[1].mattes == [None] * 4
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'img/0/img_0003.png'}: has no matte (img_0003_alpha.png, mask/img_0003.png, an alpha channel); 1 "
        "of 4 photographs have none. The mattes of the others are not used, either; add the missing ones"]
    with pytest.raises(SceneError, match=r"DATASETS\.MASK False does without"):
        load_frame(folder, 1, mask=True)
    caplog.clear()
    assert load_frame(write_tiny_scene(tmp_path / "bare", mattes="none"), 1, mask=None)[1].mattes == [None] * 4
    assert not caplog.records


def test_two_folders_of_one_frame(tmp_path: Path) -> None:
    folder = write_tiny_scene(tmp_path / "s")
    shutil.copytree(folder / "img" / "0", folder / "img" / "00")
    with pytest.raises(SceneError, match=r"img/00: has the number of 0; keep one of them"):
        _load(folder)


def test_split_holdout() -> None:
    assert split_holdout(7, 3) == ([0, 1, 3, 4, 6], [2, 5])
    assert split_holdout(3, 0) == ([0, 1, 2], [])
    assert split_holdout(3, 5) == ([0, 1, 2], [])
    with pytest.raises(ConfigError, match="HOLDOUT_EVERY 1 leaves none of 3 cameras"):
        split_holdout(3, 1)


def test_the_parity_scene_reads(parity: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "npcr"):
        scene = load_scene(parity / "scene", size_raw=[160, 128], frame_num=1, mask=True, center=[64, 80])
        clouds = load_clouds(parity / "scene", 1)
    assert not caplog.records
    assert (len(scene.cameras), len(clouds[0])) == (8, 6000)
    assert scene.frames[0].cloud_path.name == "frame1.xzy"
