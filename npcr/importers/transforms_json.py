# SPDX-License-Identifier: Apache-2.0
"""transforms.json of nerfstudio, instant-ngp and NeRF-synthetic: cameras, photographs, mattes, cloud.

The file's camera axes are OpenGL's (x right, y up, z back) and become OpenCV's. Its principal point is measured from
the outer corner of the first pixel (as in nerfstudio and COLMAP); in this project pixel centers are whole numbers, so
half a pixel is subtracted. `pixel_origin="center"` leaves it as it is, for files whose numbers came from a calibration
that already measures from pixel centers (OpenCV's, Bouguet's toolbox).
"""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from npcr.camera_paths import orthonormal_pose
from npcr.errors import NpcrError, SceneError
from npcr.importers.base import IMAGE_SUFFIXES, Capture, Importer, Option, View
from npcr.importers.lenses import BrownDistortion, Distortion, FisheyeDistortion, Lens

logger = logging.getLogger("npcr")

_SPLITS = ("train", "val", "test")
_PINHOLE = ("", "PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "RADIAL", "SIMPLE_RADIAL")
_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


class TransformsImporter(Importer):
    """transforms.json of nerfstudio, instant-ngp and NeRF-synthetic."""

    name = "transforms"
    summary = "transforms.json (nerfstudio, instant-ngp, NeRF-synthetic)"
    description = """\
transforms.json of nerfstudio, instant-ngp or NeRF-synthetic: intrinsics for all or for each photograph (fl_x, fl_y,
cx, cy, w, h, or camera_angle_x), lens distortion (undistorted here), RGBA photographs or mask_path, ply_file_path.
A folder's transforms_train, _val and _test.json keep their splits: the test views become the scene
DESTINATION/test, which DATASETS.TEST names. Photographs that do not exist are counted and left out.
"""
    options = (
        Option("pixel_origin", "what cx and cy count from: the outer corner of the first pixel, as nerfstudio and "
               "COLMAP do (default), or its center, as OpenCV's calibration does",
               default="corner", choices=("corner", "center")),
        Option("undo_applied_transform", "take the cameras back to before nerfstudio's applied_transform, to fit a "
               "cloud (--points) that was not moved with them, such as COLMAP's fused.ply", is_flag=True),
    )

    def read(self, source: Path, **options: Any) -> Capture:
        return read_transforms(source, **options)


def read_transforms(source: str | Path, *, pixel_origin: str = "corner",
                    undo_applied_transform: bool = False) -> Capture:
    """Read a transforms*.json.

    In a folder transforms.json is taken, else transforms_train.json with its siblings _val and _test, whose views
    keep that split; so do the entries of train_filenames, val_filenames, test_filenames. `transform_matrix` and the
    cloud of ply_file_path are in one coordinate frame already, which nerfstudio reached by `applied_transform`.

    Args:
        source: the file, or a folder that has one.
        pixel_origin: what cx and cy are measured from: "corner" or "center" of the first pixel.
        undo_applied_transform: return the cameras as they were before `applied_transform`, for a cloud (--points) that
            was not moved with them; the file's own cloud is left out.

    Returns:
        The photographs that exist, in the file's order, and its cloud where it names one.

    Raises:
        SceneError: something is malformed (the message names file, frame, key and value), or no photograph to train
            on exists.
    """
    files = _find_files(Path(source))
    views: list[View] = []
    missing: list[Path] = []
    clouds: list[Path] = []
    for split, file in files.items():
        values = _read_json(file)
        frames = values.get("frames")
        if not isinstance(frames, list) or not frames:
            raise SceneError(f"{file}: needs a list 'frames' with an entry for each photograph")
        splits = _splits_by_name(file, values)
        undo = _inverse_applied_transform(file, values) if undo_applied_transform else None
        for number, entry in enumerate(frames):
            label = f"frames[{number}]" if len(files) == 1 else f"{file.name}, frames[{number}]"
            reader = _Entry(file, label, entry, values)
            view = reader.view(pixel_origin, splits.get(str(entry.get("file_path")), split), undo)
            absent = [path for path in (view.image, view.mask) if path is not None and not path.is_file()]
            missing += absent[:1]
            if not absent:
                views.append(view)
        clouds += _cloud(file, values)
    if not any(view.split == "train" for view in views):
        first = missing[0] if missing else views[0].image
        raise SceneError(f"{next(iter(files.values()))}: none of its {len(views) + len(missing)} photographs exists "
                         f"or is for training; the first is {first}")
    if undo_applied_transform and clouds:
        logger.warning("%s: the cloud it names is in the frame of its cameras and is left out", source)
        clouds = []
    return Capture(next(iter(files.values())), views, missing, list(clouds[:1]))


class _Entry:
    """One frame of the file; keys it lacks are looked up at the top level."""

    def __init__(self, file: Path, label: str, entry: Any, shared: dict[str, Any]) -> None:
        if not isinstance(entry, dict):
            raise SceneError(f"{file}, {label}: needs an object with file_path and transform_matrix, "
                             f"found {type(entry).__name__}")
        self.file, self.label, self.entry, self.shared = file, label, entry, shared

    def view(self, pixel_origin: str, split: str, undo: np.ndarray | None) -> View:
        lens = self._lens(pixel_origin)
        angle = (self._number("camera_angle_x") or 0.0, self._number("camera_angle_y"))
        if lens is None and not 0 < angle[0] < math.pi:
            raise self._error("fl_x", None, "fl_x (pixels) or camera_angle_x (radians, between 0 and pi) is needed")
        if angle[1] is not None and not 0 < angle[1] < math.pi:
            raise self._error("camera_angle_y", angle[1], "an angle in radians, between 0 and pi, is needed")
        mask = self.entry.get("mask_path")
        pose = self._pose()
        return View(self.label, self._path("file_path"), None if mask is None else self._path("mask_path"),
                    pose if undo is None else _moved(undo, pose), lens, angle, split)

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
        return Lens((focal_x, focal_y), center, size, self._distortion())

    def _distortion(self) -> Distortion | None:
        model = self.entry.get("camera_model", self.shared.get("camera_model", ""))
        k1, k2, k3, k4, p1, p2 = (self._number(key) or 0.0 for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
        if model == "OPENCV_FISHEYE" or self.shared.get("is_fisheye") is True:
            return FisheyeDistortion((k1, k2, k3, k4))
        if model not in _PINHOLE:
            raise self._error("camera_model", model, f"known are {', '.join(_PINHOLE[1:])}, OPENCV_FISHEYE")
        if k4:
            raise self._error("k4", k4, "only OPENCV_FISHEYE cameras may have it")
        return BrownDistortion((k1, k2, p1, p2, k3)) if any((k1, k2, p1, p2, k3)) else None

    def _pose(self) -> np.ndarray:
        value = self.entry.get("transform_matrix")
        pose = _as_matrix(value)
        if pose is None:
            raise self._error("transform_matrix", value, "4 rows of 4 finite numbers are needed")
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
        found = "missing" if value is None else repr(value) if len(repr(value)) < 80 else repr(value)[:77] + "..."
        return SceneError(f"{self.file}, {self.label}: {key} is {found}; {needed}")


def _find_files(source: Path) -> dict[str, Path]:
    """{split: file}; the views of a single file are to train on, but for those that its lists hold out."""
    if not source.is_dir():
        return {"train": source}
    if (source / "transforms.json").is_file():
        return {"train": source / "transforms.json"}
    found = {split: file for split in _SPLITS if (file := source / f"transforms_{split}.json").is_file()}
    if "train" not in found:
        raise SceneError(f"{source}: has neither transforms.json nor transforms_train.json")
    return found


def _splits_by_name(file: Path, values: dict[str, Any]) -> dict[str, str]:
    """{file_path: split} of nerfstudio's lists train_filenames, val_filenames, test_filenames."""
    found = {}
    for split in _SPLITS:
        names = values.get(f"{split}_filenames", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SceneError(f"{file}: {split}_filenames must be a list of file names")
        found.update(dict.fromkeys(names, split))
    return found


def _inverse_applied_transform(file: Path, values: dict[str, Any]) -> np.ndarray:
    """(4, 4): the inverse of applied_transform; the identity where there is none."""
    value = values.get("applied_transform", np.eye(4).tolist())
    matrix = _as_matrix(value)
    if matrix is None or not abs(np.linalg.det(matrix[:3, :3])) > 1e-12:
        raise SceneError(f"{file}: applied_transform is {value!r:.80}; 3 or 4 rows of 4 numbers that can be undone "
                         "are needed")
    return np.linalg.inv(matrix)


def _as_matrix(value: Any) -> np.ndarray | None:
    """(4, 4) float64 of 3 or 4 rows of 4 finite numbers; None for anything else."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        return None
    return np.vstack([matrix[:3], [0, 0, 0, 1]])


def _moved(by: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The pose after a similarity, whose scale does not turn the axes."""
    result = by @ pose
    result[:3, :3] /= np.cbrt(abs(np.linalg.det(by[:3, :3])))
    return orthonormal_pose(result)


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


def _cloud(file: Path, values: dict[str, Any]) -> list[Path]:
    name = values.get("ply_file_path")
    if not isinstance(name, str) or not name or "\0" in name:
        return []
    path = file.parent / name.replace("\\", "/")
    return [path] if path.is_file() else []
