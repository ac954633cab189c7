# SPDX-License-Identifier: Apache-2.0
"""Point clouds as text (.xzy, .xyz, .txt) and .obj."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from npcr.errors import SceneError
from npcr.io.points_binary import RawPoints
from npcr.io.text import parse_numbers

logger = logging.getLogger("npcr")

TEXT_SUFFIXES = (".xzy", ".xyz", ".txt")
_CHUNK = 200_000  # rows read or written at once


def read_text(path: Path) -> RawPoints:
    """Read a text file of rows "x y z [r g b]"; # begins a comment.

    Args:
        path: .xzy, .xyz or .txt.

    Returns:
        Values and the range of their colors.

    Raises:
        SceneError: a line is malformed; the message names it.
    """
    _warn_about_encoding(path)
    with path.open(encoding="utf-8-sig") as file:
        return RawPoints(_read_rows(file, file, path, (3, 6)), None)


def read_obj(path: Path) -> RawPoints:
    """Read the vertices of an .obj file, with colors where they have some ("v x y z [w] [r g b]").

    Args:
        path: the .obj file.

    Returns:
        Values and the range of their colors.

    Raises:
        SceneError: a line is malformed; the message names it.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        rows = (line[2:] for line in file if line[:2] in ("v ", "v\t"))
        values = _read_rows(rows, file, path, (3, 4, 6, 7))
    if values.shape[1] in (4, 7):  # a weight follows the coordinates
        values = np.delete(values, 3, axis=1)
    return RawPoints(values, True)


def _read_rows(rows: Iterator[str], file: TextIOWrapper, path: Path, widths: tuple[int, ...]) -> NDArray[Any]:
    """Parse `rows`, lines of `file`, in chunks by numpy's C parser; `widths` are the allowed numbers of columns."""
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
    """Yield (line number, text of the numbers) of the lines that contain points."""
    is_obj = path.suffix.lower() == ".obj"
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if is_obj and line[:2] not in ("v ", "v\t"):
                continue
            text = (line[2:] if is_obj else line).partition("#")[0].strip()
            if text:
                yield number, text


def _report_bad_line(path: Path, widths: tuple[int, ...], good: list[NDArray[Any]]) -> None:
    """Raise the error that names the first malformed line after the `good` chunks."""
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


def find_line(path: Path, row: int) -> int | None:
    """Find the line of a point in a text file.

    Args:
        path: a file of any format.
        row: index of the point, from 0.

    Returns:
        Line number, from 1; None for binary formats.
    """
    if path.suffix.lower() not in (*TEXT_SUFFIXES, ".obj"):
        return None
    return next((number for index, (number, _) in enumerate(_data_lines(path)) if index == row), None)


def _warn_about_encoding(path: Path) -> None:
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
    for start in tqdm(range(0, len(positions), _CHUNK), desc=name, delay=2, leave=False):
        values = positions[start:start + _CHUNK].astype(np.float64)
        if colors is not None:
            values = np.hstack([values, colors[start:start + _CHUNK] / scale])
        file.write((row * len(values) % tuple(values.ravel().tolist())).encode())
