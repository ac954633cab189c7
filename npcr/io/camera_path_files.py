# SPDX-License-Identifier: Apache-2.0
"""Camera paths in nerfstudio's JSON, as its viewer writes them and `ns-render camera-path` reads them.

A camera has `camera_to_world`, 16 numbers row by row, with OpenGL's axes (x right, y up, z back), and `fov`, its
vertical field of view in degrees; the picture has `render_width` and `render_height`; pixels are square, and the
principal point is the picture's middle. `fps` and `seconds` tell the speed. `keyframes`, which only a viewer reads,
hold what the path was made of. Poses are in the coordinates of whoever wrote them: nerfstudio moves and scales a scene
when it trains, and its paths fit a scene in the same coordinates alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from npcr.camera_paths import orthonormal_pose
from npcr.camera_spline import FIELD_OF_VIEW, Keyframe, field_of_view, focal_length
from npcr.cameras import Cameras
from npcr.errors import NpcrError, SceneError
from npcr.io.json_files import read_json, write_json

logger = logging.getLogger("npcr")

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL's camera axes to OpenCV's, and back
_KIND = "camera path of nerfstudio"
_PIXEL_OFF = 0.05  # pixels, or of the focal length per 1000: what is lost below it is not worth a warning
Array = NDArray[np.float64]


@dataclass(frozen=True)
class CameraPath:
    """A camera path, and what a viewer made it from."""

    cameras: Cameras  # B; at the size at which it is to be rendered
    fps: float = 30.0
    times: Array | None = None  # (B,) 0 to 1, from the first frame of the scene to its last; None: not given
    keyframes: tuple[Keyframe, ...] = ()
    loop: bool = False


def make_cameras(poses: Sequence[Array], fovs: Sequence[float], size: tuple[int, int]) -> Cameras:
    """Make cameras of square pixels with the principal point in the picture's middle.

    Args:
        poses: (4, 4) camera-to-world, OpenCV's axes.
        fovs: vertical field of view of each, degrees.
        size: (width, height), pixels.

    Returns:
        The cameras, float32 on the CPU.
    """
    intrinsics = np.zeros((len(poses), 3, 3))
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = [focal_length(fov, size[1]) for fov in fovs]
    intrinsics[:, :, 2] = (size[0] / 2 - 0.5, size[1] / 2 - 0.5, 1)
    return Cameras(torch.from_numpy(np.stack(poses)).float(), torch.from_numpy(intrinsics).float(), size)


def read_camera_path(path: str | Path) -> CameraPath:
    """Read a camera path of nerfstudio's viewer, or of `write_camera_path`.

    Args:
        path: the JSON file.

    Returns:
        The path. Its `times` are there where each camera has a `render_time`.

    Raises:
        SceneError: the file is missing or malformed, or its cameras are not pinhole cameras; the message names the
            camera, the key and the value.
    """
    path = Path(path)
    values = read_json(path, _KIND, "camera_path")
    entries = values.get("camera_path")
    if not isinstance(entries, list) or not entries:
        raise SceneError(f"{path}: needs 'camera_path', a list of at least one camera; is it a {_KIND}?")
    kind = str(values.get("camera_type", "perspective")).lower()
    if kind not in ("perspective", "pinhole"):
        raise SceneError(f"{path}: camera_type is {kind}; only perspective cameras can be rendered")
    size = (_pixels(values, "render_width", path), _pixels(values, "render_height", path))
    fps = _number(values.get("fps", 30.0), "fps", path, 1, 1000)
    poses, fovs, times = [], [], []
    for number, entry in enumerate(entries, 1):
        place = f"{path}, camera {number}"
        poses.append(_pose(_entry(entry, place), "camera_to_world", place))
        fovs.append(_number(entry.get("fov"), "fov", place, *FIELD_OF_VIEW))
        times.append(None if entry.get("render_time") is None else
                     _number(entry["render_time"], "render_time", place, 0, 1))
    _say_other_aspect(entries, size, path)
    known = [one for one in times if one is not None]
    if 0 < len(known) < len(times):
        logger.warning("%s: %d of %d cameras have no render_time; none is used", path, len(times) - len(known),
                       len(times))
    return CameraPath(make_cameras(poses, fovs, size), fps, np.array(known) if len(known) == len(times) else None,
                      tuple(_read_keyframes(values, path)), bool(values.get("is_cycle", False)))


def write_camera_path(path: str | Path, camera_path: CameraPath) -> None:
    """Write a camera path as nerfstudio does, atomically; says what the format cannot hold.

    Args:
        path: the file.
        camera_path: at least one camera.

    Raises:
        OSError: the file cannot be written.
    """
    cameras = camera_path.cameras
    width, height = cameras.size
    matrices = cameras.intrinsics.double().cpu().numpy()
    _say_what_is_lost(path, matrices, cameras.size)
    aspect = width / height
    entries = []
    for index, (pose, matrix) in enumerate(zip(cameras.cam_to_world.double().cpu().numpy(), matrices, strict=True)):
        entries.append({"camera_to_world": (pose @ _FLIP).ravel().tolist(),
                        "fov": field_of_view(matrix[1, 1], height), "aspect": aspect})
        if camera_path.times is not None:
            entries[-1]["render_time"] = float(camera_path.times[index])
    keyframes = [{"matrix": (one.cam_to_world @ _FLIP).ravel().tolist(), "fov": one.fov, "aspect": aspect,
                  "override_transition_enabled": True, "override_transition_sec": one.seconds,
                  "render_time": one.time, "look_at_distance": one.distance} for one in camera_path.keyframes]
    write_json(path, {
        "camera_type": "perspective", "render_width": width, "render_height": height, "fps": camera_path.fps,
        "seconds": len(cameras) / camera_path.fps, "is_cycle": camera_path.loop, "smoothness_value": 0.0,
        "default_fov": entries[0]["fov"], "default_transition_sec": 2.0, "keyframes": keyframes,
        "camera_path": entries})


def _read_keyframes(values: dict[str, Any], path: Path) -> list[Keyframe]:
    """The keyframes, which serve editing alone: where they are of another kind the path is read without them."""
    entries = values.get("keyframes") or []
    default_seconds = values.get("default_transition_sec") or 2.0
    keyframes = []
    try:
        for number, entry in enumerate(entries, 1):
            place = f"{path}, keyframe {number}"
            own = entry.get("override_transition_sec") if entry.get("override_transition_enabled", True) else None
            keyframes.append(Keyframe(
                _pose(_entry(entry, place), "matrix", place), _number(entry.get("fov"), "fov", place, *FIELD_OF_VIEW),
                _number(entry.get("look_at_distance", 1.0), "look_at_distance", place, 1e-9, math.inf),
                _number(own or default_seconds, "override_transition_sec", place, 1e-3, 1e6),
                _number(entry.get("render_time") or 0.0, "render_time", place, 0, 1)))
    except (SceneError, AttributeError, TypeError) as error:
        logger.warning("%s: its keyframes are not read, its %d cameras are: %s", path, len(values["camera_path"]),
                       error)
        return []
    return keyframes


def _entry(entry: Any, place: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise SceneError(f"{place}: needs an object, found {type(entry).__name__}")
    return entry


def _pose(entry: dict[str, Any], key: str, place: str) -> Array:
    """(4, 4) camera-to-world with OpenCV's axes."""
    try:
        matrix = np.asarray(entry.get(key), dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.size != 16:
        raise SceneError(f"{place}: {key} needs 16 numbers, the rows of a 4x4 matrix, found {str(entry.get(key))[:60]}")
    matrix = matrix.reshape(4, 4)
    if not np.allclose(matrix[3], [0, 0, 0, 1], atol=1e-6):
        hint = "; it looks written column by column" if np.allclose(matrix[:, 3], [0, 0, 0, 1], atol=1e-6) else ""
        raise SceneError(f"{place}: {key} has the last row {matrix[3].tolist()}; it must be 0 0 0 1{hint}")
    try:
        orthonormal_pose(matrix)
    except NpcrError as error:
        raise SceneError(f"{place}: {key}: {error}") from None
    return matrix @ _FLIP


def _pixels(values: dict[str, Any], key: str, path: Path) -> int:
    number = _number(values.get(key), key, path, 1, 65536)
    if number != round(number):
        raise SceneError(f"{path}: {key} is {number:g}; it must be a whole number of pixels")
    return round(number)


def _number(value: Any, key: str, place: str | Path, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        found = "missing" if value is None else repr(value)[:60]
        raise SceneError(f"{place}: {key} is {found}; it must be a number from {low:g} to {high:g}")
    return float(value)


def _say_other_aspect(entries: list[dict[str, Any]], size: tuple[int, int], path: Path) -> None:
    """nerfstudio renders by the picture's size as well, and reads the aspects of cameras in its viewer alone."""
    aspect = size[0] / size[1]
    other = [one["aspect"] for one in entries if isinstance(one.get("aspect"), (int, float))
             and abs(one["aspect"] - aspect) > 0.01 * aspect]
    if other:
        logger.warning("%s: %d cameras have an aspect such as %.4g, the picture of %dx%d has %.4g; the picture's "
                       "is used", path, len(other), other[0], *size, aspect)


def _say_what_is_lost(path: str | Path, matrices: Array, size: tuple[int, int]) -> None:
    off = np.abs(matrices[:, :2, 2] - (np.array(size) / 2 - 0.5)).max()
    if off > _PIXEL_OFF:
        logger.warning("%s: the format has the principal point in the picture's middle; it moves there by up to "
                       "%.3g pixels", path, off)
    stretch = np.abs(matrices[:, 0, 0] / matrices[:, 1, 1] - 1).max()
    if stretch > _PIXEL_OFF / 1000:
        logger.warning("%s: the format has square pixels; fx differs from fy by up to %.2g%% and becomes fy", path,
                       100 * stretch)
    if np.abs(matrices[:, 0, 1]).max() > 0:
        logger.warning("%s: the format has no skew; it is left out", path)
