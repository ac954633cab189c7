# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of photographs, mattes and rendered images.

An EXIF orientation is not applied, since calibrations refer to the stored pixels. 16-bit images are read as 8-bit.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from npcr.errors import SceneError
from npcr.io.files import atomic_write

logger = logging.getLogger("npcr")

SUFFIXES = (".jpg", ".jpeg", ".png")
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image.

    Args:
        path: a file of a format that Pillow reads.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W, 4) straight RGBA where the file has an alpha channel.

    Raises:
        SceneError: the file is missing, not an image, or cut short.
    """
    image = _load(Path(path))
    return np.array(image.convert("RGBA" if _has_alpha(image) else "RGB"))


def read_matte(path: str | Path) -> NDArray[np.uint8]:
    """Read a matte: the alpha channel where it is not 255 throughout, else the gray value.

    A matte of zeros and ones, which is nearly transparent on the scale of 0-255, gives a warning.

    Args:
        path: the file.

    Returns:
        (H, W) uint8 alpha.

    Raises:
        SceneError: the file is missing, not an image, or cut short.
    """
    image = _load(Path(path))
    matte = np.array(image.convert("RGBA").getchannel("A")) if _has_alpha(image) else None
    if matte is None or (matte == 255).all():
        matte = np.array(image.convert("L"))
    if matte.max(initial=0) == 1:
        logger.warning("%s: the largest value is 1 on a scale of 0-255; is this a mask of 0 and 1?", path)
    return matte


def inspect_image(path: str | Path) -> tuple[tuple[int, int], bool]:
    """Read size and kind of an image from its header; it is decoded only where its end mark is missing.

    Args:
        path: the file.

    Returns:
        ((width, height), whether the file has an alpha channel).

    Raises:
        SceneError: the file is missing, not an image, or cut short.
    """
    path = Path(path)
    with _open(path) as image:
        size, alpha = image.size, _has_alpha(image)
        complete = _ends_properly(path, image.format or "")
    if not complete:
        _load(path)
    return size, alpha


def write_image(path: str | Path, pixels: NDArray[Any], quality: int = 100) -> None:
    """Write an image, atomically.

    Args:
        path: its suffix, one of `SUFFIXES`, gives the format.
        pixels: gray (H, W), RGB (H, W, 3) or, but for JPEG, RGBA (H, W, 4); uint8, or floating point in 0..1, which is
            clipped and rounded.
        quality: of JPEG, 1 to 100; without chroma subsampling.

    Raises:
        ValueError: another shape, type or suffix.
        OSError: the file cannot be written.
    """
    path = Path(path)
    file_format = _FORMATS.get(path.suffix.lower())
    allowed = [(2, None), (3, 3)] if file_format == "JPEG" else [(2, None), (3, 3), (3, 4)]
    if file_format is None:
        raise ValueError(f"write_image: {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if (pixels.ndim, pixels.shape[2] if pixels.ndim == 3 else None) not in allowed:
        raise ValueError(f"write_image: {path}: cannot hold pixels of shape {pixels.shape}")
    image = Image.fromarray(np.ascontiguousarray(_as_bytes(pixels)))
    options: dict[str, Any] = {"quality": quality, "subsampling": 0} if file_format == "JPEG" else {}
    with atomic_write(path) as file:
        image.save(file, format=file_format, **options)


def _as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"write_image: pixels must be uint8 or floating point, are {pixels.dtype}")
    return np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)


def _open(path: Path) -> Image.Image:
    """Open an image and read its header; pixels are read on `load`."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such picture") from None
    except UnidentifiedImageError:
        raise SceneError(f"{path}: is not a picture") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SceneError(f"{path}: cannot be read: {error}") from None


def _load(path: Path) -> Image.Image:
    """Decode an image to 8 bits a channel."""
    with _open(path) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError on broken PNG chunks
            raise SceneError(f"{path}: cannot be decoded, it may be cut short: {error}") from None
        if image.mode.startswith("I"):  # 16-bit gray: Pillow's own conversion would clip instead of scaling
            return Image.fromarray((np.array(image) >> 8).astype(np.uint8))
        return image


def _has_alpha(image: Image.Image) -> bool:
    return "A" in image.getbands() or "transparency" in image.info


def _ends_properly(path: Path, file_format: str) -> bool:
    """Return whether the last bytes contain the format's end mark (cameras may append a little after it)."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        return _END_MARKS.get(file_format, b"\0missing\0") in file.read()
