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
from npcr.errors import NpcrError, SceneError
from npcr.extras import import_extra
from npcr.importers.base import Capture, Importer, Option, View
from npcr.importers.colmap.model import SparseModel, count_images, is_model, read_model
from npcr.importers.colmap.photographs import find_photographs, warn_of_unplaced
from npcr.importers.lenses import Lens
from npcr.importers.masks import find_masks, find_masks_near
from npcr.io.points import PointCloud

logger = logging.getLogger("npcr")

_MODELS = ("", "sparse", "colmap/sparse", "distorted/sparse")  # in each, 0, 1, ... come before the folder itself
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
A COLMAP workspace: its sparse model (sparse/0, or another there that has more images; binary or text, any perspective
camera model), its images/ and, where there is one, masks/, mattes/ or the like (x.jpg.png as COLMAP names them, x.png
or x_mask.png, in folders that mirror the photographs'). Photographs are undistorted here. The cloud is the sparse one;
--points dense/0/fused.ply takes the dense one. Needs pip install 'npcr[colmap]'.
"""
    options = (
        Option("model", "the sparse model (default: the one in sparse with most images)", Path, metavar="FOLDER"),
        Option("images", "the photographs (default: images or input)", Path, metavar="FOLDER"),
        Option("masks", "their mattes (default: masks, mattes, ... beside images)", Path, metavar="FOLDER"),
    )

    def read(self, source: Path, **options: Any) -> Capture:
        return read_colmap(source, **options)


def read_colmap(source: str | Path, *, model: Path | None = None, images: Path | None = None,
                masks: Path | None = None) -> Capture:
    """Read a sparse model of COLMAP.

    Args:
        source: a workspace (with sparse/0 and images), or a model's folder.
        model: the model's folder; None: of those in sparse the one with most images.
        images: the photographs' folder; None: images or input.
        masks: the mattes' folder; None: masks, mattes or the like beside the photographs' folder, where there is one.

    Returns:
        The registered photographs that exist, in the order of their names, and the sparse cloud.

    Raises:
        SceneError: something is missing or malformed.
        MissingExtraError: pycolmap is missing.
    """
    folder = Path(source)
    place = model or _find_model(folder)
    found = read_model(place)
    images = images or _find_images(folder, place)
    lenses = {number: _lens(camera, found.file("cameras"))
              for number, camera in found.reconstruction.cameras.items()}
    poses = _poses(found)
    paths = find_photographs({number: found.records[number] for number in poses}, images, found.file("images"))
    missing = [images / found.records[number].label for number in poses if number not in paths]
    numbers = [number for number in poses if number in paths]
    if not numbers:
        raise SceneError(f"{place}: none of its {len(missing)} photographs is in {images}"
                         + (f"; the first is {missing[0].relative_to(images)}" if missing else ""))
    photographs = [paths[number] for number in numbers]
    mattes = find_masks(masks, photographs) if masks else find_masks_near((images.parent, images, folder), photographs)
    warn_of_unplaced(images, {*paths.values(), *(matte for matte in mattes if matte is not None)})
    views = [View(found.records[number].label, paths[number], matte, poses[number],
                  lenses[found.records[number].camera]) for number, matte in zip(numbers, mattes, strict=True)]
    cloud = _cloud(found)
    return Capture(place, views, missing, [cloud] if cloud is not None else [])


def _poses(model: SparseModel) -> dict[int, NDArray[np.float64]]:
    """Camera-to-world (4, 4) of the images that have a pose, in the order of their names."""
    numbers = sorted(model.records, key=lambda number: model.records[number].name)
    poses = {number: _inverse(model, number, pose) for number in numbers if (pose := model.pose(number)) is not None}
    if len(poses) < len(numbers):
        first = next(number for number in numbers if number not in poses)
        logger.warning("%s: %d of %d images have no pose; they are left out, first %s", model.folder,
                       len(numbers) - len(poses), len(numbers), model.records[first].label)
    return poses


def _find_model(folder: Path) -> Path:
    """The folder itself, else, in the first place that has models, the one with most images."""
    if is_model(folder):
        return folder
    for place in (folder / name for name in _MODELS):
        numbered = [path for path in place.iterdir() if path.name.isdecimal() and is_model(path)] \
            if place.is_dir() else []
        if numbered:
            return _largest(place, sorted(numbered, key=lambda path: int(path.name)))
        if is_model(place):
            return place
    raise SceneError(f"{folder}: has no COLMAP model (cameras.bin or cameras.txt) in itself, "
                     f"{', '.join(_MODELS[1:])}, or 0, 1, ... in them; --model names its folder")


def _largest(place: Path, models: list[Path]) -> Path:
    """The model with most images, and the first of these; the others are said."""
    if len(models) == 1:
        return models[0]
    counts = {model: count_images(model) for model in models}
    chosen = max(models, key=lambda model: counts[model])
    listed = ", ".join(f"{model.name}: {count}" for model, count in counts.items())
    logger.warning("%s: COLMAP made %d models that do not connect (%s images); %s is used, since none has more, and "
                   "the others' images are left out; --model names another", place, len(models), listed, chosen.name)
    return chosen


def _find_images(folder: Path, model: Path) -> Path:
    bases = list(dict.fromkeys((folder, model, model.parent, model.parent.parent)))
    for base in bases:
        for name in _IMAGES:
            if (base / name).is_dir():
                return base / name
    raise SceneError(f"{folder}: has no folder of photographs ({' or '.join(_IMAGES)}); --images names it")


@lru_cache(maxsize=64)
def _camera(model: str, params: tuple[float, ...]) -> Any:
    return import_extra("pycolmap").Camera(model=model, width=1, height=1, params=list(params))


def _lens(camera: Any, file: Path) -> Lens:
    values = list(camera.params)
    if camera.is_spherical():  # it has no focal length; asking for it ends the process
        raise SceneError(f"{file}: camera {camera.camera_id} is {camera.model_name}; a panorama is no pinhole picture")
    focal = (camera.focal_length_x, camera.focal_length_y)
    if not (np.isfinite(values).all() and min(focal) > 0 and camera.width and camera.height
            and max(camera.width, camera.height, *map(abs, values)) < 1e9):
        raise SceneError(f"{file}: camera {camera.camera_id} ({camera.model_name}) of {camera.width}x{camera.height} "
                         f"has parameters {', '.join(f'{v:g}' for v in values)}; a size and a focal length above 0 and "
                         "finite numbers are needed")
    distortion = None
    if not camera.is_undistorted() or camera.is_perspective_fisheye():
        distortion = ColmapDistortion(camera.model_name, tuple(values))
    return Lens(focal, (camera.principal_point_x - 0.5, camera.principal_point_y - 0.5),
                (camera.width, camera.height), distortion)


def _inverse(model: SparseModel, number: int, world_to_cam: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        if not np.isfinite(world_to_cam).all():
            raise NpcrError("the numbers are not finite")
        # The rotation is orthonormal to rounding: its transpose is its inverse.
        pose = np.eye(4)
        pose[:3, :3] = world_to_cam[:, :3].T
        pose[:3, 3] = -world_to_cam[:, :3].T @ world_to_cam[:, 3]
        return orthonormal_pose(pose)
    except NpcrError as error:
        raise SceneError(f"{model.file('images')}: the pose of {model.records[number].label}: {error}") from None


def _cloud(model: SparseModel) -> PointCloud | None:
    """The sparse points in the order of their numbers; None without any."""
    found = model.reconstruction.points3D
    points = [found[number] for number in sorted(found)]
    if not points:
        logger.warning("%s: has no points; --points names a cloud", model.folder)
        return None
    with np.errstate(over="ignore"):
        positions = np.array([point.xyz for point in points]).astype(np.float32)
    colors = np.array([point.color for point in points], dtype=np.uint8)
    finite = np.isfinite(positions).all(axis=1)
    if not finite.all():
        raise SceneError(f"{model.file('points3D')}: {int((~finite).sum())} of {len(points)} points are not finite")
    return PointCloud(positions, colors)
