# SPDX-License-Identifier: Apache-2.0
"""The photographs that COLMAP's names stand for.

COLMAP stores the bytes of a path within its folder of images. On another machine the same file may have another
spelling: other slashes, other bytes for the same letters, other case, another folder before it.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES
from npcr.importers.colmap.records import ImageRecord
from npcr.importers.masks import is_in_mask_folder, is_named_as_mask

logger = logging.getLogger("npcr")

_ENCODINGS = ("gb18030", "big5", "cp932", "cp949", "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp437", "cp850",
              "cp866")
_SUFFIXES = frozenset(suffix.lower() for suffix in IMAGE_SUFFIXES)


def find_photographs(records: Mapping[int, ImageRecord], images: Path, file: Path) -> dict[int, Path]:
    """Find the photographs of a model's images.

    Args:
        records: the images by their numbers.
        images: the photographs' folder.
        file: the model's file of images, for messages.

    Returns:
        The paths of those that exist.

    Raises:
        SceneError: a name leads out of the folder, fits several photographs, or is in an unknown encoding; or two
            images have one photograph.
    """
    folder = _Folder(images, file)
    for number, record in records.items():
        if not record.name or b"\0" in record.name or ".." in _slashed(os.fsdecode(record.name)).split("/"):
            raise SceneError(f"{file}: image {number} is named '{record.label}'; a path within {images} is needed")
    found = {number: path for number, record in records.items()
             if (path := folder.find(os.fsdecode(record.name))) is not None}
    _warn_of_spellings(found, records, folder)
    foreign = {number: record for number, record in records.items()
               if number not in found and not record.name.isascii()}
    if foreign:
        found.update(_by_encoding(foreign, folder))
    _check_encoding(found, records, folder)
    for number, record in records.items():
        if number not in found and _is_absolute(os.fsdecode(record.name)):
            raise SceneError(f"{file}: image {number} is named '{record.label}', but {images} has no photograph that "
                             "this path ends with; --images names their folder")
    _check_distinct(found, records, file)
    return found


def warn_of_unplaced(images: Path, used: Collection[Path]) -> None:
    """Say how many photographs of the folder the model does not place, and how many of its masks are not used.

    Args:
        images: the photographs' folder.
        used: the photographs that it places, and other pictures that have a use.
    """
    pictures = _pictures(images)
    placed = {_composed(str(path)).casefold() for path in used}
    unplaced = [path for path in pictures if _composed(str(path)).casefold() not in placed]
    masks = [path for path in unplaced if is_named_as_mask(path) or is_in_mask_folder(path.relative_to(images))]
    photographs = [path for path in unplaced if path not in masks]
    if masks:
        logger.warning("%s: %d of %d pictures are masks by their names, and not used, first %s; --masks names their "
                       "folder (this one, where they lie beside the photographs)", images, len(masks), len(pictures),
                       _shown(str(masks[0].relative_to(images))))
    if photographs:
        logger.warning("%s: %d of %d photographs are left out, because the model does not place them; first %s", images,
                       len(photographs), len(pictures) - len(masks),
                       _shown(str(photographs[0].relative_to(images))))


class _Folder:
    """The photographs' folder, searched by names in any spelling."""

    def __init__(self, images: Path, file: Path) -> None:
        self.images, self.file = images, file

    def find(self, name: str) -> Path | None:
        """The photograph of a name; None if there is none."""
        for spelling in dict.fromkeys((name, _slashed(name))):
            if not _is_absolute(spelling) and _is_file(self.images / spelling):
                return self.images / spelling
        parts = _slashed(name).split("/")
        # A path that does not begin in the folder may begin in the workspace.
        inner = range(1, len(parts)) if _is_absolute(name) else range(2 if parts[0] == self.images.name else 1)
        ends = ("/".join(parts[start:]) for start in inner)
        return next((path for end in ends if (path := self._by_letters(end)) is not None), None)

    def _by_letters(self, name: str) -> Path | None:
        """The photograph whose name has the same letters, in another case if need be; any suffix if it has none."""
        kind = "name" if PurePosixPath(name).suffix.lower() in _SUFFIXES else "stem"
        for key in (_composed(name), _composed(name).casefold()):
            paths = self._index[kind].get(key, [])
            if len(paths) > 1:
                listed = ", ".join(_shown(str(path.relative_to(self.images))) for path in paths[:4])
                raise SceneError(f"{self.file}: the name '{_shown(name)}' fits {len(paths)} photographs in "
                                 f"{self.images}: {listed}; leave the right one there")
            if paths:
                return paths[0]
        return None

    @cached_property
    def _index(self) -> dict[str, dict[str, list[Path]]]:
        """Photographs by name and by name without suffix, each composed (NFC), and composed without case."""
        index: dict[str, dict[str, list[Path]]] = {"name": {}, "stem": {}}
        for path in _pictures(self.images):
            inner = path.relative_to(self.images)
            for kind, text in (("name", inner.as_posix()), ("stem", inner.with_suffix("").as_posix())):
                composed = _composed(text)
                for key in {composed, composed.casefold()}:
                    index[kind].setdefault(key, []).append(path)
        return index


