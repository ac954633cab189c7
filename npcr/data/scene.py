# SPDX-License-Identifier: Apache-2.0
"""Reading and checking a scene's folder: cameras, point clouds, photographs and their mattes.

    SCENE/img/FRAME/img_0001.jpg        photographs (jpg, png), numbered from 0 or 1, one per camera
    SCENE/img/FRAME/img_0001_alpha.png  mattes; or [img/]FRAME/mask/img_0001.jpg, or a png's own alpha channel
    SCENE/pointclouds/frame1.EXT        one cloud per frame, numbered from 0 or 1
    SCENE/CamPose.inf, Intrinsic.inf    cameras (npcr.io.camera_files)

Errors are `SceneError`s that name file, line and value; harmless oddities are warnings of the logger "npcr".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras
from npcr.data.scene_files import (
    existing_folder,
    find_clouds,
    find_mattes,
    find_photographs,
    first_photograph,
    frame_name,
    frame_names,
    warn_of_unused_mattes,
)
from npcr.errors import ConfigError, SceneError
from npcr.io.camera_files import read_cameras
from npcr.io.images import inspect_image
from npcr.io.points import PointCloud, read_points
from npcr.progress import progress_bar

logger = logging.getLogger("npcr")


@dataclass
class SceneFrame:
    """One pose of the object: a point cloud and a photograph by every camera."""

    name: str
    cloud_path: Path | None  # None: not searched
    images: list[Path]
    mattes: list[Path | None]  # the photograph's own path: its alpha channel; None: opaque (no mattes wanted)


@dataclass
class Scene:
    """A scene whose files have been checked; photographs and clouds are not yet in memory."""

    folder: Path
    cameras: Cameras  # at the size of the photographs
    frames: list[SceneFrame]
    centers: Tensor  # (cameras, 2) float32 [y, x] of the object; the image spans 0..height, 0..width


def load_scene(folder: str | Path, *, size_raw: Sequence[int], frame_num: int, mask: bool,
               center: Sequence[float]) -> Scene:
    """Read and check a scene; images and clouds are not loaded yet.

    Args:
        folder: of the scene.
        size_raw: [width, height] of the photographs.
        frame_num: number of frames to use, the first ones.
        mask: whether mattes are used.
        center: [y, x, y, x, ...] of the object, the cameras split evenly over the pairs; empty: the image's center.

    Returns:
        The scene.

    Raises:
        SceneError: something is missing, inconsistent, or cannot be read.
    """
    folder = existing_folder(folder)
    size = (int(size_raw[0]), int(size_raw[1]))
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", size)
    clouds = find_clouds(folder, frame_num)
    frames = [replace(frame, cloud_path=cloud) for frame, cloud in
              zip(find_frames(folder, cameras, frame_num, mask), clouds, strict=True)]
    return Scene(folder, cameras, frames, _spread_centers(center, len(cameras), size))


def find_frames(folder: Path, cameras: Cameras, frame_num: int, mask: bool) -> list[SceneFrame]:
    """Find the photographs and mattes of the first frames, and check their sizes; clouds are not searched.

    Args:
        folder: of the scene.
        cameras: one for each photograph, at its size.
        frame_num: number of frames.
        mask: whether mattes are used.

    Returns:
        The frames.

    Raises:
        SceneError: an image is missing or has another size.
    """
    return [_find_frame(folder, name, cameras, mask, "INPUT.SIZE_RAW") for name in frame_names(folder, frame_num)]


def load_frame(folder: str | Path, frame: int, *, mask: bool | None) -> tuple[Cameras, SceneFrame]:
    """Read and check one frame of a scene without a configuration; images are not loaded yet, clouds not searched.

    Args:
        folder: of the scene.
        frame: number of the frame, from 1.
        mask: whether mattes are used; None: where all photographs have one, with a warning where only some do.

    Returns:
        The cameras at the size of the first photograph, and the frame.

    Raises:
        SceneError: something is missing, inconsistent, or cannot be read.
    """
    folder = existing_folder(folder)
    name = frame_name(folder, frame)
    first = first_photograph(folder / "img" / name)
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", inspect_image(first)[0])
    return cameras, _find_frame(folder, name, cameras, mask, first.name)


def load_clouds(folder: str | Path, frame_num: int) -> list[PointCloud]:
    """Read the point clouds of the first frames, and nothing else.

    Args:
        folder: of the scene.
        frame_num: number of frames.

    Returns:
        One cloud for each frame.

    Raises:
        SceneError: a cloud is missing or cannot be read.
    """
    return [read_points(path) for path in find_clouds(existing_folder(folder), frame_num)]


def split_holdout(n_cameras: int, every: int) -> tuple[list[int], list[int]]:
    """Split cameras into those to train on and those held out: every-1, 2*every-1 and so on.

    Args:
        n_cameras: number of cameras.
        every: one camera of so many is held out; 0: none.

    Returns:
        (training, held-out) indices, rising.

    Raises:
        ConfigError: no camera would be left to train on.
    """
    held_out = list(range(every - 1, n_cameras, every)) if every else []
    training = sorted(set(range(n_cameras)) - set(held_out))
    if not training:
        raise ConfigError(f"DATASETS.HOLDOUT_EVERY {every} leaves none of {n_cameras} cameras to train on")
    return training, held_out


def _find_frame(folder: Path, name: str, cameras: Cameras, mask: bool | None, size_source: str) -> SceneFrame:
    images = find_photographs(folder / "img" / name, len(cameras), folder / "CamPose.inf")
    mattes = find_mattes(folder, name, images)
    frame = SceneFrame(name, None, list(images.values()), mattes)
    has_alpha = _check_photographs(frame, cameras.size, size_source)
    if mask is not False:
        warn_of_unused_mattes(folder, name, mattes)
        frame.mattes = _choose_mattes(frame, has_alpha, required=mask is True)
        _check_matte_sizes(frame, cameras.size)
        return frame
    if any(has_alpha) or any(mattes):
        logger.warning("%s: has mattes, but DATASETS.MASK is False; alpha is 1 everywhere", frame.images[0].parent)
    frame.mattes = [None] * len(images)
    return frame


def _check_photographs(frame: SceneFrame, size: tuple[int, int], size_source: str) -> list[bool]:
    """Check the photographs' headers; return which of them have an alpha channel."""
    has_alpha = []
    for image in progress_bar(frame.images, total=len(frame.images), title=f"checking frame {frame.name}", delay=2,
                              leave=False):
        found, alpha = inspect_image(image)
        if found != size:
            raise SceneError(f"{image}: is {found[0]}x{found[1]}; {size_source} is {size[0]}x{size[1]}")
        has_alpha.append(alpha)
    return has_alpha


