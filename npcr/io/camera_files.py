# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of CamPose.inf and Intrinsic.inf.

CamPose.inf has one row of 12 numbers per camera: column 3 (z axis), column 1 (x), column 2 (y) of the
camera-to-world rotation, then the camera's center. Intrinsic.inf has one block per camera, or one for all:
a line with its index (from 0 or 1), three lines with the rows of K, a blank line.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from npcr.cameras import Cameras
from npcr.errors import SceneError
from npcr.io.files import atomic_write
from npcr.io.text import format_numbers, parse_numbers, read_lines

logger = logging.getLogger("npcr")

# Largest |R^T R - I|. Six printed digits give about 2e-6; a pose that is wrong is off by far more than this.
ROTATION_TOLERANCE = 1e-3
_FILE_COLUMNS = [2, 0, 1]  # the rotation's columns in the order of the file


def read_cam_poses(path: str | Path) -> NDArray[np.float64]:
    """Read a CamPose.inf.

    Args:
        path: the file.

    Returns:
        (B, 4, 4) camera-to-world matrices.

    Raises:
        SceneError: the file is missing, malformed, or a rotation is not one; the message names line and value.
    """
    path = Path(path)
    lines = read_lines(path)
    rows = [(number, text) for number, text in enumerate(lines, 1) if text.strip()]
    if not rows:
        raise SceneError(f"{path}: has no camera; it needs a row of 12 numbers for each")
    blank = next((number for number, text in enumerate(lines, 1) if not text.strip()), rows[-1][0])
    if blank < rows[-1][0]:  # between cameras; at the end they are usual
        logger.warning("%s, line %d: blank lines are passed over", path, blank)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    for pose, (number, text) in zip(poses, rows, strict=True):
        values = np.array(parse_numbers(text, 12, path, number))
        pose[:3, _FILE_COLUMNS] = values[:9].reshape(3, 3).T
        pose[:3, 3] = values[9:]
        _check_rotation(pose[:3, :3], values, path, number)
    return poses


def write_cam_poses(path: str | Path, cam_to_world: Any) -> None:
    """Write a CamPose.inf, atomically, with the fewest digits that identify a value of the matrices' type.

    Args:
        path: the file.
        cam_to_world: (B, 4, 4) array or tensor, float32 or float64.

    Raises:
        ValueError: another shape.
        OSError: the file cannot be written.
    """
    poses = _as_matrices(cam_to_world, 4, "cam_to_world")
    with atomic_write(path, "w") as file:
        for pose in poses:
            row = np.concatenate([pose[:3, _FILE_COLUMNS].T.ravel(), pose[:3, 3]])
            file.write(format_numbers(row) + "\n")


def read_intrinsics(path: str | Path) -> NDArray[np.float64]:
    """Read an Intrinsic.inf.

    Args:
        path: the file.

    Returns:
        (B, 3, 3) matrices K, one for each block.

    Raises:
        SceneError: the file is missing or malformed; the message names line and value.
    """
    path = Path(path)
    rows = [(number, text) for number, text in enumerate(read_lines(path), 1) if text.strip()]
    if not rows:
        raise SceneError(f"{path}: is empty; it needs an index line and three rows of K")
    blocks: list[NDArray[np.float64]] = []
    first = 0
    for start in range(0, len(rows), 4):
        block = rows[start:start + 4]
        index = _parse_index(block[0][1], path, block[0][0])
        first = index if start == 0 else first
        if first not in (0, 1) or index != first + len(blocks):
            expected = "0 or 1" if start == 0 else str(first + len(blocks))
            raise SceneError(f"{path}, line {block[0][0]}: block index {index}; expected {expected}")
        if len(block) < 4:
            last = block[-1][0]
            raise SceneError(f"{path}, line {last}: block {index} ends after {len(block) - 1} of 3 rows")
        matrix = np.array([parse_numbers(text, 3, path, number) for number, text in block[1:]])
        _check_intrinsics(matrix, path, [number for number, _ in block[1:]])
        blocks.append(matrix)
    return np.stack(blocks)


def write_intrinsics(path: str | Path, intrinsics: Any) -> None:
    """Write an Intrinsic.inf, atomically, with blocks numbered from 0 and digits as in `write_cam_poses`.

    Args:
        path: the file.
        intrinsics: (B, 3, 3) array or tensor of matrices K, float32 or float64.

    Raises:
        ValueError: another shape.
        OSError: the file cannot be written.
    """
    matrices = _as_matrices(intrinsics, 3, "intrinsics")
    with atomic_write(path, "w") as file:
        for index, matrix in enumerate(matrices):
            file.write("\n".join([str(index), *(format_numbers(row) for row in matrix)]) + "\n\n")


