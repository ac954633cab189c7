# SPDX-License-Identifier: Apache-2.0
"""Which photograph belongs to which camera of a cameras.xml.

The file has a label for each camera, mostly the photograph's name with or without suffix, sometimes a path on another
machine. A photograph is taken for certain or not at all: of its name, in a folder that neither the label's own folders
nor the camera's group contradict, and for one camera only.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES
from npcr.importers.masks import is_in_mask_folder, is_named_as_mask, mask_folders
from npcr.importers.metashape.cameras import MetashapeCamera

logger = logging.getLogger("npcr")

_SUFFIXES = {suffix.lower() for suffix in IMAGE_SUFFIXES}
# Labels may end so, too, where the photographs were converted since.
_OTHER_SUFFIXES = {".tif", ".tiff", ".bmp", ".webp", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".exr", ".dng", ".raw",
                   ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".srw", ".pef"}
_SAME_FORMAT = {".jpeg": ".jpg", ".tiff": ".tif", ".heif": ".heic"}


@dataclass(frozen=True)
class _Name:
    """A label or path, taken apart for comparison: letters' case and composition do not count."""

    parents: tuple[str, ...]
    stem: str
    suffix: str  # "" where it ends in none of an image
    is_absolute: bool

    @classmethod
    def of(cls, text: str) -> _Name:
        parts = [_folded(part) for part in re.split(r"[\\/]+", text) if part not in ("", ".")]
        last = parts[-1] if parts else ""
        suffix = Path(last).suffix
        suffix = suffix if suffix in _SUFFIXES | _OTHER_SUFFIXES else ""
        return cls(tuple(parts[:-1]), last.removesuffix(suffix), suffix,
                   re.match(r"[\\/]|[A-Za-z]:[\\/]|file:", text) is not None)

    def has_format(self, path: Path) -> bool:
        """Whether a file's suffix is this one, or here is none."""
        mine, theirs = (_SAME_FORMAT.get(suffix, suffix) for suffix in (self.suffix, path.suffix.lower()))
        return mine in ("", theirs)


