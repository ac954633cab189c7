# SPDX-License-Identifier: Apache-2.0
"""Files that a transforms.json names in another way than the disk does, or that are not there."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.base import Capture
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.images import write_image
from npcr.io.points import PointCloud, write_points
from tests.captures import edit_transforms, points, write_transforms


def found(folder: Path, name: str) -> Path:
    """The photograph of the first frame, whose file_path is `name`."""
    edit_transforms(folder, lambda v: v["frames"][0].update(file_path=name))
    capture = read_transforms(folder)
    assert capture.missing == []
    return capture.views[0].image


@pytest.mark.parametrize("name", ["./images/0.png", "images\\0.png", "images/0", "images//0.png", "{}/images/0.png"])
def test_ways_to_write_a_path_that_are_in_order(tmp_path, caplog, name):
    assert found(write_transforms(tmp_path), name.format(tmp_path)).samefile(tmp_path / "images/0.png")
    assert caplog.text == ""


@pytest.mark.parametrize(("name", "said"), [
    ("images/%30.png", "encoded as in a URL"),
    ("images/0.PNG", "differs in capitals"),
    ("Images/0.png", "differs in capitals"),
    ("/home/somebody/capture/images/0.png", "another machine"),
    ("C:\\Users\\somebody\\capture\\images\\0.png", "another machine")])
def test_files_that_are_found_by_another_name_are_said(tmp_path, caplog, name, said):
    assert found(write_transforms(tmp_path), name).samefile(tmp_path / "images/0.png")
    assert said in caplog.text
    assert "1 of 4 frames, first frames[0]: file_path" in caplog.text


def test_accents_have_two_forms(tmp_path):
    folder = write_transforms(tmp_path)
    (folder / "images/0.png").rename(folder / "images" / unicodedata.normalize("NFD", "f\u00eate.png"))
    assert unicodedata.normalize("NFC", found(folder, "images/f\u00eate.png").name) == "f\u00eate.png"


def test_smaller_photographs_take_the_place_of_those_not_there(tmp_path, caplog):
    folder = write_transforms(tmp_path)
    (folder / "images").rename(folder / "images_2")
    views = read_transforms(folder).views
    assert [view.image for view in views] == [folder / "images_2" / f"{i}.png" for i in range(4)]
    assert "a smaller one (4 of 4 frames" in caplog.text
    edit_transforms(folder, lambda v: [v.pop("w"), v.pop("h")])  # the size that fl_x refers to is not known then
    with pytest.raises(SceneError, match="none of its 4 photographs exists"):
        read_transforms(folder)


def test_a_name_without_suffix_that_two_files_have_is_refused(tmp_path):
    folder = write_transforms(tmp_path)
    write_image(folder / "images/0.jpg", np.zeros((36, 48, 3), np.uint8))
    with pytest.raises(SceneError, match=r"frames\[0\]: file_path is 'images/0', and there are 0.jpg and 0.png"):
        found(folder, "images/0")


def test_mattes_are_not_taken_for_photographs(tmp_path):
    folder = write_transforms(tmp_path)
    (folder / "images").rename(folder / "masks")
    with pytest.raises(SceneError, match="none of its 4 photographs exists"):
        read_transforms(folder)


@pytest.mark.parametrize("key", ["mask_path", "mask", "maskPath"])
def test_masks_of_frames(tmp_path, key):
    folder = edit_transforms(write_transforms(tmp_path), lambda v: [
        f.update({key: f"masks\\{i}"}) for i, f in enumerate(v["frames"])])
    for i in range(4):
        write_image(folder / f"masks/{i}.png", np.zeros((36, 48), np.uint8))
    assert [view.mask for view in read_transforms(folder).views] == [folder / "masks" / f"{i}.png" for i in range(4)]


def capture_with_masks(folder: Path, count: int) -> Capture:
    """A capture of four photographs, of whose masks only the first so many exist; two are held out."""
    edit_transforms(write_transforms(folder, test_filenames=["2.png", "3.png"], train_filenames=["0.png", "1.png"]),
                    lambda v: [f.update(mask_path=f"masks/{i}.png") for i, f in enumerate(v["frames"])])
    for i in range(count):
        write_image(folder / f"masks/{i}.png", np.eye(36, 48, dtype=np.uint8) * 255)
    return read_transforms(folder)


@pytest.mark.parametrize("mask", [None, True])
def test_masks_none_of_which_exist_are_refused_as_masks(tmp_path, mask):
    capture = capture_with_masks(tmp_path / "capture", 0)
    with pytest.raises(SceneError, match=r"transforms.json: 4 of the 4 masks .* first .*masks/0.png; .*--no-mask"):
        import_capture(capture, tmp_path / "scene", mask=mask)


def test_photographs_whose_mask_does_not_exist_are_left_out_and_said(tmp_path, caplog):
    assert len(import_capture(capture_with_masks(tmp_path / "a", 3), tmp_path / "scene")) == 2
    assert len(list((tmp_path / "scene/test/img/0").glob("*_alpha.png"))) == 1
    assert "1 of the 4 masks that it names do not exist" in caplog.text
    assert "left out; --no-mask imports all of them" in caplog.text
    assert len(import_capture(capture_with_masks(tmp_path / "b", 2), tmp_path / "train")) == 2
    assert "left out, and with them all for test; " in caplog.text


def test_no_mask_needs_no_masks(tmp_path, caplog):
    import_capture(capture_with_masks(tmp_path / "capture", 1), tmp_path / "scene", mask=False)
    assert len(list((tmp_path / "scene").rglob("img_*.png"))) == 4
    assert "masks" not in caplog.text


def test_a_mask_that_is_no_path_is_no_matte(tmp_path):
    folder = edit_transforms(write_transforms(tmp_path), lambda v: [f.update(mask=True) for f in v["frames"]])
    assert [view.mask for view in read_transforms(folder).views] == [None] * 4


def test_a_folder_of_masks_that_no_frame_names_is_said(tmp_path, caplog):
    folder = write_transforms(tmp_path)
    for i in range(4):
        write_image(folder / f"masks/images/{i}.png", np.zeros((36, 48), np.uint8))
    read_transforms(folder)
    assert f"4 pictures in {folder / 'masks'} are not used, first {folder / 'masks/images/0.png'}" in caplog.text
    assert "mask_path" in caplog.text
    caplog.clear()
    write_image(folder / "images/0.png", np.zeros((36, 48, 4), np.uint8))
    read_transforms(folder)
    assert caplog.text == ""  # the photographs have mattes of their own


def test_a_cloud_that_is_not_there_is_said(tmp_path):
    capture = read_transforms(write_transforms(tmp_path, ply_file_path="gone.ply"))
    assert capture.clouds == []
    assert "ply_file_path is 'gone.ply', and there is no such file" in capture.cloud_remarks[0]
    assert "--points names a cloud" in capture.cloud_remarks[0]


def test_a_cloud_whose_name_differs_in_capitals_is_found_and_said(tmp_path, caplog):
    folder = write_transforms(tmp_path, ply_file_path="sparse_pc.ply")
    write_points(folder / "cloud.ply", PointCloud(points().astype(np.float32)))
    (folder / "cloud.ply").rename(folder / "sparse_pc.PLY")
    assert read_transforms(folder).clouds[0].samefile(folder / "sparse_pc.PLY")
    if not (folder / "sparse_pc.ply").is_file():  # of disks that tell capitals apart
        assert "sparse_pc.PLY for sparse_pc.ply" in caplog.text


@pytest.mark.parametrize("value", [3, "", ["cloud.ply"]])
def test_a_cloud_is_named_by_a_path(tmp_path, value):
    with pytest.raises(SceneError, match="ply_file_path is "):
        read_transforms(write_transforms(tmp_path, ply_file_path=value))


@pytest.mark.parametrize("name", ["x" * 5000, "images/\ud800.png"])
def test_names_that_no_file_can_have_are_missing(tmp_path, name):
    folder = edit_transforms(write_transforms(tmp_path), lambda v: v["frames"][0].update(file_path=name))
    assert len(read_transforms(folder).missing) == 1


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_that_is_not_utf_8(tmp_path, encoding):
    values: dict[str, Any] = json.loads((write_transforms(tmp_path) / "transforms.json").read_text())
    text = json.dumps({**values, "note": "f\u00eate"}, ensure_ascii=False)
    (tmp_path / "transforms.json").write_bytes(text.encode(encoding))
    with pytest.raises(SceneError, match=r"transforms.json: not text in UTF-8 .*save it as UTF-8"):
        read_transforms(tmp_path)
