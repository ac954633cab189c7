# SPDX-License-Identifier: Apache-2.0
"""Photographs, mattes and rendered pictures.

Pixels are taken as they are stored: an EXIF orientation is not applied, since calibrations refer to the
stored pixels. 16-bit pictures are read as 8-bit.
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
    """(H, W, 3) RGB, or (H, W, 4) RGBA where the file has an alpha channel. Raises `SceneError`."""
    image = _load(Path(path))
    return np.array(image.convert("RGBA" if _has_alpha(image) else "RGB"))


def read_matte(path: str | Path) -> NDArray[np.uint8]:
    """(H, W) alpha of a matte file: its gray value, or its alpha channel where that is not 255 throughout.

    Raises `SceneError`; warns on a matte of zeros and ones, which is all but transparent on a 0-255 scale.
    """
    image = _load(Path(path))
    matte = np.array(image.convert("RGBA").getchannel("A")) if _has_alpha(image) else None
    if matte is None or (matte == 255).all():
        matte = np.array(image.convert("L"))
    if matte.max(initial=0) == 1:
        logger.warning("%s: the largest value is 1 on a scale of 0-255; is this a mask of 0 and 1?", path)
    return matte


def inspect_image(path: str | Path) -> tuple[tuple[int, int], bool]:
    """((width, height), has an alpha channel), from the file's header.

    A file whose last bytes do not end the picture is decoded, to tell whether it is cut short. Raises
    `SceneError` where it is missing, not a picture, or cut short.
    """
    path = Path(path)
    with _open(path) as image:
        size, alpha = image.size, _has_alpha(image)
        complete = _ends_properly(path, image.format or "")
    if not complete:
        _load(path)
    return size, alpha


def write_image(path: str | Path, pixels: NDArray[Any], quality: int = 100) -> None:
    """Write gray (H, W), RGB (H, W, 3) or RGBA (H, W, 4) pixels, atomically; the suffix gives the format.

    `pixels` are uint8, or floating point in 0..1 (clipped, rounded). JPEG (no alpha) keeps full color
    resolution, at `quality`. Raises `ValueError` on another shape, type or suffix, `OSError` on a full disk.
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
    """The picture with its header read; pixels follow when asked for."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such picture") from None
    except UnidentifiedImageError:
        raise SceneError(f"{path}: is not a picture") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SceneError(f"{path}: cannot be read: {error}") from None


def _load(path: Path) -> Image.Image:
    """The decoded picture, 8 bits a channel."""
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
    """Whether the file's last bytes hold its format's end mark (cameras may append a little after it)."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        return _END_MARKS.get(file_format, b"\0missing\0") in file.read()
