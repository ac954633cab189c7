# SPDX-License-Identifier: Apache-2.0
"""What the columns of a point cloud hold: by their names, or, where a file names none, by their number and values."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError

logger = logging.getLogger("npcr")

NUMBERS = (3, 4, 6, 7, 9)  # of columns that can be told apart without names
ROW_RULE = "a point is x y z, or x y z r g b"
HEADER_RULE = "other columns need a header line that names them, such as \"# x y z nx ny nz\""
_NAME_THEM = "put a line before the points that names them, such as \"# x y z r g b nx ny nz\""

# Lower-case names, the most specific first.
_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"),
           ("scalar_red", "scalar_green", "scalar_blue"), ("scalar_r", "scalar_g", "scalar_b"),
           ("color_red", "color_green", "color_blue"), ("color_r", "color_g", "color_b"))
_UNIT_COLORS = tuple(tuple(f"{start}{channel}f" for channel in "rgb") for start in ("", "scalar_", "color_"))
# Of Gaussian splats: the constant term of the spherical harmonics.
_HARMONICS = tuple(tuple(f"{start}dc_{term}" for term in range(3)) for start in ("f_", "features_", "feature_"))
_CONSTANT_HARMONIC = 0.28209479177387814
_PACKED = ("rgb", "rgba")  # of the Point Cloud Library: 0xAARRGGBB, as an integer or as the float of the same bits
_COLOR_LIKE = re.compile(r"red|green|blue|rgb|colou?r|gr[ae]y|intensity|reflectance|luminance|albedo|(^|_)dc_|"
                         r"(^|_)([rgb]f?|i)$")

_OTHERS = re.compile(r"n?[xyz]|af?|alpha|opacity|confidence|curvature|label|classification|scalar_?\w*|"
                     r"(point_?)?(id|index)")


class RawPoints(NamedTuple):
    """Points as a file holds them."""

    positions: NDArray[Any]  # (N, 3)
    colors: NDArray[Any] | None  # (N, 3)
    unit_colors: bool | None = None  # full brightness is 1 by convention: always, or never; None: the values tell


def is_header(words: Sequence[str], *, in_comment: bool) -> bool:
    """Tell whether the words of a line are names of columns.

    Args:
        words: of the line.
        in_comment: the line is a comment, which must have no other words than usual names.

    Returns:
        Whether they are.
    """
    names = [word.strip('"').lower() for word in words]
    return {"x", "y", "z"} <= set(names) and (
        not in_comment or all(_OTHERS.fullmatch(name) or _COLOR_LIKE.search(name) for name in names))


def named_points(columns: Mapping[str, NDArray[Any]], path: Path, *, typed: bool = True) -> RawPoints:
    """Find coordinates and colors by the names of columns, in capitals or not; say which others could be a color.

    Args:
        columns: (N,) each.
        path: of the file, for messages.
        typed: the columns' types are the file's, so that a floating-point color is 0..1 where its values allow it.

    Returns:
        The points.

    Raises:
        SceneError: a coordinate is missing.
    """
    found = {name.lower(): name for name in reversed(list(columns))} | {name: name for name in columns}
    missing = [name for name in "xyz" if name not in found]
    if missing:
        raise SceneError(f"{path}: vertices have no property {missing[0]}; they have {', '.join(columns)}")

    def stacked(names: Sequence[str]) -> NDArray[Any]:
        return np.stack([columns[found[name]] for name in names], axis=1)

    used: Sequence[str] = next((names for names in (*_COLORS, *_UNIT_COLORS, *_HARMONICS)
                                if all(n in found for n in names)), ())
    if not used:
        used = next(((name,) for name in _PACKED if name in found), ())
    colors, unit_colors = None, None
    if used in _HARMONICS:
        terms = stacked(used)
        # Colors beyond black and white are a splat's way; those without a number are reported later.
        colors = np.where(np.isfinite(terms), (0.5 + _CONSTANT_HARMONIC * terms).clip(0, 1), np.nan)
        unit_colors = True
    elif len(used) == 1:
        colors, unit_colors = _unpacked(columns[found[used[0]]]), False
    elif used:
        colors = stacked(used)
        unit_colors = used in _UNIT_COLORS or (colors.dtype.kind == "f" if typed else None)
    _say_unused([name for name in columns if name not in [found[n] for n in ("x", "y", "z", *used)]], bool(used), path)
    return RawPoints(stacked("xyz"), colors, unit_colors)


def unnamed_points(values: NDArray[Any], path: Path, *, unit_colors: bool | None = None) -> RawPoints:
    """Tell coordinates, colors, alpha, intensity and normals by the columns' number and values.

    Args:
        values: (N, columns), in one of `NUMBERS`.
        path: of the file, for messages.
        unit_colors: see `RawPoints`.

    Returns:
        The points.

    Raises:
        SceneError: the columns cannot be told apart.
    """
    colors: NDArray[Any] | None = None
    if values.shape[1] in (4, 7) and _is_index(values):
        logger.warning("%s: column 1 counts the points (%g, %g, ...) and is not used; x y z are the columns after it. "
                       "Where that is wrong, %s", path, *values[:2, 0], _NAME_THEM)
        values = values[:, 1:]
    rest = values[:, 3:] if len(values) else np.empty((0, 0))
    if rest.shape[1] == 1:
        logger.warning("%s: column 4 (intensity?) is not used; the cloud is read without colors", path)
    elif rest.shape[1] == 3 and _are_normals(rest):
        logger.warning("%s: columns 4 to 6 are all of length 1 and taken for normals; the cloud is read without colors",
                       path)
    elif rest.shape[1] == 3:
        colors = rest
    elif rest.shape[1] == 4:
        colors = _beside_one(rest, path)
    elif rest.shape[1] == 6:
        colors = _beside_normals(rest, path)
    return RawPoints(values[:, :3], colors, unit_colors)


def warn_of_surface_colors(path: Path, place: str) -> None:
    """Warn that the colors of a mesh are not at its vertices, where they would be read.

    Args:
        path: of the file.
        place: where the colors are.
    """
    logger.warning("%s: its vertices have no colors; those of its surface, in %s, are not read, and the cloud is "
                   "without colors. Give them to the vertices (in MeshLab: Transfer Color: Texture to Vertex, or Face "
                   "to Vertex) and export the mesh with vertex colors", path, place)


def _beside_one(rest: NDArray[Any], path: Path) -> NDArray[Any]:
    """The colors of (N, 4) r g b alpha, or intensity r g b as scanners write it."""
    first, middle, last = rest[:, 0], rest[:, 1:3], rest[:, 3]
    if (first < 0).any() or (first.max() > 255 >= middle.max()) or (_has_fractions(first) != _has_fractions(middle)):
        logger.info("%s: column 4 is an intensity and not used", path)
        return rest[:, 1:]
    if last[0] in (1, 255, 65535) and (last == last[0]).all():
        return rest[:, :3]
    raise SceneError(f"{path}: has 7 columns, which may be x y z r g b a or x y z i r g b; {_NAME_THEM}")


def _beside_normals(rest: NDArray[Any], path: Path) -> NDArray[Any]:
    """The colors of (N, 6) r g b and normals, in either order."""
    first, last = _are_normals(rest[:, :3]), _are_normals(rest[:, 3:])
    if first == last:
        raise SceneError(f"{path}: has 9 columns, of which {'each' if first else 'no'} three are normals of length 1; "
                         f"{_NAME_THEM}")
    logger.info("%s: columns %s are normals and not used", path, "4 to 6" if first else "7 to 9")
    return rest[:, 3:] if first else rest[:, :3]


def _is_index(values: NDArray[Any]) -> bool:
    """Whether the first column is the points' number: it counts up by one, or by more beside fractional coordinates."""
    steps = np.diff(values[:, 0])
    return len(values) > 2 and not _has_fractions(values[:, 0]) and bool(
        (steps == 1).all() or ((steps > 0).all() and _has_fractions(values[:, 1])))