def read_cameras(cam_pose: str | Path, intrinsics: str | Path, size: tuple[int, int]) -> Cameras:
    """Read the cameras of a pose file and an intrinsics file.

    One intrinsics block applies to all cameras, and so do several that are equal (a scene's intrinsics on a longer
    path). Surplus blocks are left out with a warning.

    Args:
        cam_pose: the CamPose.inf.
        intrinsics: the Intrinsic.inf.
        size: (width, height) of the images.

    Returns:
        Cameras, float32 on the CPU.

    Raises:
        SceneError: a file is missing or malformed, or there are too few blocks.
    """
    poses = read_cam_poses(cam_pose)
    matrices = read_intrinsics(intrinsics)
    if 1 < len(matrices) < len(poses) and (matrices == matrices[0]).all():
        matrices = matrices[:1]
    if 1 < len(matrices) < len(poses):
        raise SceneError(f"{intrinsics}: has {len(matrices)} blocks for the {len(poses)} cameras of "
                         f"{cam_pose}; it needs one for all or one for each")
    if len(matrices) > len(poses):
        logger.warning("%s: has %d blocks for the %d cameras of %s; the first %d are used", intrinsics,
                       len(matrices), len(poses), cam_pose, len(poses))
    matrices = np.repeat(matrices, len(poses), 0) if len(matrices) == 1 else matrices[:len(poses)]
    _warn_if_off_center(matrices, intrinsics, size)
    return Cameras(torch.from_numpy(poses).float(), torch.from_numpy(matrices).float(), (size[0], size[1]))


def _warn_if_off_center(matrices: NDArray[np.float64], path: str | Path, size: tuple[int, int]) -> None:
    """Warn about a principal point outside the image: mostly these are intrinsics for another image size."""
    centers = matrices[:, :2, 2]
    outside = ((centers < 0) | (centers > np.array(size))).any(axis=1)
    if outside.any():
        block = int(outside.argmax())
        x, y = centers[block]
        logger.warning("%s: principal point (%g, %g) of block %d lies outside the picture of %dx%d; are "
                       "these intrinsics for another size?", path, x, y, block, *size)


def _check_rotation(rotation: NDArray[np.float64], row: NDArray[np.float64], path: Path, line: int) -> None:
    deviation = _deviation(rotation)
    i, j = np.unravel_index(np.abs(deviation).argmax(), (3, 3))
    order = "the order is z axis, x axis, y axis, center"
    if not abs(deviation[i, j]) <= ROTATION_TOLERANCE:
        what = (f"the {'xyz'[i]} axis has squared length {deviation[i, j] + 1:.6g}" if i == j else
                f"axes {'xyz'[i]} and {'xyz'[j]} have dot product {deviation[i, j]:.6g}")
        if np.abs(_deviation(row.reshape(3, 4)[:, :3])).max() <= ROTATION_TOLERANCE:
            order = f"its numbers look like the rows of a 3x4 matrix; {order}"
        raise SceneError(f"{path}, line {line}: rotation is not orthonormal: {what} "
                         f"(tolerance {ROTATION_TOLERANCE:g}); {order}")
    if np.linalg.det(rotation) < 0:
        raise SceneError(f"{path}, line {line}: rotation is left-handed (determinant "
                         f"{np.linalg.det(rotation):.6g}); {order}")


def _deviation(rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3, 3) how far the columns are from unit vectors at right angles; 0 for a rotation."""
    return rotation.T @ rotation - np.eye(3)


def _check_intrinsics(matrix: NDArray[np.float64], path: Path, lines: list[int]) -> None:
    for axis, name in enumerate(("fx", "fy")):
        if not matrix[axis, axis] > 0:
            raise SceneError(f"{path}, line {lines[axis]}: focal length {name} is {matrix[axis, axis]:g}; "
                             "it must be above 0")
    if matrix[1, 0] != 0:
        raise SceneError(f"{path}, line {lines[1]}: first number is {matrix[1, 0]:g}; it must be 0")
    if matrix[2].tolist() != [0, 0, 1]:
        hint = "; the matrix looks transposed" if matrix[:, 2].tolist() == [0, 0, 1] else ""
        raise SceneError(f"{path}, line {lines[2]}: last row is {format_numbers(matrix[2].tolist())}; "
                         f"it must be 0 0 1{hint}")


def _parse_index(text: str, path: Path, line: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise SceneError(f"{path}, line {line}: {text.strip()!r} is not a block index; a block is an index "
                         "line, three rows of K and a blank line") from None


def _as_matrices(values: Any, size: int, name: str) -> NDArray[Any]:
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    array = array if array.dtype == np.float32 else array.astype(np.float64)
    if array.ndim != 3 or array.shape[1:] != (size, size):
        raise ValueError(f"{name} must be (B, {size}, {size}), is {array.shape}")
    return array
