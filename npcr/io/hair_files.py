# SPDX-License-Identifier: Apache-2.0
"""Cem Yuksel's binary .hair files (http://www.cemyuksel.com/research/hairmodels/).

A header of 128 bytes, little-endian: "HAIR"; the number of strands; the number of points; a bit field of the arrays
that follow (1: segments of each strand, uint16; 2: points; 4: thickness of each point; 8: its transparency; 16: its
color); defaults for segments, thickness, transparency and color; 88 bytes of text.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npcr.errors import SceneError
from npcr.io.text import read_bytes

_HEADER = struct.Struct("<4sIIIIff3f88s")
_SEGMENTS, _POINTS, _THICKNESS, _TRANSPARENCY, _COLORS = 1, 2, 4, 8, 16


class HairFile(NamedTuple):
    """N strands with P points in all, strand by strand; each has at least two points."""

    points: np.ndarray  # (P, 3) float64, from root to tip, in the file's units and axes
    thickness: np.ndarray  # (P,) float64 diameter of the strand, in the file's units
    counts: np.ndarray  # (N,) int64 points of each strand
    has_thickness: bool  # False: `thickness` is the header's default throughout


def read_hair(path: str | Path) -> HairFile:
    """Read the strands of a .hair file.

    Transparency and color are ignored, and strands without a segment are left out. Memory is allocated only after
    the header's numbers have been checked against the size of the file.

    Args:
        path: a .hair file.

    Returns:
        Points, thickness and the number of points of each strand.

    Raises:
        SceneError: the file is missing, cut short, contradicts itself, or holds numbers that are not finite.
    """
    path = Path(path)
    data = read_bytes(path)
    if len(data) < _HEADER.size:
        raise SceneError(f"{path}: has {len(data)} bytes; the header of a .hair file has {_HEADER.size}")
    magic, n_strands, n_points, arrays, segments, thickness, *_ = _HEADER.unpack_from(data)
    if magic != b"HAIR":
        raise SceneError(f"{path}: begins with {magic!r}; a .hair file begins with b'HAIR'")
    if not arrays & _POINTS:
        raise SceneError(f"{path}: has no array of points (arrays {arrays:#x})")
    if n_strands == 0:
        raise SceneError(f"{path}: has no strands")
    sizes = {"segments": 2 * n_strands if arrays & _SEGMENTS else 0, "points": 12 * n_points,
             "thickness": 4 * n_points if arrays & _THICKNESS else 0,
             "transparency": 4 * n_points if arrays & _TRANSPARENCY else 0,
             "colors": 12 * n_points if arrays & _COLORS else 0}
    if len(data) != _HEADER.size + sum(sizes.values()):
        raise SceneError(f"{path}: has {len(data)} bytes; its header announces {n_strands} strands and {n_points} "
                         f"points, which take {_HEADER.size + sum(sizes.values())}")
    # Before an array of n_strands is allocated: without an array of segments only n_points limits it.
    if n_strands > n_points:
        raise SceneError(f"{path}: announces {n_strands} strands for {n_points} points; each has at least one")
    offset = _HEADER.size
    counts = np.full(n_strands, segments, np.int64)
    if arrays & _SEGMENTS:
        counts = np.frombuffer(data, "<u2", n_strands, offset).astype(np.int64)
        offset += sizes["segments"]
    counts = counts + 1
    if int(counts.sum()) != n_points:
        raise SceneError(f"{path}: its strands have {int(counts.sum())} points, its header announces {n_points}")
    points = np.frombuffer(data, "<f4", 3 * n_points, offset).reshape(-1, 3).astype(np.float64)
    offset += sizes["points"]
    diameters = np.full(n_points, thickness, np.float64)
    if arrays & _THICKNESS:
        diameters = np.frombuffer(data, "<f4", n_points, offset).astype(np.float64)
    _check_values(path, points, diameters)
    has_segment = counts >= 2
    if not has_segment.any():
        raise SceneError(f"{path}: none of its {n_strands} strands has a segment")
    keep = np.repeat(has_segment, counts)
    return HairFile(points[keep], diameters[keep], counts[has_segment], bool(arrays & _THICKNESS))


def _check_values(path: Path, points: np.ndarray, thickness: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise SceneError(f"{path}, point {bad[0] + 1}: coordinates {points[bad[0]].tolist()} are not finite; "
                         f"{len(bad)} of {len(points)} points are so")
    bad = np.flatnonzero(~(np.isfinite(thickness) & (thickness >= 0)))
    if len(bad):
        raise SceneError(f"{path}, point {bad[0] + 1}: thickness is {thickness[bad[0]]:g}; it must be finite and not "
                         "negative")