def _are_normals(values: NDArray[Any]) -> bool:
    """Whether all rows are of length 1, or 0 where a normal is unknown, and not all are colors of 0 and 1."""
    length = np.linalg.norm(values.astype(np.float64), axis=1)
    known = length > 0
    return bool(np.isfinite(length).all() and 2 * known.sum() > len(known) and (abs(length[known] - 1) < 0.002).all()
                and ((values < 0).any() or _has_fractions(values)))


def _has_fractions(values: NDArray[Any]) -> bool:
    return bool(((values != np.rint(values)) & np.isfinite(values)).any())


def _unpacked(packed: NDArray[Any]) -> NDArray[np.uint8]:
    """(N, 3) colors of integers 0xAARRGGBB; floats are such integers, or have their bits."""
    if packed.dtype.kind == "f":
        largest = np.abs(packed).max(initial=0)
        if _has_fractions(packed) or not 1 <= largest < 2**32:
            packed = packed.astype(np.float32).view(np.uint32)
    bits = packed.astype(np.int64)
    return np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1).astype(np.uint8)


def _say_unused(names: list[str], colored: bool, path: Path) -> None:
    """Warn of columns that could be the color of a cloud without one; note all others."""
    color_like = [] if colored else [name for name in names if _COLOR_LIKE.search(name.lower())]
    if color_like:
        logger.warning("%s: %s could be a color but %s not used; the cloud is read without colors. Colors are columns "
                       "red, green, blue", path, _listed(color_like), "is" if len(color_like) == 1 else "are")
    others = [name for name in names if name not in color_like]
    if others:
        logger.info("%s: not used: %s", path, _listed(others))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
