# SPDX-License-Identifier: Apache-2.0
"""What the photographs of a capture are: which way up, in which colors; all that their pixels do not keep is said."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from npcr.importers.base import Capture, View
from npcr.io.image_files import ImageHeader, load_image, read_header

logger = logging.getLogger("npcr")

SAME_SHAPE = 0.02  # relative difference of aspect ratios


@dataclass(frozen=True)
class Photograph:
    """A view's photograph, as its camera saw it."""

    header: ImageHeader
    turn: int = 1  # EXIF orientation that is applied to the stored pixels; 1: none

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), after `turn`."""
        width, height = self.header.size
        return (height, width) if self.turn >= 5 else (width, height)


def inspect_photographs(capture: Capture) -> list[Photograph]:
    """Read the headers of a capture's photographs; warn of what is guessed or not kept.

    Stored pixels are used, since calibrations refer to these; where a camera's size, or else its principal point, fits
    only what an EXIF orientation turns them to, they are turned.

    Args:
        capture: the photographs.

    Returns:
        One for each of `capture.views`.

    Raises:
        SceneError: a file is missing, not an image, cut short, or a camera's raw file.
        MissingExtraError: a photograph is HEIC, and pillow-heif is missing.
    """
    with ThreadPoolExecutor() as pool:
        headers = list(pool.map(_header, [view.image for view in capture.views]))
    fits = [_fits_turned(view, header) for view, header in zip(capture.views, headers, strict=True)]
    photographs = [Photograph(header, header.orientation if fit else 1)
                   for header, fit in zip(headers, fits, strict=True)]
    images = [view.image for view in capture.views]
    warn_of(capture.file, images, [photograph.turn > 1 for photograph in photographs],
            "photographs are turned as their EXIF orientation says", "only so they fit the size of their cameras")
    warn_of(capture.file, images, [header.orientation > 1 and fit is None
                                   for header, fit in zip(headers, fits, strict=True)],
            "photographs have an EXIF orientation that is not applied", "their pixels are used as they are stored, as "
            "COLMAP and Metashape do. If the calibration was made from turned ones, or mattes were, turn their pixels "
            "first (mogrify -auto-orient)")
    warn_of(capture.file, images, [header.frames > 1 for header in headers],
            "photographs have several frames or pages", "the first one of each is used")
    warn_of(capture.file, images, [header.deep for header in headers],
            "photographs have more than 8 bits a channel", "the lower bits are left out")
    warn_of(capture.file, images, [header.mode == "CMYK" for header in headers],
            "photographs are CMYK", "their conversion to RGB is only approximate; convert them to sRGB for true colors")
    profiles = [header.profile if header.mode != "CMYK" else "" for header in headers]
    warn_of(capture.file, images, [bool(name) for name in profiles],
            f"photographs have a color profile that is not sRGB ({next(filter(None, profiles), '')})",
            "their numbers are kept and the profile is not; convert them to sRGB for true colors in renderings")
    return photographs


def warn_of(file: Path, entries: Sequence[Path], affected: Sequence[bool], what: str, consequence: str) -> None:
    """Give one warning for all photographs (or mattes) that something is true of; none where there are none.

    Args:
        file: of the capture.
        entries: all of them.
        affected: which of them.
        what: "photographs are so and so".
        consequence: what is done, and what the user can do.
    """
    first = next((entry for entry, is_so in zip(entries, affected, strict=True) if is_so), None)
    if first is not None:
        logger.warning("%s: %d of %d %s, first %s; %s", file, sum(affected), len(entries), what, first, consequence)


def _header(path: Path) -> ImageHeader:
    header = read_header(path)
    if header.format in ("JPEG", "PNG") and not header.complete:
        load_image(path)  # says that it is cut short, if it is
    return header


def _fits_turned(view: View, header: ImageHeader) -> bool | None:
    """Whether the view's camera refers to the photograph turned by its EXIF orientation; None: this cannot be told."""
    if header.orientation < 5:
        return None if header.orientation > 1 else False
    width, height = header.size
    if view.lens is None:
        return None
    if view.lens.size is not None:
        stated: tuple[float, float] = view.lens.size
        limit = SAME_SHAPE
    elif view.lens.center is not None:
        stated = (2 * view.lens.center[0] + 1, 2 * view.lens.center[1] + 1)  # the principal point is near the middle
        limit = 0.1
    else:
        return None
    as_stored, as_turned = (abs(stated[0] * h - stated[1] * w) <= limit * abs(stated[1] * w)
                            for w, h in ((width, height), (height, width)))
    return None if as_stored == as_turned else as_turned
