# SPDX-License-Identifier: Apache-2.0
"""Point clouds: text (.xzy, .xyz, .txt), .ply, .obj and .npy, each with or without colors; .las and .laz to read.

Text rows are "x y z [r g b]", in this order for every suffix, unless a header line names their columns. Colors are
0-255, 0-65535 where they reach so far, or 0..1 where the format or a fraction shows that they are floating point.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.io.files import atomic_write
from npcr.io.points_binary import read_npy, read_ply, write_ply
from npcr.io.points_colors import as_colors, point_error
from npcr.io.points_columns import RawPoints
from npcr.io.points_las import read_las
from npcr.io.points_text import TEXT_SUFFIXES, read_obj, read_text, write_rows

_READERS: dict[str, Callable[[Path], RawPoints]] = {
    **dict.fromkeys(TEXT_SUFFIXES, read_text), ".ply": read_ply, ".obj": read_obj, ".npy": read_npy,
    ".las": read_las, ".laz": read_las,
}
SUFFIXES = (*TEXT_SUFFIXES, ".ply", ".obj", ".npy")  # of a scene's point clouds, read and written


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
    """Read a point cloud; the suffix gives the format.

    Args:
        path: .xzy, .xyz, .txt, .ply, .obj, .npy, .las or .laz.

    Returns:
        At least one point, with finite coordinates.

    Raises:
        SceneError: the file is missing, a row is malformed, a value is out of range, or there is no point. The message
            names file, line (or point) and value.
        MissingExtraError: .las and .laz need laspy.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SceneError(f"{path}: the suffix of a point cloud must be one of {', '.join(_READERS)}")
    if not path.is_file():
        raise SceneError(f"{path}: no such point cloud")
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that are too large are reported below
        try:
            raw = reader(path)
        except OSError as error:
            raise SceneError(f"{path}: cannot be read: {error.strerror or error}") from None
        if not len(raw.positions):
            raise SceneError(f"{path}: has no points")
        positions = np.ascontiguousarray(raw.positions, dtype=np.float32)
        bad = np.asarray(~np.isfinite(positions).all(axis=1))
        if bad.any():
            raise point_error(path, bad, positions, "coordinates", "are not finite")
        return PointCloud(positions, None if raw.colors is None else as_colors(raw.colors, raw.unit_colors, path))


def write_points(path: str | Path, cloud: PointCloud) -> None:
    """Write a point cloud, atomically; reading it gives the same values.

    Args:
        path: its suffix, one of `SUFFIXES`, gives the format.
        cloud: positions are written as float32.

    Raises:
        ValueError: another suffix.
        OSError: the file cannot be written.
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
            write_ply(file, cloud.positions, cloud.colors)
        else:
            write_rows(file, cloud.positions, cloud.colors, path.name, "v " if suffix == ".obj" else "")
