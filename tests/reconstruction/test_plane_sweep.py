# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from npcr.camera_paths import look_at
from npcr.cameras import Cameras, camera_rays
from npcr.errors import SceneError
from npcr.io.images import write_image
from npcr.io.points import PointCloud
from npcr.reconstruction.plane_sweep import densify


def textured_plane(folder, size=(160, 120)):
    """Photographs by five cameras of the plane z = 0, painted with smooth noise."""
    import cv2
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8), (768, 768), interpolation=cv2.INTER_CUBIC)
    poses = np.stack([look_at((x, y, -4), (0, 0, 0), (0, 1, 0))
                      for x, y in ((0, 0), (0.5, 0), (-0.5, 0.1), (0, 0.5), (0.1, -0.5))])
    matrix = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])
    cameras = Cameras(torch.tensor(poses).float(), torch.tensor(np.tile(matrix, (5, 1, 1))).float(), size)
    files = []
    for i, rays in enumerate(camera_rays(cameras).numpy()):
        origin = poses[i, :3, 3]
        hit = origin + rays * (-origin[2] / rays[..., 2:])
        maps = ((hit[..., :2] + 3) * 768 / 6).astype(np.float32)
        files.append(folder / f"{i}.png")
        write_image(files[-1], cv2.remap(texture, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR))
    return cameras, files


def test_points_are_found_on_the_surface(tmp_path):
    cameras, files = textured_plane(tmp_path)
    corners = np.random.default_rng(1).uniform(-1, 1, (30, 3))
    corners[:, 2] *= 0.2
    sparse = PointCloud(corners.astype(np.float32), np.zeros((30, 3), np.uint8))
    dense = densify(sparse, cameras, files, [None] * 5, 3000, planes=48)
    np.testing.assert_array_equal(dense.positions[:30], sparse.positions)
    found = dense.positions[30:]
    assert 1500 < len(dense) <= 3000
    assert np.median(np.abs(found[:, 2])) < 0.02
    assert (np.abs(found[:, 2]) < 0.1).mean() > 0.97
    # Colored as painted: the photographs vary, and so do the points.
    assert dense.colors[30:].std() > 20


def test_a_matte_bounds_the_search(tmp_path):
    cameras, files = textured_plane(tmp_path)
    matte = np.zeros((120, 160), np.uint8)
    matte[:, :60] = 255
    write_image(tmp_path / "matte.png", matte)
    sparse = PointCloud(np.random.default_rng(1).uniform(-0.5, 0.5, (30, 3)).astype(np.float32))
    dense = densify(sparse, cameras, files, [tmp_path / "matte.png"] * 5, 10**6, planes=48)
    everything = densify(sparse, cameras, files, [None] * 5, 10**6, planes=48)
    assert 30 < len(dense) < 0.7 * len(everything)
    assert dense.colors is None  # the sparse cloud had none


def test_two_photographs_are_too_few(tmp_path):
    cameras, files = textured_plane(tmp_path)
    with pytest.raises(SceneError, match="at least 3, the capture has 2"):
        densify(PointCloud(np.zeros((9, 3), np.float32)), cameras[[0, 1]], files[:2], [None] * 2, 100)


def test_what_is_not_searched_or_found_is_said(tmp_path, caplog):
    cameras, files = textured_plane(tmp_path)
    sparse = PointCloud(np.random.default_rng(1).uniform(-0.5, 0.5, (30, 3)).astype(np.float32))
    assert densify(sparse, cameras, files, [None] * 5, 30) is sparse
    assert "--densify 30: the cloud has 30 points already; none is added" in caplog.text
    caplog.clear()
    turned = cameras.cam_to_world.clone()
    turned[1, :3, :3] @= torch.diag(torch.tensor([1.0, -1, -1]))
    write_image(tmp_path / "gray.png", np.full((120, 160, 3), 128, np.uint8))
    gray = [tmp_path / "gray.png"] * 5
    cameras = Cameras(turned, cameras.intrinsics, cameras.size)
    assert densify(sparse, cameras, gray, [None] * 5, 99, planes=4) is sparse
    assert [record.getMessage() for record in caplog.records] == [
        "--densify: 1 of 5 photographs see fewer than 8 points of the sparse cloud and are not searched, first "
        f"{gray[0]}",
        "--densify: photographs agree on no point; the cloud stays at 30 points. Do cameras and photographs belong "
        "together, and is there texture?"]
