# SPDX-License-Identifier: Apache-2.0
"""The contract of importers: from a source in some layout to a `Capture` in this project's axes.

An importer subclasses `Importer` and reads its source; it writes nothing. What comes after, undistorting, mattes and
the scene's files, is the same for all (`npcr.importers.scene_writer`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from npcr.importers.lenses import Lens
from npcr.io.points import PointCloud

SPLITS = ("train", "test", "val")
_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".heic", ".heif", ".avif")
IMAGE_SUFFIXES = (*_SUFFIXES, *(suffix.upper() for suffix in _SUFFIXES))  # those before win over those after


@dataclass(frozen=True)
class View:
    """One photograph that exists, with its camera."""

    label: str  # what the source calls it: "frames[3]"
    image: Path
    mask: Path | None  # its matte, which need not exist; None: its own alpha channel, where it has one
    cam_to_world: np.ndarray  # (4, 4) float64, OpenCV axes
    lens: Lens | None  # None: only the angle of view is known, `angle` has it
    angle: tuple[float, float | None] = (0.0, None)  # horizontal and vertical angle of view, radians
    split: str = "train"  # one of `SPLITS`; "test" and "val" are held out by the source
    frame: int = 0  # which pose of the object

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"View {self.label}: split is {self.split!r}; allowed: {', '.join(SPLITS)}")


@dataclass(frozen=True)
class Capture:
    """A source that has been read and checked."""

    file: Path  # what was read, for messages
    views: list[View]  # each split's and frame's views in the order of their cameras
    missing: list[Path] = field(default_factory=list)  # named, but do not exist; their views are left out
    clouds: list[Path | PointCloud] = field(default_factory=list)  # one for each frame, or none at all
    cloud_remarks: list[str] = field(default_factory=list)  # why not all clouds are used that the source names

    @property
    def folder(self) -> Path:
        """The folder that the source lies in."""
        return self.file if self.file.is_dir() else self.file.parent


@dataclass(frozen=True)
class Option:
    """An option of one importer; the command line has it as --name-with-hyphens."""

    name: str  # of the keyword argument that `Importer.read` takes
    help: str
    type: Callable[[str], Any] = str  # makes the value out of the text
    default: Any = None
    choices: tuple[str, ...] | None = None
    metavar: str | None = None  # what stands for the value in the help
    is_flag: bool = False  # takes no value: True where it is given, else False


class Importer(ABC):
    """Reads the captures of one tool, or of one layout of files."""

    name: ClassVar[str]  # as it is typed on the command line
    summary: ClassVar[str]  # one line for the list of importers
    description: ClassVar[str]  # the start of its help: what is read, converted and left out
    options: ClassVar[Sequence[Option]] = ()

    @abstractmethod
    def read(self, source: Path, **options: Any) -> Capture:
        """Read and check a source; write nothing.

        Args:
            source: the capture: a folder, or the file that describes it.
            options: a value for each of `options`, by name: the one typed, or its default.

        Returns:
            The photographs that exist, with their cameras in OpenCV's axes and in pixel-center coordinates
            (docs/conventions.md), and the point clouds, if there are any.

        Raises:
            SceneError: something is missing or malformed; the message names file, entry, key and value.
            MissingExtraError: an optional package is needed, which is imported here and not with the module.
        """
