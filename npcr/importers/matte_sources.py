# SPDX-License-Identifier: Apache-2.0
"""Where each photograph's matte comes from, and what it takes to lay it over the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npcr.errors import SceneError
from npcr.importers.base import Capture
from npcr.importers.matting import Matting
from npcr.importers.photographs import Photograph, warn_of
from npcr.io.image_files import inverse_turn, read_header
from npcr.io.images import read_image
from npcr.io.mattes import MatteKind, decode_matte, kind_of_matte

_RESIZED = 1.5  # sizes that differ by less, and not exactly alike on both sides, are of cropped pictures


@dataclass(frozen=True)
class MatteSource:
    """Where a photograph's matte comes from."""

    kind: str = "none"  # "alpha": the photograph's own; "mask": its mask file; "key", "trimap": computed; "none"
    labels: bool = False  # every value but 0 is the object
    turn: int = 1  # EXIF orientation that brings the mask file's pixels over the photograph's


def find_matte_sources(capture: Capture, photographs: Sequence[Photograph], mask: bool | None,
                       matting: Matting | None) -> list[MatteSource]:
    """Decide where mattes come from: all photographs have one, or none. Warn of what is left out or guessed.

    Args:
        capture: the photographs.
        photographs: their headers.
        mask: whether to keep mattes; None: where every photograph has one.
        matting: how to compute mattes instead; None: do not.

    Returns:
        One for each of `capture.views`.

    Raises:
        SceneError: mattes are wanted and missing, cannot be read, or do not fit their photographs.
    """
    if matting is not None and mask is False:
        raise SceneError("--no-mask leaves mattes out; --background and --trimap make them")
    if mask is False:
        return [MatteSource()] * len(photographs)
    images, masks = [view.image for view in capture.views], [view.mask for view in capture.views]
    if matting is not None and matting.trimaps is None:
        warn_of(capture.file, images, [file is not None for file in masks], "photographs have a mask",
                "--background makes mattes instead")
        return [MatteSource("key")] * len(images)
    if matting is not None:
        return [MatteSource("trimap", turn=turn) for turn in _mask_turns(capture, photographs, "trimaps")]
    alpha, alpha_labels = _own_alpha(capture, [photograph.header.alpha for photograph in photographs])
    lacking = [file is None and not own for file, own in zip(masks, alpha, strict=True)]
    if mask and any(lacking):
        raise SceneError(f"{capture.file}: {sum(lacking)} of {len(lacking)} photographs have neither an alpha channel "
                         f"nor a mask, first {images[lacking.index(True)]}; --no-mask imports them without mattes, "
                         "--background or --trimap make them")
    if any(lacking):
        if not all(lacking):
            warn_of(capture.file, images, lacking, "photographs have no matte", "mattes are left out altogether; give "
                    "these mattes, too, or take these photographs out of the capture")
        return [MatteSource()] * len(images)
    warn_of(capture.file, images, [own and file is not None for own, file in zip(alpha, masks, strict=True)],
            "photographs have an alpha channel beside their mask", "the masks are used")
    turns = _mask_turns(capture, photographs, "masks")
    mask_labels = _masks_are_labels(capture)
    return [MatteSource("alpha", alpha_labels) if file is None else MatteSource("mask", mask_labels, turn)
            for file, turn in zip(masks, turns, strict=True)]


def warn_of_blank_mattes(capture: Capture, files: Sequence[Path], mattes: Sequence[np.ndarray | None]) -> None:
    """Say which mattes have nothing of the object, or nothing but it: their making may have failed.

    Args:
        capture: for messages.
        files: that the mattes come from.
        mattes: as they are written, or smaller; None: there is none.
    """
    warn_of(capture.file, files, [matte is not None and not matte.any() for matte in mattes],
            "mattes are 0 throughout", "by them the object is not in these photographs, which deletes it where others "
            "see it. Make them anew, or take the photographs out of the capture")
    warn_of(capture.file, files, [matte is not None and bool((matte == 255).all()) for matte in mattes],
            "mattes are 255 throughout", "all of each picture is object; make them anew where it is not")


