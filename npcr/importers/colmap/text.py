# SPDX-License-Identifier: Apache-2.0
"""A strict reading of COLMAP's text files, and copies of them that pycolmap reads safely.

COLMAP's own reader ends names at a space, takes every second line of images.txt for points even where there are none,
and stops at a decimal comma. Here every line is checked. A line of points is known by its numbers, so that it may be
left out; names may be any bytes; the files may be UTF-8 or UTF-16, with a byte-order mark or without, with any ends of
lines.
"""

from __future__ import annotations

import codecs
import logging
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npcr.errors import SceneError
from npcr.importers.colmap.records import MODEL_FILES, RIG_FILES, ImageRecord, ParameterNames, Tracks, unit_pose
from npcr.io.text import read_bytes

logger = logging.getLogger("npcr")

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_COUNT = re.compile(rb"#\s*Number of \w+\s*[:=]\s*(\d+)")
_NAME = re.compile(rb"\s*(?:\S+\s+){8}\S+(?:\s(.*))?", re.DOTALL)
_LARGEST = 2**32 - 2  # number of a camera or image
_POSE = ("QW", "QX", "QY", "QZ", "TX", "TY", "TZ")


def copy_text_model(folder: Path, into: Path, parameters: ParameterNames) -> dict[int, ImageRecord]:
    """Check a text model and write what is needed of it, with numbers for names.

    Args:
        folder: of the model.
        into: folder of the copy, which exists.
        parameters: names of a camera model's parameters.

    Returns:
        The images by their numbers.

    Raises:
        SceneError: a file is missing or a line is malformed; the message names file, line, key and value.
    """
    files = {name: _TextFile(folder / f"{name}.txt") for name in MODEL_FILES}
    cameras: dict[int, bytes] = {}
    for line in files["cameras"].entries():
        _add(cameras, line, "camera", _camera(line, parameters))
    images: dict[int, ImageRecord] = {}
    for line in _image_lines(files["images"]):
        _add(images, line, "image", _image(line, cameras))
    points: dict[int, bytes] = {}
    tracks = Tracks(folder / "points3D.txt", images)
    for line in files["points3D"].entries():
        _add(points, line, "point", _point(line, tracks))
    for name, count in (("cameras", len(cameras)), ("images", len(images)), ("points3D", len(points))):
        files[name].check_count(count)
    tracks.warn()
    _write(into / "cameras.txt", cameras.values())
    _write(into / "images.txt", (b"%d %s %d %d\n\n" % (number, _reals(image.pose), image.camera, number)
                                 for number, image in images.items()))
    _write(into / "points3D.txt", points.values())
    if all((folder / f"{name}.txt").is_file() for name in RIG_FILES):
        for name, checked in zip(RIG_FILES, (_rig, _frame), strict=True):
            _write(into / f"{name}.txt", map(checked, _TextFile(folder / f"{name}.txt").entries()))
    return images


def count_text_images(file: Path) -> int:
    """Count the images in an images.txt.

    Args:
        file: images.txt.

    Returns:
        Their number.

    Raises:
        SceneError: it is missing, or a line is neither an image nor points.
    """
    return sum(1 for _ in _image_lines(_TextFile(file)))


@dataclass(frozen=True)
class _Line:
    """A line's words, and the errors about them."""

    file: Path
    number: int
    text: bytes
    words: list[bytes]

    def whole(self, at: int, key: str, largest: int = _LARGEST) -> int:
        word = self.word(at, key)
        if not word.isdigit() or int(word) > largest:
            raise self.error(f"{key} is {_shown(word)}; a whole number from 0 to {largest} is needed")
        return int(word)

    def real(self, at: int, key: str) -> float:
        word = self.word(at, key)
        value = _real(word)
        if value is None:
            hint = " with a decimal point, not a comma" if re.fullmatch(rb"[-+\d.eE]*,[-+\d.eE]*", word) else ""
            raise self.error(f"{key} is {_shown(word)}; a finite number{hint} is needed")
        return value

    def reals(self, at: int, keys: Iterable[str]) -> tuple[float, ...]:
        return tuple(self.real(at + i, key) for i, key in enumerate(keys))

    def put_unit_pose(self, at: int) -> None:
        try:
            self.words[at:at + 7] = _reals(unit_pose(self.reals(at, _POSE))).split()
        except ValueError as error:
            raise self.error(str(error)) from None

    def error(self, what: str) -> SceneError:
        return SceneError(f"{self.file}, line {self.number}: {what}")

    def word(self, at: int, key: str) -> bytes:
        if at >= len(self.words):
            raise self.error(f"ends before {key}, after {len(self.words)} words")
        return self.words[at]


def _shown(word: bytes) -> str:
    text = word.decode("utf-8", "backslashreplace")
    return repr(text if len(text) <= 40 else text[:37] + "...")


def _real(word: bytes) -> float | None:
    """The finite number that the word is; None if it is none."""
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) and b"_" not in word else None


