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

from npcr.data.scene import Scene, load_clouds, load_scene, split_holdout, write_scene
from npcr.errors import ConfigError
from npcr.io.images import read_image
from npcr.io.points import PointCloud
from tests.scenes import SIZE, orbit_cameras, orbit_poses, photograph, write_tiny_scene


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
    (_alpha_beside_matte, {}, "SCENE/img/0: photographs have alpha channels beside their mattes"),
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


@pytest.mark.parametrize("cloud_suffix", [".xyz", ".ply"])
def test_written_then_read(tmp_path: Path, cloud_suffix: str) -> None:
    cameras = orbit_cameras(3)
    rng = np.random.default_rng(0)
    clouds = [PointCloud(rng.normal(size=(9, 3)).astype(np.float32)) for _ in range(2)]
    write_scene(tmp_path / "s", cameras, (((pixels[..., :3], pixels[..., 3]) for pixels in
                                           (photograph(10 * frame + camera) for camera in range(3)))
                                          for frame in range(2)), clouds, cloud_suffix=cloud_suffix)
    scene = _load(tmp_path / "s", frame_num=2)
    assert torch.equal(scene.cameras.cam_to_world, cameras.cam_to_world)
    assert torch.equal(scene.cameras.intrinsics, cameras.intrinsics)
    for cloud, back in zip(clouds, load_clouds(tmp_path / "s", 2), strict=True):
        np.testing.assert_array_equal(back.positions, cloud.positions)
    np.testing.assert_array_equal(read_image(scene.frames[1].images[2]), photograph(12)[..., :3])
    assert scene.frames[1].mattes[2] == tmp_path / "s" / "img" / "1" / "img_0003_alpha.png"


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
