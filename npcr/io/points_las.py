# SPDX-License-Identifier: Apache-2.0
"""Laser scans as .las and .laz, read by laspy (extra `las`); damaged headers are recognized before laspy sees them."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import Any

import numpy as np

from npcr.errors import SceneError
from npcr.extras import import_extra
from npcr.io.points_columns import RawPoints, named_points

logger = logging.getLogger("npcr")

_COLOR_NAMES = ("red", "green", "blue")  # 16 bits a channel by the standard; many writers put 8-bit values there
_MAX_POINTS_PER_BYTE = 10_000  # of .laz: far above the compression of real scans


def read_las(path: Path) -> RawPoints:
    """Read a laser scan, with colors where it has some.

    Args:
        path: .las or .laz.

    Returns:
        The points.

    Raises:
        SceneError: the file is damaged.
        MissingExtraError: laspy is not installed.
    """
    laspy = import_extra("laspy", path)
    _check_las_records(path)
    try:
        with laspy.open(path) as file:
            _check_las_size(path, file.header)
            cloud = file.read()
        columns = dict(zip("xyz", np.asarray(cloud.xyz, np.float64).T, strict=True))
        names = [*cloud.point_format.extra_dimension_names,
                 *(name for name in _COLOR_NAMES if name in cloud.point_format.dimension_names)]
        columns.update((name, np.asarray(cloud[name])) for name in names)
    except (laspy.errors.LaspyException, ValueError, TypeError, RuntimeError, EOFError, OverflowError, struct.error,
            MemoryError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: is not a readable LAS file: {error}") from None
    if _COLOR_NAMES[0] in columns and not any(columns[name].any() for name in _COLOR_NAMES):
        # The format of its points has colors, the scanner had none: an ordinary file.
        logger.info("%s: its colors are all 0 and taken for none", path)
        columns = {name: column for name, column in columns.items() if name not in _COLOR_NAMES}
    return named_points({name: column for name, column in columns.items() if column.ndim == 1}, path)


def _check_las_records(path: Path) -> None:
    """Raise `SceneError` where the header gives more variable length records than fit into the file.

    laspy would read each of them, be they billions.
    """
    with path.open("rb") as file:
        start = file.read(375)
    if len(start) < 227 or start[:4] != b"LASF":
        raise SceneError(f"{path}: is not a readable LAS file: it does not start with a LAS header")
    records = 54 * struct.unpack_from("<I", start, 100)[0]
    if start[25] >= 4 and len(start) >= 247:  # version 1.4 has more of them behind the points
        records += 60 * struct.unpack_from("<I", start, 243)[0]
    if records > path.stat().st_size:
        raise SceneError(f"{path}: is not a readable LAS file: its header promises more records than the file holds")


def _check_las_size(path: Path, header: Any) -> None:
    """Raise `SceneError` where the header gives more points than fit into the file."""
    min_point_size = 1 / _MAX_POINTS_PER_BYTE if header.are_points_compressed else header.point_format.size
    room = path.stat().st_size - header.offset_to_point_data
    if room < 0 or header.point_count * min_point_size > room:
        raise SceneError(f"{path}: its header promises {header.point_count} points, the file ends before; is it whole?")
    if header.are_points_compressed and header.point_count:
        _check_laz_chunks(path, header.offset_to_point_data)


def _check_laz_chunks(path: Path, start: int) -> None:
    """Raise `SceneError` where a .laz's table of chunks lies outside the file or counts more chunks than it has bytes.

    The decoder allocates memory for as many as the table counts, and ends the process where there is not enough.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        def read_number(layout: str, at: int) -> int:
            if not start <= at <= size - struct.calcsize(layout):
                raise SceneError(f"{path}: is not a readable LAS file: its table of chunks lies outside of it")
            file.seek(at)
            return int(struct.unpack(layout, file.read(struct.calcsize(layout)))[0])

        table = read_number("<q", start)
        if table == -1:  # written as a stream: the offset is at the end of the file
            table = read_number("<q", size - 8)
        if read_number("<I", table + 4) > size:
            raise SceneError(f"{path}: is not a readable LAS file: its table counts more chunks than it has bytes")
