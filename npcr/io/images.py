# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of photographs and rendered images; `read_matte` is at home in `npcr.io.mattes`.

An EXIF orientation is not applied, since calibrations refer to the stored pixels. 16-bit images are read as 8-bit.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from npcr.io.files import atomic_write
from npcr.io.image_files import has_alpha, load_image, read_header
from npcr.io.mattes import read_matte
from npcr.io.png import encode_png

__all__ = ["SUFFIXES", "inspect_image", "read_image", "read_matte", "write_image"]

logger = logging.getLogger("npcr")

SUFFIXES = (".jpg", ".jpeg", ".png")
_JPEG = (".jpg", ".jpeg")


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image.

    Args:
        path: a file of a format that Pillow reads, or HEIC.

    Returns:
        (H, W, 3) uint8 RGB, or (H, W, 4) straight RGBA where the file has an alpha channel.

    Raises:
        SceneError: the file is missing, not an image, or cut short.
        MissingExtraError: it is HEIC, and pillow-heif is missing.
    """
    path = Path(path)
    image, remark = load_image(path)
    if remark:
        logger.warning("%s: %s", path, remark)
    return np.array(image.convert("RGBA" if has_alpha(image) else "RGB"))


def inspect_image(path: str | Path) -> tuple[tuple[int, int], bool]:
    """Read size and kind of an image from its header; it is decoded only where its end mark is missing.

    Args:
        path: the file.

    Returns:
        ((width, height), whether the file has an alpha channel).

    Raises:
        SceneError: the file is missing, not an image, or cut short.
        MissingExtraError: it is HEIC, and pillow-heif is missing.
    """
    path = Path(path)
    header = read_header(path)
    if not header.complete:
        load_image(path)
    return header.size, header.alpha


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
    suffix = path.suffix.lower()
    allowed = [(2, None), (3, 3)] if suffix in _JPEG else [(2, None), (3, 3), (3, 4)]
    if suffix not in SUFFIXES:
        raise ValueError(f"write_image: {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    if (pixels.ndim, pixels.shape[2] if pixels.ndim == 3 else None) not in allowed or pixels.size == 0:
        raise ValueError(f"write_image: {path}: cannot hold pixels of shape {pixels.shape}")
    image = np.ascontiguousarray(_as_bytes(pixels))
    encoded = _encode_jpeg(image, quality) if suffix in _JPEG else encode_png(image)
    with atomic_write(path) as file:
        file.write(encoded)


def _encode_jpeg(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The bytes of a file. OpenCV encodes without Python's lock, so that threads encode side by side."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality,
               cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    if image.ndim == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), np.uint8)
    try:
        done, encoded = cv2.imencode(".jpg", image, options)
    except cv2.error:  # OpenCV 5 returns False instead
        done = False
    if not done:
        height, width = image.shape[:2]
        raise OSError(f"{width}x{height} pixels cannot be encoded; a side of a JPEG has at most 65500")
    return np.asarray(encoded, np.uint8)


def _as_bytes(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"write_image: pixels must be uint8 or floating point, are {pixels.dtype}")
    return np.rint(np.clip(np.nan_to_num(pixels), 0, 1) * 255).astype(np.uint8)