def _own_alpha(capture: Capture, alpha: Sequence[bool]) -> tuple[list[bool], bool]:
    """Which photographs' alpha channels are mattes, of those that have one; and whether these are labels.

    Channels of 255 throughout in all of them are no mattes. Files are decoded up to the first that tells.
    """
    images = [view.image for view in capture.views]
    needed = [own and view.mask is None for own, view in zip(alpha, capture.views, strict=True)]
    found = set()
    for image, own in zip(images, alpha, strict=True):
        if own:
            found.add(kind_of_matte(read_image(image)[..., 3]))
        if MatteKind.MATTE in found:
            return list(alpha), False
    if found == {MatteKind.EMPTY} and any(needed):
        raise SceneError(f"{capture.file}: the alpha channels of all {sum(needed)} photographs that have no other "
                         f"matte are 0 throughout, first {images[needed.index(True)]}; --no-mask leaves them out")
    if found == {MatteKind.OPAQUE}:
        warn_of(capture.file, images, needed, "photographs have an alpha channel of 255 throughout", "it is no matte")
        return [False] * len(alpha), False
    if MatteKind.LABELS in found:
        warn_of(capture.file, images, needed, "photographs have an alpha channel of a few values, hardly any of them "
                "255", "every value but 0 counts as the object")
    return list(alpha), MatteKind.LABELS in found


def _masks_are_labels(capture: Capture) -> bool:
    """Whether the masks number objects, by all of them together: one alone may have hardly any of the object in it."""
    files = [view.mask for view in capture.views if view.mask is not None]
    if not files:
        return False
    with ThreadPoolExecutor() as pool:
        judged = list(pool.map(_judge, files))
    kinds = {kind for kind, _, _ in judged}
    labels = [kind is MatteKind.LABELS for kind, _, _ in judged]
    remarks = [remark for _, _, remark in judged]
    warn_of(capture.file, files, [bool(remark) for remark in remarks], "masks are no plain mattes",
            f"it {next(filter(None, remarks), '')}")
    if kinds == {MatteKind.EMPTY}:
        raise SceneError(f"{capture.file}: all {len(files)} masks are 0 throughout, first {files[0]}; white (255) is "
                         "the object. --no-mask leaves them out")
    if MatteKind.MATTE in kinds:
        warn_of(capture.file, files, [few and large for few, (_, large, _) in zip(labels, judged, strict=True)],
                "masks hold only a few values, hardly any of them 255, and the others do not",
                "they are used as alpha of 0-255; where they number objects, make the object 255")
        return False
    warn_of(capture.file, files, labels, "masks hold only a few values, hardly any of them 255",
            "every value but 0 counts as the object")
    return any(labels)


def _judge(file: Path) -> tuple[MatteKind, bool, str]:
    """What a matte looks like, whether the object is more than a speck in it, and the remark of reading it."""
    matte, remark = decode_matte(file)
    return kind_of_matte(matte), bool(np.count_nonzero(matte) >= 0.01 * matte.size), remark


def _mask_turns(capture: Capture, photographs: Sequence[Photograph], what: str) -> list[int]:
    """The EXIF orientation to apply to each view's mask, by its size; 1 where it has none."""
    turns, resized = [], []
    for view, photograph in zip(capture.views, photographs, strict=True):
        turn, size = 1, photograph.size
        if view.mask is not None:
            size = read_header(view.mask).size
            if not _fits_over(size, photograph.size):
                # It was made of stored pixels that are turned here, or of turned ones that are not.
                turn = photograph.turn if photograph.turn > 1 else inverse_turn(photograph.header.orientation)
                if turn < 5 or not _fits_over(size[::-1], photograph.size):
                    raise SceneError(f"{view.mask}: is {size[0]}x{size[1]}; its photograph {view.image} is "
                                     f"{photograph.size[0]}x{photograph.size[1]}. A mask has its photograph's size, or "
                                     "is as a whole a smaller or larger copy")
                size = size[::-1]
        turns.append(turn)
        resized.append(size != photograph.size)
    masks = [view.mask or view.image for view in capture.views]
    warn_of(capture.file, masks, [turn > 1 for turn in turns], f"{what} are turned as their photographs' EXIF "
            "orientation says, or back", "only so they fit their photographs")
    warn_of(capture.file, masks, resized, f"{what} are of another size than their photographs", "they are resized")
    return turns


def _fits_over(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one image is the other, resized as a whole: the smaller's sides are rounded to a pixel."""
    small, large = sorted((size, other))
    factor = large[0] / small[0]
    exact = small[0] * large[1] == small[1] * large[0]
    return exact or (factor >= _RESIZED and abs(large[1] / factor - small[1]) <= 1)
