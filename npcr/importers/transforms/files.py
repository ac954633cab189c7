# SPDX-License-Identifier: Apache-2.0
"""Files that a transforms.json names: photographs, mattes, the cloud, however their paths are written."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote

from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES
from npcr.importers.transforms.values import Remarks

_SUFFIXES = {suffix.lower() for suffix in IMAGE_SUFFIXES}


class FileFinder:
    """Finds named files; what is found by another name than the one given is remarked.

    Args:
        file: that names the others; relative paths start at its folder.
        remarks: takes what is found by another name.
    """

    def __init__(self, file: Path, remarks: Remarks) -> None:
        self._file, self._folder, self._remarks = file, file.parent, remarks
        self._listed: dict[Path, list[str]] = {}

    def find(self, name: str, label: str, smaller: bool = False) -> Path:
        """Find a file.

        Args:
            name: its path as given, which may be Windows' and lack a photograph's suffix.
            label: what messages call it: "frames[3]: file_path".
            smaller: look for it in nerfstudio's images_2, images_4, ..., too, where it is not in images.

        Returns:
            The file's path; where there is none, the path where it should be.

        Raises:
            SceneError: the name lacks its suffix, and there are several such files.
        """
        plain = self._folder / name.replace("\\", "/")
        found = self._with_any_suffix(plain, label, name)
        if found is not None:
            return found
        for path, how in self._others(name, smaller):
            found = self._with_any_suffix(path, label, name)
            if found is not None:
                self._remarks.add(f"files are found by another name, {how}", f"{label}: {found} for {name}")
                return found
        return plain

    @staticmethod
    def has(path: Path) -> bool:
        """Return whether a path is a file's."""
        return _is_file(path)

    def _others(self, name: str, smaller: bool) -> Iterator[tuple[Path, str]]:
        """Paths that may be meant, and how they differ."""
        slashed = name.replace("\\", "/")
        if "%" in name:
            yield self._folder / unquote(slashed), "which is encoded as in a URL"
        if (same := self._regardless_of_case(self._folder / slashed)) is not None:
            yield same, "which differs in capitals or in the form of accents"
        windows = PureWindowsPath(name)
        if Path(name).is_absolute() or windows.drive:
            parts = windows.parts[1:]
            for start in range(1, len(parts)):
                yield self._folder.joinpath(*parts[start:]), "since the path leads to another machine"
        if smaller:
            place = (self._folder / slashed).parent
            for folder in self._list(place.parent):
                if re.fullmatch(rf"{re.escape(place.name)}_\d+", folder):
                    yield place.with_name(folder) / Path(slashed).name, "a smaller one"

    def _with_any_suffix(self, path: Path, label: str, name: str) -> Path | None:
        if _is_file(path):
            return path
        if path.suffix.lower() in _SUFFIXES:
            return None
        # NeRF-synthetic leaves the suffix away.
        found = [other for other in self._list(path.parent)
                 if other.startswith(path.name + ".") and other[len(path.name):].lower() in _SUFFIXES]
        if len(found) > 1:
            raise SceneError(f"{self._file}, {label} is {name!r}, and there are {' and '.join(found[:2])}; give the "
                             "suffix")
        return path.with_name(found[0]) if found else None

    def _regardless_of_case(self, path: Path) -> Path | None:
        """The one path below the folder whose parts are the same but for case and Unicode's form."""
        try:
            parts = path.relative_to(self._folder).parts
        except ValueError:
            return None
        place = self._folder
        for number, part in enumerate(parts):
            names = self._list(place)
            if part == ".." or part in names:
                place = place / part
                continue
            same = [other for other in names if _folded(other) == _folded(part)]
            if not same and number == len(parts) - 1:  # its suffix may be left away
                same = [other for other in names
                        if Path(other).suffix.lower() in _SUFFIXES and _folded(Path(other).stem) == _folded(part)]
            if len(same) != 1:
                return None
            place = place / same[0]
        return place

    def _list(self, folder: Path) -> list[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = sorted(os.listdir(folder))
            except (OSError, ValueError):  # there is none, or the name cannot be one
                self._listed[folder] = []
        return self._listed[folder]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a character that no name has
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
