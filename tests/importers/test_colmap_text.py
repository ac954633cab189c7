# SPDX-License-Identifier: Apache-2.0
"""COLMAP's text files as people and tools write them: read whole, or refused by file and line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.colmap import read_colmap
from tests.captures import points, poses, write_colmap

pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The folder of a text model with the three files that every version writes."""
    write_colmap(tmp_path / "ws", binary=False)
    folder = tmp_path / "ws" / "sparse" / "0"
    for name in ("rigs", "frames"):
        (folder / f"{name}.txt").unlink()
    return folder


def _edit(file: Path, change: Callable[[str], str]) -> None:
    file.write_text(change(file.read_text()))


def _check_whole(model: Path, names: list[str] | None = None) -> None:
    capture = read_colmap(model)
    assert [view.label for view in capture.views] == (names or ["0.png", "1.png", "2.png", "3.png"])
    np.testing.assert_allclose([view.cam_to_world for view in capture.views], poses(), atol=1e-9)
    np.testing.assert_allclose(capture.clouds[0].positions, points(), atol=1e-6)
    assert capture.clouds[0].colors[5].tolist() == [5, 10, 250]


def _without_points(text: str, images: set[int]) -> str:
    lines = text.splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    kept = [line for i, line in enumerate(entries) if i % 2 == 0 or i // 2 not in images]
    return "\n".join([*(line for line in lines if line.startswith("#")), *kept]) + "\n"


@pytest.mark.parametrize("change", [
    lambda text: _without_points(text, {0, 1, 2, 3}),
    lambda text: _without_points(text, {1, 2}),
    lambda text: text.replace("\n", "\n\n"),
    lambda text: text.replace("\n", "\n# checked by hand\n"),
    lambda text: re.sub(r"^\d+\.\d+ .*$", "", text, flags=re.MULTILINE),  # blank lines of points
    lambda text: text.rstrip("\n"),
], ids=["none", "some", "double-spaced", "comments", "blank", "no-last-newline"])
def test_every_image_is_read_whatever_its_line_of_points(model: Path, caplog: pytest.LogCaptureFixture,
                                                         change: Callable[[str], str]) -> None:
    _edit(model / "images.txt", change)
    _check_whole(model)
    assert not caplog.records


def test_a_name_of_numbers_is_no_point(model: Path) -> None:
    """`1 1 0 0 0 0 0 0 1 000 1 2` has the form of four points, too."""
    pictures = model.parents[1] / "images"
    for i in (0, 1):
        (pictures / f"{i}.png").rename(pictures / f"00{i} 1 2")
    (model / "images.txt").write_text("1 1 0 0 0 0 0 0 1 000 1 2\n2 1 0 0 0 0 0 5 1 001 1 2\n")
    (model / "points3D.txt").write_text("1 0 0 1 9 9 9 0\n")
    capture = read_colmap(model)
    assert [view.image.name for view in capture.views] == ["000 1 2", "001 1 2"]
    np.testing.assert_allclose(capture.views[1].cam_to_world[:3, 3], [0, 0, -5])


@pytest.mark.parametrize("encode", [
    lambda text: codecs.BOM_UTF8 + text.encode(), lambda text: text.encode("utf-16"),
    lambda text: text.encode("utf-16-le"), lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    lambda text: text.encode("utf-32"), lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: text.replace("\n", "\r").encode(), lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
], ids=["utf-8-mark", "utf-16", "utf-16-no-mark", "utf-16-be", "utf-32", "crlf", "cr", "mark-crlf"])
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_encodings_and_line_ends(model: Path, caplog: pytest.LogCaptureFixture, name: str,
                                 encode: Callable[[str], bytes]) -> None:
    file = model / f"{name}.txt"
    file.write_bytes(encode(file.read_text()))
    _check_whole(model)
    assert not caplog.records


@pytest.mark.parametrize("name", ["cat front (0).png", "a  b.png", " leading.png", "trailing.png ", "tab\there.png",
                                  "cat #1.png", "狗.png"])
def test_names_are_taken_whole(model: Path, name: str) -> None:
    """The photograph named like the first word is another."""
    pictures = model.parents[1] / "images"
    (pictures / "0.png").rename(pictures / name)
    (pictures / name.split()[0]).write_bytes(b"another photograph")
    _edit(model / "images.txt", lambda text: text.replace(" 0.png", f" {name}"))
    capture = read_colmap(model)
    paths = {view.image.name: view.cam_to_world for view in capture.views}
    np.testing.assert_allclose(paths[name], poses()[0], atol=1e-9)


def test_spaces_around_a_name_are_no_part_of_it_where_no_file_has_them(model: Path) -> None:
    _edit(model / "images.txt", lambda text: text.replace(" 0.png", " \t0.png  "))
    np.testing.assert_allclose([view.cam_to_world for view in read_colmap(model).views], poses(), atol=1e-9)


def test_a_quaternion_is_normalized(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    def doubled(text: str) -> str:
        return re.sub(r"^(\d) (\S+) (\S+) (\S+) (\S+) (.* \d\.png)$", lambda m: " ".join(
            [m[1], *(str(2 * float(m[i])) for i in range(2, 6)), m[6]]), text, flags=re.MULTILINE)
    _edit(model / "images.txt", doubled)
    _check_whole(model)
    assert not caplog.records


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("cameras", " 50 50 ", " 50,5 50 ", r"cameras.txt, line 4: fx is '50,5'.*decimal point"),
    ("cameras", " 50 50 ", " 50 ", r"line 4: camera 1 is PINHOLE, whose 4 parameters are fx, fy, cx, cy; found 3"),
    ("cameras", " 24 18", " 24 18 0", r"line 4: camera 1 is PINHOLE, .*found 5"),
    ("cameras", "PINHOLE", "pinhole", r"line 4: MODEL is 'pinhole'"),
    ("cameras", "PINHOLE", "INVALID", r"line 4: MODEL is 'INVALID'"),
    ("cameras", " 48 36 ", " 48.5 36 ", r"line 4: WIDTH is '48.5'; a whole number"),
    ("cameras", " 24 18", " nan 18", r"line 4: cx is 'nan'; a finite number"),
    ("cameras", " 24 18", " 24 1_8", r"line 4: cy is '1_8'"),
    ("cameras", "1 PINHOLE 48 36 50 50 24 18", "1", r"line 4: MODEL is ''"),
    ("cameras", "1 PIN", "1 PINHOLE 48 36 50 50 24 18\n1 PIN", r"line 5: camera 1 is there already"),
    ("images", "\n1 0.4", "\n1 0,4", r"images.txt, line 5: QW is '0,4\d+'; .*decimal point"),
    ("images", "\n1 0.4", "\n1.0 0.4", r"line 5: IMAGE_ID is '1.0'"),
    ("images", "\n2 ", "\n1 ", r"line 7: image 1 is there already"),
    ("images", " 1 0.png", " 7 0.png", r"line 5: image 0.png: its camera 7 is not in the model \(there: 1\)"),
    ("images", " 1 0.png", " 1", r"line 5: ends before NAME"),
    ("images", " 1 0.png", " inf 1 0.png", r"line 5: CAMERA_ID is 'inf'"),
    ("images", "\n20.79", "\nnonsense 20.79", r"line 6: its \d+ words, first 'nonsense', are neither"),
    ("points3D", "\n1 -0.33", "\n1 -0,33", r"points3D.txt, line 4: X is '-0,33\d+'; .*decimal point"),
    ("points3D", "\n1 -0.33", "\n1 nan 0.33", r"line 4: X is 'nan'; a finite number"),
    ("points3D", " 0 0 255 ", " 0 0 256 ", r"line 4: B is '256'; a whole number from 0 to 255"),
    ("points3D", " 0 0 255 -1", " 0 0 255", r"line 4: the track of point 1"),
    ("points3D", "\n2 ", "\n1 ", r"line 5: point 1 is there already"),
    ("points3D", "\n2 ", "\n2 1\n3 ", r"line 5: ends before Y, after 2 words"),
])
def test_a_malformed_line_is_named(model: Path, name: str, old: str, new: str, message: str) -> None:
    file = model / f"{name}.txt"
    assert old in file.read_text()
    _edit(file, lambda text: text.replace(old, new, 1))
    with pytest.raises(SceneError, match=message):
        read_colmap(model)


