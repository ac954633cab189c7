# SPDX-License-Identifier: Apache-2.0
"""Point clouds as text (.xzy, .xyz, .txt) and .obj."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.io.points_columns import (
    HEADER_RULE,
    NUMBERS,
    ROW_RULE,
    RawPoints,
    is_header,
    named_points,
    unnamed_points,
    warn_of_surface_colors,
)
from npcr.io.text import parse_numbers
from npcr.progress import progress_bar

logger = logging.getLogger("npcr")

TEXT_SUFFIXES = (".xzy", ".xyz", ".txt")
_CHUNK = 200_000  # rows read or written at once
_OBJ_NUMBERS = (3, 4, 6, 7)  # x y z [w] [r g b]
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}  # by the byte-order mark; all others are read as UTF-8
_MATERIALS = ("mtllib ", "usemtl ", "vt ")  # of an .obj file: the beginnings of lines that stand for a surface's colors
_BETWEEN_NAMES = re.compile(r"[\s,;]+")
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.IGNORECASE)


class _Layout(NamedTuple):
    """What the lines before the first point say, and how its numbers are written."""

    skipped: int = 0  # lines before the first point
    separator: str | None = None  # of numbers; None: blanks
    names: tuple[str, ...] = ()  # of the columns; empty: not given
    promised: int | None = None  # number of points, where a line gives it
    has_decimal_points: bool = False  # behind the coordinates


def read_text(path: Path) -> RawPoints:
    """Read a text file of rows "x y z [r g b]", or of columns that a header line names; # begins a comment.

    Args:
        path: .xzy, .xyz or .txt.

    Returns:
        The points.

    Raises:
        SceneError: a line is malformed; the message names it.
    """
    layout = _find_layout(path)
    with _open_text(path) as file:
        rows: Iterable[str] = islice(file, layout.skipped, None)
        if layout.separator:  # else numpy passes blank lines over
            rows = (line for line in rows if line.strip())
        values = _read_rows(rows, file, path, layout)
    if layout.promised is not None and layout.promised != len(values):
        logger.warning("%s: its beginning gives %d points, %d follow; is it whole?", path, layout.promised, len(values))
    if layout.names:
        return named_points(dict(zip(layout.names, values.T, strict=True)), path, typed=layout.has_decimal_points)
    return unnamed_points(values, path, unit_colors=layout.has_decimal_points or None)


def read_obj(path: Path) -> RawPoints:
    """Read the vertices of an .obj file, with colors where they have some ("v x y z [w] [r g b]", or a last alpha).

    Args:
        path: the .obj file.

    Returns:
        The points.

    Raises:
        SceneError: a line is malformed; the message names it.
    """
    materials: list[str] = []
    with _open_text(path) as file:
        values = _read_rows(_vertices(file, materials), file, path, _Layout())
    colors = {3: None, 4: None, 6: values[:, 3:]}.get(values.shape[1])
    if values.shape[1] < 6 and materials:
        warn_of_surface_colors(path, f"a texture or a material ({materials[0]!r})")
    if values.shape[1] == 4 and not (values[:, 3] == 1).all():
        logger.warning("%s: the fourth number of its vertices, a weight, is not 1 everywhere; it is not used", path)
    if values.shape[1] == 7:
        weighted, opaque = (values[:, 3] == 1).all(), (values[:, 6] == 1).all()
        if not weighted and not opaque:
            raise SceneError(f"{path}: its vertices have 7 numbers, of which neither the fourth, as a weight, nor the "
                             "last, as an alpha, is 1 everywhere; write x y z r g b")
        if weighted and opaque:
            logger.warning("%s: the fourth and the last number of its vertices are 1 everywhere; the fourth is taken "
                           "for a weight, the others for the color", path)
        colors = values[:, 4:] if weighted else values[:, 3:6]
    return RawPoints(values[:, :3], colors, True)


def _open_text(path: Path) -> TextIOWrapper:
    """Open a text in its encoding; bytes that are not UTF-8 stand in comments, or make no number."""
    with path.open("rb") as file:
        start = file.read(4096)
    encoding = _ENCODINGS.get(start[:2], "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in start:
        raise SceneError(f"{path}: has zero bytes: it is not a text, or one in UTF-16 without a byte-order mark; save "
                         "it as UTF-8")
    return path.open(encoding=encoding, errors="replace")


def _vertices(lines: Iterable[str], materials: list[str]) -> Iterator[str]:
    """Yield the numbers of an .obj file's vertices; `materials` gets the first line about a surface's colors."""
    for line in lines:
        if _is_vertex(line):
            yield line.lstrip()[2:]
        elif not materials and line.lstrip().startswith(_MATERIALS):
            materials.append(line.strip())


def _is_vertex(line: str) -> bool:
    return line.lstrip()[:2] in ("v ", "v\t")


def _find_layout(path: Path) -> _Layout:
    """Look at the lines up to the first point: comments, a header, the number of points."""
    header, header_line, count, skipped = "", 0, None, -1
    with _open_text(path) as file:
        for skipped, line in enumerate(file):
            text = line.partition("#")[0].strip()
            if is_header(_BETWEEN_NAMES.split((text or line).strip("#/ \t\r\n")), in_comment=not text):
                header, header_line = text or line.strip(), skipped + 1
            elif text.isdecimal() and count is None:
                count = int(text)
            elif text and not text.startswith("//"):
                separator = _separator(text)
                words = text.split(separator)
                names = header.strip("#/ \t").split(separator) if header else []
                if len(names) != len(words) and header and not header.startswith("#"):
                    raise SceneError(f"{path}, line {header_line}: names {len(names)} columns; line {skipped + 1} has "
                                     f"{len(words)} numbers")
                names = [name.strip(' "') for name in names] if len(names) == len(words) else []
                if len(names) != len({name.lower() for name in names}):
                    raise SceneError(f"{path}, line {header_line}: names a column twice: {', '.join(names)}")
                return _Layout(skipped, separator, tuple(names), count, any("." in word for word in words[3:6]))
    return _Layout(skipped + 1, promised=count)


def _separator(text: str) -> str | None:
    """What is between the numbers of a line: a semicolon, a comma, or (None) blanks."""
    if ";" in text:
        return ";"
    return "," if text.count(",") > 1 and all(_is_number(word) for word in text.split(",")) else None


def _is_number(word: str) -> bool:
    """Whether a word is a number, or missing between commas."""
    if not word.strip():
        return True
    try:
        float(word)
    except ValueError:
        return False
    return True


def _read_rows(rows: Iterable[str], file: TextIOWrapper, path: Path, layout: _Layout) -> NDArray[Any]:
    """Parse `rows`, lines of `file`, in chunks by numpy's C parser."""
    chunks: list[NDArray[Any]] = []
    widths = _widths(path, layout)
    with progress_bar(total=path.stat().st_size, title=path.name, unit="B", unit_scale=True, delay=2,
                      leave=False) as bar:
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UserWarning)  # "input contained no data", at the end
                    chunk = np.loadtxt(rows, dtype=np.float64, ndmin=2, max_rows=_CHUNK, delimiter=layout.separator)
            except ValueError as error:
                _report_bad_line(path, layout, chunks)
                raise SceneError(f"{path}: is not a text point cloud: {error}") from None
            if not chunk.size:
                break
            if chunk.shape[1] not in widths or (chunks and chunk.shape[1] != chunks[0].shape[1]):
                _report_bad_line(path, layout, chunks)
            chunks.append(chunk)
            bar.update(os.lseek(file.fileno(), 0, os.SEEK_CUR) - bar.n)
    return np.concatenate(chunks) if chunks else np.empty((0, len(layout.names) or 3))


