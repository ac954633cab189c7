# SPDX-License-Identifier: Apache-2.0
"""Pictures of 8-bit RGB or straight RGBA: over a background, resized, with color behind the matte."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def over(pixels: Pixels, background: float | Pixels) -> Pixels:
    """(H, W, 3): RGBA (H, W, 4) over a gray or an RGB picture, 0-255; RGB comes back as it is."""
    if pixels.shape[2] == 3:
        return pixels
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return _bytes(pixels[..., :3] * alpha + (1 - alpha) * np.asarray(background, np.float32))


def checkerboard(size: tuple[int, int], square: int = 12) -> Pixels:
    """(H, W, 3) squares of two light grays; size: (width, height)."""
    rows, columns = np.indices((size[1], size[0])) // square
    gray = np.where((rows + columns) % 2, 255, 204).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=2)


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """RGB or RGBA at `size` (width, height); averaged premultiplied, so that hidden colors stay hidden."""
    height, width = pixels.shape[:2]
    if (width, height) == tuple(size):
        return pixels
    filtering = cv2.INTER_AREA if size[0] * size[1] < width * height else cv2.INTER_CUBIC
    if pixels.shape[2] == 3:
        return np.asarray(cv2.resize(pixels, size, interpolation=filtering), np.uint8)
    mixed = np.clip(cv2.resize(_premultiplied(pixels), size, interpolation=filtering), 0, None)
    alpha = mixed[..., 3:]
    return _bytes(np.concatenate([mixed[..., :3] / np.maximum(alpha, 1 / 255), alpha * 255], axis=2))


def fitting(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """`size` (width, height) shrunk, where it is larger, to a longer side of `longest` pixels."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fill_hidden(rgba: Pixels) -> Pixels:
    """(H, W, 4) straight RGBA with the colors of invisible pixels taken, smoothly, from visible ones around.

    An encoder and a player's scaling mix neighboring colors without regard to alpha; black there would
    darken the rim of the hair, and its edge costs bits.
    """
    hidden = rgba[..., 3] == 0
    if not hidden.any() or hidden.all():
        return rgba
    result = rgba.copy()
    result[hidden, :3] = _bytes(_spread(_premultiplied(rgba))[hidden])
    return result


def _spread(premultiplied: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W, 3) color everywhere: a pixel's own where alpha is above 0, else from ever coarser averages."""
    alpha = premultiplied[..., 3:]
    color = np.asarray(premultiplied[..., :3] / np.maximum(alpha, 1e-20), np.float32)
    if (alpha > 0).all():
        return color
    height, width = alpha.shape[:2]
    half = cv2.resize(premultiplied, ((width + 1) // 2, (height + 1) // 2), interpolation=cv2.INTER_AREA)
    around = cv2.resize(_spread(np.asarray(half, np.float32)), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.where(alpha > 0, color, around), np.float32)


def _premultiplied(rgba: Pixels) -> NDArray[np.float32]:
    """Color 0-255 times alpha 0-1, and that alpha."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return np.concatenate([rgba[..., :3] * alpha, alpha], axis=2)


def _bytes(values: NDArray[np.floating]) -> Pixels:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)
