# SPDX-License-Identifier: Apache-2.0
"""transforms.json of nerfstudio, instant-ngp and NeRF-synthetic: cameras, photographs, mattes, cloud.

Camera axes there are OpenGL's (x right, y up, z back); here they become OpenCV's. The principal point there
counts from the outer corner of the first pixel (as in nerfstudio and COLMAP); here pixel centres are whole
numbers, so half a pixel is subtracted. `pixel_origin="center"` leaves it as it is, for files whose numbers
came from a calibration that already counts from pixel centres (OpenCV's, Bouguet's toolbox).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npcr.errors import NpcrError, SceneError
from npcr.orbits import orthonormal_pose

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
_PINHOLE = ("", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "RADIAL", "SIMPLE_RADIAL")
_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Lens:
    """Intrinsics and distortion of a photograph of `size`, in this project's pixel coordinates."""

    focal: tuple[float, float]  # pixels
    center: tuple[float, float] | None  # None: the picture's middle
    size: tuple[int, int] | None  # (width, height) that the numbers refer to; None: the photograph's own
    distortion: tuple[float, ...] = ()  # k1 k2 p1 p2 k3 as OpenCV has them; fisheye: k1 k2 k3 k4
    fisheye: bool = False


@dataclass(frozen=True)
class View:
    """One photograph that exists, with its camera."""

    label: str  # "frames[3]"
    image: Path
    mask: Path | None
    cam_to_world: np.ndarray  # (4, 4) float64, OpenCV axes
    lens: Lens | None  # None: camera_angle_x alone was given, `angle` has it
    angle: tuple[float, float | None] = (0.0, None)  # horizontal and vertical angle of view, radians


@dataclass(frozen=True)
class Capture:
    """A transforms.json that has been read and checked."""

    file: Path
    views: list[View]
    missing: list[Path]  # photographs (and masks) it names that do not exist; their views are left out
    cloud: Path | None  # ply_file_path, where that exists


def read_transforms(source: str | Path, *, pixel_origin: str = "corner") -> Capture:
    """Read SOURCE, a transforms*.json or a folder that has one.

    In a folder transforms.json is taken, else transforms_train.json. Raises `SceneError` naming file, frame,
    key and value where something is malformed, and where no photograph at all exists.
    """
    file = _find_file(Path(source))
    values = _read_json(file)
    frames = values.get("frames")
    if not isinstance(frames, list) or not frames:
        raise SceneError(f"{file}: needs a list 'frames' with an entry for each photograph")
    views, missing = [], []
    for number, entry in enumerate(frames):
        reader = _Entry(file, f"frames[{number}]", entry, values)
        view = reader.view(pixel_origin)
        absent = [path for path in (view.image, view.mask) if path is not None and not path.is_file()]
        missing += absent[:1]
        if not absent:
            views.append(view)
    if not views:
        raise SceneError(f"{file}: none of its {len(frames)} photographs exists; the first is {missing[0]}")
    return Capture(file, views, missing, _cloud(file, values))


