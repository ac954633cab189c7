# SPDX-License-Identifier: Apache-2.0
"""Reading, checking and writing a scene's folder: cameras, point clouds, photographs and their mattes.

    SCENE/img/FRAME/img_0001.jpg        photographs (jpg, png), numbered from 0 or 1, one per camera
    SCENE/img/FRAME/img_0001_alpha.png  mattes; or [img/]FRAME/mask/img_0001.jpg, or a png's own alpha channel
    SCENE/pointclouds/frame1.EXT        one cloud per frame, numbered from 0 or 1
    SCENE/CamPose.inf, Intrinsic.inf    cameras (npcr.io.camera_files)

Errors are `SceneError`s that name file, line and value; harmless oddities are warnings of the logger "npcr".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras
from npcr.errors import ConfigError, SceneError
from npcr.io.camera_files import read_cameras, write_cam_poses, write_intrinsics
from npcr.io.images import inspect_image, write_image
from npcr.io.points import SUFFIXES as CLOUD_SUFFIXES
from npcr.io.points import PointCloud, read_points, write_points
from npcr.progress import progress_bar

logger = logging.getLogger("npcr")

_PHOTOGRAPH = re.compile(r"img_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_MATTE = re.compile(r"img_(\d+)_alpha\.(?:jpe?g|png)", re.IGNORECASE)
_MASK = re.compile(r"img_(\d+)(?:_alpha)?\.(?:jpe?g|png)", re.IGNORECASE)  # within a folder mask/


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
    folder = _existing(folder)
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
    frames = []
    for name in frame_names(folder, frame_num):
        images = find_photographs(folder / "img" / name, len(cameras), folder / "CamPose.inf")
        frames.append(SceneFrame(name, None, list(images.values()), find_mattes(folder, name, images)))
    _check_images(frames, cameras.size, mask)
    return frames


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
    return [read_points(path) for path in find_clouds(_existing(folder), frame_num)]


def find_clouds(folder: Path, frame_num: int) -> list[Path]:
    """Find the files of the point clouds of the first frames.

    Args:
        folder: of the scene; without a folder pointclouds/ of its own, the one beside it counts.
        frame_num: number of frames.

    Returns:
        One file for each frame.

    Raises:
        SceneError: a cloud is missing.
    """
    cloud_folder = folder / "pointclouds"
    if not cloud_folder.is_dir() and (folder.parent / "pointclouds").is_dir():
        cloud_folder = folder.parent / "pointclouds"  # a scene of held-out views within the one to train on
    if not cloud_folder.is_dir():
        raise SceneError(f"{cloud_folder}: no such folder; it needs frame1{CLOUD_SUFFIXES[0]} (or .ply, .obj, .npy)")
    suffixes = "|".join(re.escape(suffix) for suffix in CLOUD_SUFFIXES)
    clouds = _numbered(cloud_folder, re.compile(rf"frame(\d+)(?:{suffixes})", re.IGNORECASE))
    first = 0 if 0 in clouds else 1
    _warn_of_others(cloud_folder, set(clouds.values()), f"frame1{CLOUD_SUFFIXES[0]} and so on")
    for number in range(first, first + frame_num):
        if number not in clouds:
            raise SceneError(f"{cloud_folder}: has no point cloud frame{number} ({', '.join(CLOUD_SUFFIXES)}); "
                             f"DATASETS.FRAME_NUM {frame_num} needs {first} to {first + frame_num - 1}")
    if len(clouds) > frame_num:
        logger.warning("%s: has %d point clouds; DATASETS.FRAME_NUM %d uses the first ones", cloud_folder,
                       len(clouds), frame_num)
    return [clouds[number] for number in range(first, first + frame_num)]


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


def write_scene(folder: str | Path, cameras: Cameras,
                frames: Iterable[Iterable[tuple[NDArray[Any], NDArray[Any] | None]]],
                clouds: Iterable[PointCloud], *, image_suffix: str = ".png",
                cloud_suffix: str = ".xyz") -> None:
    """Write a scene in the native layout, numbered from 1; each file is written atomically.

    Args:
        folder: of the scene.
        cameras: at the size of the photographs.
        frames: per frame and camera, a photograph (H, W, 3) and a matte (H, W) or None, uint8 or floating point in
            0..1. Generators will do: one photograph at a time is held.
        clouds: one for each frame.
        image_suffix: format of the photographs.
        cloud_suffix: format of the clouds.
    """
    folder = Path(folder)
    write_cam_poses(folder / "CamPose.inf", cameras.cam_to_world)
    write_intrinsics(folder / "Intrinsic.inf", cameras.intrinsics)
    for number, cloud in enumerate(clouds, 1):
        write_points(folder / "pointclouds" / f"frame{number}{cloud_suffix}", cloud)
    for name, images in enumerate(frames):
        image_folder = folder / "img" / str(name)
        for number, (photograph, matte) in enumerate(
                progress_bar(images, title=str(image_folder), total=len(cameras), delay=2, leave=False), 1):
            write_image(image_folder / f"img_{number:04d}{image_suffix}", photograph)
            if matte is not None:
                write_image(image_folder / f"img_{number:04d}_alpha.png", matte)


def _existing(folder: str | Path) -> Path:
    if not str(folder):
        raise SceneError("DATASETS.TRAIN is empty; it names the scene's folder")
    if not Path(folder).is_dir():
        raise SceneError(f"{folder}: no such scene folder")
    return Path(folder)


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """{number: file} of the files in `folder` whose names match; a number met twice is an error."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and path.is_file():
            earlier = found.setdefault(int(match[1]), path)
            if earlier is not path:
                raise SceneError(f"{path}: has the number of {earlier.name}; keep one of them")
    return found


