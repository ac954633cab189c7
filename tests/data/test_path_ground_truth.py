# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from npcr.data.path_ground_truth import PathGroundTruth
from npcr.errors import SceneError
from npcr.io.images import write_image

SIZE = (8, 6)


def write_truth(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, count + 1):
        rgba = np.full((6, 8, 4), 200, np.uint8)
        rgba[..., 3] = 51 * number
        write_image(folder / f"img_{number:04d}.png", rgba)
        position = np.full((6, 8, 3), number, np.float32)
        position[0] = np.nan
        np.savez(folder / f"geometry_{number:04d}.npz", position=position, depth=np.full((6, 8), number, np.float32))


def test_pictures_come_premultiplied_and_geometry_as_it_is(tmp_path: Path) -> None:
    write_truth(tmp_path, 3)
    truth = PathGroundTruth(tmp_path, 3, SIZE)
    assert truth.has_images
    assert truth.has_geometry
    image = truth.image(1)
    assert tuple(image.shape) == (1, 4, 6, 8)
    assert image[0, 3].numpy() == pytest.approx(0.4)
    assert image[0, :3].numpy() == pytest.approx(200 / 255 * 0.4, abs=1 / 255)
    position, depth = truth.geometry(2)
    assert (tuple(position.shape), tuple(depth.shape)) == ((1, 6, 8, 3), (1, 6, 8))
    assert position[0, 0].isnan().all()
    assert (position[0, 1:] == 3).all()


def test_a_folder_without_truth_has_none(tmp_path: Path) -> None:
    truth = PathGroundTruth(tmp_path, 3, SIZE)
    assert not truth.has_images
    assert not truth.has_geometry


def test_another_size_resizes_pictures_and_leaves_geometry_out(tmp_path: Path,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    write_truth(tmp_path, 1)
    with caplog.at_level(logging.WARNING, "npcr"):
        truth = PathGroundTruth(tmp_path, 1, (4, 3))
    assert tuple(truth.image(0).shape) == (1, 4, 3, 4)
    assert not truth.has_geometry
    assert "geometry is of 8x6, INPUT.SIZE_TEST is 4x3: left out" in caplog.text


def test_what_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    write_truth(tmp_path, 3)
    (tmp_path / "img_0002.png").unlink()
    with pytest.raises(SceneError, match=r"img_0002\.png: missing; the path has 3 cameras"):
        PathGroundTruth(tmp_path, 3, SIZE)
    write_truth(tmp_path, 3)
    (tmp_path / "geometry_0002.npz").write_bytes(b"nonsense")
    with pytest.raises(SceneError, match=r"geometry_0002\.npz: is not a geometry file"):
        PathGroundTruth(tmp_path, 3, SIZE).geometry(1)
    np.savez(tmp_path / "geometry_0002.npz", position=np.zeros((6, 8)), depth=np.zeros((6, 8)))
    with pytest.raises(SceneError, match=r"position must be \(H, W, 3\)"):
        PathGroundTruth(tmp_path, 3, SIZE).geometry(1)