def test_a_quaternion_of_zeros_is_refused(model: Path) -> None:
    _edit(model / "images.txt", lambda text: re.sub(r"^1 \S+ \S+ \S+ \S+ ", "1 0 0 0 0 ", text, flags=re.MULTILINE))
    with pytest.raises(SceneError, match=r"images.txt, line 5: image 0.png: its quaternion .* is 0 0 0 0"):
        read_colmap(model)


def test_text_that_only_begins_as_utf_16_is_refused(model: Path) -> None:
    (model / "cameras.txt").write_bytes(codecs.BOM_UTF16_LE + b"abc")
    with pytest.raises(SceneError, match=r"cameras.txt: begins as utf-16 does.*save it as UTF-8"):
        read_colmap(model)


def test_a_header_that_counts_more_is_said(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    _edit(model / "images.txt", lambda text: text.replace("Number of images: 4", "Number of images: 8"))
    _check_whole(model)
    assert "images.txt: its comment counts 8, but 4 are there" in caplog.text


def test_points_seen_in_images_that_are_gone_are_said_and_kept(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    _edit(model / "images.txt", lambda text: re.sub(r"^3 .*\n.*\n", "", text.replace("images: 4", "images: 3"),
                                                    flags=re.MULTILINE))
    capture = read_colmap(model)
    assert [view.label for view in capture.views] == ["0.png", "1.png", "3.png"]
    np.testing.assert_allclose(capture.clouds[0].positions, points(), atol=1e-6)
    assert re.search(r"points3D.txt: 40 of 40 points are seen in images that the model lacks, first point 1 in image 3",
                     caplog.text)
