# SPDX-License-Identifier: Apache-2.0
"""The photographs of a COLMAP model whose names have another spelling than the files."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.colmap import read_colmap
from npcr.importers.colmap.photographs import find_photographs
from npcr.importers.colmap.records import ImageRecord
from tests.captures import poses, write_colmap

POSE = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _find(folder: Path, names: list[str | bytes], files: list[str | bytes]) -> list[str | None]:
    """The files found for the names, in a folder images/ that has the files."""
    for name in files:
        path = folder / "images" / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    records = {i: ImageRecord(name if isinstance(name, bytes) else name.encode(), 1, POSE)
               for i, name in enumerate(names)}
    found = find_photographs(records, folder / "images", folder / "images.txt")
    return [str(found[i].relative_to(folder / "images")) if i in found else None for i in records]


@pytest.mark.parametrize(("name", "file"), [
    ("left\\001.png", "left/001.png"), ("rig\\left\\001.png", "rig/left/001.png"), (".\\001.png", "001.png"),
    ("./left//001.png", "left/001.png"), ("images/001.png", "001.png"), ("images\\left\\001.png", "left/001.png"),
    ("001", "001.png"), ("left/001", "left/001.JPG"), ("IMG_1.2", "IMG_1.2.jpeg"), (" 001.png ", "001.png"),
    (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
    (unicodedata.normalize("NFD", "ガ/é.png"), unicodedata.normalize("NFC", "ガ/é.png")),
    (b"\xb9\xb7_0.png", b"\xb9\xb7_0.png"),  # GBK in both
])
def test_the_same_name_in_another_spelling(tmp_path, caplog, name, file):
    assert _find(tmp_path, [name], [file, "other.png"]) == [os.fsdecode(file)]
    assert not caplog.records


@pytest.mark.parametrize(("name", "file"), [
    ("C:\\photos\\left\\001.png", "left/001.png"), ("/home/cat/images/left/001.png", "left/001.png"),
    ("\\\\server\\photos\\001.png", "001.png"), ("D:/001.png", "001.png"), ("Left/001.PNG", "left/001.png"),
    ("001.jpg", "001.JPG"),
])
def test_whole_paths_and_other_case_are_said(tmp_path, caplog, name, file):
    assert _find(tmp_path, ["other.png", name], [file, "other.png"]) == ["other.png", file]
    assert f"images.txt: 1 of 2 names are not those of the files in {tmp_path}/images" in caplog.text
    assert f"first, {file} is taken for {name}" in caplog.text


@pytest.mark.parametrize(("encoding", "text"), [
    ("gbk", "狗"), ("big5", "貓貓"), ("shift_jis", "表猫"), ("euc-kr", "고양이"), ("cp1252", "Kätzchen"),
    ("cp1251", "кошка"), ("cp437", "Kätzchen"),
])
def test_names_in_an_old_encoding(tmp_path, caplog, encoding, text):
    """Either the model's names or the files' are in it; the second byte of 表 is a backslash."""
    names = [f"{text}/{text}_{i}.png" for i in range(3)]
    old = [name.encode(encoding) for name in names]
    assert _find(tmp_path / "a", old, names) == names
    assert "3 names are in another encoding than the files in" in caplog.text
    assert "fits 3 of them" in caplog.text
    caplog.clear()
    assert _find(tmp_path / "b", names, old) == [os.fsdecode(name) for name in old]
    assert "fits 3 of them" in caplog.text


def test_an_encoding_that_fits_nothing_is_refused(tmp_path):
    with pytest.raises(SceneError, match=r"images.txt: 1 names are no UTF-8, first '\\xb9\\xb7.png', .*gb18030"):
        _find(tmp_path, [b"\xb9\xb7.png"], ["dog.png"])


@pytest.mark.parametrize("files", [[b"\xb9\xb7_0.png"], ["狗_0.png"]])
def test_one_of_such_names_may_be_missing(tmp_path, files):
    assert _find(tmp_path, [b"\xb9\xb7_0.png", b"\xb9\xb7_1.png"], files) == [os.fsdecode(files[0]), None]


def test_an_encoding_that_is_not_certain_is_refused(tmp_path):
    with pytest.raises(SceneError, match=r"1 names fit photographs in .* if they are in .*, and other photographs"):
        _find(tmp_path, [b"\xe4.png"], ["ä.png", "д.png"])


@pytest.mark.parametrize(("names", "files", "message"), [
    (["000"], ["000.png", "000.jpg"], "the name '000' fits 2 photographs in .*: 000.jpg, 000.png"),
    (["a.PNG"], ["A.png", "a.png"], "the name 'a.PNG' fits 2 photographs in .*: A.png, a.png"),
    (["a.png", "a.png"], ["a.png"], r"images 0 \(a.png\) and 1 \(a.png\) are one photograph"),
    (["/x/left/a.png", "/x/right/a.png"], ["a.png"], r"images 0 .* and 1 .* are one photograph, .*images/a.png"),
    (["../a.png"], ["a.png"], r"image 0 is named '../a.png'; a path within"),
    (["b\\..\\..\\a.png"], ["a.png"], r"a path within"),
    ([""], ["a.png"], r"image 0 is named ''"),
    (["C:\\b.png"], ["a.png"], r"named 'C:.*b.png', but .* has no photograph that this path ends with"),
])
def test_what_is_not_certain_is_refused(tmp_path, names, files, message):
    with pytest.raises(SceneError, match=message):
        _find(tmp_path, names, files)


def test_no_other_photograph_is_taken(tmp_path):
    assert _find(tmp_path, ["left/000.png", "001.jpg", "002", "x" * 300], ["000.png", "right/000.png", "001.png",
                                                                      "003.png"]) == [None] * 4


def test_a_binary_model_with_gbk_names_is_read(tmp_path, caplog):
    pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")
    write_colmap(tmp_path / "ws")
    file = tmp_path / "ws/sparse/0/images.bin"
    data = file.read_bytes()
    for i in range(4):
        (tmp_path / f"ws/images/{i}.png").rename(tmp_path / f"ws/images/狗_{i}.png")
        data = data.replace(f"{i}.png\0".encode(), f"狗_{i}.png\0".encode("gbk"))
    file.write_bytes(data)
    capture = read_colmap(tmp_path / "ws")
    assert [view.image.name for view in capture.views] == [f"狗_{i}.png" for i in range(4)]
    np.testing.assert_allclose([view.cam_to_world for view in capture.views], poses(), atol=1e-9)
    assert "gb18030 fits 4 of them" in caplog.text