@dataclass
class PhotographFolder:
    """The photographs in a folder and below it; those in folders of mattes are passed over.

    Args:
        folder: where to look.
        masks: a folder of mattes; None: none is known but by its name.

    Raises:
        SceneError: there is no such folder.
    """

    folder: Path
    masks: Path | None = None

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise SceneError(f"{self.folder}: no such folder of photographs")
        masks = self.masks.resolve() if self.masks is not None else None
        if masks is not None and masks in (self.folder.resolve(), *self.folder.resolve().parents):
            masks = None  # the mattes lie among the photographs
        self._mattes: list[Path] = []
        self._by_stem: dict[str, list[Path]] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.suffix.lower() not in _SUFFIXES or not path.is_file():
                continue
            if masks is not None and masks in path.resolve().parents:
                continue
            if is_in_mask_folder(path.relative_to(self.folder)):
                self._mattes.append(path)
            else:
                self._by_stem.setdefault(_folded(path.stem), []).append(path)

    def find(self, cameras: Sequence[MetashapeCamera], known: Sequence[MetashapeCamera],
             file: Path) -> dict[str, Path]:
        """Find the photographs of cameras.

        Args:
            cameras: those to find.
            known: all of the chunk, among whose names one is unique or not.
            file: for messages.

        Returns:
            {camera's id: photograph}; those without a photograph lack.

        Raises:
            SceneError: several photographs fit a camera, or several cameras a photograph.
        """
        search = _Search(self, file, known)
        found: dict[str, Path] = {}
        owners: dict[Path, str] = {}
        for camera in cameras:
            path = search.photograph(camera)
            if path is None:
                continue
            if path in owners:
                raise SceneError(f"{file}: {path} fits two cameras, {owners[path]!r} and {camera.label!r}"
                                 f"{_of_group(camera)}; each needs a photograph of its own, in a folder that bears its "
                                 "group's name, for example")
            owners[path] = camera.label
            found[camera.id] = path
        search.say()
        self._say_unused(found.values(), known, file)
        return found

    def unused_mattes(self, photographs: Collection[Path], near: Iterable[Path]) -> list[Path]:
        """List the pictures that are mattes by their folders' names or their own.

        Args:
            photographs: those that are used as such.
            near: places of more folders of mattes, which count where the searched folder has none.

        Returns:
            Their paths, sorted within each folder.
        """
        named = [path for paths in self._by_stem.values() for path in paths
                 if is_named_as_mask(path) and path not in photographs]
        if found := self._mattes + named:
            return found
        folders = {folder.resolve(): folder for place in near for folder in mask_folders(place)
                   if folder.resolve() not in (self.folder.resolve(), *self.folder.resolve().parents)}
        return [path for folder in folders.values() for path in sorted(folder.rglob("*"))
                if path.suffix.lower() in _SUFFIXES]

    def candidates(self, stem: str) -> list[Path]:
        """List the photographs of a name.

        Args:
            stem: the name, folded and without suffix.

        Returns:
            Their paths, sorted.
        """
        return self._by_stem.get(stem, [])

    def lies_in(self, path: Path, name: _Name) -> int | None:
        """Compare a photograph's folders with those that a label names.

        Args:
            path: of the photograph.
            name: the label.

        Returns:
            How many folders agree, from the innermost; None where one contradicts.
        """
        within = self._within(path)
        own = [*(_folded(part) for part in self.folder.resolve().parts), *within]
        count = 0
        for mine, theirs in zip(reversed(own), reversed(name.parents), strict=False):
            if mine != theirs:
                break
            count += 1
        return count if count >= min(len(within), len(name.parents)) else None

    def folders(self, path: Path) -> tuple[str, ...]:
        """List the folders between the search's folder and a photograph.

        Args:
            path: of the photograph.

        Returns:
            Their names, folded.
        """
        return self._within(path)

    def _within(self, path: Path) -> tuple[str, ...]:
        return tuple(_folded(part) for part in path.relative_to(self.folder).parts[:-1])

    def _say_unused(self, used: Iterable[Path], known: Sequence[MetashapeCamera], file: Path) -> None:
        """Warn of photographs beside those used that belong to no camera, not even to one left out."""
        used = set(used)
        folders = {path.parent for path in used}
        stems = {_Name.of(text).stem for camera in known for text in (camera.label, camera.path or "")}
        names = {_folded(path.name) for path in used}
        unused = [path for stem, paths in self._by_stem.items() for path in paths
                  if path.parent in folders and path not in used and stem not in stems | names
                  and not is_named_as_mask(path)]
        if unused:
            logger.warning("%s: %d pictures beside the photographs belong to no camera of it and are left out, "
                           "first %s", file, len(unused), unused[0])


