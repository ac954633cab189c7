# SPDX-License-Identifier: Apache-2.0
"""Masks by the names that tools give them, and messages about those that are not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from npcr.errors import SceneError
from npcr.importers.masks import find_masks, find_masks_near


def _files(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def _found(tmp_path: Path, photographs: list[str], masks: list[str]) -> list[str | None]:
    """The masks found for photographs in images/, in a folder that has these masks."""
    images, folder = _files(tmp_path / "images", photographs), _files(tmp_path / "masks", masks)
    found = find_masks(folder, [images / name for name in photographs], needed="none")
    return [str(mask.relative_to(folder)) if mask is not None else None for mask in found]


@pytest.mark.parametrize("mask", ["x.jpg.png", "x.png", "x.jpg", "x.PNG", "x.JPG.png", "x_mask.png", "x_alpha.png",
                                  "x_matte.png", "mask_x.png", "x_Mask.PNG", "x.jpeg"])
def test_every_name_in_use(tmp_path, caplog, mask):
    assert _found(tmp_path, ["x.jpg"], [mask, "y.png", "1x.png", "x1_mask.png"]) == [mask]
    assert not caplog.records


@pytest.mark.parametrize(("photographs", "masks"), [
    (["rigA/left/0.png", "rigB/left/0.png"], ["rigA/left/0.png.png", "rigB/left/0.png.png"]),
    (["rigA/left/0.png", "rigB/left/0.png"], ["rigA/0.png", "rigB/0.png"]),
    (["a/rigA/left/0.png", "a/rigA/right/0.png"], ["rigA/left/0.png", "rigA/right/0.png"]),
    (["a/b/c/d/0.png", "a/b/c/e/0.png"], ["a/d/0_mask.png", "a/e/0_mask.png"]),
    (["left/0.png", "right/1.png"], ["0.png", "1.png"]),
    (["left/0.png", "right/0.png"], ["Left/0.png", "RIGHT/0.png"]),
])
def test_folders_that_mirror_the_photographs(tmp_path, caplog, photographs, masks):
    assert _found(tmp_path, photographs, masks) == masks
    assert not caplog.records


def test_the_most_of_the_folders_and_the_most_certain_name_count(tmp_path):
    assert _found(tmp_path, ["left/0.png"], ["0.png.png", "left/0.png"]) == ["left/0.png"]
    assert _found(tmp_path, ["1.jpg"], ["1.png", "1_mask.png", "1.jpg.png"]) == ["1.jpg.png"]
    assert _found(tmp_path, ["A.jpg", "a.jpg"], ["A.png", "a.png"]) == ["A.png", "a.png"]


def test_no_mask_serves_two_photographs(tmp_path):
    with pytest.raises(SceneError, match=r"masks/0.png: would be the mask of both .*rigA/0.png and .*rigB/0.png"):
        _found(tmp_path, ["rigA/0.png", "rigB/0.png"], ["0.png"])


def test_the_mask_of_another_folder_is_not_taken(tmp_path, caplog):
    assert _found(tmp_path, ["rigA/left/0.png", "rigB/left/0.png"], ["rigA/left/0.png"]) == ["rigA/left/0.png", None]
    assert "has no mask for 1 of 2 photographs, first" in caplog.text
    assert "rigB/left/0.png; looked for 0.png.png, 0_mask.png" in caplog.text


def test_masks_that_fit_equally_well_are_refused(tmp_path):
    with pytest.raises(SceneError, match=r"2 masks fit .*0.png equally well: a/0.png, b/0.png; leave one"):
        _found(tmp_path, ["a/b/0.png"], ["a/0.png", "b/0.png"])


def test_a_photograph_is_not_its_own_mask(tmp_path):
    images = _files(tmp_path / "images", ["0.png", "0_mask.png", "1.png"])
    found = find_masks(images, [images / "0.png", images / "1.png"], needed="none")
    assert found == [images / "0_mask.png", None]


@pytest.mark.parametrize(("masks", "there"), [(["cat.png", "dog.png"], r"2 pictures, such as cat.png"),
                                              (["notes.txt"], r"no pictures, but notes.txt"), ([], "no pictures")])
def test_a_folder_without_any_mask(tmp_path, caplog, masks, there):
    """It is refused where the user named it, and said where it was found beside the photographs."""
    images, folder = _files(tmp_path / "images", ["0.png", "1.png"]), _files(tmp_path / "masks", masks)
    folder.mkdir(exist_ok=True)
    message = rf"masks: has no mask for 2 of 2 photographs, first .*0.png; looked for 0.png.png, .*, which have {there}"
    with pytest.raises(SceneError, match=message):
        find_masks(folder, [images / "0.png", images / "1.png"])
    find_masks(folder, [images / "0.png", images / "1.png"], needed="none")
    assert "has no mask for 2 of 2 photographs" in caplog.text
    with pytest.raises(SceneError, match="no such folder of masks"):
        find_masks(tmp_path / "none", [images / "0.png"])


def test_all_that_are_needed(tmp_path):
    images, folder = _files(tmp_path / "images", ["0.png", "1.png"]), _files(tmp_path / "trimaps", ["0.png"])
    with pytest.raises(SceneError, match=r"has no trimap for 1 of 2 photographs, first .*1.png"):
        find_masks(folder, [images / "0.png", images / "1.png"], needed="all", kind="trimap")


@pytest.mark.parametrize("name", ["Masks", "mask", "MATTES", "matte", "alpha", "segmentations", "silhouette"])
def test_a_folder_named_after_masks_is_used_and_said(tmp_path, caplog, name):
    images, folder = _files(tmp_path / "images", ["0.png", "1.png"]), _files(tmp_path / name, ["0.png", "1.png"])
    assert find_masks_near([images / "..", images, tmp_path], [images / "0.png", images / "1.png"]) == [
        folder / "0.png", folder / "1.png"]
    assert f"{folder}: is taken for the folder of masks, since it has those of 2 of 2 photographs" in caplog.text


def test_of_several_folders_of_masks_the_one_that_serves_most_photographs_is_used(tmp_path, caplog):
    images = _files(tmp_path / "images", ["0.png", "1.png"])
    photographs = [images / "0.png", images / "1.png"]
    _files(tmp_path / "masks", ["0.png", "1.png"])
    assert find_masks_near([tmp_path], photographs)[1] == tmp_path / "masks/1.png"
    assert not caplog.records
    (tmp_path / "masks/0.png").unlink()
    _files(tmp_path / "alpha", ["0.png", "1.png"])
    assert find_masks_near([tmp_path], photographs)[0] == tmp_path / "alpha/0.png"
    assert f"not used: {tmp_path / 'masks'}; --masks names another" in caplog.text


def test_folders_that_hold_photographs_are_no_masks(tmp_path, caplog):
    images = _files(tmp_path / "images", ["alpha/0.png", "beta/0.png"])
    assert find_masks_near([images], [images / "alpha/0.png", images / "beta/0.png"]) == [None, None]
    assert not caplog.records


def test_the_photographs_own_folder_without_masks_is_named_as_such(tmp_path):
    images = _files(tmp_path / "images", ["0.png", "1.png"])
    with pytest.raises(SceneError, match=r"has no mask for 2 of 2 .* It is the photographs' own folder, where a mask"):
        find_masks(images, [images / "0.png", images / "1.png"])