def frame_names(folder: Path, frame_num: int) -> list[str]:
    """List the folders under img/ of the first frames, which are numbered from 0 or 1.

    Args:
        folder: of the scene.
        frame_num: number of frames.

    Returns:
        The folders' names.

    Raises:
        SceneError: a folder is missing.
    """
    image_folder = folder / "img"
    if not image_folder.is_dir():
        raise SceneError(f"{image_folder}: no such folder; photographs belong in img/0/img_0001.jpg and so on")
    names = {int(path.name): path.name for path in sorted(image_folder.iterdir())
             if path.is_dir() and path.name.isdecimal()}
    first = 0 if 0 in names else 1
    for number in range(first, first + frame_num):
        if number not in names:
            raise SceneError(f"{image_folder / str(number)}: no such frame folder; DATASETS.FRAME_NUM {frame_num} "
                             f"needs {first} to {first + frame_num - 1}")
    if len(names) > frame_num:
        logger.warning("%s: has %d frame folders; DATASETS.FRAME_NUM %d uses the first ones", image_folder,
                       len(names), frame_num)
    return [names[number] for number in range(first, first + frame_num)]


def find_photographs(folder: Path, n_cameras: int, pose_file: Path) -> dict[int, Path]:
    """Find the photographs of a frame, numbered from 0 or 1 without a gap, one for each camera.

    Args:
        folder: of the frame's photographs.
        n_cameras: number of cameras.
        pose_file: of the cameras, for error messages.

    Returns:
        {number: file}, rising.

    Raises:
        SceneError: a photograph is missing, or there are too many.
    """
    images = _numbered(folder, _PHOTOGRAPH)
    known = set(images.values()) | set(_numbered(folder, _MATTE).values())
    _warn_of_others(folder, known, "img_0001.jpg and img_0001_alpha.png")
    if not images:
        raise SceneError(f"{folder}: has no photograph img_0001 (.jpg, .jpeg, .png)")
    first = min(images)
    if first > 1:
        raise SceneError(f"{images[first]}: is the first photograph; numbers start at 0 or 1")
    for number in range(first, max(images) + 1):
        if number not in images:
            raise SceneError(f"{folder}: photograph number {number} is missing; they run to {max(images)}")
    if len(images) != n_cameras:
        raise SceneError(f"{folder}: has {len(images)} photographs for the {n_cameras} cameras of {pose_file}")
    return dict(sorted(images.items()))


def find_mattes(folder: Path, name: str, images: dict[int, Path]) -> list[Path | None]:
    """Find the matte files of a frame's photographs.

    Args:
        folder: of the scene.
        name: of the frame's folder.
        images: {number: photograph}.

    Returns:
        One file for each photograph, None where there is none.

    Raises:
        SceneError: two mattes in one folder have the same number. One beside the photograph wins over one in mask/.
    """
    image_folder = folder / "img" / name
    mattes = (_numbered(folder / name / "mask", _MASK) | _numbered(image_folder / "mask", _MASK)
              | _numbered(image_folder, _MATTE))
    return [mattes.get(number) for number in images]


def _warn_of_others(folder: Path, known: set[Path], expected: str) -> None:
    others = sorted(path.name for path in folder.iterdir() if path.is_file() and path not in known)
    if others:
        logger.warning("%s: %d other files are passed over, such as %s; expected are %s", folder, len(others),
                       others[0], expected)


def _check_images(frames: list[SceneFrame], size: tuple[int, int], mask: bool) -> None:
    """Check every photograph's and matte's header, and complete `SceneFrame.mattes`."""
    for frame in frames:
        own_alpha = []
        for image in progress_bar(frame.images, total=len(frame.images), title=f"checking frame {frame.name}", delay=2,
                                  leave=False):
            found, alpha = inspect_image(image)
            if found != size:
                raise SceneError(f"{image}: is {found[0]}x{found[1]}; INPUT.SIZE_RAW is {size[0]}x{size[1]}")
            own_alpha.append(alpha)
        if not mask:
            if any(own_alpha) or any(frame.mattes):
                logger.warning("%s: has mattes, but DATASETS.MASK is False; alpha is 1 everywhere",
                               frame.images[0].parent)
            frame.mattes = [None] * len(frame.images)
            continue
        _check_mattes(frame, own_alpha, size)


def _check_mattes(frame: SceneFrame, own_alpha: list[bool], size: tuple[int, int]) -> None:
    if any(own and matte for own, matte in zip(own_alpha, frame.mattes, strict=True)):
        logger.warning("%s: photographs have alpha channels beside their mattes; the mattes are used",
                       frame.images[0].parent)
    frame.mattes = [matte or (image if own else None)
                    for image, matte, own in zip(frame.images, frame.mattes, own_alpha, strict=True)]
    missing = [image for image, matte in zip(frame.images, frame.mattes, strict=True) if matte is None]
    if missing:
        raise SceneError(f"{missing[0]}: has no matte ({missing[0].stem}_alpha.png, mask/{missing[0].name}, "
                         f"an alpha channel); {len(missing)} of {len(frame.images)} photographs have none. "
                         "DATASETS.MASK False does without")
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
