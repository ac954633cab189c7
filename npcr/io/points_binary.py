# SPDX-License-Identifier: Apache-2.0
"""Point clouds as .ply and .npy."""

from __future__ import annotations

import tokenize
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import plyfile
from numpy.typing import NDArray

from npcr.errors import SceneError

_PLY_COLORS = (["red", "green", "blue"], ["diffuse_red", "diffuse_green", "diffuse_blue"], ["r", "g", "b"])


class RawPoints(NamedTuple):
    """Point rows as a file holds them."""

    values: NDArray[Any]  # (N, 3) x y z, or (N, 6) with r g b
    unit_colors: bool | None  # colors up to 1 are 0..1, not 0-255; None: where any has a fraction


def read_npy(path: Path) -> RawPoints:
    """Read an array (N, 3) or (N, 6).

    Args:
        path: the .npy file; pickled objects are refused.

    Returns:
        Values and the range of their colors.

    Raises:
        SceneError: the file is no such array.
    """
    try:
        values = np.load(path, allow_pickle=False)
    # The header is a Python literal, whose parser may raise any of these; a wrong shape may exceed the memory.
    except (ValueError, EOFError, SyntaxError, TypeError, KeyError, AttributeError, tokenize.TokenError, OverflowError,
            MemoryError, RecursionError) as error:
        raise SceneError(f"{path}: cannot be read as an array of numbers: {error}") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise SceneError(f"{path}: does not hold an array of numbers")
    if values.ndim != 2 or values.shape[1] not in (3, 6):
        raise SceneError(f"{path}: array of shape {values.shape}; it must be (N, 3) or (N, 6)")
    return RawPoints(values, None)


def read_ply(path: Path) -> RawPoints:
    """Read the vertices of a .ply file, with colors where they have some.

    Args:
        path: the .ply file, text or binary.

    Returns:
        Values and the range of their colors.

    Raises:
        SceneError: the file is malformed or its vertices have no coordinates.
    """
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
    return RawPoints(values, bool(colors) and vertices.dtype[colors[0]].kind == "f")


def write_ply(file: IO[bytes], positions: NDArray[np.float32], colors: NDArray[np.uint8] | None) -> None:
    """Write a binary .ply.

    Args:
        file: open for writing.
        positions: (N, 3).
        colors: (N, 3) RGB, or None.
    """
    columns: dict[str, NDArray[Any]] = dict(zip("xyz", positions.T, strict=True))
    if colors is not None:
        columns.update(zip(_PLY_COLORS[0], colors.T, strict=True))
    layout = [(name, values.dtype) for name, values in columns.items()]
    vertices: NDArray[Any] = np.empty(len(positions), dtype=layout)
    for name, values in columns.items():
        vertices[name] = values
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order="<").write(file)
