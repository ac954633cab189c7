# SPDX-License-Identifier: Apache-2.0
"""The masks that belong to photographs, by the names that tools give them."""

from __future__ import annotations

import logging
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
        if needed == "all" or (needed == "any" and len(lacking) == len(photographs)):
            raise SceneError(message)
        logger.warning("%s", message)
    return found


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


def _spelled(photograph: Path) -> list[str]:
    return [spelling.format(name=photograph.name, stem=photograph.stem) for spelling in _SPELLINGS]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _within(inner: Sequence[str], folders: Sequence[str]) -> bool:
    """Whether the folders of a mask are some of the photograph's, in their order."""
    rest = iter(folders)
    return all(part in rest for part in inner)


def _same_file(one: Path, other: Path) -> bool:
    return one == other or (other.exists() and one.samefile(other))
