# SPDX-License-Identifier: Apache-2.0
"""COLMAP's sparse models, binary or text, read by pycolmap from copies that were checked.

The copies have the images' numbers for names, so that the names may be any bytes.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.extras import import_extra
from npcr.importers.colmap.binary import copy_binary_model, count_binary_images
from npcr.importers.colmap.records import MODEL_FILES, RIG_FILES, ImageRecord
from npcr.importers.colmap.text import copy_text_model, count_text_images

logger = logging.getLogger("npcr")


@dataclass(frozen=True)
class SparseModel:
    """A model as it was read."""

    folder: Path
    suffix: str  # ".bin" or ".txt"
    records: dict[int, ImageRecord]  # the images by their numbers
    reconstruction: Any  # pycolmap's, without names and tracks

    def file(self, name: str) -> Path:
        """The path of "cameras", "images", ..., for messages."""
        return self.folder / f"{name}{self.suffix}"

    def pose(self, number: int) -> NDArray[np.float64] | None:
        """World-to-camera (3, 4) of an image; None where its frame or its sensor in the rig has no pose."""
        try:
            return np.asarray(self.reconstruction.images[number].cam_from_world().matrix())
        except (RuntimeError, ValueError):
            return None


def read_model(folder: Path) -> SparseModel:
    """Read the model in a folder; where it is there as binary and as text, the binary files count, as in COLMAP.

    Args:
        folder: with cameras, images and points3D, each .bin or each .txt.

    Returns:
        The model.

    Raises:
        SceneError: a file is missing, damaged or malformed; the message names it.
        MissingExtraError: pycolmap is missing.
    """
    import_extra("pycolmap")
    whole = _whole_suffixes(folder)
    if not whole:
        begun = ".bin" if (folder / "cameras.bin").is_file() else ".txt"
        lacking = next(folder / f"{name}{begun}" for name in MODEL_FILES if not (folder / f"{name}{begun}").is_file())
        raise SceneError(f"{lacking}: no such file; a COLMAP model has {', '.join(MODEL_FILES)}")
    model = _read(folder, whole[0])
    if len(whole) == 2:
        _warn_of_other_text(model)
    return model


def is_model(folder: Path) -> bool:
    """Say whether a folder has a model, or the beginning of one.

    Args:
        folder: it need not exist.

    Returns:
        Whether it has cameras.bin or cameras.txt.
    """
    return any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt"))


def count_images(folder: Path) -> int:
    """Count the images of a model without reading all of it.

    Args:
        folder: of the model.

    Returns:
        Their number; 0 where the model lacks a file or its images cannot be read.
    """
    try:
        suffix = _whole_suffixes(folder)[0]
        return (count_binary_images if suffix == ".bin" else count_text_images)(folder / f"images{suffix}")
    except (IndexError, SceneError):
        return 0


def _whole_suffixes(folder: Path) -> list[str]:
    return [suffix for suffix in (".bin", ".txt")
            if all((folder / f"{name}{suffix}").is_file() for name in MODEL_FILES)]


def _read(folder: Path, suffix: str) -> SparseModel:
    binary = suffix == ".bin"
    rigs = [name for name in RIG_FILES if (folder / f"{name}{suffix}").is_file()]
    if len(rigs) == 1:
        logger.warning("%s: has %s%s, but only %s together can be used; the poses are those of images%s", folder,
                       rigs[0], suffix, " and ".join(RIG_FILES), suffix)
    with tempfile.TemporaryDirectory() as place:
        records = (copy_binary_model if binary else copy_text_model)(folder, Path(place), _parameters)
        reconstruction = import_extra("pycolmap").Reconstruction()
        try:
            (reconstruction.read_binary if binary else reconstruction.read_text)(place)
        except (ValueError, RuntimeError, IndexError, KeyError, MemoryError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            cause = (f"rigs{suffix} and frames{suffix} do not fit its images; without these two files the poses of "
                     f"images{suffix} are used" if len(rigs) == 2 else "is no readable COLMAP model")
            raise SceneError(f"{folder}: {cause} ({reason})") from None
    model = SparseModel(folder, suffix, records, reconstruction)
    if len(rigs) == 2:
        _warn_of_moved_frames(model)
    return model


@lru_cache(maxsize=64)
def _parameters(model: str | int) -> list[str] | None:
    pycolmap = import_extra("pycolmap")
    by_name = pycolmap.CameraModelId.__members__
    found = by_name.get(model) if isinstance(model, str) else next(
        (member for member in by_name.values() if member.value == model), None)
    if found is None or found == pycolmap.CameraModelId.INVALID:
        return None
    camera = pycolmap.Camera.create_from_model_id(1, found, 1.0, 1, 1)
    return [name.strip() for name in camera.params_info.split(",")]


def _stated_pose(record: ImageRecord) -> NDArray[np.float64]:
    pycolmap = import_extra("pycolmap")
    w, x, y, z, *translation = record.pose
    return np.asarray(pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([x, y, z, w])), np.array(translation)).matrix())


def _same_pose(one: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether poses (3, 4) agree to what text of few digits keeps."""
    limit = 1e-3 * (1 + np.abs(one[:, 3]).max())
    return bool(np.abs(one[:, :3] - other[:, :3]).max() < 1e-3 and np.abs(one[:, 3] - other[:, 3]).max() < limit)


def _warn_of_moved_frames(model: SparseModel) -> None:
    """Say where rigs and frames place an image elsewhere than its own entry does."""
    moved = [record.label for number, record in model.records.items()
             if (pose := model.pose(number)) is not None and not _same_pose(_stated_pose(record), pose)]
    if moved:
        logger.warning("%s: places %d of %d images elsewhere than %s does, first %s; as in COLMAP, the rigs and frames "
                       "count. Without the files rigs and frames, the images' own poses do", model.file("frames"),
                       len(moved), len(model.records), model.file("images").name, moved[0])


def _warn_of_other_text(model: SparseModel) -> None:
    """Say where the text files beside a binary model hold something else."""
    try:
        other = _read(model.folder, ".txt")
    except SceneError as error:
        difference = f"the text files cannot be read ({error})"
    else:
        difference = _difference(model, other)
    if difference:
        logger.warning("%s: the binary files are used; the text files beside them are not the same: %s. Move away the "
                       "files that do not count", model.folder, difference)


def _difference(model: SparseModel, other: SparseModel) -> str:
    ours, theirs = model.reconstruction, other.reconstruction
    for kind in ("images", "cameras", "points3D"):
        if set(getattr(ours, kind)) != set(getattr(theirs, kind)):
            return f"{len(getattr(ours, kind))} and {len(getattr(theirs, kind))} {kind}, or with other numbers"
    for number, camera in ours.cameras.items():
        twin = theirs.cameras[number]
        if camera.model != twin.model or not np.allclose(camera.params, twin.params, rtol=1e-4):
            return f"camera {number}"
    for number, record in model.records.items():
        if record.name != other.records[number].name:
            return f"image {number} is {record.label} and {other.records[number].label}"
        if not _same_pose(_stated_pose(record), _stated_pose(other.records[number])):
            return f"the pose of {record.label}"
    return ""
