# SPDX-License-Identifier: Apache-2.0
"""Point clouds: text (.xzy, .xyz, .txt), .ply, .obj and .npy, each with or without colors; .las and .laz to read.

Text rows are "x y z [r g b]", in this order whatever the suffix says. Colors are 0-255; where all are in
0..1 and the format or a fraction shows that they are floating point, 0..1 is their range.
"""

from __future__ import annotations

import logging
import os
import struct
import tokenize
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import plyfile
from numpy.typing import NDArray
from tqdm import tqdm

from npcr.errors import MissingExtraError, SceneError
from npcr.io.files import atomic_write
from npcr.io.text import parse_numbers

logger = logging.getLogger("npcr")

_CHUNK = 200_000  # rows read or written at once
_MOST_COMPRESSED = 10_000  # points in a byte of .laz: far more than real clouds need


@dataclass
class PointCloud:
    """N points in world space, optionally colored."""

    positions: NDArray[np.float32]  # (N, 3)
    colors: NDArray[np.uint8] | None = None  # (N, 3) RGB

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or self.positions.shape[1] != 3:
            raise ValueError(f"PointCloud: positions must be (N, 3), are {self.positions.shape}")
        if self.colors is not None and self.colors.shape != self.positions.shape:
            raise ValueError(f"PointCloud: colors must be {self.positions.shape}, are {self.colors.shape}")

    def __len__(self) -> int:
        return len(self.positions)


def read_points(path: str | Path) -> PointCloud:
    """Read a point cloud; its suffix gives the format.

    Raises `SceneError` naming file, line (or point) and value where a row is malformed, a coordinate is not
    finite, or there is no point at all.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SceneError(f"{path}: the suffix of a point cloud must be one of {', '.join(_READERS)}")
    if not path.is_file():
        raise SceneError(f"{path}: no such point cloud")
    try:
        values, fractions = reader(path)
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not len(values):
        raise SceneError(f"{path}: has no points")
    with np.errstate(over="ignore"):
        positions = np.ascontiguousarray(values[:, :3], dtype=np.float32)
    _check_finite(positions, path)
    colors = _as_colors(values[:, 3:], fractions, path) if values.shape[1] == 6 else None
    return PointCloud(positions, colors)


def write_points(path: str | Path, cloud: PointCloud) -> None:
    """Write a point cloud in the format its suffix names, atomically; reading gives the same values back.

    Text holds the 9 digits that make a float32; .ply and .npy are binary. Raises `ValueError` on another
    suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"write_points: {path}: the suffix must be one of {', '.join(SUFFIXES)}")
    cloud = PointCloud(np.asarray(cloud.positions, np.float32), cloud.colors)
    with atomic_write(path) as file:
        if suffix == ".npy":
            colors = [] if cloud.colors is None else [cloud.colors.astype(np.float32)]
            np.save(file, np.hstack([cloud.positions, *colors]))
        elif suffix == ".ply":
            _write_ply(file, cloud)
        else:
            _write_rows(file, cloud, path.name, "v " if suffix == ".obj" else "")


