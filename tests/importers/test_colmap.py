# SPDX-License-Identifier: Apache-2.0
"""COLMAP models against known cameras, and the fox against its transforms.json and COLMAP's own tracks."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.cameras import project
from npcr.config import load_config
from npcr.errors import MissingExtraError, SceneError
from npcr.importers.colmap import read_colmap
from npcr.importers.lenses import Lens
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.camera_files import read_cameras
from npcr.io.images import read_image, write_image
from npcr.io.points import read_points
from tests.captures import SIZE, dot_errors, points, poses, write_colmap, write_dots

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")
SHARED = os.environ.get("NPCR_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="NPCR_SHARED does not name the shared data")

MODELS = {
    "SIMPLE_PINHOLE": (150, 81, 58), "PINHOLE": (150, 155, 81, 58), "SIMPLE_RADIAL": (150, 81, 58, -0.2),
    "RADIAL": (150, 81, 58, -0.2, 0.05), "OPENCV": (150, 155, 81, 58, -0.2, 0.05, 0.003, -0.002),
    "FULL_OPENCV": (150, 155, 81, 58, -0.2, 0.05, 0.003, -0.002, 0.01, 0.01, 0.0, 0.0),
    "FOV": (150, 155, 81, 58, 0.6), "SIMPLE_RADIAL_FISHEYE": (150, 81, 58, 0.05),
    "RADIAL_FISHEYE": (150, 81, 58, 0.05, 0.01), "OPENCV_FISHEYE": (150, 155, 81, 58, 0.05, 0.01, 0.0, 0.0),
    "THIN_PRISM_FISHEYE": (150, 155, 81, 58, 0.05, 0.01, 0.001, -0.001, 0.0, 0.0, 0.001, 0.001),
}


@pytest.mark.parametrize("binary", [True, False])
def test_cameras_points_and_colors(tmp_path, binary):
    write_colmap(tmp_path / "ws", binary=binary)
    capture = read_colmap(tmp_path / "ws")
    assert [view.image.name for view in capture.views] == ["0.png", "1.png", "2.png", "3.png"]
    np.testing.assert_allclose([view.cam_to_world for view in capture.views], poses(), atol=1e-9)
    assert capture.views[0].lens.center == (23.5, 17.5)
    np.testing.assert_allclose(capture.clouds[0].positions, points(), atol=1e-6)
    assert capture.clouds[0].colors[5].tolist() == [5, 10, 250]


@pytest.mark.parametrize("model", MODELS)
def test_every_camera_model_is_undistorted(tmp_path, model):
    """Dots drawn where COLMAP's camera sees points end up where the scene's pinhole camera projects them."""
    dots = np.random.default_rng(1).uniform(-0.7, 0.7, (12, 3))
    write_colmap(tmp_path / "ws", model=model, params=MODELS[model], size=(160, 120), dots=dots)
    import_capture(read_colmap(tmp_path / "ws"), tmp_path / "scene")
    errors = dot_errors(tmp_path / "scene", dots)
    assert len(errors) >= 30
    # Where dots overlap their centroids do not tell; most do not.
    assert np.median(errors) < 0.1, np.median(errors)


def test_the_models_place_and_the_photographs_place(tmp_path):
    write_colmap(tmp_path / "ws")
    assert len(read_colmap(tmp_path / "ws" / "sparse" / "0").views) == 4  # found upwards
    shutil.copytree(tmp_path / "ws" / "sparse" / "0", tmp_path / "ws" / "sparse" / "1")
    (tmp_path / "ws" / "images").rename(tmp_path / "photos")
    with pytest.raises(SceneError, match=r"no folder of photographs.*--images"):
        read_colmap(tmp_path / "ws")
    assert len(read_colmap(tmp_path / "ws", images=tmp_path / "photos").views) == 4
    shutil.rmtree(tmp_path / "ws" / "sparse")
    with pytest.raises(SceneError, match=r"no COLMAP model.*--model"):
        read_colmap(tmp_path / "ws", images=tmp_path / "photos")


@pytest.mark.parametrize("pattern", ["{}.png", "{}.png.png"])
def test_masks_by_both_namings(tmp_path, pattern):
    write_colmap(tmp_path / "ws")
    for i in range(4):
        write_image(tmp_path / "ws" / "masks" / pattern.format(i), np.full((SIZE[1], SIZE[0]), 50 * i + 1, np.uint8))
    import_capture(read_colmap(tmp_path / "ws"), tmp_path / "scene")
    assert read_image(tmp_path / "scene/img/0/img_0003_alpha.png")[0, 0].tolist() == [101] * 3
    assert load_config(tmp_path / "scene/scene.yml").DATASETS.MASK is True


def test_missing_photographs_are_left_out(tmp_path):
    write_colmap(tmp_path / "ws")
    (tmp_path / "ws/images/2.png").unlink()
    capture = read_colmap(tmp_path / "ws")
    assert [path.name for path in capture.missing] == ["2.png"]
    assert len(import_capture(capture, tmp_path / "scene")) == 3


def test_other_sizes_are_brought_to_the_common_one(tmp_path, caplog):
    """One photograph of twice the size, one on its side: the same points stay under the same dots."""
    dots = np.random.default_rng(1).uniform(-0.5, 0.5, (8, 3))
    rec = write_colmap(tmp_path / "ws", params=(150.0, 150.0, 80.0, 60.0), size=(160, 120), dots=dots)
    cameras = {1: ((320, 240), (300.0, 300.0, 160.0, 120.0)), 2: ((120, 160), (150.0, 150.0, 60.0, 80.0))}
    for i, (size, params) in cameras.items():
        camera = pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params, camera_id=i + 1)
        rec.add_camera_with_trivial_rig(camera)
        pose = np.linalg.inv(poses()[i])
        write_dots(tmp_path / "ws/images" / f"{i}.png",
                   camera.img_from_cam(dots @ pose[:3, :3].T + pose[:3, 3]) - 0.5, size, 1.6 * size[0] / 160)
    capture = read_colmap(tmp_path / "ws")
    views = list(capture.views)
    for i, (size, params) in cameras.items():
        views[i] = replace(views[i], lens=Lens(params[:2], (params[2] - 0.5, params[3] - 0.5), size))
    import_capture(replace(capture, views=views), tmp_path / "scene")
    assert "2 of 160x120" in caplog.text
    assert "1 of them are cut" in caplog.text
    assert np.median(dot_errors(tmp_path / "scene", dots)) < 0.1


def test_without_pycolmap_the_extra_is_named(tmp_path, monkeypatch):
    write_colmap(tmp_path / "ws")
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(MissingExtraError, match=r"npcr\[colmap\]"):
        read_colmap(tmp_path / "ws")


@pytest.mark.parametrize(("name", "change", "message"), [
    ("points3D.bin", lambda b: b[:-5], "points3D.bin: is damaged.*ends within a record"),
    ("points3D.bin", lambda b: struct.pack("<Q", 10**15) + b[8:], "points3D.bin: is damaged.*ends after 40 of"),
    ("images.bin", lambda b: b[:100], "images.bin: is damaged"),
    ("cameras.bin", lambda b: b[:12] + struct.pack("<i", 99) + b[16:], "camera model 99 is unknown"),
    ("cameras.bin", lambda b: b[:32] + struct.pack("<d", float("nan")) + b[40:], "PINHOLE.*nan"),
    ("frames.bin", lambda b: b + b"\0", "frames.bin: is damaged.*the file at byte"),
    ("images.bin", lambda b: b.replace(b"0.png", b"/.png"), "image 1 is named '/.png'"),
])
def test_damaged_models_are_named(tmp_path, name, change, message):
    write_colmap(tmp_path / "ws")
    file = tmp_path / "ws/sparse/0" / name
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(SceneError, match=message):
        read_colmap(tmp_path / "ws")


def test_a_damaged_text_model_is_named(tmp_path):
    write_colmap(tmp_path / "ws", binary=False)
    file = tmp_path / "ws/sparse/0/cameras.txt"
    file.write_text(file.read_text().replace("PINHOLE", "PINHALL"))
    with pytest.raises(SceneError, match=r"cameras.txt, line 4: MODEL is 'PINHALL'"):
        read_colmap(tmp_path / "ws")


def _similarity(source: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """(scale, rotation, translation) of the least squares fit of target by source (Umeyama)."""
    a, b = source - source.mean(0), target - target.mean(0)
    left, sizes, right = np.linalg.svd(b.T @ a / len(a))
    flip = np.diag([1, 1, np.sign(np.linalg.det(left @ right))])
    rotation = left @ flip @ right
    scale = float((sizes * np.diag(flip)).sum() / a.var(0).sum())
    return scale, rotation, target.mean(0) - scale * rotation @ source.mean(0)


def _rays(lens: Lens, pixels: np.ndarray) -> np.ndarray:
    """(N, 3) unit rays of pixels, in camera space: the lens inverted by fixed-point iteration."""
    points = (pixels - lens.center) / lens.focal
    for _ in range(20):
        points = points - (lens.project(points) - pixels) / lens.focal
    rays = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


@needs_shared
def test_fox_from_both_sources_agrees():
    """After a similarity the two calibrations put the cameras at the same places and send every pixel's ray the same
    way.

    Their axes alone differ by 0.67 degrees, because their principal points do, by 7.3 and 2.6 pixels (COLMAP left it
    in the middle): a shift of the one is a turn of the other (7.3 / 688 is 0.61 degrees). A ray has both in it.
    """
    fox = Path(str(SHARED)) / "data" / "fox"
    by_name = {view.image.name: view for view in read_transforms(fox).views}
    ours = read_colmap(fox).views
    theirs = [by_name[view.image.name] for view in ours]
    centers = np.stack([view.cam_to_world[:3, 3] for view in theirs])
    scale, rotation, shift = _similarity(np.stack([view.cam_to_world[:3, 3] for view in ours]), centers)
    size = 2 * np.linalg.norm(centers - centers.mean(0), axis=1).max()
    pixels = np.stack(np.meshgrid(np.linspace(60, 480, 5), np.linspace(100, 860, 7)), -1).reshape(-1, 2)
    for one, other in zip(ours, theirs, strict=True):
        moved = scale * rotation @ one.cam_to_world[:3, 3] + shift
        assert np.linalg.norm(moved - other.cam_to_world[:3, 3]) < 0.005 * size
        ray = _rays(one.lens.resized((540, 960)), pixels) @ (rotation @ one.cam_to_world[:3, :3]).T
        expected = _rays(other.lens.resized((540, 960)), pixels) @ other.cam_to_world[:3, :3].T
        assert np.degrees(np.arccos(np.clip((ray * expected).sum(1), -1, 1))).max() < 0.2


@needs_shared
def test_fox_tracks_reproject_after_undistortion(tmp_path):
    """COLMAP's own observations, moved by the lens's inverse, lie where the scene's cameras project the points."""
    fox = Path(str(SHARED)) / "data" / "fox"
    import_capture(read_colmap(fox), tmp_path / "fox", downscale=8)
    rec = pycolmap.Reconstruction(fox / "sparse" / "0")
    size = read_image(tmp_path / "fox/img/0/img_0001.jpg").shape[1::-1]
    cameras = read_cameras(tmp_path / "fox/CamPose.inf", tmp_path / "fox/Intrinsic.inf", size).resized((540, 960))
    assert len(read_points(tmp_path / "fox/pointclouds/frame1.ply")) == len(rec.points3D)
    errors = []
    for i, image in enumerate(sorted(rec.images.values(), key=lambda image: image.name)):
        seen = [point for point in image.points2D if point.has_point3D()]
        plane = rec.cameras[image.camera_id].cam_from_img(np.array([point.xy for point in seen]))
        matrix = cameras.intrinsics[i].numpy()
        expected = plane[:, :2] * [matrix[0, 0], matrix[1, 1]] + matrix[:2, 2]
        world = torch.tensor(np.array([rec.points3D[point.point3D_id].xyz for point in seen])).float()
        errors.append(np.linalg.norm(project(world[None], cameras[i])[0][0].numpy() - expected, axis=1))
    assert np.median(np.concatenate(errors)) < 1.0