def _warn_of_spellings(found: Mapping[int, Path], records: Mapping[int, ImageRecord], folder: _Folder) -> None:
    """Say which photographs' names differ from the model's by more than slashes, the suffix or the folder itself."""
    respelled = []
    for number, path in found.items():
        inner = path.relative_to(folder.images)
        name, *same = (_composed(_slashed(text)).removeprefix(f"{folder.images.name}/") for text in
                       (os.fsdecode(records[number].name), inner.as_posix(), inner.with_suffix("").as_posix()))
        if name not in same:
            respelled.append((_shown(str(inner)), records[number].label))
    if respelled:
        logger.warning("%s: %d of %d names are not those of the files in %s, but differ in case or are whole paths; "
                       "first, %s is taken for %s", folder.file, len(respelled), len(records), folder.images,
                       *respelled[0])


def _by_encoding(records: Mapping[int, ImageRecord], folder: _Folder) -> dict[int, Path]:
    """Photographs of names that are in another encoding than the files', by the encoding that fits most of them."""
    fits: dict[str, dict[int, Path]] = {}
    for encoding in _ENCODINGS:
        names = {number: _recoded(record.name, encoding) for number, record in records.items()}
        fits[encoding] = {number: path for number, name in names.items()
                          if name is not None and (path := folder.find(name)) is not None}
    best = max(fits, key=lambda encoding: len(fits[encoding]))
    if not fits[best]:
        return {}
    rival = next((encoding for encoding, found in fits.items()
                  if len(found) == len(fits[best]) and found != fits[best]), None)
    if rival is not None:
        raise SceneError(f"{folder.file}: {len(records)} names fit photographs in {folder.images} if they are in "
                         f"{best}, and other photographs if they are in {rival}; leave only the right ones there")
    first = next(number for number in records if number in fits[best])
    logger.warning("%s: %d names are in another encoding than the files in %s; %s fits %d of them and is used, first "
                   "%s for %s", folder.file, len(records), folder.images, best, len(fits[best]),
                   _shown(str(fits[best][first].relative_to(folder.images))), records[first].label)
    return fits[best]


def _check_encoding(found: Mapping[int, Path], records: Mapping[int, ImageRecord], folder: _Folder) -> None:
    """Refuse names that are no UTF-8 if none is found: they are in an encoding that is unknown here."""
    unreadable = [number for number, record in records.items() if not _is_utf8(record.name)]
    if unreadable and not any(number in found for number in unreadable):
        first = records[unreadable[0]].label
        raise SceneError(f"{folder.file}: {len(unreadable)} names are no UTF-8, first '{first}', and in none of "
                         f"{', '.join(_ENCODINGS)} are they photographs in {folder.images}. Give the photographs the "
                         "names that the model has, or names of plain letters (ASCII) and run COLMAP again")


def _recoded(name: bytes, encoding: str) -> str | None:
    """A name in `encoding` as text; or a name in UTF-8 as the text of a file whose name is in `encoding`."""
    try:
        return os.fsdecode(name.decode().encode(encoding)) if _is_utf8(name) else name.decode(encoding)
    except UnicodeError:
        return None


def _check_distinct(found: Mapping[int, Path], records: Mapping[int, ImageRecord], file: Path) -> None:
    by_path: dict[Path, int] = {}
    for number, path in found.items():
        twin = by_path.setdefault(path, number)
        if twin != number:
            raise SceneError(f"{file}: images {twin} ({records[twin].label}) and {number} ({records[number].label}) "
                             f"are one photograph, {_shown(str(path))}; each image needs its own")


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_absolute(name: str) -> bool:
    return bool(re.match(r"\s*([A-Za-z]:)?[\\/]", name))


def _slashed(name: str) -> str:
    """The name with one kind of slashes, and without "." as a folder and spaces around it."""
    parts = name.replace("\\", "/").strip().split("/")
    return "/".join(part for i, part in enumerate(parts) if part != "." and (part or i == 0))


def _composed(name: str) -> str:
    """The name with each letter and its accents as one character, where there is one."""
    return unicodedata.normalize("NFC", name)


def _pictures(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _SUFFIXES and _is_file(path)]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with characters that no file's name has
        return False


def _shown(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