def _widths(path: Path, layout: _Layout) -> tuple[int, ...]:
    """The numbers of columns that a file may have."""
    if path.suffix.lower() == ".obj":
        return _OBJ_NUMBERS
    return (len(layout.names),) if layout.names else NUMBERS


def _data_lines(path: Path, layout: _Layout) -> Iterator[tuple[int, str]]:
    """Yield (line number, text of the numbers) of the lines that contain points."""
    is_obj = path.suffix.lower() == ".obj"
    with _open_text(path) as file:
        for number, line in enumerate(islice(file, layout.skipped, None), layout.skipped + 1):
            if is_obj and not _is_vertex(line):
                continue
            text = (line.lstrip()[2:] if is_obj else line).partition("#")[0].strip()
            if text:
                yield number, text


def _report_bad_line(path: Path, layout: _Layout, good: list[NDArray[Any]]) -> None:
    """Raise the error that names the first malformed line after the `good` chunks."""
    widths = _widths(path, layout)
    width = good[0].shape[1] if good else 0
    for number, text in islice(_data_lines(path, layout), sum(map(len, good)), None):
        words = [word.strip() for word in text.split(layout.separator)]
        comma = next((word for word in words if _DECIMAL_COMMA.fullmatch(word)), None)
        if comma is not None:
            raise SceneError(f"{path}, line {number}: {comma!r} has a decimal comma; write decimal points")
        if len(words) not in widths and layout.names:
            raise SceneError(f"{path}, line {number}: has {len(words)} numbers; the header names {len(layout.names)}")
        if len(words) not in widths:
            more = f"; {HEADER_RULE}" if len(words) > 3 and widths is NUMBERS else ""
            raise SceneError(f"{path}, line {number}: has {len(words)} numbers; {ROW_RULE}{more}")
        if width and len(words) != width:
            raise SceneError(f"{path}, line {number}: has {len(words)} numbers; the lines before have {width}")
        width = len(words)
        finite = " ".join("0" if word.lower().lstrip("+-") in ("nan", "inf", "infinity") else word or "''"
                          for word in words)  # reported later, with their count
        parse_numbers(finite, width, path, number)


def locate_point(path: Path, row: int) -> str:
    """Say where a point is in its file.

    Args:
        path: a file of any format.
        row: index of the point, from 0.

    Returns:
        Its line in a text, else its number, both from 1.
    """
    suffix = path.suffix.lower()
    if suffix in (*TEXT_SUFFIXES, ".obj"):
        layout = _Layout() if suffix == ".obj" else _find_layout(path)
        for number, _ in islice(_data_lines(path, layout), row, None):
            return f"line {number}"
    return f"point {row + 1}"


def write_rows(file: IO[bytes], positions: NDArray[np.float32], colors: NDArray[np.uint8] | None, name: str,
               prefix: str) -> None:
    """Write rows of text with the 9 digits that identify a float32.

    Args:
        file: open for writing.
        positions: (N, 3).
        colors: (N, 3) RGB, or None.
        name: label of the progress bar.
        prefix: "" for text, "v " for .obj, whose colors are 0..1 by convention.
    """
    row = prefix + ("%.9g %.9g %.9g\n" if colors is None else "%.9g %.9g %.9g %d %d %d\n")
    if colors is not None and prefix:  # 9 digits preserve every step of 1 / 255
        row = prefix + "%.9g %.9g %.9g %.9g %.9g %.9g\n"
    scale = 255.0 if prefix else 1
    starts = range(0, len(positions), _CHUNK)
    for start in progress_bar(starts, total=len(starts), title=name, delay=2, leave=False):
        values = positions[start:start + _CHUNK].astype(np.float64)
        if colors is not None:
            values = np.hstack([values, colors[start:start + _CHUNK] / scale])
        file.write((row * len(values) % tuple(values.ravel().tolist())).encode())
