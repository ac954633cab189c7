# SPDX-License-Identifier: Apache-2.0
"""Which photograph a camera of Metashape's gets: its own for certain, or none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from npcr.errors import SceneError
from npcr.importers.metashape import read_metashape
from tests.captures import metashape_xml, write_photographs


def capture(folder: Path, labels: Sequence[str], files: Sequence[str], groups: Sequence[str] = (),
            **options: Path) -> dict[str, str | None]:
    """Read four cameras with these labels (and groups) from these files, numbered in the order of their pixels.

    Returns {camera: photograph's path within the folder}, the camera as "number label".
    """
    made = write_photographs(folder / "made", len(files))
    for name, file in zip(made, files, strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "made" / name).rename(folder / file)
    (folder / "made").rmdir()
    text = metashape_xml()
    for number, label in enumerate(labels):
        text = text.replace(f'label="{number}"', f'label="{label}"')
    if groups:
        for number, group in enumerate(groups):
            text = text.replace(f'<camera id="{number}"', f'<group label="{group}"><camera id="{number}"')
        text = text.replace("</camera>", "</camera></group>")
    (folder / "cameras.xml").write_text(text)
    views = read_metashape(folder / "cameras.xml", **options).views
    return {f"{number} {view.label}": str(view.image.relative_to(folder)) for number, view in enumerate(views)}


NAMES = ["000", "001", "002", "003"]
TWICE = ["000", "001", "000", "001"]
TWO_FOLDERS = ["images/cam1/000.png", "images/cam1/001.png", "images/cam2/000.png", "images/cam2/001.png"]


def test_groups_with_the_same_labels_have_a_folder_each(tmp_path, caplog):
    found = capture(tmp_path, TWICE, TWO_FOLDERS, ["cam1", "cam1", "Cam2", "Cam2"])
    assert list(found.values()) == TWO_FOLDERS
    assert caplog.text == ""


@pytest.mark.parametrize("groups", [(), ["Group 1", "Group 1", "Group 2", "Group 2"]])
def test_the_same_labels_without_a_folder_for_each_are_refused(tmp_path, groups):
    with pytest.raises(SceneError, match=r"000.*: 2 photographs fit, such as .*cam1/000.png and .*cam2/000.png"):
        capture(tmp_path, TWICE, TWO_FOLDERS, groups)


def test_another_groups_photograph_is_not_taken_where_the_own_is_missing(tmp_path):
    found = capture(tmp_path, TWICE, [TWO_FOLDERS[0], *TWO_FOLDERS[2:]], ["cam1", "cam1", "cam2", "cam2"])
    assert found == {"0 000": TWO_FOLDERS[0], "1 000": TWO_FOLDERS[2], "2 001": TWO_FOLDERS[3]}


def test_a_group_may_have_the_name_of_the_folder_of_all(tmp_path, caplog):
    files = [f"images/photos/{name}.png" for name in NAMES]
    text = ["photos", "photos", "rest", "rest"]
    assert list(capture(tmp_path, NAMES, files, text).values()) == files
    assert "2 photographs are found by their name alone" in caplog.text


def test_one_photograph_is_not_given_to_two_cameras(tmp_path):
    with pytest.raises(SceneError, match=r"000.png fits two cameras, '000' and '000' of group 'b'"):
        capture(tmp_path, ["000", "001", "000", "003"], ["images/000.png", "images/001.png", "images/003.png"],
                ["a", "a", "b", "b"])


@pytest.mark.parametrize("folder", ["masks", "Mask", "mattes", "segmentations"])
def test_mattes_are_not_photographs(tmp_path, caplog, folder):
    photos, masks = [f"photos/{n}.png" for n in NAMES], [f"{folder}/{n}.png" for n in NAMES]
    assert list(capture(tmp_path, NAMES, photos + masks).values()) == photos
    assert "4 pictures that are mattes by their folders' names or their own are not used" in caplog.text


def test_a_named_folder_of_mattes_holds_no_photographs_whatever_its_name(tmp_path, caplog):
    photos, masks = [f"photos/{n}.png" for n in NAMES[1:]], [f"cutouts/{n}.png" for n in NAMES]
    found = capture(tmp_path, NAMES, photos + masks, masks=tmp_path / "cutouts")
    assert list(found.values()) == photos
    assert caplog.text == ""


def test_mattes_beside_the_folder_of_photographs_are_said(tmp_path, caplog):
    photos, masks = [f"images/{n}.png" for n in NAMES], [f"masks/{n}.png" for n in NAMES]
    assert list(capture(tmp_path, NAMES, photos + masks).values()) == photos
    assert "4 pictures that are mattes by their folders' names or their own are not used" in caplog.text


@pytest.mark.parametrize("masks", [[f"cutouts/{n}.png" for n in NAMES], [f"photos/{n}.jpg" for n in NAMES]])
def test_where_photographs_and_other_pictures_have_one_name_it_is_refused(tmp_path, masks):
    with pytest.raises(SceneError, match=r"000: 2 photographs fit, such as .*; --images names"):
        capture(tmp_path, NAMES, [f"photos/{n}.png" for n in NAMES] + masks)


def test_the_suffix_and_the_case_of_a_label_decide_where_names_differ_in_nothing_else(tmp_path, caplog):
    labels = ["000.png", "001.jpeg", "A", "a"]
    files = ["images/000.png", "images/000.jpg", "images/001.jpg", "images/001.jpg.png", "images/A.png",
             "images/a.png"]
    found = capture(tmp_path, labels, files)
    assert list(found.values()) == ["images/000.png", "images/001.jpg", "images/A.png", "images/a.png"]
    assert caplog.text == ""


def test_a_matte_beside_a_missing_photograph_is_not_taken_for_it(tmp_path):
    labels = [f"{n}.png" for n in NAMES]
    files = ["images/000.png.png", "images/001_mask.png", "images/002.png", "images/003.png"]
    assert list(capture(tmp_path, labels, files).values()) == files[2:]


@pytest.mark.parametrize("where", ["/data/project/photos/", "D:\\project\\photos\\", "\\\\server\\photos\\",
                                   "D:/project/photos/", "file:///data/photos/", "photos/", "photos\\"])
@pytest.mark.parametrize("suffix", ["", ".png", ".PNG"])
def test_labels_may_be_paths_of_another_machine(tmp_path, caplog, where, suffix):
    files = [f"images/{n}.png" for n in NAMES]
    assert list(capture(tmp_path, [where + n + suffix for n in NAMES], files).values()) == files
    assert caplog.text == ""


@pytest.mark.parametrize("root", ["", "/data/", "D:\\data\\"])
def test_folders_within_labels_tell_equal_names_apart(tmp_path, caplog, root):
    found = capture(tmp_path, [f"{root}cam{c}/{n}" for c in (2, 1) for n in NAMES[:2]], TWO_FOLDERS)
    assert list(found.values()) == [*TWO_FOLDERS[2:], *TWO_FOLDERS[:2]]
    assert caplog.text == ""


@pytest.mark.parametrize(("label", "file"), [("img_{}", "IMG_{}"), ("a/IMG_{}.png", "A/IMG_{}"),
                                              ("D:\\\\photos\\\\img_{}.PNG", "IMG_{}")])
def test_names_that_differ_in_capitals_are_said(tmp_path, caplog, label, file):
    labels, files = [label.format(n) for n in NAMES], [f"images/{file.format(n)}.png" for n in NAMES]
    assert list(capture(tmp_path, labels, files).values()) == files
    assert "4 photographs are taken whose names differ from their labels in capitals; first " in caplog.text
    assert f"{label.format('000')} -> {tmp_path / files[0]}" in caplog.text


def test_a_photograph_in_the_folder_of_another_label_is_not_taken(tmp_path):
    labels = ["left/000", "left/001", "right/002", "right/003"]
    assert capture(tmp_path, labels, ["images/right/000.png", "images/right/002.png"]) == {
        "0 right/002": "images/right/002.png"}


def test_a_name_that_only_one_camera_has_is_found_in_other_folders_and_said(tmp_path, caplog):
    files = [f"images/day1/{n}.png" for n in NAMES]
    assert list(capture(tmp_path, [f"D:\\photos\\{n}.png" for n in NAMES], files).values()) == files
    assert "4 photographs are found by their name alone, in folders that their labels or groups do not name; first " \
           "D:\\photos\\000.png -> " in caplog.text


def test_converted_photographs_are_found_and_said(tmp_path, caplog):
    files = [f"images/{n}.png" for n in NAMES]
    assert list(capture(tmp_path, [f"{n}.NEF" for n in NAMES], files).values()) == files
    assert "4 photographs are of another format than their labels say; first 000.NEF -> " in caplog.text


def test_a_picture_of_another_format_is_not_taken_where_photographs_were_not_converted(tmp_path):
    files = ["photos/000.png", "photos/001.png", "cutouts/000.jpg", "cutouts/003.jpg"]
    assert list(capture(tmp_path, [f"{n}.png" for n in NAMES], files).values()) == files[:2]


def test_a_photograph_in_the_folder_itself_comes_before_one_below_it(tmp_path, caplog):
    files = [f"images/{n}.png" for n in NAMES]
    assert list(capture(tmp_path, NAMES, [*files, "images/thumbnails/000.png"]).values()) == files
    assert "1 photographs are met in" in caplog.text


def test_pictures_of_no_camera_are_said(tmp_path, caplog):
    files = [f"images/{n}.png" for n in (*NAMES, "004", "005", "000_mask")]
    assert len(capture(tmp_path, NAMES, files)) == 4
    assert "2 pictures beside the photographs belong to no camera of it and are left out, first " in caplog.text
    assert "images/004.png" in caplog.text
    assert "1 pictures that are mattes by their folders' names or their own are not used, first " in caplog.text


@pytest.mark.parametrize("spelling", ["{}_mask.png", "{}-Matte.png", "mask_{}.png", "../masks/deep/{}.png"])
def test_mattes_are_said_wherever_they_lie(tmp_path, caplog, spelling):
    photos, masks = [f"images/{n}.png" for n in NAMES], [f"images/{spelling.format(n)}" for n in NAMES]
    (tmp_path / "images").mkdir()
    assert list(capture(tmp_path, NAMES, photos + masks).values()) == photos
    assert "4 pictures that are mattes by their folders' names or their own are not used, first " in caplog.text
    assert "belong to no camera" not in caplog.text


def test_labels_without_any_photograph_are_named(tmp_path):
    with pytest.raises(SceneError, match=r"whose photograph is in .*images; looked for 'x' and 3 others"):
        capture(tmp_path, ["x", "y", "z", "w"], ["images/000.png"])


@pytest.mark.parametrize("place", ["camera", "frame"])
def test_the_files_own_paths_of_photographs_come_before_labels(tmp_path, place):
    write_photographs(tmp_path / "images")
    text = metashape_xml()
    frames = ""
    for number in range(4):
        photo = f'<photo path="../photos/{number}.png"/>'
        text = text.replace(f'label="{number}">', f'label="shot {number}">' + (photo if place == "camera" else ""))
        frames += f'<camera camera_id="{number}">{photo}</camera>'
    if place == "frame":
        text = text.replace("</chunk>", f'<frames><frame id="0"><cameras>{frames}</cameras></frame></frames></chunk>')
    (tmp_path / "cameras.xml").write_text(text)
    views = read_metashape(tmp_path / "cameras.xml").views
    assert [view.image.name for view in views] == ["0.png", "1.png", "2.png", "3.png"]
