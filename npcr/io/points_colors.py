# SPDX-License-Identifier: Apache-2.0
"""Colors of points to 8 bits: which number is full brightness, and what lies beyond it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.io.points_text import locate_point

logger = logging.getLogger("npcr")

_OVERSHOOT = 0.1  # of full brightness: what sharpening and averaging exceed a range by
_SURELY_16_BITS = 1023  # the brightness of most points; errors do not lift most colors of 8 bits so high
_BRIGHT = 2  # 0..1 with highlights stays below it, but for single points; 0-255 would be black there
_DARK = 16  # of 255: below it, a range that the values alone tell is uncertain


def as_colors(values: NDArray[Any], unit_colors: bool | None, path: Path) -> NDArray[np.uint8]:
    """Convert colors of any range to 8 bits; say what is guessed, clipped or black.

    Args:
        values: (N, 3), at least one.
        unit_colors: see `npcr.io.points_columns.RawPoints`.
        path: of the file, for messages.

    Returns:
        (N, 3).

    Raises:
        SceneError: a color is not finite, or far out of its range.
    """
    if values.dtype != np.uint8:
        values = _to_eight_bits(values, unit_colors, path)
    if values.max() <= 1:
        logger.warning("%s: all %d points are black (%s); if 1 is full brightness, write it as 1.0", path, len(values),
                       "0 or 1 of 255" if values.any() else "0 0 0")
    return values


def _to_eight_bits(values: NDArray[Any], unit_colors: bool | None, path: Path) -> NDArray[np.uint8]:
    unknown = np.asarray(~np.isfinite(values).all(axis=1))
    if unknown.any():
        raise point_error(path, unknown, values, "color", "is not finite")
    whole = bool((values == np.rint(values)).all())
    white = _full_brightness(values, unit_colors, whole, path)
    # 16 bits are 257 times 8 bits, or 256 times; the quotient by 256 is right for both.
    scaled = values // 256 if white == 65535 else values.astype(np.float64) * (255 / white)
    slack = 0 if whole else 255 * _OVERSHOOT
    beyond = np.asarray(((scaled < -slack) | ((scaled > 255 + slack) & (white != 1))).any(axis=1))
    if beyond.any():
        negative = " (below 0, as normals are)" if (values < 0).any() else ""
        raise point_error(path, beyond, values, "color", f"is out of 0-{white}{negative}")
    clipped = ((scaled < -0.5) | (scaled > 255.5)).any(axis=1)
    if clipped.any():
        row = int(np.flatnonzero(clipped)[0])
        logger.warning("%s: %d of %d colors exceed 0-%d and are clipped to it; the first: %s, %s", path, clipped.sum(),
                       len(values), white, locate_point(path, row), _numbers(values[row]))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def _full_brightness(values: NDArray[Any], unit_colors: bool | None, whole: bool, path: Path) -> int:
    """1, 255 or 65535; a guess that the values do not bear out is said."""
    brightness = values.max(axis=1)
    top = float(brightness.max())
    if whole and top <= 1:
        return 1 if unit_colors else 255
    if whole:
        is_integer = unit_colors is False and values.dtype.itemsize > 1
        wide = top > 255 and (is_integer or float(np.median(brightness)) > _SURELY_16_BITS)
        if wide and not is_integer:
            logger.warning("%s: colors reach %g and are taken for 16 bits (0-65535)", path, top)
        return 65535 if wide else 255
    usual = float(np.percentile(brightness, 95, method="nearest"))
    if usual < _BRIGHT or (usual < _DARK and float(np.median(brightness)) <= 1):
        return 1
    if usual < _DARK:
        logger.warning("%s: colors reach %g, most stay below %.3g; they are taken for 0-255, which is dark. Scale them "
                       "where they are not", path, top, usual)
    return 255


def point_error(path: Path, bad: NDArray[np.bool_], values: NDArray[Any], what: str, problem: str) -> SceneError:
    """Make the error that names the first of the bad points.

    Args:
        path: of the file.
        bad: (N,) which points are.
        values: (N, 3) their numbers.
        what: the numbers are.
        problem: predicate of the message.

    Returns:
        The error, to be raised.
    """
    row = int(np.flatnonzero(bad)[0])
    return SceneError(f"{path}, {locate_point(path, row)}: {what} {_numbers(values[row])} {problem}; {bad.sum()} of "
                      f"{len(values)} points are so")


def _numbers(values: NDArray[Any]) -> str:
    return " ".join(f"{value:.7g}" for value in values)
