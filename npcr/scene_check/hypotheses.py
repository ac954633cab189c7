# SPDX-License-Identifier: Apache-2.0
"""Wrong conventions that scenes are often written with, each a hypothesis with the correction it calls for.

A `Reconstruction` holds what structure from motion gives: cameras, points, and the image of each camera. A
`Hypothesis` corrects the reconstruction that the files describe; `npcr.scene_check.consistency` measures whether
points and images then agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras

_UNITS = {0.001: "millimeters for meters", 0.01: "centimeters for meters", 0.1: "decimeters for meters",
          1000.0: "meters for millimeters", 100.0: "meters for centimeters", 10.0: "centimeters for millimeters",
          0.3048: "feet for meters", 0.0254: "inches for meters", 2.54: "inches for centimeters",
          25.4: "inches for millimeters", 12.0: "feet for inches"}
_OPENGL = np.diag([1, -1, -1])  # camera axes against OpenCV's
_COLUMN_ORDER = np.eye(3)[:, [1, 2, 0]].T  # the file read as columns x, y, z instead of z, x, y


@dataclass(frozen=True)
class Reconstruction:
    """Cameras, points, and which image each camera took."""

    cameras: Cameras  # B
    points: Tensor  # (N, 3) float32
    images: Tensor  # (B,) int64 index of the camera's image, -1 where it is not known

    def subset(self, rows: Tensor) -> Reconstruction:
        """Return the reconstruction with the cameras `rows` (M,) only."""
        return Reconstruction(self.cameras[rows], self.points, self.images[rows])


Correction = Callable[[Reconstruction], Reconstruction]


@dataclass(frozen=True)
class Hypothesis:
    """A wrong convention that may explain why points and images disagree."""

    name: str
    description: str  # what seems to be the case, a clause
    fix: str  # what to do, an imperative sentence
    correct: Correction  # from the reconstruction in the files to the one that was meant
    cost: float = 1.0  # of hypotheses that explain the images equally well, the one of the lowest cost comes first
    factor: float = 1.0  # of those with a scale: what it is multiplied by


def discrete_hypotheses(reconstruction: Reconstruction) -> list[Hypothesis]:
    """List every hypothesis without a scale to search for.

    Args:
        reconstruction: as the files describe it.

    Returns:
        Hypotheses on poses, intrinsics, the order of images, and the cloud's axes.
    """
    count, size = len(reconstruction.cameras), reconstruction.cameras.size
    return [*pose_hypotheses(), *intrinsics_hypotheses(size), *order_hypotheses(count), *cloud_axes_hypotheses()]


# ---- poses ----

def pose_hypotheses() -> list[Hypothesis]:
    """List what may be wrong with poses: inverted, in part or whole, other camera axes, another column order.

    Returns:
        Hypotheses, combinations of these among them.
    """
    hypotheses = []
    for reordered, transposed, inverted in itertools.product((False, True), repeat=3):
        for axes in ([np.eye(3), _OPENGL] if reordered else _rotations()):
            errors = _pose_errors(reordered, transposed, inverted, axes)
            # Another column order is a rotation of the axes too, which goes by its own name.
            duplicate = not (reordered or transposed or inverted) and any(
                np.array_equal(axes, _COLUMN_ORDER @ other) for other in (np.eye(3), _OPENGL))
            if errors and not duplicate:
                names, descriptions, fixes = zip(*errors, strict=True)
                correct = _correct_poses(reordered, transposed, inverted, axes)
                hypotheses.append(Hypothesis("+".join(names), "; ".join(descriptions), " Then: ".join(fixes), correct,
                                             cost=len(errors) + 0.5 * ("camera-axes" in names)))
    return hypotheses


def _pose_errors(reordered: bool, transposed: bool, inverted: bool, axes: np.ndarray) -> list[tuple[str, str, str]]:
    """Name, description and fix of each."""
    errors = []
    if reordered:
        errors.append(("column-order", "CamPose.inf holds the rotation in another order",
                       "Write the rotation's columns in the order z, x, y, before the center."))
    if transposed and inverted:
        errors.append(("world-to-camera", "the poses are world-to-camera",
                       "Invert the 4x4 matrices: poses are camera-to-world."))
    elif transposed:
        errors.append(("transposed-rotation", "the rotations are transposed, the centers are right",
                       "Transpose the rotations (columns for rows)."))
    elif inverted:
        errors.append(("world-to-camera-translation",
                       "the fourth column is the world-to-camera translation, not the camera's center",
                       "Write the center -R t, with R the camera-to-world rotation."))
    if (axes == _OPENGL).all():
        errors.append(("opengl-axes", "the camera axes are OpenGL's or Blender's (y up, z backwards)",
                       "Negate the second and third column of the camera-to-world rotations."))
    elif (axes != np.eye(3)).any():
        errors.append(("camera-axes", f"the camera axes are not x right, y down, z forward: right, down, forward are "
                                      f"{_format_axes(axes)} of the file's",
                       f"Make the rotation's columns x, y, z the file's {_format_axes(axes)}."))
    return errors


def _correct_poses(reordered: bool, transposed: bool, inverted: bool, axes: np.ndarray) -> Correction:
    column_order, new_axes = (torch.from_numpy(m).float() for m in (_COLUMN_ORDER, axes.astype(np.float64)))

    def correct(reconstruction: Reconstruction) -> Reconstruction:
        cameras = reconstruction.cameras
        pose = cameras.cam_to_world.clone()
        rotation, center = pose[:, :3, :3], pose[:, :3, 3:]
        if reordered:
            rotation = rotation @ column_order
        if transposed:
            rotation = rotation.transpose(1, 2)
        if inverted:
            center = -(rotation @ center)
        corrected = pose.clone()
        corrected[:, :3, :3], corrected[:, :3, 3:] = rotation @ new_axes, center
        return replace(reconstruction, cameras=Cameras(corrected, cameras.intrinsics, cameras.size))
    return correct


# ---- K ----

def intrinsics_hypotheses(size: tuple[int, int]) -> list[Hypothesis]:
    """List how K may not belong to the images: width and height swapped, images rotated or mirrored afterwards.

    Args:
        size: (width, height) of the images.

    Returns:
        Hypotheses.
    """
    width, height = size
    images = f"pictures are {width} wide and {height} high."
    calibrate = "The pictures were turned after calibration, or an EXIF orientation was applied to some and not " \
                "to others: turn them (and the mattes) back, or calibrate the pictures as they are."
    clockwise = [[0, -1, width - 1], [1, 0, 0], [0, 0, 1]]
    counterclockwise = [[0, 1, 0], [-1, 0, height - 1], [0, 0, 1]]
    half_turn = [[-1, 0, width - 1], [0, -1, height - 1], [0, 0, 1]]
    left_to_right = [[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]
    upside_down = [[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]
    return [
        Hypothesis("swapped-width-height",
                   "cx and cy (and fx and fy) are swapped: width and height were swapped when K was made",
                   f"Swap fx with fy and cx with cy in Intrinsic.inf; {images}",
                   _change_intrinsics(lambda k: k[:, [1, 0, 2]][:, :, [1, 0, 2]])),
        Hypothesis("swapped-width-height", "cx and cy are swapped", f"Swap cx with cy in Intrinsic.inf; {images}",
                   _change_intrinsics(_swap_principal_point), 1.1),
        Hypothesis("turned-pictures", "the pictures are turned by 180° against their calibration", calibrate,
                   _map_pixels(half_turn)),
        Hypothesis("mirrored-pictures", "the pictures are upside down (mirrored) against their calibration",
                   "Mirror them back: the first row of a picture is its top, in K too.", _map_pixels(upside_down), 1.5),
        Hypothesis("mirrored-pictures", "the pictures are mirrored left to right against their calibration",
                   "Mirror the pictures and the mattes back.", _map_pixels(left_to_right), 1.5),
        Hypothesis("turned-pictures", "the pictures are turned by 90° clockwise against their calibration", calibrate,
                   _map_pixels(clockwise)),
        Hypothesis("turned-pictures", "the pictures are turned by 90° counter-clockwise against their calibration",
                   calibrate, _map_pixels(counterclockwise))]


def scaled_intrinsics(scale: float, size: tuple[int, int]) -> Hypothesis:
    """Assume that K belongs to images of another resolution.

    Args:
        scale: what K is to be multiplied by.
        size: (width, height) of the images.

    Returns:
        The hypothesis.
    """
    width, height = (round(side / scale) for side in size)
    return Hypothesis(
        "intrinsics-resolution", f"K belongs to pictures {_format_factor(1 / scale)} as large as these (about "
                                 f"{width}x{height}, these are {size[0]}x{size[1]})",
        f"Multiply the first two rows of every K in Intrinsic.inf by {scale:.4g}, or resize the pictures.",
        _map_pixels([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5], [0, 0, 1]]), 1.0, scale)


def scaled_focal(scale: float, size: tuple[int, int]) -> Hypothesis:
    """Assume that fx and fy are wrong by a factor while the principal point is right.

    Args:
        scale: what fx and fy are to be multiplied by.
        size: (width, height) of the images; of no influence.

    Returns:
        The hypothesis.
    """
    del size
    diagonal = torch.tensor([scale, scale, 1.0])

    def change(matrix: Tensor) -> Tensor:
        center = matrix[:, :2, 2:].clone()
        scaled = matrix * diagonal[:, None]
        scaled[:, :2, 2:] = center
        return scaled

    return Hypothesis(
        "focal-length", f"the focal length is {_format_factor(1 / scale)} of what it should be",
        f"Multiply fx and fy by {scale:.4g}; was the angle of view taken for the other side of the picture, or in "
        "other units?", _change_intrinsics(change), 1.3, scale)


def _swap_principal_point(matrix: Tensor) -> Tensor:
    result = matrix.clone()
    result[:, :2, 2] = matrix[:, [1, 0], 2]
    return result


def _change_intrinsics(change: Callable[[Tensor], Tensor]) -> Correction:
    def correct(reconstruction: Reconstruction) -> Reconstruction:
        cameras = reconstruction.cameras
        return replace(reconstruction,
                       cameras=Cameras(cameras.cam_to_world, change(cameras.intrinsics), cameras.size))
    return correct


def _map_pixels(matrix: Sequence[Sequence[float]]) -> Correction:
    """Apply a (3, 3) map from pixels of the calibrated image to those of the stored one to K."""
    return _change_intrinsics(lambda k: torch.tensor(matrix, dtype=torch.float32) @ k)


# ---- order ----

def order_hypotheses(count: int) -> list[Hypothesis]:
    """List how images may belong to other cameras than those of their number.

    Args:
        count: number of cameras.

    Returns:
        Hypotheses; none for fewer than three cameras.
    """
    if count < 3:
        return []
    numbers = torch.arange(count)
    hypotheses = []
    for shift in (1, -1, 2, -2):
        order = numbers + shift
        order[(order < 0) | (order >= count)] = -1
        hypotheses.append(Hypothesis(
            "shifted-photographs", f"photograph n belongs to camera n{-shift:+d}",
            "Numbering from 0 met numbering from 1, or one list lacks an entry at its start: move the rows of "
            f"CamPose.inf by {abs(shift)} {'down' if shift > 0 else 'up'}, or rename the photographs.",
            _reorder_images(order), 1 + 0.2 * (abs(shift) - 1)))
    hypotheses.append(Hypothesis("reversed-order", "the photographs run backwards against the cameras",
                                 "Reverse the rows of CamPose.inf, or rename the photographs.",
                                 _reorder_images(numbers.flip(0)), 1.2))
    for first in (0, 1):
        names = torch.tensor(sorted(range(count), key=lambda i, start=first: str(i + start)))  # type: ignore[misc]
        for order in (names, torch.argsort(names)):
            if (order != numbers).any():
                hypotheses.append(Hypothesis(
                    "alphabetical-order", f"the photographs are in the order of their names as text "
                                          f"({first}, {first + 1}, 10, 11, ...), the cameras are not, or the other way",
                    "Pad the numbers with zeros (img_0002 before img_0010) and number the photographs anew.",
                    _reorder_images(order), 1.2))
    return hypotheses


def _reorder_images(order: Tensor) -> Correction:
    """Give camera i the image of camera order[i], none where that is -1."""
    def correct(reconstruction: Reconstruction) -> Reconstruction:
        return replace(reconstruction, images=torch.where(order >= 0, reconstruction.images[order], -1))
    return correct


# ---- cloud ----

def cloud_axes_hypotheses() -> list[Hypothesis]:
    """List every way in which the cloud's world axes may be swapped or flipped against the cameras'.

    Returns:
        Hypotheses, 47.
    """
    hypotheses = []
    for mirrored in (False, True):
        for rotation in _rotations(mirrored):
            if (rotation == np.eye(3)).all():
                continue
            axes = _format_axes(rotation.T)
            usual = {"x, -z, y": " (the cloud is y-up, the cameras z-up)",
                     "x, z, -y": " (the cloud is z-up, the cameras y-up)",
                     "x, -y, -z": " (OpenGL's or Blender's axes against OpenCV's)"}.get(axes, "")
            swaps = sum(rotation[i, i] == 0 for i in range(3)) / 3
            flips = (rotation < 0).sum() / 3
            kind = "mirrored and has other axes than" if mirrored else "turned against"
            hypotheses.append(Hypothesis(
                "cloud-mirrored" if mirrored else "cloud-axes", f"the point cloud is {kind} the cameras{usual}",
                f"Write every point (x, y, z) of the cloud as ({axes}).",
                _transform_points(torch.from_numpy(rotation).float()),
                (0.5 if usual else 1.2) + 0.3 * mirrored + 0.1 * (swaps + flips)))
    return hypotheses


def scaled_cloud(scale: float, size: tuple[int, int]) -> Hypothesis:
    """Assume that the cloud is in another unit than the cameras' centers.

    Args:
        scale: what the cloud is to be multiplied by.
        size: (width, height) of the images; of no influence.

    Returns:
        The hypothesis.
    """
    del size
    unit = next((name for value, name in _UNITS.items() if abs(scale / value - 1) < 0.03), None)
    return Hypothesis(
        "cloud-units", f"the point cloud is {_format_factor(1 / scale)} of its size in the cameras' units"
                       + (f" ({unit}?)" if unit else ""),
        f"Multiply the cloud's coordinates by {scale:.4g}, or the cameras' centers by {1 / scale:.4g}.",
        _transform_points(scale * torch.eye(3)), 1.1, scale)


def _transform_points(matrix: Tensor) -> Correction:
    return lambda reconstruction: replace(reconstruction, points=reconstruction.points @ matrix.T)


def _rotations(mirrored: bool = False) -> list[np.ndarray]:
    """The 24 rotations that map axes to axes (mirrored: the 24 improper ones), the identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if round(np.linalg.det(matrix)) == (-1 if mirrored else 1):
                found.append(matrix)
    return sorted(found, key=lambda m: -float(np.trace(m)))


def _format_axes(rotation: np.ndarray) -> str:
    """Write the columns of a (3, 3) map of axes to axes such as "x, -z, y"."""
    return ", ".join(("-" if column.min() < 0 else "") + "xyz"[int(np.abs(column).argmax())] for column in rotation.T)


def _format_factor(factor: float) -> str:
    return f"{factor:.4g} times" if factor >= 1 else f"1/{1 / factor:.4g}"
