# SPDX-License-Identifier: Apache-2.0
"""The values of a transforms.json: what a frame says, else the top level, checked; and what there is to remark."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError

logger = logging.getLogger("npcr")

TOP_LEVEL = "for all frames"  # where a remark on a key of the top level is
LENS_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov", "camera_model",
             "is_fisheye", "k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1", "s2", "s3", "s4")
_DISTORTION_PARAMS = ("k1", "k2", "k3", "k4", "p1", "p2")  # nerfstudio's order
_KEYS = (*LENS_KEYS, "frames", "file_path", "mask_path", "transform_matrix", "ply_file_path", "applied_transform",
         "applied_scale", "train_filenames", "val_filenames", "test_filenames", "distortion_params")
_SPELLINGS = {key.replace("_", ""): key for key in _KEYS} | {
    "fx": "fl_x", "fy": "fl_y", "width": "w", "height": "h", "ppx": "cx", "ppy": "cy", "fisheye": "is_fisheye",
    "maskfilepath": "mask_path", "mask": "mask_path", "alphapath": "mask_path"}
# Keys that say something about the pictures or the cameras which an import does not heed.
_UNUSED = {
    "rolling_shutter": "rolling_shutter is not undone",
    "transform_matrix_start": "the camera's motion (transform_matrix_start, _end) is not used; transform_matrix is",
    "fisheye_crop_radius": "fisheye_crop_radius is not used: what lies outside of the lens's circle stays",
    "test_frames": "test_frames are left out; test_filenames holds out frames of the list 'frames'",
    "split": "'split' is not read; the lists train_filenames, val_filenames and test_filenames are",
    "white_transparent": "white_transparent is not heeded; --background 255,255,255 keys white out",
    "black_transparent": "black_transparent is not heeded; --background 0,0,0 keys black out",
    "mask_color": "mask_color is not heeded; --background R,G,B keys a color out",
}
_TRUTH = {1: True, 0: False, "true": True, "false": False, "1": True, "0": False}  # True and False are 1 and 0


class Remarks:
    """What of a file is left out, guessed or replaced: each kind is said once, with its number and the first.

    Args:
        file: what is read, for the messages.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._places: dict[str, list[str]] = {}

    def add(self, what: str, where: str) -> None:
        """Note a remark: `what` is the same for all of its kind, `where` names the frame and its values."""
        self._places.setdefault(what, []).append(where)

    def say(self, frames: int = 1) -> None:
        """Log a warning for each kind, in a file of so many frames."""
        for what, places in self._places.items():
            if frames == 1 or TOP_LEVEL in places:
                logger.warning("%s: %s (%s)", self._file, what, places[0])
            else:
                logger.warning("%s: %s (%d of %d frames, first %s)", self._file, what, len(places), frames, places[0])