def _check_finite(positions: NDArray[np.float32], path: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise _point_error(path, bad, positions, "coordinates", "are not finite")


def _as_colors(values: NDArray[Any], fractions: bool | None, path: Path) -> NDArray[np.uint8]:
    """uint8 colors; `fractions` says whether values up to 1 mean 0..1 (None: where any has a fraction)."""
    bad = np.flatnonzero(~((values >= 0) & (values <= 255)).all(axis=1))  # also true for NaN
    if len(bad):
        raise _point_error(path, bad, values, "color", "is out of 0-255")
    if fractions is None:
        fractions = bool((values != np.rint(values)).any())
    scale = 255 if fractions and values.max() <= 1 else 1
    return np.rint(values * scale).astype(np.uint8)


def _point_error(path: Path, bad: NDArray[np.intp], values: NDArray[Any], what: str, why: str) -> SceneError:
    row = int(bad[0])
    line = _line_of_row(path, row)
    place = f"line {line}" if line else f"point {row + 1}"
    shown = " ".join(f"{value:g}" for value in values[row])
    return SceneError(f"{path}, {place}: {what} {shown} {why}; {len(bad)} of {len(values)} points are so")


# ---- text and obj ----

def _read_text(path: Path) -> tuple[NDArray[Any], bool | None]:
    _warn_of_oddities(path)
    with path.open(encoding="utf-8-sig") as file:
        return _read_rows(file, file, path, (3, 6)), None


def _read_obj(path: Path) -> tuple[NDArray[Any], bool | None]:
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = (line[2:] for line in file if line[:2] in ("v ", "v\t"))
        values = _read_rows(rows, file, path, (3, 4, 6, 7))
    if values.shape[1] in (4, 7):  # a weight follows the coordinates
        values = np.delete(values, 3, axis=1)
    return values, True


def _read_rows(rows: Iterator[str], file: TextIOWrapper, path: Path, widths: tuple[int, ...]) -> NDArray[Any]:
    """Numbers of `rows`, which are read from `file`, in chunks by numpy's C parser."""
    chunks: list[NDArray[Any]] = []
    with tqdm(total=path.stat().st_size, desc=path.name, unit="B", unit_scale=True, delay=2,
              leave=False) as bar:
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # "input contained no data", at the end
                    chunk = np.loadtxt(rows, dtype=np.float32, ndmin=2, max_rows=_CHUNK)
            except ValueError as error:
                _report_bad_line(path, widths, chunks)
                raise SceneError(f"{path}: is not a text point cloud: {error}") from None
            if not chunk.size:
                break
            if chunk.shape[1] not in widths or (chunks and chunk.shape[1] != chunks[0].shape[1]):
                _report_bad_line(path, widths, chunks)
            chunks.append(chunk)
            bar.update(os.lseek(file.fileno(), 0, os.SEEK_CUR) - bar.n)
    return np.concatenate(chunks) if chunks else np.empty((0, 3), np.float32)


def _data_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number, numbers) of the lines that hold points."""
    is_obj = path.suffix.lower() == ".obj"
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if is_obj and line[:2] not in ("v ", "v\t"):
                continue
            text = (line[2:] if is_obj else line).partition("#")[0].strip()
            if text:
                yield number, text


def _report_bad_line(path: Path, widths: tuple[int, ...], good: list[NDArray[Any]]) -> None:
    """Raise the error that names the first malformed line, looked for by word after the `good` chunks."""
    width = good[0].shape[1] if good else 0
    for number, text in islice(_data_lines(path), sum(map(len, good)), None):
        count = len(text.split())
        if count not in widths:
            allowed = "x y z, or x y z r g b"
            raise SceneError(f"{path}, line {number}: has {count} numbers; a point is {allowed}")
        if width and count != width:
            raise SceneError(f"{path}, line {number}: has {count} numbers; the lines before have {width}")
        width = count
        finite = " ".join("0" if word.lower().lstrip("+-") in ("nan", "inf", "infinity") else word
                          for word in text.split())  # reported later, with their count
        parse_numbers(finite, count, path, number)


def _line_of_row(path: Path, row: int) -> int | None:
    """Line of the 0-based data row in a text file; None for binary formats."""
    if path.suffix.lower() not in (*_TEXT, ".obj"):
        return None
    return next((number for index, (number, _) in enumerate(_data_lines(path)) if index == row), None)


def _warn_of_oddities(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
        end = file.read()
    if start.startswith(b"\xef\xbb\xbf"):
        logger.warning("%s: starts with a byte-order mark; read without it", path)
    if b"\r\n" in start:
        logger.warning("%s: has Windows line ends (CRLF); read as if they were LF", path)
    if end.endswith((b"\n\n", b"\n\r\n")):
        logger.warning("%s: blank lines at the end are passed over", path)


def _write_rows(file: IO[bytes], cloud: PointCloud, name: str, prefix: str) -> None:
    row = prefix + ("%.9g %.9g %.9g\n" if cloud.colors is None else "%.9g %.9g %.9g %d %d %d\n")
    if cloud.colors is not None and prefix:  # obj: 0..1 by custom; 9 digits bring every step of 255 back
        row = prefix + "%.9g %.9g %.9g %.9g %.9g %.9g\n"
    scale = 255.0 if prefix else 1
    for start in tqdm(range(0, len(cloud), _CHUNK), desc=name, delay=2, leave=False):
        values = cloud.positions[start:start + _CHUNK].astype(np.float64)
        if cloud.colors is not None:
            values = np.hstack([values, cloud.colors[start:start + _CHUNK] / scale])
        file.write((row * len(values) % tuple(values.ravel().tolist())).encode())


# ---- npy ----

def _read_npy(path: Path) -> tuple[NDArray[Any], bool | None]:
    try:
        values = np.load(path, allow_pickle=False)
    # Its header is a Python literal, whose parser may raise any of these; a lying shape asks for all memory.
    except (ValueError, EOFError, SyntaxError, TypeError, KeyError, AttributeError, tokenize.TokenError, OverflowError,
            MemoryError, RecursionError) as error:
        raise SceneError(f"{path}: cannot be read as an array of numbers: {error}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise SceneError(f"{path}: does not hold an array of numbers")
    if values.ndim != 2 or values.shape[1] not in (3, 6):
        raise SceneError(f"{path}: array of shape {values.shape}; it must be (N, 3) or (N, 6)")
    return values, None


# ---- ply ----

_PLY_COLORS = (["red", "green", "blue"], ["diffuse_red", "diffuse_green", "diffuse_blue"], ["r", "g", "b"])


def _read_ply(path: Path) -> tuple[NDArray[Any], bool | None]:
    try:
        vertices = plyfile.PlyData.read(str(path))["vertex"].data
    except KeyError:
        raise SceneError(f"{path}: has no element 'vertex'") from None
    except (plyfile.PlyParseError, ValueError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: is not a readable PLY file: {error}") from None
    names = vertices.dtype.names or ()
    missing = [name for name in "xyz" if name not in names]
    if missing:
        raise SceneError(f"{path}: vertices have no property {missing[0]}; they have {', '.join(names)}")
    colors = next((rgb for rgb in _PLY_COLORS if all(name in names for name in rgb)), [])
    values = np.stack([vertices[name] for name in ["x", "y", "z", *colors]], axis=1)
    return values, bool(colors) and vertices.dtype[colors[0]].kind == "f"


def _write_ply(file: IO[bytes], cloud: PointCloud) -> None:
    columns = dict(zip("xyz", cloud.positions.T, strict=True))
    if cloud.colors is not None:
        columns.update(zip(_PLY_COLORS[0], cloud.colors.T, strict=True))
    layout = [(name, values.dtype) for name, values in columns.items()]
    vertices: NDArray[Any] = np.empty(len(cloud), dtype=layout)
    for name, values in columns.items():
        vertices[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<").write(file)


# ---- las, laz ----

def _read_las(path: Path) -> tuple[NDArray[Any], bool | None]:
    try:
        import laspy
    except ImportError:
        raise MissingExtraError(f"{path}: reading .las and .laz needs laspy: pip install 'npcr[las]'") from None
    _check_las_records(path)
    try:
        with laspy.open(path) as file:
            _check_las_size(path, file.header)
            cloud = file.read()
        values = np.asarray(cloud.xyz, np.float64)
        names = set(cloud.point_format.dimension_names)
        if not {"red", "green", "blue"} <= names:
            return values, None
        colors = np.stack([np.asarray(cloud[name]) for name in ("red", "green", "blue")], axis=1)
    except (laspy.errors.LaspyException, ValueError, TypeError, RuntimeError, EOFError, OverflowError, struct.error,
            MemoryError, UnicodeDecodeError) as error:
        raise SceneError(f"{path}: is not a readable LAS file: {error}") from None
    if not len(colors) or not colors.any():
        return values, None  # the format has room for colors, the scanner had none
    # 16 bits a channel by the standard; many writers put 8-bit values there.
    return np.hstack([values, colors // 256 if colors.max() > 255 else colors]), False


def _check_las_records(path: Path) -> None:
    """Raise `SceneError` where the header promises more records of its own than the file can hold.

    laspy would look for each of them, be they thousands of millions.
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
    """Raise `SceneError` where the header promises more points than the file can hold."""
    least = 1 / _MOST_COMPRESSED if header.are_points_compressed else header.point_format.size
    room = path.stat().st_size - header.offset_to_point_data
    if room < 0 or header.point_count * least > room:
        raise SceneError(f"{path}: its header promises {header.point_count} points, the file ends before; is it whole?")
    if header.are_points_compressed and header.point_count:
        _check_laz_chunks(path, header.offset_to_point_data)


