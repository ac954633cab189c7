# SPDX-License-Identifier: Apache-2.0
"""A scene's folder, checked: cameras, point clouds, photographs and their mattes.

    SCENE/img/FRAME/img_0001.jpg        photographs (jpg, png), numbered from 0 or 1, one per camera
    SCENE/img/FRAME/img_0001_alpha.png  mattes; or [img/]FRAME/mask/img_0001.jpg, or a png's own alpha channel
    SCENE/pointclouds/frame1.EXT        one cloud per frame, numbered from 0 or 1
    SCENE/CamPose.inf, Intrinsic.inf    cameras (npcr.io.camera_files)

Errors are `SceneError`s naming file, line and value; what does no harm is a warning of the logger "npcr".
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
from tqdm import tqdm

from npcr.cameras import Cameras
from npcr.errors import ConfigError, SceneError
from npcr.io.camera_files import read_cameras, write_cam_poses, write_intrinsics
from npcr.io.images import inspect_image, write_image
from npcr.io.points import SUFFIXES as CLOUD_SUFFIXES
from npcr.io.points import PointCloud, read_points, write_points

logger = logging.getLogger("npcr")

_PHOTOGRAPH = re.compile(r"img_(\d+)\.(?:jpe?g|png)", re.IGNORECASE)
_MATTE = re.compile(r"img_(\d+)_alpha\.(?:jpe?g|png)", re.IGNORECASE)
_MASK = re.compile(r"img_(\d+)(?:_alpha)?\.(?:jpe?g|png)", re.IGNORECASE)  # within a folder mask/


@dataclass
class SceneFrame:
    """One pose of the object: a point cloud and a photograph by every camera."""

    name: str
    cloud_path: Path | None  # None: not looked for
    images: list[Path]
    mattes: list[Path | None]  # the photograph's own path: its alpha channel; None: opaque (no mattes wanted)


@dataclass
class Scene:
    """A scene whose files have been checked; photographs and clouds are not yet in memory."""

    folder: Path
    cameras: Cameras  # at the size of the photographs
    frames: list[SceneFrame]
    centers: Tensor  # (cameras, 2) float32 [y, x] of the object; the picture spans 0..height, 0..width


def load_scene(folder: str | Path, *, size_raw: Sequence[int], frame_num: int, mask: bool,
               center: Sequence[float]) -> Scene:
    """Read and check a scene.

    `size_raw` is the photographs' [width, height]; `frame_num` the number of frames to use; `mask` whether
    mattes are wanted; `center` [y, x, y, x, ...] of the object, the cameras split evenly over the pairs
    (empty: the picture's center). Raises `SceneError`.
    """
    folder = _existing(folder)
    size = (int(size_raw[0]), int(size_raw[1]))
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", size)
    clouds = find_clouds(folder, frame_num)
    frames = [replace(frame, cloud_path=cloud) for frame, cloud in
              zip(find_frames(folder, cameras, frame_num, mask), clouds, strict=True)]
    return Scene(folder, cameras, frames, _spread_centers(center, len(cameras), size))


def find_frames(folder: Path, cameras: Cameras, frame_num: int, mask: bool) -> list[SceneFrame]:
    """The first `frame_num` frames' photographs and mattes, one for each camera and of the cameras' size.

    Clouds are not looked for. Raises `SceneError`.
    """
    frames = []
    for name in frame_names(folder, frame_num):
        images = find_photographs(folder / "img" / name, len(cameras), folder / "CamPose.inf")
        frames.append(SceneFrame(name, None, list(images.values()), find_mattes(folder, name, images)))
    _check_pictures(frames, cameras.size, mask)
    return frames


def load_clouds(folder: str | Path, frame_num: int) -> list[PointCloud]:
    """The point clouds of the first `frame_num` frames; nothing else of the scene is looked at."""
    return [read_points(path) for path in find_clouds(_existing(folder), frame_num)]


def find_clouds(folder: Path, frame_num: int) -> list[Path]:
    """Paths of the point clouds of the first `frame_num` frames."""
    place = folder / "pointclouds"
    if not place.is_dir() and (folder.parent / "pointclouds").is_dir():
        place = folder.parent / "pointclouds"  # a scene of held-out views within the one to train on
    if not place.is_dir():
        raise SceneError(f"{place}: no such folder; it needs frame1{CLOUD_SUFFIXES[0]} (or .ply, .obj, .npy)")
    suffixes = "|".join(re.escape(suffix) for suffix in CLOUD_SUFFIXES)
    clouds = _numbered(place, re.compile(rf"frame(\d+)(?:{suffixes})", re.IGNORECASE))
    first = 0 if 0 in clouds else 1
    _warn_of_others(place, set(clouds.values()), f"frame1{CLOUD_SUFFIXES[0]} and so on")
    for number in range(first, first + frame_num):
        if number not in clouds:
            raise SceneError(f"{place}: has no point cloud frame{number} ({', '.join(CLOUD_SUFFIXES)}); "
                             f"DATASETS.FRAME_NUM {frame_num} needs {first} to {first + frame_num - 1}")
    if len(clouds) > frame_num:
        logger.warning("%s: has %d point clouds; DATASETS.FRAME_NUM %d uses the first ones", place,
                       len(clouds), frame_num)
    return [clouds[number] for number in range(first, first + frame_num)]


def split_holdout(n_cameras: int, every: int) -> tuple[list[int], list[int]]:
    """(training, held-out) camera indices: every `every`-th camera is held out; 0 holds out none.

    Held out are every-1, 2*every-1 and so on. Raises `ConfigError` where no camera would be left to train on.
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

    `frames` gives, per frame, a photograph (H, W, 3) and a matte (H, W) or None for every camera: uint8 or
    floating point in 0..1. They may be generators: one photograph at a time is held.
    """
    folder = Path(folder)
    write_cam_poses(folder / "CamPose.inf", cameras.cam_to_world)
    write_intrinsics(folder / "Intrinsic.inf", cameras.intrinsics)
    for number, cloud in enumerate(clouds, 1):
        write_points(folder / "pointclouds" / f"frame{number}{cloud_suffix}", cloud)
    for name, pictures in enumerate(frames):
        place = folder / "img" / str(name)
        for number, (photograph, matte) in enumerate(
                tqdm(pictures, desc=str(place), total=len(cameras), delay=2, leave=False), 1):
            write_image(place / f"img_{number:04d}{image_suffix}", photograph)
            if matte is not None:
                write_image(place / f"img_{number:04d}_alpha.png", matte)


def _existing(folder: str | Path) -> Path:
    if not str(folder):
        raise SceneError("DATASETS.TRAIN is empty; it names the scene's folder")
    if not Path(folder).is_dir():
        raise SceneError(f"{folder}: no such scene folder")
    return Path(folder)


def _numbered(place: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    """{number: file} of the files in `place` whose names match; a number met twice is an error."""
    found: dict[int, Path] = {}
    for path in sorted(place.iterdir()) if place.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match and path.is_file():
            earlier = found.setdefault(int(match[1]), path)
            if earlier is not path:
                raise SceneError(f"{path}: has the number of {earlier.name}; keep one of them")
    return found


def frame_names(folder: Path, frame_num: int) -> list[str]:
    """Names of the first `frame_num` folders under img/, which are numbered from 0 or 1."""
    place = folder / "img"
    if not place.is_dir():
        raise SceneError(f"{place}: no such folder; photographs belong in img/0/img_0001.jpg and so on")
    names = {int(path.name): path.name for path in sorted(place.iterdir())
             if path.is_dir() and path.name.isdecimal()}
    first = 0 if 0 in names else 1
    for number in range(first, first + frame_num):
        if number not in names:
            raise SceneError(f"{place / str(number)}: no such frame folder; DATASETS.FRAME_NUM {frame_num} "
                             f"needs {first} to {first + frame_num - 1}")
    if len(names) > frame_num:
        logger.warning("%s: has %d frame folders; DATASETS.FRAME_NUM %d uses the first ones", place,
                       len(names), frame_num)
    return [names[number] for number in range(first, first + frame_num)]


def find_photographs(place: Path, n_cameras: int, pose_file: Path) -> dict[int, Path]:
    """{number: photograph} in order, one for each camera, numbered from 0 or 1 without a gap."""
    images = _numbered(place, _PHOTOGRAPH)
    known = set(images.values()) | set(_numbered(place, _MATTE).values())
    _warn_of_others(place, known, "img_0001.jpg and img_0001_alpha.png")
    if not images:
        raise SceneError(f"{place}: has no photograph img_0001 (.jpg, .jpeg, .png)")
    first = min(images)
    if first > 1:
        raise SceneError(f"{images[first]}: is the first photograph; numbers start at 0 or 1")
    for number in range(first, max(images) + 1):
        if number not in images:
            raise SceneError(f"{place}: photograph number {number} is missing; they run to {max(images)}")
    if len(images) != n_cameras:
        raise SceneError(f"{place}: has {len(images)} photographs for the {n_cameras} cameras of {pose_file}")
    return dict(sorted(images.items()))


def find_mattes(folder: Path, name: str, images: dict[int, Path]) -> list[Path | None]:
    """The matte file of each photograph, where there is one."""
    place = folder / "img" / name
    mattes = (_numbered(folder / name / "mask", _MASK) | _numbered(place / "mask", _MASK)
              | _numbered(place, _MATTE))
    return [mattes.get(number) for number in images]


def _warn_of_others(place: Path, known: set[Path], expected: str) -> None:
    others = sorted(path.name for path in place.iterdir() if path.is_file() and path not in known)
    if others:
        logger.warning("%s: %d other files are passed over, such as %s; expected are %s", place, len(others),
                       others[0], expected)


def _check_pictures(frames: list[SceneFrame], size: tuple[int, int], mask: bool) -> None:
    """Check every photograph's and matte's header, and settle `SceneFrame.mattes` (see there)."""
    for frame in frames:
        own_alpha = []
        for image in tqdm(frame.images, desc=f"checking frame {frame.name}", delay=2, leave=False):
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
