# SPDX-License-Identifier: Apache-2.0
"""What every importer's reader gives: photographs with their cameras, mattes and clouds, in this project's axes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from npcr.importers.lenses import Lens
from npcr.io.points import PointCloud

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")


@dataclass(frozen=True)
class View:
    """One photograph that exists, with its camera."""

    label: str  # where the source names it: "frames[3]"
    image: Path
    mask: Path | None  # its matte; None: its own alpha channel, where it has one
    cam_to_world: np.ndarray  # (4, 4) float64, OpenCV axes
    lens: Lens | None  # None: only the angle of view is known, `angle` has it
    angle: tuple[float, float | None] = (0.0, None)  # horizontal and vertical angle of view, radians
    split: str = "train"  # or "test", "val": held out by the source
    frame: int = 0  # which pose of the object


@dataclass(frozen=True)
class Capture:
    """A source that has been read and checked."""

    file: Path  # what was read, for messages
    views: list[View]  # each split's and frame's views in the order of their cameras
    missing: list[Path] = field(default_factory=list)  # named, but do not exist; their views are left out
    clouds: list[Path | PointCloud] = field(default_factory=list)  # one for each frame, or none at all

    @property
    def folder(self) -> Path:
        """The folder that the source lies in."""
        return self.file if self.file.is_dir() else self.file.parent


def named_after(folder: Path, image: Path) -> Path | None:
    """The picture in `folder` that belongs to `image`: named x.jpg.png as COLMAP does, or x.png, x.jpg.

    A folder structure that mirrors the photographs' is looked into first.
    """
    for inner in (Path(*image.parts[-2:]), Path(image.name)):
        place = folder / inner
        for name in (place.name + ".png", *(place.stem + suffix for suffix in IMAGE_SUFFIXES)):
            if (found := place.with_name(name)).is_file():
                return found
    return None