class _Entry:
    """One frame of the file; keys it lacks are looked up at the top level."""

    def __init__(self, file: Path, label: str, entry: Any, shared: dict[str, Any]) -> None:
        if not isinstance(entry, dict):
            raise SceneError(f"{file}, {label}: needs an object with file_path and transform_matrix, "
                             f"found {type(entry).__name__}")
        self.file, self.label, self.entry, self.shared = file, label, entry, shared

    def view(self, pixel_origin: str) -> View:
        lens = self._lens(pixel_origin)
        angle = (self._number("camera_angle_x") or 0.0, self._number("camera_angle_y"))
        if lens is None and not 0 < angle[0] < math.pi:
            raise self._error("fl_x", None, "fl_x (pixels) or camera_angle_x (radians, between 0 and pi) is needed")
        mask = self.entry.get("mask_path")
        return View(self.label, self._path("file_path"), None if mask is None else self._path("mask_path"),
                    self._pose(), lens, angle)

    def _lens(self, pixel_origin: str) -> Lens | None:
        focal_x = self._number("fl_x")
        if focal_x is None:
            return None
        focal_y = self._number("fl_y")
        focal_y = focal_x if focal_y is None else focal_y
        for key, value in (("fl_x", focal_x), ("fl_y", focal_y)):
            if value <= 0:
                raise self._error(key, value, "a focal length must be above 0")
        width, height, x, y = (self._number(key) for key in ("w", "h", "cx", "cy"))
        size = None
        if width is not None and height is not None:
            if width < 1 or height < 1:
                raise self._error("w", f"{width:g}x{height:g}", "the size must be at least 1x1")
            size = (round(width), round(height))
        shift = 0.5 if pixel_origin == "corner" else 0.0
        center = None if x is None or y is None else (x - shift, y - shift)
        distortion, fisheye = self._distortion()
        return Lens((focal_x, focal_y), center, size, distortion, fisheye)

    def _distortion(self) -> tuple[tuple[float, ...], bool]:
        model = self.entry.get("camera_model", self.shared.get("camera_model", ""))
        k1, k2, k3, k4, p1, p2 = (self._number(key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
        if model == "OPENCV_FISHEYE" or self.shared.get("is_fisheye") is True:
            return (k1, k2, k3, k4), True
        if model not in _PINHOLE:
            raise self._error("camera_model", model, f"known are {', '.join(_PINHOLE[1:])}, OPENCV_FISHEYE")
        if k4:
            raise self._error("k4", k4, "only OPENCV_FISHEYE cameras may have it")
        return ((k1, k2, p1, p2, k3) if any((k1, k2, p1, p2, k3)) else ()), False

    def _pose(self) -> np.ndarray:
        value = self.entry.get("transform_matrix")
        try:
            matrix = np.array(value, dtype=np.float64)
        except (TypeError, ValueError):
            matrix = np.zeros(0)
        if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
            raise self._error("transform_matrix", value, "4 rows of 4 finite numbers are needed")
        pose = np.eye(4)
        pose[:3] = matrix[:3]
        # Some exporters leave the scene's scale in the axes; it does not change where a camera looks.
        lengths = np.linalg.norm(pose[:3, :3], axis=0)
        if lengths.min() > 0 and np.ptp(lengths) < 1e-3 * lengths.max():
            pose[:3, :3] /= lengths.mean()
        try:
            return orthonormal_pose(pose) @ _TO_OPENCV
        except NpcrError as error:
            raise SceneError(f"{self.file}, {self.label}: transform_matrix: {error}") from None

    def _number(self, key: str) -> float | None:
        value = self.entry.get(key, self.shared.get(key))
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e9:
            raise self._error(key, value, "a finite number is needed")
        return float(value)

    def _path(self, key: str) -> Path:
        value = self.entry.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self._error(key, value, "the path of a file is needed")
        path = self.file.parent / value.replace("\\", "/")
        if path.is_file():
            return path
        # NeRF-synthetic leaves the suffix away.
        return next((found for suffix in IMAGE_SUFFIXES if (found := path.with_name(path.name + suffix)).is_file()),
                    path)

    def _error(self, key: str, value: Any, needed: str) -> SceneError:
        shown = "missing" if value is None else repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
        return SceneError(f"{self.file}, {self.label}: {key} is {shown}; {needed}")


def _find_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    names = ("transforms.json", "transforms_train.json")
    found = next((source / name for name in names if (source / name).is_file()), None)
    if found is None:
        raise SceneError(f"{source}: has neither {' nor '.join(names)}")
    return found


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise SceneError(f"{file}: no such file") from None
    except OSError as error:
        raise SceneError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SceneError(f"{file}: not text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise SceneError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise SceneError(f"{file}: not a transforms.json: nested too deeply") from None
    if not isinstance(values, dict):
        raise SceneError(f"{file}: needs an object with 'frames', found {type(values).__name__}")
    return values


def _cloud(file: Path, values: dict[str, Any]) -> Path | None:
    name = values.get("ply_file_path")
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    path = file.parent / name
    return path if path.is_file() else None
