# SPDX-License-Identifier: Apache-2.0
"""Cem Yuksel's binary .hair files (http://www.cemyuksel.com/research/hairmodels/).

A header of 128 bytes, little-endian: "HAIR"; the number of strands; the number of points; a field of bits for
the arrays that follow (1: segments of each strand, uint16; 2: points; 4: thickness of each point; 8: its
transparency; 16: its color); defaults for segments, thickness, transparency and color; 88 bytes of text.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from npcr.errors import SceneError
from npcr.io.text import read_bytes
from npcr.synthetic.hair.strands import Strands

_HEADER = struct.Struct("<4sIIIIff3f88s")
_SEGMENTS, _POINTS, _THICKNESS, _TRANSPARENCY, _COLORS = 1, 2, 4, 8, 16


def read_hair(path: str | Path) -> tuple[Strands, bool]:
    """The strands, and whether the file gives a thickness for each point.

    Radii are half the file's thickness, in the file's units; pigment is zero, for the file knows colors only,
    which are passed over as transparency is. Strands without a segment are left out. Raises `SceneError` naming
    what is wrong where the file is cut short, contradicts itself, or holds numbers that are not finite; nothing
    is allocated beyond what the file's own size bears out.
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
    # Asked before an array is made of it: without an array of segments n_strands is bounded by n_points alone.
    if n_strands > n_points:
        raise SceneError(f"{path}: announces {n_strands} strands for {n_points} points; each has at least one")
    place = _HEADER.size
    counts = np.full(n_strands, segments, np.int64)
    if arrays & _SEGMENTS:
        counts = np.frombuffer(data, "<u2", n_strands, place).astype(np.int64)
        place += sizes["segments"]
    counts = counts + 1
    if int(counts.sum()) != n_points:
        raise SceneError(f"{path}: its strands have {int(counts.sum())} points, its header announces {n_points}")
    points = np.frombuffer(data, "<f4", 3 * n_points, place).reshape(-1, 3).astype(np.float64)
    place += sizes["points"]
    widths = np.full(n_points, thickness, np.float64)
    if arrays & _THICKNESS:
        widths = np.frombuffer(data, "<f4", n_points, place).astype(np.float64)
    _check(path, points, widths)
    whole = np.flatnonzero(counts >= 2)
    if not len(whole):
        raise SceneError(f"{path}: none of its {n_strands} strands has a segment")
    keep = np.repeat(counts >= 2, counts)
    strands = Strands(points[keep], widths[keep] / 2, counts[whole], np.zeros((len(whole), 2)))
    return strands, bool(arrays & _THICKNESS)


def _check(path: Path, points: np.ndarray, widths: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise SceneError(f"{path}, point {bad[0] + 1}: coordinates {points[bad[0]].tolist()} are not finite; "
                         f"{len(bad)} of {len(points)} points are so")
    bad = np.flatnonzero(~(np.isfinite(widths) & (widths >= 0)))
    if len(bad):
        raise SceneError(f"{path}, point {bad[0] + 1}: thickness is {widths[bad[0]]:g}; it must be finite and not "
                         "negative")
