# SPDX-License-Identifier: Apache-2.0
"""The masks that belong to photographs, by the names that tools give them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES

logger = logging.getLogger("npcr")

_SUFFIXES = frozenset(suffix.lower() for suffix in IMAGE_SUFFIXES)
# Of the photograph x.jpg, before the mask's own suffix; what stands first counts where there are several.
_SPELLINGS = ("{name}", "{stem}_mask", "{stem}_alpha", "{stem}_matte", "mask_{stem}", "{stem}")
_MARKED = re.compile(r"[_-](mask|matte|alpha)$|^(mask|matte|alpha)[_-]", re.IGNORECASE)
# Names of folders of masks, in any case; what stands first counts where several serve as many photographs.
_FOLDERS = ("masks", "mask", "mattes", "matte", "alphas", "alpha", "segmentations", "segmentation", "silhouettes",
            "silhouette")
_TRIMAP_FOLDERS = ("trimaps", "trimap")


def find_masks(folder: Path, photographs: Sequence[Path],
               needed: Literal["all", "any", "none"] = "any", kind: str = "mask") -> list[Path | None]:
    """Find the masks of photographs; say how many have none.

    Args:
        folder: of the masks, as in `MaskFolder`.
        photographs: their paths.
        needed: for how many photographs it must have one.
        kind: what a mask is called in messages.

    Returns:
        A mask for each photograph, None where there is none.

    Raises:
        SceneError: the folder does not exist, a photograph has several masks, two photographs have one, or there are
            fewer than needed; the message says which names were looked for.
    """
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such folder of {kind}s")
    masks = MaskFolder(folder)
    found = [masks.find(photograph) for photograph in photographs]
    served: dict[Path, Path] = {}
    for mask, photograph in zip(found, photographs, strict=True):
        if mask is not None and (twin := served.setdefault(mask, photograph)) != photograph:
            raise SceneError(f"{mask}: would be the {kind} of both {twin} and {photograph}; each needs its own, in "
                             f"folders within {folder} that are named as the photographs' folders")
    lacking = [photograph for photograph, mask in zip(photographs, found, strict=True) if mask is None]
    if lacking:
        message = (f"{folder}: has no {kind} for {len(lacking)} of {len(photographs)} photographs, first {lacking[0]}; "
                   f"looked for {', '.join(masks.names(lacking[0]))} in it and its folders, which have "
                   f"{masks.example()}")
        if _holds(folder, lacking[0]):
            message += f". It is the photographs' own folder, where a {kind} has another name than its photograph"
        if needed == "all" or (needed == "any" and len(lacking) == len(photographs)):
            raise SceneError(message)
        logger.warning("%s", message)
    return found


def find_masks_near(places: Sequence[Path], photographs: Sequence[Path]) -> list[Path | None]:
    """Find the masks of photographs in the folder that is named after masks and serves most of them.

    Which one is used is said where it is not called masks; those that are not used are said, too.

    Args:
        places: where the folder may lie.
        photographs: their paths.

    Returns:
        A mask for each photograph, None where there is none.

    Raises:
        SceneError: as in `find_masks`.
    """
    places = list({place.resolve(): place for place in places}.values())
    folders = [folder for place in places for folder in mask_folders(place)
               if not any(_holds(folder, photograph) for photograph in photographs)]
    if not folders:
        return [None] * len(photographs)
    serving = {folder: _count_served(folder, photographs) for folder in folders}
    chosen = max(folders, key=lambda folder: serving[folder])
    others = [folder for folder in folders if folder != chosen]
    if serving[chosen] and (others or chosen.name != "masks"):
        listed = f"; not used: {', '.join(map(str, others))}" if others else ""
        logger.warning("%s: is taken for the folder of masks, since it has those of %d of %d photographs%s; --masks "
                       "names another", chosen, serving[chosen], len(photographs), listed)
    return find_masks(chosen, photographs, needed="none")


def mask_folders(place: Path) -> list[Path]:
    """List the folders in a place that are named after masks.

    Args:
        place: a folder; it need not exist.

    Returns:
        Their paths, the most usual name first.
    """
    found = [path for path in sorted(place.iterdir()) if path.is_dir()] if place.is_dir() else []
    return [path for name in _FOLDERS for path in found if _key(path.name) == name]


def is_in_mask_folder(path: Path) -> bool:
    """Say whether a folder of a path is named after masks or trimaps.

    Args:
        path: of a picture, within a folder of photographs.

    Returns:
        Whether it is no photograph by its folder.
    """
    return any(_key(part) in _FOLDERS + _TRIMAP_FOLDERS for part in path.parts[:-1])


def is_named_as_mask(path: Path) -> bool:
    """Say whether a picture's own name is one of a mask: x_mask.png, x-alpha.png, mask_x.png.

    Args:
        path: of the picture.

    Returns:
        Whether it is; a photograph may have such a name, too.
    """
    return _MARKED.search(path.stem) is not None


class MaskFolder:
    """A folder of masks, whose folders may mirror the photographs', wholly or in part.

    The mask of a/b/x.jpg may lie in a/b, in a, in b, or in the folder itself; the most of the photograph's folders
    count. The case of letters counts only where nothing else tells two masks apart.

    Args:
        folder: it is searched through; it need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_stem: dict[str, list[Path]] = {}
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                self._by_stem.setdefault(_key(path.stem), []).append(path)

    def find(self, photograph: Path) -> Path | None:
        """Find the mask of a photograph.

        Args:
            photograph: its path, all of whose folders count.

        Returns:
            The mask's path, or None where there is none.

        Raises:
            SceneError: several masks fit equally well.
        """
        folders = [_key(part) for part in photograph.parts[:-1]]
        ranked: dict[tuple[int, int, bool], list[Path]] = {}
        for i, spelling in enumerate(_spelled(photograph)):
            for path in self._by_stem.get(_key(spelling), ()):
                inner = [_key(part) for part in path.relative_to(self.folder).parts[:-1]]
                if _within(inner, folders) and not _same_file(path, photograph):
                    ranked.setdefault((len(inner), -i, path.stem == spelling), []).append(path)
        if not ranked:
            return None
        best = ranked[max(ranked)]
        if len(best) > 1:
            raise SceneError(f"{self.folder}: {len(best)} masks fit {photograph} equally well: "
                             f"{', '.join(str(path.relative_to(self.folder)) for path in best)}; leave one there")
        return best[0]

    def names(self, photograph: Path) -> list[str]:
        """List the names that are looked for.

        Args:
            photograph: its path.

        Returns:
            Names of masks, with .png for any suffix.
        """
        return list(dict.fromkeys(f"{spelling}.png" for spelling in _spelled(photograph)))

    def example(self) -> str:
        """Describe what is in the folder.

        Returns:
            The number of pictures and the first one.
        """
        paths = [path for found in self._by_stem.values() for path in found]
        if not paths:
            other = next((path for path in sorted(self.folder.rglob("*")) if path.is_file()), None)
            return "no pictures" + (f", but {other.relative_to(self.folder)}" if other else "")
        return f"{len(paths)} pictures, such as {min(paths).relative_to(self.folder)}"


def _count_served(folder: Path, photographs: Sequence[Path]) -> int:
    """How many photographs have a mask there, or several, which `find_masks` refuses."""
    masks, count = MaskFolder(folder), 0
    for photograph in photographs:
        try:
            count += masks.find(photograph) is not None
        except SceneError:
            count += 1
    return count


def _spelled(photograph: Path) -> list[str]:
    return [spelling.format(name=photograph.name, stem=photograph.stem) for spelling in _SPELLINGS]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _within(inner: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether the folders of a mask are some of the photograph's, in their order."""
    rest = iter(folders)
    return all(part in rest for part in inner)


def _holds(folder: Path, photograph: Path) -> bool:
    return folder.resolve() in photograph.resolve().parents


def _same_file(one: Path, other: Path) -> bool:
    return one == other or (other.exists() and one.samefile(other))
