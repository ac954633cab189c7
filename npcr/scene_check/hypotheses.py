# SPDX-License-Identifier: Apache-2.0
"""Mistakes that scenes are made with, each as the change that would mend it.

A `Reading` is a scene as its files say; a `Mistake` gives the reading as it would be meant, if that mistake had
been made. `npcr.scene_check.consistency` says how well cloud and pictures agree in a reading.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras

_UNITS = {0.001: "millimeters for meters", 0.01: "centimeters for meters", 0.1: "decimeters for meters",
          1000.0: "meters for millimeters", 100.0: "meters for centimeters", 10.0: "centimeters for millimeters",
          0.3048: "feet for meters", 0.0254: "inches for meters", 2.54: "inches for centimeters",
          25.4: "inches for millimeters", 12.0: "feet for inches"}


@dataclass(frozen=True)
class Reading:
    """Cameras, cloud, and which picture each camera took."""

    cameras: Cameras  # B
    points: Tensor  # (N, 3) float32
    pictures: Tensor  # (B,) int64 index of the camera's picture, -1 where it is not known

    def subset(self, rows: Tensor) -> Reading:
        """The cameras `rows` (M,) only."""
        return Reading(self.cameras[rows], self.points, self.pictures[rows])


@dataclass(frozen=True)
class Mistake:
    """A mistake by name; `mend` turns the reading of the files into the one that was meant."""

    name: str
    found: str  # what seems to be the case, a clause
    fix: str  # what to do, an imperative sentence
    mend: Callable[[Reading], Reading]
    unlikeliness: float = 1.0  # of two that explain the pictures equally well the lower one is named
    factor: float = 1.0  # of those with a scale: what it is multiplied by to mend it


def fixed_mistakes(reading: Reading) -> list[Mistake]:
    """Every mistake without a scale to find."""
    return [*pose_mistakes(), *lens_mistakes(reading.cameras.size), *order_mistakes(len(reading.cameras)),
            *cloud_axes_mistakes()]


# ---- poses ----

def pose_mistakes() -> list[Mistake]:
    """The inverse for the pose, its rotation or translation alone, other camera axes, another column order."""
    axes = _rotations()
    opengl = np.diag([1, -1, -1])
    in_order = np.eye(3)[:, [1, 2, 0]].T  # the file read as columns x, y, z instead of z, x, y
    mistakes = []
    for ordered, transposed, inverse in itertools.product((False, True), repeat=3):
        for turn in ([np.eye(3), opengl] if ordered else axes):
            parts = []
            if ordered:
                parts.append(("column-order", "CamPose.inf holds the rotation in another order",
                              "Write the rotation's columns in the order z, x, y, before the center."))
            if transposed and inverse:
                parts.append(("world-to-camera", "the poses are world-to-camera",
                              "Invert the 4x4 matrices: poses are camera-to-world."))
            elif transposed:
                parts.append(("transposed-rotation", "the rotations are transposed, the centers are right",
                              "Transpose the rotations (columns for rows)."))
            elif inverse:
                parts.append(("world-to-camera-translation",
                              "the fourth column is the world-to-camera translation, not the camera's center",
                              "Write the center -R t, with R the camera-to-world rotation."))
            unnamed = False
            if (turn == opengl).all():
                parts.append(("opengl-axes", "the camera axes are OpenGL's or Blender's (y up, z backwards)",
                              "Negate the second and third column of the camera-to-world rotations."))
            elif (turn != np.eye(3)).any():
                unnamed = True
                parts.append(("camera-axes", f"the camera axes are not x right, y down, z forward: right, down, "
                                             f"forward are {_axes_words(turn)} of the file's",
                              f"Make the rotation's columns x, y, z the file's {_axes_words(turn)}."))
            # Columns in another order are a turn of the axes too; they go by their own name.
            reference = not (ordered or transposed or inverse) and any(np.array_equal(turn, in_order @ other)
                                                                  for other in (np.eye(3), opengl))
            if parts and not reference:
                mistakes.append(_pose_mistake(parts, ordered, transposed, inverse, in_order, turn,
                                              len(parts) + 0.5 * unnamed))
    return mistakes


def _pose_mistake(parts: list[tuple[str, str, str]], ordered: bool, transposed: bool, inverse: bool,
                  in_order: np.ndarray, turn: np.ndarray, unlikeliness: float) -> Mistake:
    order, last = (torch.from_numpy(m).float() for m in (in_order, turn.astype(np.float64)))

    def mend(reading: Reading) -> Reading:
        pose = reading.cameras.cam_to_world.clone()
        rotation, place = pose[:, :3, :3], pose[:, :3, 3:]
        if ordered:
            rotation = rotation @ order
        if transposed:
            rotation = rotation.transpose(1, 2)
        if inverse:
            place = -(rotation @ place)
        mended = pose.clone()
        mended[:, :3, :3], mended[:, :3, 3:] = rotation @ last, place
        return replace(reading, cameras=Cameras(mended, reading.cameras.intrinsics, reading.cameras.size))

    names, found, fixes = zip(*parts, strict=True)
    return Mistake("+".join(names), "; ".join(found), " Then: ".join(fixes), mend, unlikeliness)


# ---- K ----

def lens_mistakes(size: tuple[int, int]) -> list[Mistake]:
    """Width and height swapped in K; pictures turned or mirrored after they were calibrated."""
    width, height = size
    swap = "swapped-width-height"
    calibrated = "The pictures were turned after calibration, or an EXIF orientation was applied to some and not " \
                 "to others: turn them (and the mattes) back, or calibrate the pictures as they are."
    clockwise: list[list[float]] = [[0, -1, width - 1], [1, 0, 0], [0, 0, 1]]
    counter: list[list[float]] = [[0, 1, 0], [-1, 0, height - 1], [0, 0, 1]]
    half: list[list[float]] = [[-1, 0, width - 1], [0, -1, height - 1], [0, 0, 1]]
    across: list[list[float]] = [[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]
    upside: list[list[float]] = [[1, 0, 0], [0, -1, height - 1], [0, 0, 1]]
    mistakes = [
        Mistake(swap, "cx and cy (and fx and fy) are swapped: width and height were swapped when K was made",
                f"Swap fx with fy and cx with cy in Intrinsic.inf; pictures are {width} wide and {height} high.",
                _with_intrinsics(lambda k: k[:, [1, 0, 2]][:, :, [1, 0, 2]])),
        Mistake(swap, "cx and cy are swapped", f"Swap cx with cy in Intrinsic.inf; pictures are {width} wide and "
                                               f"{height} high.", _with_intrinsics(_swapped_center), 1.1),
        Mistake("turned-pictures", "the pictures are turned by 180° against their calibration", calibrated,
                _before_intrinsics(half)),
        Mistake("mirrored-pictures", "the pictures are upside down (mirrored) against their calibration",
                "Mirror them back: the first row of a picture is its top, in K too.", _before_intrinsics(upside), 1.5),
        Mistake("mirrored-pictures", "the pictures are mirrored left to right against their calibration",
                "Mirror the pictures and the mattes back.", _before_intrinsics(across), 1.5)]
    return mistakes + [Mistake("turned-pictures", f"the pictures are turned by 90° {way} against their calibration",
                               calibrated, _before_intrinsics(matrix))
                       for way, matrix in (("clockwise", clockwise), ("counter-clockwise", counter))]


def scaled_intrinsics(scale: float, size: tuple[int, int]) -> Mistake:
    """K belongs to pictures of another resolution: mended by multiplying it by `scale`."""
    width, height = (round(side / scale) for side in size)
    return Mistake("intrinsics-resolution",
                   f"K belongs to pictures {_times(1 / scale)} as large as these (about {width}x{height}, these are "
                   f"{size[0]}x{size[1]})",
                   f"Multiply the first two rows of every K in Intrinsic.inf by {scale:.4g}, or resize the pictures.",
                   _before_intrinsics([[scale, 0, 0.5 * scale - 0.5], [0, scale, 0.5 * scale - 0.5], [0, 0, 1]]),
                   1.0, scale)


def scaled_focal(scale: float, size: tuple[int, int]) -> Mistake:
    """fx and fy are off by a factor while the principal point is right."""
    del size
    diagonal = torch.tensor([scale, scale, 1.0])

    def change(matrix: Tensor) -> Tensor:
        center = matrix[:, :2, 2:].clone()
        scaled = matrix * diagonal[:, None]
        scaled[:, :2, 2:] = center
        return scaled

    return Mistake("focal-length", f"the focal length is {_times(1 / scale)} of what it should be",
                   f"Multiply fx and fy by {scale:.4g}; was the angle of view taken for the other side of the picture, "
                   "or in other units?", _with_intrinsics(change), 1.3, scale)


def _swapped_center(matrix: Tensor) -> Tensor:
    result = matrix.clone()
    result[:, :2, 2] = matrix[:, [1, 0], 2]
    return result


def _with_intrinsics(change: Callable[[Tensor], Tensor]) -> Callable[[Reading], Reading]:
    def mend(reading: Reading) -> Reading:
        cameras = reading.cameras
        return replace(reading, cameras=Cameras(cameras.cam_to_world, change(cameras.intrinsics), cameras.size))
    return mend


def _before_intrinsics(matrix: list[list[float]]) -> Callable[[Reading], Reading]:
    """Pixels of the calibrated picture to those of the stored one."""
    return _with_intrinsics(lambda k: torch.tensor(matrix, dtype=torch.float32) @ k)


# ---- order ----

def order_mistakes(count: int) -> list[Mistake]:
    """Pictures that belong to other cameras than their number says."""
    if count < 3:
        return []
    numbers = torch.arange(count)
    mistakes = []
    for shift in (1, -1, 2, -2):
        taken = numbers + shift
        taken[(taken < 0) | (taken >= count)] = -1
        mistakes.append(Mistake(
            "shifted-photographs", f"photograph n belongs to camera n{-shift:+d}",
            "Numbering from 0 met numbering from 1, or one list lacks an entry at its start: move the rows of "
            f"CamPose.inf by {abs(shift)} {'down' if shift > 0 else 'up'}, or rename the photographs.",
            _with_pictures(taken), 1 + 0.2 * (abs(shift) - 1)))
    mistakes.append(Mistake("reversed-order", "the photographs run backwards against the cameras",
                            "Reverse the rows of CamPose.inf, or rename the photographs.",
                            _with_pictures(numbers.flip(0)), 1.2))
    for first in (0, 1):
        names = torch.tensor(sorted(range(count), key=lambda i, start=first: str(i + start)))  # type: ignore[misc]
        for taken in (names, torch.argsort(names)):
            if (taken != numbers).any():
                mistakes.append(Mistake(
                    "alphabetical-order", f"the photographs are in the order of their names as text "
                                          f"({first}, {first + 1}, 10, 11, ...), the cameras are not, or the other way",
                    "Pad the numbers with zeros (img_0002 before img_0010) and number the photographs anew.",
                    _with_pictures(taken), 1.2))
    return mistakes


def _with_pictures(taken: Tensor) -> Callable[[Reading], Reading]:
    def mend(reading: Reading) -> Reading:
        return replace(reading, pictures=torch.where(taken >= 0, reading.pictures[taken], -1))
    return mend


# ---- cloud ----

def cloud_axes_mistakes() -> list[Mistake]:
    """Every way in which the cloud's world axes may be swapped or flipped against the cameras'."""
    mistakes = []
    for mirrored in (False, True):
        for turn in _rotations(mirrored):
            if (turn == np.eye(3)).all():
                continue
            words = _axes_words(turn.T)
            hint = {"x, -z, y": " (the cloud is y-up, the cameras z-up)",
                    "x, z, -y": " (the cloud is z-up, the cameras y-up)",
                    "x, -y, -z": " (OpenGL's or Blender's axes against OpenCV's)"}.get(words, "")
            swaps = sum(turn[i, i] == 0 for i in range(3)) / 3
            flips = (turn < 0).sum() / 3
            kind = "mirrored and has other axes than" if mirrored else "turned against"
            mistakes.append(Mistake(
                "cloud-mirrored" if mirrored else "cloud-axes", f"the point cloud is {kind} the cameras{hint}",
                f"Write every point (x, y, z) of the cloud as ({words}).", _with_points(torch.from_numpy(turn).float()),
                (0.5 if hint else 1.2) + 0.3 * mirrored + 0.1 * (swaps + flips)))
    return mistakes


def scaled_cloud(scale: float, size: tuple[int, int]) -> Mistake:
    """The cloud is in other units than the cameras' centers: mended by multiplying it by `scale`."""
    del size
    unit = next((words for value, words in _UNITS.items() if abs(scale / value - 1) < 0.03), None)
    return Mistake("cloud-units", f"the point cloud is {_times(1 / scale)} of its size in the cameras' units"
                                  + (f" ({unit}?)" if unit else ""),
                   f"Multiply the cloud's coordinates by {scale:.4g}, or the cameras' centers by {1 / scale:.4g}.",
                   _with_points(scale * torch.eye(3)), 1.1, scale)


def _with_points(matrix: Tensor) -> Callable[[Reading], Reading]:
    return lambda reading: replace(reading, points=reading.points @ matrix.T)


def _rotations(mirrored: bool = False) -> list[np.ndarray]:
    """The 24 turns that map axes to axes (mirrored: the other 24 maps), the identity first."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.eye(3)[list(order)] * np.array(signs)[:, None]
            if round(np.linalg.det(matrix)) == (-1 if mirrored else 1):
                found.append(matrix)
    return sorted(found, key=lambda m: -float(np.trace(m)))


def _axes_words(turn: np.ndarray) -> str:
    """The columns of `turn` as words, such as "x, -z, y"."""
    return ", ".join(("-" if column.min() < 0 else "") + "xyz"[int(np.abs(column).argmax())] for column in turn.T)


def _times(factor: float) -> str:
    return f"{factor:.4g} times" if factor >= 1 else f"1/{1 / factor:.4g}"


def log_grid(low: float, high: float, per_octave: float) -> list[float]:
    """Factors from `low` to `high` in even ratios, without those next to 1."""
    count = round(math.log2(high / low) * per_octave)
    return [f for f in (low * (high / low) ** (i / count) for i in range(count + 1)) if abs(math.log(f)) > 0.02]
