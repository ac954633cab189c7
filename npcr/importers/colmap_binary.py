# SPDX-License-Identifier: Apache-2.0
"""A check that the counts in COLMAP's binary files agree with the files' sizes.

COLMAP's reader trusts the counts: with a damaged file it runs for hours over data that does not exist, or fills the
memory. It therefore only gets files whose records end where the file does.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from npcr.errors import SceneError

MODEL_FILES = ("cameras", "images", "points3D")


def check_binary_model(folder: Path, params_of: Callable[[int], int | None]) -> None:
    """Check a binary model's counts against its files' sizes.

    Args:
        folder: of the model.
        params_of: returns the number of parameters of the camera model of an id, or None where there is no such model.

    Raises:
        SceneError: a file is missing, cut short, or its counts are wrong; the message names it.
    """
    for name, skip in (*((n, _SKIP[n]) for n in MODEL_FILES), ("rigs", _rig), ("frames", _frame)):
        file = folder / f"{name}.bin"
        if name not in MODEL_FILES and not file.is_file():  # written by newer versions only
            continue
        data = _Data(file, params_of)
        count = data.number("<Q", 0)
        at = 8
        for i in range(count):
            if at >= len(data.bytes):
                raise data.error(f"ends after {i} of {count} records")
            at = skip(data, at)
        if at != len(data.bytes):
            raise data.error(f"its {count} records end at byte {at}, the file at byte {len(data.bytes)}")


class _Data:
    """A file's bytes, and the errors about them."""

    def __init__(self, file: Path, params_of: Callable[[int], int | None]) -> None:
        self.file, self.params_of = file, params_of
        try:
            self.bytes = file.read_bytes()
        except FileNotFoundError:
            raise SceneError(f"{file}: no such file; a COLMAP model has cameras, images and points3D") from None
        except OSError as error:
            raise SceneError(f"{file}: cannot be read: {error.strerror}") from None

    def number(self, layout: str, at: int) -> int:
        if at + struct.calcsize(layout) > len(self.bytes):
            raise self.error("ends within a record")
        return int(struct.unpack_from(layout, self.bytes, at)[0])

    def error(self, what: str) -> SceneError:
        return SceneError(f"{self.file}: is damaged or no COLMAP file: {what}")


# Each returns the offset behind the record at `at`.

def _camera(data: _Data, at: int) -> int:
    model = data.number("<i", at + 4)
    params = data.params_of(model)
    if params is None:
        raise data.error(f"camera model {model} is unknown")
    return at + 24 + 8 * params


def _image(data: _Data, at: int) -> int:
    name_end = data.bytes.find(b"\0", at + 64)
    if name_end < 0:
        raise data.error("an image's name does not end")
    return name_end + 9 + 24 * data.number("<Q", name_end + 1)


def _point(data: _Data, at: int) -> int:
    return at + 51 + 8 * data.number("<Q", at + 43)


def _rig(data: _Data, at: int) -> int:
    sensors = data.number("<I", at + 4)
    at += 8
    for i in range(sensors):
        at += 8
        if i:  # the first is the rig's reference and has no pose
            at += 1 + 56 * (data.number("<B", at) != 0)
    return at


def _frame(data: _Data, at: int) -> int:
    return at + 68 + 16 * data.number("<I", at + 64)


_SKIP = {"cameras": _camera, "images": _image, "points3D": _point}