def _choose_mattes(frame: SceneFrame, has_alpha: list[bool], required: bool) -> list[Path | None]:
    """Of each photograph its matte's file, else itself where it has an alpha channel; of all of them, or of none."""
    twice = [image for image, matte, alpha in zip(frame.images, frame.mattes, has_alpha, strict=True)
             if matte and alpha]
    if twice:
        logger.warning("%s: %d of %d photographs have alpha channels beside their mattes, first %s; the mattes are "
                       "used", frame.images[0].parent, len(twice), len(frame.images), twice[0].name)
    mattes = [matte or (image if alpha else None)
              for image, matte, alpha in zip(frame.images, frame.mattes, has_alpha, strict=True)]
    missing = [image for image, matte in zip(frame.images, mattes, strict=True) if matte is None]
    if not missing or (not required and len(missing) == len(mattes)):
        return mattes
    message = (f"{missing[0]}: has no matte ({missing[0].stem}_alpha.png, mask/{missing[0].name}, an alpha channel); "
               f"{len(missing)} of {len(mattes)} photographs have none. ")
    if required:
        raise SceneError(message + "DATASETS.MASK False does without")
    logger.warning("%sThe mattes of the others are not used, either; add the missing ones", message)
    return [None] * len(mattes)


def _check_matte_sizes(frame: SceneFrame, size: tuple[int, int]) -> None:
    for image, matte in zip(frame.images, frame.mattes, strict=True):
        if matte is not None and matte != image:
            found, _ = inspect_image(matte)
            if found != size:
                raise SceneError(f"{matte}: is {found[0]}x{found[1]}; its photograph {image.name} is "
                                 f"{size[0]}x{size[1]}")


def _spread_centers(center: Sequence[float], n_cameras: int, size: tuple[int, int]) -> Tensor:
    """(cameras, 2) float32 [y, x]."""
    width, height = size
    if len(center) % 2:
        raise SceneError(f"DATASETS.CENTER has {len(center)} numbers; it needs pairs of [y, x]")
    pairs = np.array(list(center) or [height / 2, width / 2], np.float32).reshape(-1, 2)
    if len(pairs) > n_cameras:
        raise SceneError(f"DATASETS.CENTER has {len(pairs)} pairs of [y, x] for {n_cameras} cameras")
    for y, x in pairs:
        if not (0 <= y <= height and 0 <= x <= width):
            raise SceneError(f"DATASETS.CENTER [{y:g}, {x:g}] lies outside the picture of {width}x{height}; "
                             "the order is [y, x]")
    if n_cameras % len(pairs):
        logger.warning("DATASETS.CENTER: %d cameras do not split evenly over %d pairs", n_cameras, len(pairs))
    owner = np.arange(n_cameras) * len(pairs) // n_cameras
    return torch.from_numpy(pairs[owner]).float()
