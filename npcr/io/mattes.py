# SPDX-License-Identifier: Apache-2.0
"""Mattes in files of images: alpha channels, gray values, label images (palettes, colors, small numbers)."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npcr.errors import SceneError
from npcr.io.image_files import has_alpha, load_image

logger = logging.getLogger("npcr")

_GRAY = 16  # of 255: by how much the channels of a gray picture may differ, after JPEG
_FEW = 16  # values that a soft matte has more of, and a picture of labels or of 0 and 255 fewer
_OPAQUE = 250  # of 255
_MOST_COLORS = 256
_NOTICEABLE = 0.01  # share of a picture's pixels

Colors = dict[int | tuple[int, int, int], tuple[int, int, int]]  # of a palette's indices, or of themselves


class MatteKind(Enum):
    """What the values of a matte look like."""

    MATTE = "an alpha of 0-255, hard or soft"
    LABELS = "numbers of objects: few values, and few of the object's pixels opaque"
    EMPTY = "0 throughout"
    OPAQUE = "255 throughout"


def read_matte(path: str | Path) -> NDArray[np.uint8]:
    """Read a matte: the alpha channel where it is not 255 throughout, else the gray value.

    A palette picture in colors, or another picture of few colors, is a label image: all but the background (black, or
    index 0) is the object. What is guessed gives a warning; so does a matte of zeros and ones (or other small numbers),
    which is nearly transparent on the scale of 0-255.

    Args:
        path: the file.

    Returns:
        (H, W) uint8 alpha.

    Raises:
        SceneError: the file is missing, not an image, cut short, or in colors that make no matte.
    """
    path = Path(path)
    matte, remark = decode_matte(path)
    if remark:
        logger.warning("%s: %s", path, remark)
    largest = matte.max(initial=0)
    if largest < _FEW and np.count_nonzero(matte) >= _NOTICEABLE * matte.size:
        numbers = "0 and 1" if largest == 1 else f"the labels 0 to {largest}"
        logger.warning("%s: the largest value is %d on a scale of 0-255; is this a mask of %s? The object must be 255",
                       path, largest, numbers)
    return matte


def decode_matte(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Read a matte as `read_matte` does, without warnings.

    Args:
        path: the file.

    Returns:
        (H, W) uint8 alpha, and a remark on what had to be guessed; "" where nothing had to be.

    Raises:
        SceneError: the file is missing, not an image, cut short, or in colors that make no matte.
    """
    image, remark = load_image(path)
    if has_alpha(image):
        alpha = np.array(image.convert("RGBA").getchannel("A"))
        if not (alpha == 255).all():
            return alpha, remark
    if is_gray(image):
        return np.array(image.convert("L")), remark
    colors = _colors(image)
    if colors is None:
        raise SceneError(f"{path}: is a picture in more than {_MOST_COLORS} colors, not a matte; a matte is gray, 255 "
                         "on the object and 0 elsewhere, or an alpha channel")
    background = _background(colors, image.mode == "P", path)
    if image.mode == "P":
        shown = np.array(image) != background
    else:
        shown = (np.array(image.convert("RGB")) != background).any(2)
    objects = len(colors) - (background in colors)
    if objects > 1:
        remark = f"is a label image of {objects} colors beside the background; all of them count as the object"
    elif image.mode != "P":
        remark = "is in color; every color but black counts as the object"
    return np.where(shown, 255, 0).astype(np.uint8), remark


def read_trimap(path: Path) -> NDArray[np.uint8]:
    """Read a trimap: gray values.

    Args:
        path: the file.

    Returns:
        (H, W) uint8.

    Raises:
        SceneError: the file is missing, not an image, cut short, or in colors.
    """
    image, _ = load_image(path)
    if not is_gray(image):
        raise SceneError(f"{path}: is in colors ({image.mode}); a trimap is gray: 0 on the background, 255 on the "
                         "object, between them where it is unknown")
    return np.array(image.convert("L"))


def kind_of_matte(matte: NDArray[np.uint8]) -> MatteKind:
    """Judge a matte by its values; one picture alone may mislead, where the object is hardly in it.

    Args:
        matte: (H, W) alpha.

    Returns:
        What it looks like.
    """
    counts = np.bincount(matte.ravel(), minlength=256)
    shown = counts[1:].sum()
    if not shown:
        return MatteKind.EMPTY
    if counts[255] == matte.size:
        return MatteKind.OPAQUE
    few = counts[0] > 0 and np.count_nonzero(counts) <= _FEW
    return MatteKind.LABELS if few and 2 * counts[_OPAQUE:].sum() < shown else MatteKind.MATTE


def is_gray(image: Image.Image) -> bool:
    """Say whether an image is gray: not in colors, nor a palette picture whose grays number objects.

    Args:
        image: decoded.

    Returns:
        Whether it is, but for the tint of a JPEG. Colors no brighter than 16 of 255 on a part of the picture are
        numbers, and so are black and one more gray of a palette, but of one that is the plain ramp.
    """
    if image.mode in ("1", "L", "LA", "La"):
        return True
    if image.mode in ("P", "PA"):
        used = _palette(image)
        is_ramp = all(color == (index,) * 3 for index, color in used.items())
        one_object = len(used) == 2 and (0, 0, 0) in used.values()
        return is_ramp or (not one_object and _spread(np.array(list(used.values())))[0] == 0)
    colors = np.array(image.convert("RGB"))
    difference, brightest = _spread(colors)
    if brightest > _GRAY:
        return difference <= _GRAY
    return difference == 0 or not _NOTICEABLE <= colors.any(2).mean() < 1


def _spread(colors: NDArray[Any]) -> tuple[int, int]:
    """Largest difference between the channels of a color (…, 3), and the largest value."""
    red, green, blue = np.moveaxis(colors, -1, 0)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return int((high - low).max(initial=0)), int(high.max(initial=0))


def _palette(image: Image.Image) -> Colors:
    """{index: color} of the indices that are used."""
    indices = image if image.mode == "P" else image.getchannel("P")
    values = np.array(image.getpalette("RGB") or [], dtype=int)
    values = np.concatenate([values, np.zeros(768 - len(values), int)]).reshape(-1, 3)
    return {int(index): (int(values[index, 0]), int(values[index, 1]), int(values[index, 2]))
            for index in np.unique(np.array(indices))}


def _colors(image: Image.Image) -> Colors | None:
    """The colors that are used, by index where there is a palette; None: more than `_MOST_COLORS`."""
    if image.mode == "P":
        return _palette(image)
    found: list[Any] | None = image.convert("RGB").getcolors(_MOST_COLORS)
    return None if found is None else {color: color for _, color in found}


def _background(colors: Colors, palette: bool, path: Path) -> int | tuple[int, int, int]:
    """The index or color that is not the object: the black one, else index 0.

    Programs that write palettes of their own making may have black anywhere; segmentation tools have it at 0.
    """
    black = [key for key, color in colors.items() if not any(color)]
    if palette and 0 in colors and black and 0 not in black:
        raise SceneError(f"{path}: its palette's index 0 is {colors[0]}, and index {black[0]} is black; which of them "
                         "is the background is unclear. Make it gray, 255 on the object and 0 elsewhere")
    if black:
        return black[0]
    if palette:
        return 0
    raise SceneError(f"{path}: is in {len(colors)} colors without black, so what is background is unclear; make it "
                     "gray, 255 on the object and 0 elsewhere")