class _TextFile:
    """A file's lines as UTF-8; bytes that are no UTF-8 stay, since names may hold any."""

    def __init__(self, file: Path) -> None:
        self.file = file
        data = read_bytes(file)
        encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
        if encoding is None and b"\0" in data[:2]:
            encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
        if encoding == "utf-8":
            data = data.removeprefix(codecs.BOM_UTF8)
        elif encoding is not None:
            try:
                data = data.decode(encoding).encode()
            except UnicodeError as error:
                raise SceneError(f"{file}: begins as {encoding} does, but is not: {error}; save it as UTF-8") from None
        self.lines = data.splitlines()

    def entries(self) -> Iterator[_Line]:
        """The lines that are neither blank nor comments."""
        for number, text in enumerate(self.lines, 1):
            words = text.split()
            if words and not words[0].startswith(b"#"):
                yield _Line(self.file, number, text, words)

    def check_count(self, found: int) -> None:
        """Say where the comment at the start has another count than there are entries: the file may be cut short."""
        for line in self.lines[:10]:
            if (match := _COUNT.match(line.lstrip())) and int(match[1]) != found:
                logger.warning("%s: its comment counts %d, but %d are there; is the file whole?", self.file,
                               int(match[1]), found)


def _image_lines(file: _TextFile) -> Iterator[_Line]:
    """The lines of images; an image's line of points may be full, blank or left out."""
    after_image = False
    for line in file.entries():
        if after_image and _is_points(line.words):
            after_image = False
            continue
        if after_image and not _may_be_image(line.words):
            raise line.error(f"its {len(line.words)} words, first {_shown(line.words[0])}, are neither an image "
                             "(IMAGE_ID, pose, CAMERA_ID, NAME) nor points (X Y POINT3D_ID of each)")
        yield line
        after_image = True


def _is_points(words: list[bytes]) -> bool:
    """Whether the words begin as points do, and not as an image with numbers for a name."""
    begin = [_real(word) for word in words[:12]]
    if len(words) % 3 or None in begin or not all(re.fullmatch(rb"-1|\d+", word) for word in words[2:12:3]):
        return False
    return not (_may_be_image(words) and abs(math.hypot(*(value or 0 for value in begin[1:5])) - 1) < 1e-3)


def _may_be_image(words: list[bytes]) -> bool:
    return len(words) >= 10 and words[0].isdigit() and words[8].isdigit()


def _add(into: dict[int, Any], line: _Line, kind: str, entry: Any) -> None:
    number = int(line.words[0])
    if number in into:
        raise line.error(f"{kind} {number} is there already; every {kind} needs its own number")
    into[number] = entry


def _camera(line: _Line, parameters: ParameterNames) -> bytes:
    number = line.whole(0, "CAMERA_ID")
    model = line.words[1].decode("ascii", "backslashreplace") if len(line.words) > 1 else ""
    names = parameters(model)
    if names is None:
        raise line.error(f"MODEL is {model!r}; a camera model of COLMAP is needed, such as PINHOLE or OPENCV")
    size = (line.whole(2, "WIDTH"), line.whole(3, "HEIGHT"))
    found = len(line.words) - 4
    if found != len(names):
        raise line.error(f"camera {number} is {model}, whose {len(names)} parameters are {', '.join(names)}; "
                         f"found {found}")
    return b"%d %s %d %d %s\n" % (number, model.encode(), *size, _reals(line.reals(4, names)))


def _image(line: _Line, cameras: dict[int, bytes]) -> ImageRecord:
    line.whole(0, "IMAGE_ID")
    pose = line.reals(1, _POSE)
    camera = line.whole(8, "CAMERA_ID")
    match = _NAME.fullmatch(line.text)
    name = match[1] if match and match[1] else b""
    if not name.strip():
        raise line.error("ends before NAME, after 9 words")
    try:
        return ImageRecord.checked(name, camera, pose, cameras)
    except ValueError as error:
        raise line.error(str(error)) from None


def _point(line: _Line, tracks: Tracks) -> bytes:
    number = line.whole(0, "POINT3D_ID", 2**64 - 2)
    position = line.reals(1, "XYZ")
    color = b" ".join(b"%d" % line.whole(4 + i, key, 255) for i, key in enumerate("RGB"))
    line.word(7, "ERROR")
    if len(line.words) % 2:
        raise line.error(f"the track of point {number} has {len(line.words) - 8} words; it needs two for each image: "
                         "IMAGE_ID POINT2D_IDX")
    tracks.add(number, [line.whole(at, "IMAGE_ID in TRACK") for at in range(8, len(line.words), 2)])
    return b"%d %s %s 0\n" % (number, _reals(position), color)


def _rig(line: _Line) -> bytes:
    """Check RIG_ID, NUM_SENSORS, and SENSOR_TYPE, SENSOR_ID of each; but for the first HAS_POSE and a pose."""
    sensors = line.whole(1, "NUM_SENSORS")
    at = 2
    for i in range(sensors):
        line.whole(at + 1, "SENSOR_ID")
        at += 2
        if i:
            if line.whole(at, "HAS_POSE", 1):
                line.put_unit_pose(at + 1)
                at += 7
            at += 1
    return _checked(line, at)


def _frame(line: _Line) -> bytes:
    """Check FRAME_ID, RIG_ID, the pose, NUM_DATA_IDS, and SENSOR_TYPE, SENSOR_ID, DATA_ID of each."""
    line.put_unit_pose(2)
    data = line.whole(9, "NUM_DATA_IDS")
    for i in range(data):
        line.whole(11 + 3 * i, "SENSOR_ID")
        line.whole(12 + 3 * i, "DATA_ID")
    return _checked(line, 10 + 3 * data)


def _checked(line: _Line, words: int) -> bytes:
    if len(line.words) != words:
        raise line.error(f"has {len(line.words)} words; by its counts it needs {words}")
    return b" ".join(line.words) + b"\n"


def _reals(values: Iterable[float]) -> bytes:
    return b" ".join(b"%r" % float(value) for value in values)


def _write(file: Path, lines: Iterable[bytes]) -> None:
    with file.open("wb") as copy:
        copy.writelines(lines)
