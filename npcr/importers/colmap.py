# SPDX-License-Identifier: Apache-2.0
"""Sparse models of COLMAP, binary or text, with every perspective camera model, read by pycolmap.

COLMAP's poses are world-to-camera in OpenCV's axes; its pixel coordinates start at the outer corner of the first
pixel, so half a pixel is subtracted. Lens distortion is left to pycolmap's own camera models.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.camera_paths import orthonormal_pose
from npcr.errors import MissingExtraError, NpcrError, SceneError
from npcr.importers.base import Capture, Importer, Option, View, find_mask
from npcr.importers.colmap_binary import MODEL_FILES, check_binary_model
from npcr.importers.lenses import Lens
from npcr.io.points import PointCloud

logger = logging.getLogger("npcr")

_MODELS = ("", "sparse/0", "sparse", "colmap/sparse/0", "distorted/sparse/0")
_IMAGES = ("images", "input")


@dataclass(frozen=True)
class ColmapDistortion:
    """The distortion of one of COLMAP's camera models."""

    model: str
    params: tuple[float, ...]

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        camera = _camera(self.model, self.params)
        pixels = camera.img_from_cam(np.concatenate([points, np.ones((len(points), 1))], axis=1))
        center = (camera.principal_point_x, camera.principal_point_y)
        return np.asarray((pixels - center) / (camera.focal_length_x, camera.focal_length_y))


class ColmapImporter(Importer):
    """COLMAP's workspaces and models."""

    name = "colmap"
    summary = "COLMAP's sparse model"
    description = """\
A COLMAP workspace: its sparse model (sparse/0, binary or text, any perspective camera model), its images/ and, where
there is one, masks/ (x.jpg.png as COLMAP names them, or x.png). Photographs are undistorted here. The cloud is the
sparse one; --points dense/0/fused.ply takes the dense one. Needs pip install 'npcr[colmap]'.
"""
    options = (
        Option("model", "the sparse model (default: sparse/0 or sparse)", Path, metavar="FOLDER"),
        Option("images", "the photographs (default: images or input)", Path, metavar="FOLDER"),
        Option("masks", "their mattes (default: masks beside images)", Path, metavar="FOLDER"),
    )

    def read(self, source: Path, **options: Any) -> Capture:
        return read_colmap(source, **options)


def read_colmap(source: str | Path, *, model: Path | None = None, images: Path | None = None,
                masks: Path | None = None) -> Capture:
    """Read a sparse model of COLMAP.

    Args:
        source: a workspace (with sparse/0 and images), or a model's folder.
        model: the model's folder; None: sparse/0 or sparse.
        images: the photographs' folder; None: images or input.
        masks: the mattes' folder; None: masks beside the photographs' folder, where there is one.

    Returns:
        The registered photographs that exist, in the order of their names, and the sparse cloud.

    Raises:
        SceneError: something is missing or malformed.
        MissingExtraError: pycolmap is missing.
    """
    folder = Path(source)
    place = model or _find_model(folder)
    found = _read_model(place)
    images = images or _find_images(folder, place)
    if masks is None and (images.parent / "masks").is_dir():
        masks = images.parent / "masks"
    lenses = {number: _lens(camera, place) for number, camera in found.cameras.items()}
    views: list[View] = []
    missing: list[Path] = []
    unregistered = 0
    for image in sorted(found.images.values(), key=lambda image: image.name):
        if not image.has_pose:
            unregistered += 1
            continue
        path = _photograph(images, image.name, place)
        if not path.is_file():
            missing.append(path)
            continue
        mask = find_mask(masks, Path(image.name)) if masks is not None else None
        views.append(View(image.name, path, mask, _pose(image, place), lenses[image.camera_id]))
    if unregistered:
        logger.warning("%s: %d images have no pose; they are left out", place, unregistered)
    if not views:
        raise SceneError(f"{place}: none of its {len(missing)} photographs is in {images}"
                         + (f"; the first is {missing[0].name}" if missing else ""))
    cloud = _cloud(found, place)
    return Capture(place, views, missing, [cloud] if cloud is not None else [])


def _find_model(folder: Path) -> Path:
    places = [folder / name for name in _MODELS]
    found = next((p for p in places if any((p / f"cameras{s}").is_file() for s in (".bin", ".txt"))), None)
    if found is None:
        raise SceneError(f"{folder}: has no COLMAP model (cameras.bin or cameras.txt) in itself, "
                         f"{', '.join(name for name in _MODELS[1:])}; --model names its folder")
    others = [p.name for p in sorted(found.parent.iterdir()) if p.is_dir() and p != found and p.name.isdecimal()]
    if others and found.name.isdecimal():
        logger.warning("%s: COLMAP made several models that do not connect; %s is used, --model names another (%s)",
                       found.parent, found.name, ", ".join(others))
    return found


