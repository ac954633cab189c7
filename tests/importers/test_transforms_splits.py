# SPDX-License-Identifier: Apache-2.0
"""Which photographs of a transforms.json are held out: split lists, and files for each split."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.transforms import read_transforms
from npcr.io.points import PointCloud, write_points
from tests.captures import edit_transforms, points, write_transforms


def splits(folder: Path) -> list[str]:
    return [view.split for view in read_transforms(folder).views]


@pytest.mark.parametrize("written", [
    "./images/{}.png", "images\\{}.png", ".\\images\\{}.png", "images//{}.png", "images/{}", "{}.png", "{}",
    "/home/somebody/capture/images/{}.png", "C:\\capture\\images\\{}.png", "images/%3{}.png"])
def test_a_list_may_write_paths_in_another_way(tmp_path, caplog, written):
    lists = {"train_filenames": [written.format(i) for i in (0, 1)], "val_filenames": [written.format(2)],
             "test_filenames": [written.format(3)]}
    assert splits(write_transforms(tmp_path, **lists)) == ["train", "train", "val", "test"]
    assert caplog.text == ""


def test_file_path_may_be_the_one_that_lacks_suffix_or_dot(tmp_path):
    folder = write_transforms(tmp_path, train_filenames=["images/0.png", "images/1.png"],
                              test_filenames=["images/2.png", "images/3.png"])
    edit_transforms(folder, lambda v: [f.update(file_path=f"./images/{i}") for i, f in enumerate(v["frames"])])
    assert splits(folder) == ["train", "train", "test", "test"]


def test_another_folder_is_said(tmp_path, caplog):
    lists = {"train_filenames": [f"images_2/{i}.png" for i in range(3)], "test_filenames": ["images_2/3.png"]}
    assert splits(write_transforms(tmp_path, **lists)) == ["train"] * 3 + ["test"]
    assert "another folder" in caplog.text
    assert "4 of 4 frames, first images_2/0.png for images/0.png" in caplog.text


def test_frames_in_no_list_are_said_and_trained_on(tmp_path, caplog):
    folder = write_transforms(tmp_path, train_filenames=["images/0.png"], test_filenames=["images/1.png"])
    assert splits(folder) == ["train", "test", "train", "train"]
    assert "none of train_filenames, test_filenames; they are used to train on (2 of 4 frames, first images/2.png)" \
        in caplog.text


def test_empty_lists_of_held_out_frames_are_in_order(tmp_path, caplog):
    folder = write_transforms(tmp_path, train_filenames=[f"images/{i}.png" for i in range(4)], val_filenames=[],
                              test_filenames=[])
    assert splits(folder) == ["train"] * 4
    assert caplog.text == ""


@pytest.mark.parametrize(("lists", "message"), [
    ({"test_filenames": ["images/0.png", "images/9.png"]}, r"test_filenames\[1\] is 'images/9.png'.* no frame"),
    ({"test_filenames": ["images/0.jpg"]}, r"test_filenames\[0\] is 'images/0.jpg'.* no frame"),
    ({"test_filenames": [""]}, r"test_filenames\[0\] is ''"),
    ({"test_filenames": [3]}, r"test_filenames\[0\] is 3"),
    ({"test_filenames": "images/0.png"}, "test_filenames is 'images/0.png'; it must be a list"),
    ({"train_filenames": ["images/0.png"], "val_filenames": ["./images\\0"]},
     r"val_filenames\[0\] .*which train_filenames\[0\] has already"),
    ({"train_filenames": [], "test_filenames": [f"images/{i}.png" for i in range(4)]}, "none of its 4 .*for training")])
def test_lists_that_cannot_be_followed_are_refused(tmp_path, lists, message):
    with pytest.raises(SceneError, match=message) as caught:
        read_transforms(write_transforms(tmp_path, **lists))
    assert "transforms.json" in str(caught.value)


def test_a_name_that_several_frames_have_is_refused(tmp_path):
    folder = write_transforms(tmp_path, test_filenames=["0.png"])
    (folder / "left").mkdir()
    (folder / "images/1.png").rename(folder / "left/0.png")
    edit_transforms(folder, lambda v: v["frames"][1].update(file_path="left/0.png"))
    with pytest.raises(SceneError, match=r"test_filenames\[0\] is '0.png', which may be images/0.png or left/0.png"):
        read_transforms(folder)


def _write_split_files(folder: Path, **more: dict[str, Any]) -> Path:
    """transforms_train.json with two frames, _test.json with the others; `more` for the top level of each."""
    values = json.loads((write_transforms(folder) / "transforms.json").read_text())
    for split, part in (("train", slice(0, 2)), ("test", slice(2, 4))):
        text = json.dumps({**values, "frames": values["frames"][part], **more.get(split, {})})
        (folder / f"transforms_{split}.json").write_text(text)
    (folder / "transforms.json").unlink()
    return folder


def test_each_file_of_a_split_has_its_own_lens(tmp_path):
    views = read_transforms(_write_split_files(tmp_path, test={"fl_x": 60.0, "k1": 0.1})).views
    assert [(view.split, view.lens.focal[0], view.lens.distortion is None) for view in views] \
        == [("train", 50.0, True)] * 2 + [("test", 60.0, False)] * 2


def test_the_file_that_is_read_in_a_folder_is_said(tmp_path, caplog):
    _write_split_files(tmp_path)
    assert splits(tmp_path) == ["train", "train", "test", "test"]
    assert caplog.text == ""
    write_transforms(tmp_path)
    assert splits(tmp_path) == ["train"] * 4
    assert "transforms.json is read and transforms_test.json, transforms_train.json not" in caplog.text


def test_files_in_different_coordinates_are_refused(tmp_path):
    turned = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0]]).tolist()
    _write_split_files(tmp_path, train={"applied_scale": 0.5}, test={"applied_scale": 0.5, "applied_transform": turned})
    with pytest.raises(SceneError, match=r"transforms_test.json: applied_transform is .*different coordinates"):
        read_transforms(tmp_path)
    assert len(read_transforms(tmp_path, undo_applied_transform=True).views) == 4


def test_one_cloud_of_two_is_taken_and_said(tmp_path):
    for name in ("a.ply", "b.ply"):
        write_points(tmp_path / name, PointCloud(points().astype(np.float32)))
    _write_split_files(tmp_path, train={"ply_file_path": "a.ply"}, test={"ply_file_path": "b.ply"})
    capture = read_transforms(tmp_path)
    assert capture.clouds == [tmp_path / "a.ply"]
    assert "a.ply is used" in capture.cloud_remarks[0]
    assert "b.ply is not" in capture.cloud_remarks[0]


@pytest.mark.parametrize(("lists", "said"), [
    ({"test_filenames": ["2.png", "3.png"]}, "none of the 2 photographs for test exists, first .*2.png; in their place "
     "some of those to train on are held out .DATASETS.HOLDOUT_EVERY.. Put them there"),
    ({"val_filenames": ["1.png"], "test_filenames": ["2.png", "3.png"]}, "2 photographs for test .* those for val")])
def test_a_split_whose_photographs_do_not_exist_is_said(tmp_path, caplog, lists, said):
    folder = write_transforms(tmp_path, train_filenames=["0.png"] if "val_filenames" in lists else ["0.png", "1.png"],
                              **lists)
    (folder / "images/3.png").unlink()
    read_transforms(folder)
    assert caplog.text == ""
    (folder / "images/2.png").unlink()
    read_transforms(folder)
    assert re.search(said, caplog.text)


def test_a_training_split_whose_photographs_do_not_exist_is_refused(tmp_path):
    folder = write_transforms(tmp_path, train_filenames=["0.png"], test_filenames=["1.png", "2.png", "3.png"])
    (folder / "images/0.png").unlink()
    with pytest.raises(SceneError, match=r"none of its 4 .* for training but 1 that do not exist, first .*0.png"):
        read_transforms(folder)


def test_a_view_that_is_trained_on_and_held_out_is_said(tmp_path, caplog):
    folder = _write_split_files(tmp_path)
    train = json.loads((folder / "transforms_train.json").read_text())
    test = json.loads((folder / "transforms_test.json").read_text())
    test["frames"].append(train["frames"][0])
    (folder / "transforms_test.json").write_text(json.dumps(test))
    assert len(read_transforms(folder).views) == 5
    assert "1 of 5 frames name a photograph that another frame names" in caplog.text
    assert "says nothing about new views" in caplog.text
