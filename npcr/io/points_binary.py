# SPDX-License-Identifier: Apache-2.0
"""Point clouds as .ply and .npy."""

from __future__ import annotations

import io
import logging
import math
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import plyfile
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.io.points_columns import NUMBERS, RawPoints, named_points, unnamed_points, warn_of_surface_colors
from npcr.io.text import parse_number

logger = logging.getLogger("npcr")

_COLOR_NAMES = ("red", "green", "blue")
_TO_ASCII = bytes(range(128)) + b"?" * 128
_LONGEST_HEADER = 65536  # bytes within which a PLY header's end is looked for


class _PlyFile(io.BufferedReader):
    """A PLY file as plyfile needs it: its header in ASCII, without a byte-order mark, whatever its comments are in."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        start = super().read(_LONGEST_HEADER)
        self._header_end = start.find(b"end_header") + 1
        self.seek(3 if start.startswith(b"\xef\xbb\xbf") else 0)

    def read(self, size: int | None = -1, /) -> bytes:
        in_header = self.tell() < self._header_end
        data = super().read(size)
        return data.translate(_TO_ASCII) if in_header else data


def read_npy(path: Path) -> RawPoints:
    """Read an array of rows as in a text file, or of records with named fields.

    Args:
        path: the .npy file; pickled objects are refused.

    Returns:
        The points.

    Raises:
        SceneError: the file is no such array.
    """
    try:
        values = np.load(path, allow_pickle=False)
    # The header is a Python literal, whose parser may raise any of these; a wrong shape may exceed the memory.
    except (ValueError, EOFError, SyntaxError, TypeError, KeyError, AttributeError, tokenize.TokenError, OverflowError,
            MemoryError, RecursionError) as error:
        raise SceneError(f"{path}: cannot be read as an array of numbers: {error}") from None
    if isinstance(values, np.ndarray) and values.dtype.names and values.ndim == 1:
        return named_points(_number_columns(values), path)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise SceneError(f"{path}: does not hold an array of numbers")
    if values.ndim != 2 or values.shape[1] not in NUMBERS:
        raise SceneError(f"{path}: array of shape {values.shape}; it must be (N, 3) or (N, 6)")
    return unnamed_points(values, path)


def read_ply(path: Path) -> RawPoints:
    """Read the vertices of a .ply file, with colors where they have some.

    Args:
        path: the .ply file, text or binary.

    Returns:
        The points.

    Raises:
        SceneError: the file is malformed or its vertices have no coordinates.
    """
    try:
        with _PlyFile(path) as file:
            data = plyfile.PlyData.read(file)
            rest = "" if data.text else _name_rest(file.read().strip(b"\r\n\t "), "bytes")
        elements = {element.name: element for element in data}
        if data.text:  # plyfile reads ahead and closes the file
            lines = path.read_bytes().partition(b"end_header")[2].splitlines()[1:]
            rest = _name_rest([line for line in lines if line.strip()][sum(len(e) for e in data):], "lines")
    except UnicodeDecodeError:
        raise SceneError(f"{path}: is not a readable PLY file: it is not ASCII, but for its comments; save it "
                         "so, or as binary") from None
    except (plyfile.PlyParseError, ValueError, OverflowError, MemoryError) as error:
        if isinstance(error, plyfile.PlyElementParseError):
            _report_bad_row(path, error)
        raise SceneError(f"{path}: is not a readable PLY file: {error}") from None
    if "vertex" not in elements:
        raise SceneError(f"{path}: has no element 'vertex'; it has {', '.join(map(repr, elements)) or 'none at all'}")
    if rest:
        logger.warning("%s: %s follow the data that its header counts (%d vertices) and are passed over; is "
                       "the header right?", path, rest, len(elements["vertex"]))
    points = named_points(_number_columns(elements["vertex"].data), path)
    place = _surface_colors(data)
    if points.colors is None and place:
        warn_of_surface_colors(path, place)
    return points


def _report_bad_row(path: Path, error: plyfile.PlyElementParseError) -> None:
    """Raise the error that names line and value, where `error` is about a row of a text."""
    header, _, body = path.read_bytes().partition(b"end_header")
    lines = header.splitlines()
    elements = [line.split() for line in lines if line.startswith(b"element ")]
    names = [words[1].decode("ascii", "replace") for words in elements]
    row = sum(int(words[2]) for words in elements[:names.index(error.element.name)]) + error.row
    rows = body.splitlines()[1:]
    if not any(line.split() == [b"format", b"ascii", b"1.0"] for line in lines) or row >= len(rows):
        return
    place, words = f"{path}, line {len(lines) + row + 2}", rows[row].decode("ascii", "replace").split()
    for word in words:
        if word.lower().lstrip("+-") not in ("nan", "inf", "infinity"):
            parse_number(word, place)
    about = f" at property {error.prop.name!r}" if error.prop else ""
    raise SceneError(f"{place}: {' '.join(words)[:80]!r} is not a row of the element {error.element.name!r} "
                     f"({error.message}{about}); its properties are "
                     f"{', '.join(prop.name for prop in error.element.properties)}")


def _surface_colors(data: plyfile.PlyData) -> str:
    """Where a mesh has colors besides those of its vertices; empty where it has none."""
    comments = [*data.comments, *(text for element in data for text in element.comments)]
    texture = next((text for text in comments if text.lower().startswith("texturefile ")), None)
    if texture is not None:
        return f"a texture ({texture!r})"
    colored = next((element.name for element in data if element.name != "vertex"
                    and {"red", "green", "blue"} <= {prop.name.lower() for prop in element.properties}), None)
    return "" if colored is None else f"its element {colored!r}"


def _name_rest(rest: Sequence[Any], what: str) -> str:
    return f"{len(rest)} {what}" if rest else ""


def _number_columns(records: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The fields that hold numbers; one with several is a column for each, one with lists is left out."""
    columns: dict[str, NDArray[Any]] = {}
    for name in records.dtype.names or ():
        values = records[name]
        if values.dtype.kind in "fiu" and values.ndim == 1:
            columns[name] = values
        elif values.dtype.kind in "fiu":
            parts = values.reshape(len(values), math.prod(values.shape[1:]))
            columns.update((f"{name}_{number}", part) for number, part in enumerate(parts.T))
    return columns


def write_ply(file: IO[bytes], positions: NDArray[np.float32], colors: NDArray[np.uint8] | None) -> None:
    """Write a binary .ply.

    Args:
        file: open for writing.
        positions: (N, 3).
        colors: (N, 3) RGB, or None.
    """
    columns: dict[str, NDArray[Any]] = dict(zip("xyz", positions.T, strict=True))
    if colors is not None:
        columns.update(zip(_COLOR_NAMES, colors.T, strict=True))
    layout = [(name, values.dtype) for name, values in columns.items()]
    vertices: NDArray[Any] = np.empty(len(positions), dtype=layout)
    for name, values in columns.items():
        vertices[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<").write(file)
