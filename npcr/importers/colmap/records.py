# SPDX-License-Identifier: Apache-2.0
"""What COLMAP's text and binary files have in common: their names, the record of an image, and what is said of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

logger = logging.getLogger("npcr")

MODEL_FILES = ("cameras", "images", "points3D")
RIG_FILES = ("rigs", "frames")  # written by COLMAP 3.12 and later

# Gives the names of a camera model's parameters by the model's name or number; None: there is no such model.
ParameterNames = Callable[[str | int], list[str] | None]


def unit_pose(pose: Sequence[float]) -> tuple[float, ...]:
    """Make the quaternion's length 1: any length above 0 means the same rotation, but pycolmap expects 1.

    Args:
        pose: quaternion w, x, y, z, translation x, y, z.

    Returns:
        The same pose.

    Raises:
        ValueError: it is no pose; the message says what is wrong.
    """
    if not all(map(math.isfinite, pose)):
        raise ValueError(f"its pose {' '.join(f'{v:g}' for v in pose)} is not finite")
    length = math.hypot(*pose[:4])
    if not length > 1e-12:
        raise ValueError("its quaternion QW QX QY QZ is 0 0 0 0, which is no rotation")
    return (*(value / length for value in pose[:4]), *pose[4:])


@dataclass(frozen=True)
class ImageRecord:
    """An image as the model's file has it."""

    name: bytes  # as stored: COLMAP writes the bytes of the file system, in whatever encoding they are
    camera: int
    pose: tuple[float, ...]  # world-to-camera: unit quaternion w, x, y, z, translation x, y, z

    @property
    def label(self) -> str:
        """The name for messages, in one line; bytes that are no UTF-8 and control characters are escaped."""
        text = self.name.decode("utf-8", "backslashreplace")
        return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")

    @classmethod
    def checked(cls, name: bytes, camera: int, pose: Sequence[float], cameras: Collection[int]) -> ImageRecord:
        """Make a record with a unit quaternion; ValueError says what is wrong, given the model's cameras."""
        image = cls(name, camera, tuple(pose))
        try:
            image = cls(name, camera, unit_pose(pose))
        except ValueError as error:
            raise ValueError(f"image {image.label}: {error}") from None
        if camera not in cameras:
            known = ", ".join(map(str, sorted(cameras)[:8])) + (", ..." if len(cameras) > 8 else "")
            raise ValueError(f"image {image.label}: its camera {camera} is not in the model (there: {known or 'none'})")
        return image


@dataclass
class Tracks:
    """The points of a model whose tracks name images that are not in it."""

    file: Path
    images: Collection[int]
    points: int = 0
    odd: list[tuple[int, int]] = field(default_factory=list)  # (point, image)

    def add(self, point: int, images: Collection[int]) -> None:
        """Count a point that is seen in `images`."""
        self.points += 1
        lost = next((image for image in images if image not in self.images), None)
        if lost is not None:
            self.odd.append((point, lost))

    def warn(self) -> None:
        """Say how many points there are that name images which the model lacks."""
        if self.odd:
            logger.warning("%s: %d of %d points are seen in images that the model lacks, first point %d in image %d; "
                           "the points are kept. If no image was removed on purpose, the file of images is incomplete",
                           self.file, len(self.odd), self.points, *self.odd[0])