def _check_laz_chunks(path: Path, start: int) -> None:
    """Raise `SceneError` where a .laz's table of chunks lies outside the file or counts more chunks than it has bytes.

    The decoder takes memory for as many as it counts, and ends the process where there is not enough.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        def number(layout: str, at: int) -> int:
            if not start <= at <= size - struct.calcsize(layout):
                raise SceneError(f"{path}: is not a readable LAS file: its table of chunks lies outside of it")
            file.seek(at)
            return int(struct.unpack(layout, file.read(struct.calcsize(layout)))[0])

        table = number("<q", start)
        if table == -1:  # written as a stream, where the place is known only at the end
            table = number("<q", size - 8)
        if number("<I", table + 4) > size:
            raise SceneError(f"{path}: is not a readable LAS file: its table counts more chunks than it has bytes")


_TEXT = (".xzy", ".xyz", ".txt")
_READERS: dict[str, Callable[[Path], tuple[NDArray[Any], bool | None]]] = {
    **dict.fromkeys(_TEXT, _read_text), ".ply": _read_ply, ".obj": _read_obj, ".npy": _read_npy,
    ".las": _read_las, ".laz": _read_las,
}
SUFFIXES = tuple(suffix for suffix in _READERS if _READERS[suffix] is not _read_las)  # of a scene's clouds