class FrameValues:
    """One frame of the file; keys it lacks are looked up at the top level. What of it is not used is remarked.

    Args:
        file: of the frame.
        label: what messages call it: "frames[3]".
        entry: its value.
        shared: the top level of the file.
        remarks: takes what is to be said.

    Raises:
        SceneError: the entry is no object.
    """

    def __init__(self, file: Path, label: str, entry: Any, shared: dict[str, Any], remarks: Remarks) -> None:
        if not isinstance(entry, dict):
            raise SceneError(f"{file}, {label}: needs an object with file_path and transform_matrix, "
                             f"found {type(entry).__name__}")
        self.file, self.label, self.remarks, self.shared = file, label, remarks, shared
        self.entry = with_coefficients(with_known_keys(entry, label, remarks), f"{file}, {label}")
        note_unused(self.entry, label, remarks)

    @property
    def levels(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The frame's own values, and those of the top level, which come second."""
        return self.entry, self.shared

    def get(self, key: str) -> Any:
        """Return the value of a key; None where neither level has it."""
        value = self.entry.get(key)
        return self.shared.get(key) if value is None else value

    def number(self, key: str) -> float | None:
        """Return a number, or None where neither level has it; `SceneError` for anything else."""
        value = self.get(key)
        return None if value is None else self.checked(key, value)

    def checked(self, key: str, value: Any) -> float:
        """Return a value that is a finite number; `SceneError` for anything else."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
            raise self.error(key, value, "a finite number is needed"
                             + (", without quotes and with a decimal point" if isinstance(value, str) else ""))
        return float(value)

    def text(self, key: str) -> str:
        """Return a name of the frame itself; `SceneError` where it is missing or no text."""
        value = self.entry.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.error(key, value, "the path of a file is needed")
        return value

    def error(self, key: str, value: Any, needed: str) -> SceneError:
        """Return the error that a value is wrong, which says what is needed."""
        return SceneError(f"{self.file}, {self.label}: {key} is {shown(value)}; {needed}")


def with_known_keys(values: dict[str, Any], label: str, remarks: Remarks) -> dict[str, Any]:
    """Give keys in another spelling, such as fx, K1 or width, the format's own.

    Args:
        values: a frame, or the top level.
        label: what messages call it.
        remarks: takes what was renamed.

    Returns:
        The values; a key that is there in the right spelling, too, is left as it is.
    """
    result = dict(values)
    for key, value in values.items():
        known = _SPELLINGS.get(key.lower().replace("_", "").replace("-", ""))
        if known == "mask_path" and not isinstance(value, str):  # "mask" may be anything
            continue
        if known is not None and known != key and result.get(known) is None and value is not None:
            result[known] = value
            remarks.add(f"{key} is read as {known}", label)
    return result


def with_coefficients(values: dict[str, Any], place: str) -> dict[str, Any]:
    """Give the coefficients that the list distortion_params holds their own keys.

    Args:
        values: a frame, or the top level.
        place: what errors call it.

    Returns:
        The values; without the list, the same.

    Raises:
        SceneError: it is no list of so many numbers, or a key of its own contradicts it.
    """
    listed = values.get("distortion_params")
    if listed is None:
        return values
    numbers = as_matrix(listed, ((len(_DISTORTION_PARAMS),),))
    if numbers is None:
        raise SceneError(f"{place}: distortion_params is {shown(listed)}; the six finite numbers "
                         f"{', '.join(_DISTORTION_PARAMS)} are needed, in nerfstudio's order")
    found = dict(zip(_DISTORTION_PARAMS, numbers.tolist(), strict=True))
    for key, number in found.items():
        if values.get(key) not in (None, number):
            raise SceneError(f"{place}: {key} is {shown(values[key])}, but {number:g} in distortion_params, which is "
                             f"{', '.join(_DISTORTION_PARAMS)}; take one of the two away")
    return {**values, **found}


def note_unused(values: dict[str, Any], label: str, remarks: Remarks) -> None:
    """Remark on keys that change what the pictures show but are not used.

    Args:
        values: a frame, or the top level.
        label: what messages call it.
        remarks: takes the remarks.
    """
    for key, what in _UNUSED.items():
        if _says_something(values.get(key)):
            remarks.add(what, label)


def truth(value: Any) -> bool | None:
    """Read true and false, also as 1, 0, "true" and "false".

    Args:
        value: of a key.

    Returns:
        The truth value, or None where it is none.
    """
    if isinstance(value, str):
        value = value.lower()
    return _TRUTH.get(value) if isinstance(value, (bool, int, float, str)) else None


def as_matrix(value: Any, shapes: tuple[tuple[int, ...], ...]) -> NDArray[np.float64] | None:
    """Read a matrix of finite numbers.

    Args:
        value: lists of numbers.
        shapes: those it may have.

    Returns:
        float64 of one of `shapes`; None for anything else.
    """
    try:
        matrix = np.array(value)
    except (TypeError, ValueError, OverflowError):
        return None
    # Texts and truth values would become numbers without a word.
    if matrix.dtype.kind not in "iuf" or matrix.shape not in shapes or not np.isfinite(matrix).all():
        return None
    return matrix.astype(np.float64)


def shown(value: Any) -> str:
    """Write a value for a message.

    Args:
        value: of a key; None where there is none.

    Returns:
        At most 80 characters.
    """
    text = repr(value)
    return "missing" if value is None else text if len(text) < 80 else text[:77] + "..."


def _says_something(value: Any) -> bool:
    """Whether a value is other than nothing, zero or false."""
    return any(map(_says_something, value)) if isinstance(value, list) else bool(value)
