# SPDX-License-Identifier: Apache-2.0
"""Poses of transforms.json: what looks wrong in a matrix is named, and what looks wrong in all of them together."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.camera_paths import orthonormal_pose
from npcr.errors import NpcrError, SceneError
from npcr.importers.base import View
from npcr.importers.transforms.values import FrameValues, as_matrix, shown, truth

logger = logging.getLogger("npcr")

_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
_SAME = 1e-6


def read_pose(values: FrameValues) -> NDArray[np.float64]:
    """Read transform_matrix.

    Args:
        values: of the frame.

    Returns:
        (4, 4) camera-to-world with OpenCV's axes.

    Raises:
        SceneError: it is no pose; the message says what it looks like.
    """
    if truth(values.get("from_mitsuba")):
        raise values.error("from_mitsuba", values.get("from_mitsuba"), "Mitsuba's cameras look along +z: negate the "
                           "first and the third column of each transform_matrix, and leave the key out")
    value = values.entry.get("transform_matrix")
    matrix = as_matrix(value, ((4, 4), (3, 4), (16,)))
    if matrix is None:
        raise values.error("transform_matrix", value, "4 rows of 4 finite numbers are needed")
    if matrix.size == 16:
        matrix = matrix.reshape(4, 4)
    _check_last_row(f"{values.file}, {values.label}: the last row of transform_matrix", matrix,
                    "the matrix is all zeros, which some tools write where they found no pose: leave the frame out")
    pose = np.vstack([matrix[:3], [0, 0, 0, 1]])
    # Some exporters leave the scene's scale in the axes; it does not change where a camera looks.
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    if lengths.min() > 0 and np.ptp(lengths) < 1e-3 * lengths.max():
        pose[:3, :3] /= lengths.mean()
    axes = pose[:3, :3]
    if np.abs(axes @ axes.T - np.eye(3)).max() < 2e-3 and np.linalg.det(axes) < 0:
        raise values.error("transform_matrix", value, "its axes are left-handed (mirrored), and a camera's are "
                           "right-handed: x right, y up, z backward; one axis or column has the wrong sign")
    try:
        return orthonormal_pose(pose) @ _TO_OPENCV
    except NpcrError as error:
        raise SceneError(f"{values.file}, {values.label}: transform_matrix: {error}; its first three columns must be "
                         "perpendicular and of one length") from None


def _check_last_row(what: str, matrix: NDArray[np.float64], zeros: str) -> None:
    """Raise `SceneError` where a fourth row is not 0, 0, 0, 1; it says what the matrix looks like."""
    if len(matrix) == 3 or np.abs(matrix[3] - [0, 0, 0, 1]).max() <= _SAME:
        return
    looks = "leave other numbers, such as a scale, out of it"
    if np.abs(matrix[:, 3] - [0, 0, 0, 1]).max() <= _SAME:
        looks = "the matrix looks transposed (written column by column): write it row by row"
    elif not matrix.any():
        looks = zeros
    elif np.abs(matrix[3, :3]).max() <= _SAME:
        looks = "divide the matrix by its last number"
    row = ", ".join(f"{number:g}" for number in matrix[3])
    raise SceneError(f"{what} is {row}; 0, 0, 0, 1 is needed: {looks}")


class Motion:
    """The transform that nerfstudio moved the cameras by: applied_transform, then applied_scale.

    Args:
        file: for messages.
        values: the file's top level; without the keys nothing was moved.

    Raises:
        SceneError: it is malformed, or is no rotation, shift and scale.
    """

    def __init__(self, file: Path, values: dict[str, Any]) -> None:
        self.given = any(values.get(key) is not None for key in ("applied_transform", "applied_scale"))
        self.matrix = _similarity(file, values)

    def undone(self, pose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a pose as it was before; the scale does not turn its axes."""
        result = np.linalg.inv(self.matrix) @ pose
        result[:3, :3] *= np.cbrt(np.linalg.det(self.matrix[:3, :3]))
        return orthonormal_pose(result)


def _similarity(file: Path, values: dict[str, Any]) -> NDArray[np.float64]:
    value = values.get("applied_transform")
    found = np.eye(4) if value is None else as_matrix(value, ((4, 4), (3, 4)))
    if found is None:
        raise SceneError(f"{file}: applied_transform is {shown(value)}; 3 or 4 rows of 4 finite numbers are needed")
    _check_last_row(f"{file}: the last row of applied_transform", found, "the matrix is all zeros: correct it, or "
                    "leave --undo-applied-transform out")
    turn = found[:3, :3]
    size = np.cbrt(np.linalg.det(turn))
    if not size > 1e-6 or np.abs(turn @ turn.T / size**2 - np.eye(3)).max() > 1e-3:
        raise SceneError(f"{file}: applied_transform is {shown(value)}; a rotation, which may be scaled but not "
                         "mirrored, and a shift are needed, so that it can be undone")
    scale = values.get("applied_scale", 1.0)
    if scale is None:
        scale = 1.0
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1e-9 < scale < 1e9:
        raise SceneError(f"{file}: applied_scale is {shown(scale)}; a number above 0 is needed")
    matrix = np.vstack([found[:3], [0, 0, 0, 1]])
    matrix[:3] *= scale
    return matrix


def check_views(file: Path, views: Sequence[View]) -> None:
    """Say what looks wrong in the cameras together: one photograph or one pose twice, all at one point.

    Args:
        file: for messages.
        views: of all its frames.

    Raises:
        SceneError: one photograph has two different poses.
    """
    again = _photographs_twice(file, views)
    if again:
        first, second = again[0]
        shared = any(one.split != other.split for one, other in again)
        logger.warning("%s: %d of %d frames name a photograph that another frame names, too, with the same pose, first "
                       "%s (%s) and %s (%s), %s%s", file, len(again), len(views), first.label, first.split,
                       second.label, second.split, first.image, "; what is trained on and held out as well says "
                       "nothing about new views" if shared else "")
    centers = np.array([view.cam_to_world[:3, 3] for view in views])
    poses: dict[bytes, View] = {}
    equal = [(first, view) for view in views
             if (first := poses.setdefault(view.cam_to_world.tobytes(), view)).image != view.image]
    if len(views) > 1 and np.ptp(centers, axis=0).max() <= _SAME * max(1.0, float(np.abs(centers).max())):
        logger.warning("%s: all %d cameras stand at one point (%s); without a distance between them nothing has a "
                       "depth. Are the matrices transposed, or is their last column lost?", file, len(views),
                       ", ".join(f"{number:g}" for number in centers[0]))
    elif equal:
        first, second = equal[0]
        logger.warning("%s: %d of %d photographs have exactly the pose of another, first %s (%s) that of %s (%s); "
                       "leave them out if the camera moved", file, len(equal), len(views), second.label,
                       second.image.name, first.label, first.image.name)


def _photographs_twice(file: Path, views: Sequence[View]) -> list[tuple[View, View]]:
    seen: dict[Path, View] = {}
    again = []
    for view in views:
        first = seen.setdefault(view.image.resolve(), view)
        if first is view:
            continue
        if np.abs(first.cam_to_world - view.cam_to_world).max() > _SAME:
            raise SceneError(f"{file}: {first.label} and {view.label} name the photograph {view.image}, with different "
                             "poses; only one can be right: leave the other out")
        again.append((first, view))
    return again
