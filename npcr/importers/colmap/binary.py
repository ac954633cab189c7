# SPDX-License-Identifier: Apache-2.0
"""A check of COLMAP's binary files, and copies of them that pycolmap reads safely.

COLMAP's reader trusts the counts: with a damaged file it runs for hours over data that does not exist, or fills the
memory. It therefore only gets files whose records end where the file does. Its names must be UTF-8, and its tracks fit
its images; neither is needed here, so that the copies have numbers for names, and no tracks.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npcr.errors import SceneError
from npcr.importers.colmap.records import RIG_FILES, ImageRecord, ParameterNames, Tracks, unit_pose
from npcr.io.text import read_bytes

_NONE = struct.pack("<Q", 0)


def copy_binary_model(folder: Path, into: Path, parameters: ParameterNames) -> dict[int, ImageRecord]:
    """Check a binary model and write what is needed of it, with numbers for names.

    Args:
        folder: of the model.
        into: folder of the copy, which exists.
        parameters: names of a camera model's parameters.

    Returns:
        The images by their numbers.

    Raises:
        SceneError: a file is missing, cut short, or its counts are wrong; the message names it.
    """
    cameras = _copy_cameras(_Data(folder / "cameras.bin"), into, parameters)
    images = _copy_images(_Data(folder / "images.bin"), into, cameras)
    _copy_points(_Data(folder / "points3D.bin"), into, images)
    if all((folder / f"{name}.bin").is_file() for name in RIG_FILES):
        for name, poses in zip(RIG_FILES, (_poses_of_rig, _poses_of_frame), strict=True):
            _copy_with_poses(_Data(folder / f"{name}.bin"), into, poses)
    return images


def count_binary_images(file: Path) -> int:
    """Read how many images an images.bin has.

    Args:
        file: images.bin.

    Returns:
        Their number, as the file states it.

    Raises:
        SceneError: it is missing or cut short.
    """
    return _Data(file).number("<Q", 0)


class _Data:
    """A file's bytes, and the errors about them."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.bytes = read_bytes(file)

    def values(self, layout: str, at: int) -> tuple[Any, ...]:
        if at + struct.calcsize(layout) > len(self.bytes):
            raise self.error("ends within a record")
        return struct.unpack_from(layout, self.bytes, at)

    def number(self, layout: str, at: int) -> int:
        return int(self.values(layout, at)[0])

    def copy(self, into: Path, record: Callable[[int], tuple[int, bytes]]) -> None:
        """Write the count and, for each record, what `record` gives for it; it also gives the offset behind it."""
        count = self.number("<Q", 0)
        at = 8
        with (into / self.file.name).open("wb") as copy:
            copy.write(self.bytes[:8])
            for i in range(count):
                if at >= len(self.bytes):
                    raise self.error(f"ends after {i} of {count} records")
                at, kept = record(at)
                copy.write(kept)
        if at != len(self.bytes):
            raise self.error(f"its {count} records end at byte {at}, the file at byte {len(self.bytes)}")

    def error(self, what: str) -> SceneError:
        return SceneError(f"{self.file}: is damaged or no COLMAP file: {what}")


def _copy_cameras(data: _Data, into: Path, parameters: ParameterNames) -> set[int]:
    numbers: set[int] = set()

    def record(at: int) -> tuple[int, bytes]:
        number, model = data.values("<Ii", at)
        names = parameters(model)
        if names is None:
            raise data.error(f"camera model {model} is unknown")
        if number in numbers:
            raise data.error(f"it has two cameras {number}")
        numbers.add(number)
        end = at + 24 + 8 * len(names)
        return end, data.bytes[at:end]

    data.copy(into, record)
    return numbers


def _copy_images(data: _Data, into: Path, cameras: set[int]) -> dict[int, ImageRecord]:
    images: dict[int, ImageRecord] = {}

    def record(at: int) -> tuple[int, bytes]:
        number, *pose, camera = data.values("<I7dI", at)
        name_end = data.bytes.find(b"\0", at + 64)
        if name_end < 0:
            raise data.error("an image's name does not end")
        try:
            image = ImageRecord.checked(data.bytes[at + 64:name_end], camera, pose, cameras)
        except ValueError as error:
            raise SceneError(f"{data.file}: {error}") from None
        end = name_end + 9 + 24 * data.number("<Q", name_end + 1)
        if end > len(data.bytes):
            raise data.error("ends within a record")
        if number in images:
            raise data.error(f"it has two images {number}: {images[number].label} and {image.label}")
        images[number] = image
        return end, struct.pack("<I7dI", number, *image.pose, camera) + b"%d\0" % number + _NONE

    data.copy(into, record)
    return images


def _copy_points(data: _Data, into: Path, images: dict[int, ImageRecord]) -> None:
    tracks = Tracks(data.file, images)
    numbers: set[int] = set()

    def record(at: int) -> tuple[int, bytes]:
        number, length = data.number("<Q", at), data.number("<Q", at + 43)
        end = at + 51 + 8 * length
        if end > len(data.bytes):
            raise data.error("ends within a record")
        if number in numbers:
            raise data.error(f"it has two points {number}")
        numbers.add(number)
        tracks.add(number, struct.unpack_from(f"<{2 * length}I", data.bytes, at + 51)[::2])
        return end, data.bytes[at:at + 43] + _NONE

    data.copy(into, record)
    tracks.warn()


def _copy_with_poses(data: _Data, into: Path, places: Callable[[_Data, int], tuple[int, list[int]]]) -> None:
    """Copy records; `places` gives the offset behind the one at an offset, and those of the poses in it."""

    def record(at: int) -> tuple[int, bytes]:
        end, poses = places(data, at)
        kept = bytearray(data.bytes[at:end])
        for pose in poses:
            try:
                struct.pack_into("<7d", kept, pose - at, *unit_pose(data.values("<7d", pose)))
            except ValueError as error:
                raise data.error(f"record {data.number('<I', at)}: {error}") from None
        return end, bytes(kept)

    data.copy(into, record)


def _poses_of_rig(data: _Data, at: int) -> tuple[int, list[int]]:
    sensors = data.number("<I", at + 4)
    at += 8
    poses = []
    for i in range(sensors):
        at += 8
        if i:  # the first is the rig's reference and has no pose
            if data.number("<B", at):
                poses.append(at + 1)
                at += 56
            at += 1
    return at, poses


def _poses_of_frame(data: _Data, at: int) -> tuple[int, list[int]]:
    return at + 68 + 16 * data.number("<I", at + 64), [at + 8]
