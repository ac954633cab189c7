# SPDX-License-Identifier: Apache-2.0
"""Operations on 8-bit RGB and straight RGBA images: compositing, resizing, filling of transparent pixels."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def over(pixels: Pixels, background: float | Pixels) -> Pixels:
    """Composite an image over a background.

    Args:
        pixels: (H, W, 4) uint8 straight RGBA, or (H, W, 3) RGB, which is returned as it is.
        background: gray level, 0-255, or (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return _to_bytes(pixels[..., :3] * alpha + (1 - alpha) * np.asarray(background, np.float32))


def checkerboard(size: tuple[int, int], square: int = 12) -> Pixels:
    """Make a checkerboard of two light grays.

    Args:
        size: (width, height).
        square: side of a square, pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    rows, columns = np.indices((size[1], size[0])) // square
    gray = np.where((rows + columns) % 2, 255, 204).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize an image; premultiplied, so that colors of transparent pixels have no influence.

    Args:
        pixels: (H, W, 3) uint8 RGB or (H, W, 4) straight RGBA.
        size: (width, height) of the result.

    Returns:
        The image resized, by area averaging where it shrinks, else bicubic.
    """
    height, width = pixels.shape[:2]
    if (width, height) == tuple(size):
        return pixels
    filtering = cv2.INTER_AREA if size[0] * size[1] < width * height else cv2.INTER_CUBIC
    if pixels.shape[2] == 3:
        return np.asarray(cv2.resize(pixels, size, interpolation=filtering), np.uint8)
    premultiplied = np.clip(cv2.resize(_premultiplied(pixels), size, interpolation=filtering), 0, None)
    alpha = premultiplied[..., 3:]
    return _to_bytes(np.concatenate([premultiplied[..., :3] / np.maximum(alpha, 1 / 255), alpha * 255], axis=2))


def fit_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """Shrink a size, where its longer side exceeds a limit, keeping the aspect ratio.

    Args:
        size: (width, height).
        max_side: limit, pixels.

    Returns:
        (width, height), at least 1 each.
    """
    scale = min(1.0, max_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fill_transparent(rgba: Pixels) -> Pixels:
    """Fill the color of transparent pixels smoothly from the pixels around (alpha bleeding).

    Encoders and players mix neighboring colors without regard to alpha; black in transparent pixels would darken the
    edge of the hair and cost bits.

    Args:
        rgba: (H, W, 4) uint8 straight.

    Returns:
        (H, W, 4), with the same alpha, and the same color where alpha is above 0.
    """
    transparent = rgba[..., 3] == 0
    if not transparent.any() or transparent.all():
        return rgba
    result = rgba.copy()
    result[transparent, :3] = _to_bytes(_fill(_premultiplied(rgba))[transparent])
    return result


def _fill(premultiplied: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) straight color: the pixel's own where alpha is above 0, else from ever coarser averages."""
    alpha = premultiplied[..., 3:]
    color = np.asarray(premultiplied[..., :3] / np.maximum(alpha, 1e-20), np.float32)
    if (alpha > 0).all():
        return color
    height, width = alpha.shape[:2]
    half = cv2.resize(premultiplied, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    around = cv2.resize(_fill(np.asarray(half, np.float32)), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.where(alpha > 0, color, around), np.float32)


def _premultiplied(rgba: Pixels) -> NDArray[np.float32]:
    """(H, W, 4) color 0-255 times alpha, and alpha 0-1."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.concatenate([rgba[..., :3] * alpha, alpha], axis=2)


def _to_bytes(values: NDArray[np.floating]) -> Pixels:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