class _Search:
    """One search for the photographs of a chunk's cameras, with what is to be said of it."""

    def __init__(self, place: PhotographFolder, file: Path, known: Sequence[MetashapeCamera]) -> None:
        self._place = place
        self._file = file
        self._stems = Counter(_Name.of(camera.label).stem for camera in known)
        # Where some photographs have the format that labels say, a picture in another one is no converted photograph.
        self._formats = {name.suffix for camera in known for text in (camera.path, camera.label)
                         if text and (name := _Name.of(text)).suffix and any(map(name.has_format, place.candidates(
                             name.stem)))}
        self._groups = {camera.group for camera in known if camera.group}
        self._elsewhere: list[str] = []
        self._converted: list[str] = []
        self._again_below: list[str] = []
        self._other_case: list[str] = []

    def photograph(self, camera: MetashapeCamera) -> Path | None:
        """The photograph of a camera, by its path where the file has it, else by its label; None: there is none."""
        for text in (camera.path, camera.label):
            if text and (found := self._find(camera, _Name.of(text))) is not None:
                if _is_of_other_case(found.relative_to(self._place.folder), text):
                    self._other_case.append(f"{text} -> {found}")
                return found
        return None

    def say(self) -> None:
        """Warn of photographs that were found in another way than by their own name in their own place."""
        for what, found in (("found by their name alone, in folders that their labels or groups do not name",
                             self._elsewhere),
                            ("of another format than their labels say", self._converted),
                            ("taken whose names differ from their labels in capitals", self._other_case),
                            (f"met in {self._place.folder} itself and again below it; those in the folder itself are "
                             "taken, --images names another", self._again_below)):
            if found:
                logger.warning("%s: %d photographs are %s; first %s", self._file, len(found), what, found[0])

    def _find(self, camera: MetashapeCamera, name: _Name) -> Path | None:
        named = self._place.candidates(name.stem)
        for other_format in (False, True):
            if other_format and (not name.suffix or name.suffix in self._formats):
                break
            paths = [path for path in named if name.has_format(path) != other_format]
            found = self._certain(camera, name, paths) or self._only_one(camera, name, paths)
            if found is not None:
                if other_format:
                    self._converted.append(f"{camera.label} -> {found}")
                return found
        return None

    def _certain(self, camera: MetashapeCamera, name: _Name, paths: list[Path]) -> Path | None:
        """The one that lies where the label and the group say."""
        agreeing = {path: count for path in paths if (count := self._place.lies_in(path, name)) is not None}
        most = max(agreeing.values(), default=0)
        fitting = [path for path, count in agreeing.items() if count == most]
        if not name.parents:
            fitting = self._of_group(camera, fitting)
        same_case = [path for path in fitting if path.name in camera.label or path.stem in camera.label]
        if len(fitting) > 1 and len(same_case) == 1:
            fitting = same_case
        outermost = [path for path in fitting if path.parent == self._place.folder]
        if len(fitting) > 1 and len(outermost) == 1:
            self._again_below.append(f"{outermost[0]}, also {next(p for p in fitting if p not in outermost)}")
            fitting = outermost
        if len(fitting) > 1:
            raise SceneError(f"{self._file}, {camera.label}{_of_group(camera)}: {len(fitting)} photographs fit, such "
                             f"as {fitting[0]} and {fitting[1]}; --images names the folder of the photographs, --masks "
                             "that of their mattes, and a folder for each group bears the group's name")
        return fitting[0] if fitting else None

    def _of_group(self, camera: MetashapeCamera, paths: list[Path]) -> list[Path]:
        """Those in folders named after the camera's group, else those in folders named after no other group."""
        own = {_folded(camera.group)} if camera.group else set()
        others = {_folded(group) for group in self._groups if group} - own
        mine = [path for path in paths if own & set(self._place.folders(path))]
        return mine or [path for path in paths if not others & set(self._place.folders(path))]

    def _only_one(self, camera: MetashapeCamera, name: _Name, paths: list[Path]) -> Path | None:
        """The only photograph of a name that no other camera has; the folders of another machine may differ."""
        if len(paths) != 1 or self._stems[name.stem] > 1 or (name.parents and not name.is_absolute):
            return None
        self._elsewhere.append(f"{camera.label} -> {paths[0]}")
        return paths[0]


def _is_of_other_case(path: Path, text: str) -> bool:
    """Whether a name of a photograph or its folders is the label's but for capitals; the suffix does not count."""
    mine = unicodedata.normalize("NFC", path.with_suffix("").as_posix()).split("/")
    theirs = re.split(r"[\\/]+", unicodedata.normalize("NFC", text))
    theirs[-1] = theirs[-1][:len(mine[-1])]
    pairs = zip(reversed(mine), reversed(theirs), strict=False)
    return any(one != other and _folded(one) == _folded(other) for one, other in pairs)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _of_group(camera: MetashapeCamera) -> str:
    return f" of group {camera.group!r}" if camera.group else ""