def _find_images(folder: Path, model: Path) -> Path:
    bases = list(dict.fromkeys((folder, model, model.parent, model.parent.parent)))
    for base in bases:
        for name in _IMAGES:
            if (base / name).is_dir():
                return base / name
    raise SceneError(f"{folder}: has no folder of photographs ({' or '.join(_IMAGES)}); --images names it")


def _read_model(place: Path) -> Any:
    """pycolmap's Reconstruction of the model in `place`; binary files are preferred to text."""
    pycolmap = _pycolmap()
    binary = (place / "cameras.bin").is_file()
    if binary:
        check_binary_model(place, _params_of)
    for name in MODEL_FILES:
        file = place / f"{name}{'.bin' if binary else '.txt'}"
        if not file.is_file():
            raise SceneError(f"{file}: no such file; a COLMAP model has {', '.join(MODEL_FILES)}")
    model = pycolmap.Reconstruction()
    try:
        (model.read_binary if binary else model.read_text)(str(place))
    except (ValueError, RuntimeError, IndexError, KeyError, MemoryError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise SceneError(f"{place}: is no readable COLMAP model: {reason[0] if reason else type(error).__name__}"
                         ) from None
    return model


def _params_of(model_id: int) -> int | None:
    pycolmap = _pycolmap()
    try:
        camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(model_id), 1.0, 1, 1)
    except (ValueError, TypeError, RuntimeError):
        return None
    return len(camera.params)


@lru_cache(maxsize=64)
def _camera(model: str, params: tuple[float, ...]) -> Any:
    return _pycolmap().Camera(model=model, width=1, height=1, params=list(params))


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError:
        raise MissingExtraError("reading COLMAP models needs pycolmap: pip install 'npcr[colmap]'") from None
    return pycolmap


def _lens(camera: Any, place: Path) -> Lens:
    values = list(camera.params)
    if camera.is_spherical():  # it has no focal length; asking for it ends the process
        raise SceneError(f"{place}: camera {camera.camera_id} is {camera.model_name}; a panorama is no pinhole picture")
    focal = (camera.focal_length_x, camera.focal_length_y)
    if not (np.isfinite(values).all() and min(focal) > 0 and camera.width and camera.height
            and max(camera.width, camera.height, *map(abs, values)) < 1e9):
        raise SceneError(f"{place}: camera {camera.camera_id} ({camera.model_name}) of {camera.width}x{camera.height} "
                         f"has parameters {', '.join(f'{v:g}' for v in values)}; a size and a focal length above 0 and "
                         "finite numbers are needed")
    distortion = None
    if not camera.is_undistorted() or camera.is_perspective_fisheye():
        distortion = ColmapDistortion(camera.model_name, tuple(values))
    return Lens(focal, (camera.principal_point_x - 0.5, camera.principal_point_y - 0.5),
                (camera.width, camera.height), distortion)


def _photograph(images: Path, name: str, place: Path) -> Path:
    if not name or "\0" in name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise SceneError(f"{place}: an image is named {name!r}; a path within {images} is needed")
    try:
        path = images / name
        path.is_file()
    except (OSError, ValueError, UnicodeError):
        raise SceneError(f"{place}: an image is named {name!r}; that is no file's name") from None
    return path


def _pose(image: Any, place: Path) -> NDArray[np.float64]:
    world_to_cam = np.eye(4)
    world_to_cam[:3] = image.cam_from_world().matrix()
    try:
        if not np.isfinite(world_to_cam).all():
            raise NpcrError("the numbers are not finite")
        # The rotation is orthonormal to rounding: its transpose is its inverse.
        pose = np.eye(4)
        pose[:3, :3] = world_to_cam[:3, :3].T
        pose[:3, 3] = -world_to_cam[:3, :3].T @ world_to_cam[:3, 3]
        return orthonormal_pose(pose)
    except NpcrError as error:
        raise SceneError(f"{place}: the pose of {image.name}: {error}") from None


def _cloud(model: Any, place: Path) -> PointCloud | None:
    """The sparse points in the order of their numbers; None without any."""
    points = [model.points3D[number] for number in sorted(model.points3D)]
    if not points:
        logger.warning("%s: has no points; --points names a cloud", place)
        return None
    with np.errstate(over="ignore"):
        positions = np.array([point.xyz for point in points]).astype(np.float32)
    colors = np.array([point.color for point in points], dtype=np.uint8)
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise SceneError(f"{place}: {int((~finite).sum())} of {len(points)} points are not finite")
    return PointCloud(positions, colors)
