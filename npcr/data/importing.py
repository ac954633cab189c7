# SPDX-License-Identifier: Apache-2.0
"""A capture in some other layout becomes a scene: photographs undistorted and reduced, cameras, scene.yml."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from npcr.cameras import Cameras
from npcr.data.carving import estimate_bounds
from npcr.data.scene_config import point_settings, scene_settings, write_scene_config
from npcr.data.scene_folder import check_destination, new_scene_folder
from npcr.data.transforms_json import Capture, Lens, View
from npcr.errors import SceneError
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.images import inspect_image, read_image, read_matte, write_image
from npcr.io.points import read_points, write_points

logger = logging.getLogger("npcr")

_COPIED = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg"}


@dataclass(frozen=True)
class Recipe:
    """How one photograph becomes a picture of the scene."""

    view: View
    intrinsics: np.ndarray  # (3, 3) of the result
    size: tuple[int, int]  # (width, height) of the result
    source_size: tuple[int, int]
    undistortion: tuple[np.ndarray, np.ndarray] | None  # cv2.remap's maps
    matte: str  # "alpha": the photograph's own; "mask": its mask file; "none"


def import_capture(capture: Capture, destination: str | Path, *, downscale: float = 1.0, mask: bool | None = None,
                   overwrite: bool = False, workers: int = 4,
                   progress: Callable[[Iterable[Any], int], Iterable[Any]] = lambda jobs, count: jobs) -> Cameras:
    """Write `capture` as a scene with a scene.yml; the source is only read.

    downscale: the photographs are made smaller by this factor, at least 1. mask: whether to keep mattes; None:
    where every photograph has one. progress: wraps the iteration over finished photographs, given with their
    number. Returns the scene's cameras. Raises `SceneError`.
    """
    if not (math.isfinite(downscale) and downscale >= 1):
        raise SceneError(f"--downscale is {downscale:g}; it must be at least 1")
    check_destination(destination, overwrite)
    _keep_apart(capture.file.parent, Path(destination))
    recipes = plan(capture, downscale, mask)
    cameras = Cameras(torch.from_numpy(np.stack([r.view.cam_to_world for r in recipes])).float(),
                      torch.from_numpy(np.stack([r.intrinsics for r in recipes])).float(), recipes[0].size)
    with new_scene_folder(destination, overwrite=overwrite) as folder:
        place = folder / "img" / "0"
        place.mkdir(parents=True)
        write_cam_poses(folder / "CamPose.inf", [r.view.cam_to_world for r in recipes])
        write_intrinsics(folder / "Intrinsic.inf", [r.intrinsics for r in recipes])
        with ThreadPoolExecutor(workers) as pool:
            jobs = pool.map(lambda job: _write_picture(job[1], place / f"img_{job[0]:04d}"), enumerate(recipes, 1))
            try:
                mattes = list(progress(jobs, len(recipes)))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        has_mattes = recipes[0].matte != "none"
        settings = scene_settings(Path(destination).resolve().name, cameras, mask=has_mattes)
        for section, values in _point_settings(capture, folder, cameras, mattes if has_mattes else None,
                                               settings["INPUT"]["SIZE_TEST"]).items():
            settings[section].update(values)
        write_scene_config(folder, settings, "tools/import_scene.py")
    return cameras


def plan(capture: Capture, downscale: float, mask: bool | None) -> list[Recipe]:
    """What to do with each photograph; checks that all end at one size and, where wanted, have mattes."""
    inspected = [inspect_image(view.image) for view in capture.views]
    sizes = {size for size, _ in inspected}
    if len(sizes) > 1:
        counts = ", ".join(f"{sum(s == size for s, _ in inspected)} of {size[0]}x{size[1]}" for size in sorted(sizes))
        raise SceneError(f"{capture.file}: its photographs differ in size ({counts}); a scene has one size")
    (source_size,) = sizes
    size = (max(1, round(source_size[0] / downscale)), max(1, round(source_size[1] / downscale)))
    own = ["mask" if view.mask else "alpha" if alpha else "none"
           for view, (_, alpha) in zip(capture.views, inspected, strict=True)]
    lacking = [view.image for view, kind in zip(capture.views, own, strict=True) if kind == "none"]
    if mask and lacking:
        raise SceneError(f"{capture.file}: {len(lacking)} of {len(own)} photographs have neither an alpha channel nor "
                         f"a mask_path, first {lacking[0]}; --no-mask imports them without mattes")
    if mask is None and lacking and len(lacking) < len(own):
        logger.warning("%s: %d of %d photographs have no matte; mattes are left out altogether",
                       capture.file, len(lacking), len(own))
    keep = mask is not False and not lacking
    maps: dict[Lens, tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]] = {}
    recipes = []
    for view, kind in zip(capture.views, own, strict=True):
        lens = _fitted(view, source_size, capture.file)
        if lens not in maps:
            maps[lens] = _undistortion(lens, source_size)
        intrinsics, undistortion = maps[lens]
        recipes.append(Recipe(view, _resized(intrinsics, source_size, size), size, source_size, undistortion,
                              kind if keep else "none"))
    return recipes


def _fitted(view: View, size: tuple[int, int], file: Path) -> Lens:
    """The view's lens in numbers for a photograph of `size`."""
    if view.lens is None:
        focal_x = 0.5 * size[0] / math.tan(view.angle[0] / 2)
        focal_y = 0.5 * size[1] / math.tan(view.angle[1] / 2) if view.angle[1] else focal_x
        return Lens((focal_x, focal_y), ((size[0] - 1) / 2, (size[1] - 1) / 2), size)
    lens = view.lens
    stated = lens.size or size
    scale = (size[0] / stated[0], size[1] / stated[1])
    if abs(scale[0] / scale[1] - 1) > 0.02:
        raise SceneError(f"{view.image}: is {size[0]}x{size[1]}, but {file}, {view.label} says {stated[0]}x{stated[1]}")
    x, y = lens.center or ((stated[0] - 1) / 2, (stated[1] - 1) / 2)
    center = ((x + 0.5) * scale[0] - 0.5, (y + 0.5) * scale[1] - 0.5)
    return Lens((lens.focal[0] * scale[0], lens.focal[1] * scale[1]), center, size, lens.distortion, lens.fisheye)


def _undistortion(lens: Lens, size: tuple[int, int]
                  ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
    """(K of the undistorted picture, cv2.remap's maps or None): of the same size, with no empty border."""
    assert lens.center is not None
    matrix = np.array([[lens.focal[0], 0, lens.center[0]], [0, lens.focal[1], lens.center[1]], [0, 0, 1]])
    if not any(lens.distortion) and not lens.fisheye:
        return matrix, None
    distortion = np.array(lens.distortion)
    if lens.fisheye:
        fitted = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(matrix, distortion, size, np.eye(3))
        maps = cv2.fisheye.initUndistortRectifyMap(matrix, distortion, np.eye(3), fitted, size, cv2.CV_32FC1)
    else:
        fitted, _ = cv2.getOptimalNewCameraMatrix(matrix, distortion, size, 0)
        maps = cv2.initUndistortRectifyMap(matrix, distortion, np.eye(3), fitted, size, cv2.CV_32FC1)
    return fitted, (maps[0], maps[1])


def _resized(intrinsics: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """K for the picture resized from `old` to `new` (width, height), by the pixel-centre rule."""
    result = intrinsics.copy()
    for axis in range(2):
        scale = new[axis] / old[axis]
        result[axis] *= scale
        result[axis, 2] += 0.5 * scale - 0.5
    return result


def _write_picture(recipe: Recipe, stem: Path) -> np.ndarray | None:
    """Write photograph and matte; returns the matte (H, W) uint8, at most 320 pixels wide, or None."""
    suffix = _COPIED.get(recipe.view.image.suffix.lower())
    unchanged = recipe.undistortion is None and recipe.size == recipe.source_size
    pixels = read_image(recipe.view.image)
    if recipe.matte == "mask":
        assert recipe.view.mask is not None
        matte = read_matte(recipe.view.mask)
        if matte.shape != pixels.shape[:2]:
            raise SceneError(f"{recipe.view.mask}: is {matte.shape[1]}x{matte.shape[0]}; its photograph is "
                             f"{pixels.shape[1]}x{pixels.shape[0]}")
        pixels = np.dstack([pixels[..., :3], matte])
    elif recipe.matte == "none":
        drop_alpha = pixels.shape[2] == 4
        unchanged &= not drop_alpha
        pixels = pixels[..., :3]
    result = pixels if unchanged else _transformed(pixels, recipe)
    if unchanged and suffix:
        # Nothing to change: the file itself, so that a JPEG is not compressed twice.
        shutil.copyfile(recipe.view.image, stem.with_name(stem.name + suffix))
    elif recipe.matte == "alpha":
        write_image(stem.with_name(stem.name + ".png"), result)
    else:
        write_image(stem.with_name(stem.name + (suffix or ".png")), result[..., :3])
    if recipe.matte == "none":
        return None
    if recipe.matte == "mask":
        write_image(stem.with_name(stem.name + "_alpha.png"), result[..., 3])
    width, height = recipe.size
    scale = min(1.0, 320 / width)
    return cv2.resize(np.ascontiguousarray(result[..., 3]), (round(width * scale), max(1, round(height * scale))),
                      interpolation=cv2.INTER_AREA)


def _transformed(pixels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Undistorted and resized uint8 pixels; averaged premultiplied, so that no colour bleeds out of the matte."""
    values: np.ndarray = pixels.astype(np.float32)
    if values.shape[2] == 4:
        values[..., :3] *= values[..., 3:] / 255
    if recipe.undistortion is not None:
        values = cv2.remap(values, *recipe.undistortion, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if recipe.size != recipe.source_size:
        values = cv2.resize(values, recipe.size, interpolation=cv2.INTER_AREA)
    if values.shape[2] == 4:
        alpha = np.clip(values[..., 3:], 0, 255)
        values[..., :3] = np.where(alpha > 0.5, values[..., :3] * 255 / np.maximum(alpha, 0.5), 0)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _point_settings(capture: Capture, folder: Path, cameras: Cameras, mattes: list[np.ndarray] | None,
                    size: list[int]) -> dict[str, Any]:
    """Depths and centres from the capture's cloud (which is written), else the object's box, else a guess."""
    if capture.cloud is not None:
        cloud = read_points(capture.cloud)
        write_points(folder / "pointclouds" / "frame1.ply", cloud)
        return point_settings(cloud.positions, cameras, size)
    if mattes is not None:
        try:
            low, high = estimate_bounds(cameras.resized((mattes[0].shape[1], mattes[0].shape[0])), mattes)
            grid = np.linspace(0, 1, 9)
            box = low + (high - low) * np.stack(np.meshgrid(grid, grid, grid), -1).reshape(-1, 3)
            return point_settings(box.astype(np.float32), cameras, size, is_cloud=False)
        except SceneError as error:
            logger.warning("the object's bounds could not be found from the mattes: %s", error)
    guess = point_settings(_in_front(cameras), cameras, size, is_cloud=False)
    return {"INPUT": guess["INPUT"]}  # where the object is in the pictures, nothing tells


def _in_front(cameras: Cameras) -> np.ndarray:
    """Points along each viewing direction, around the distance of the point that all of them pass nearest."""
    poses = cameras.cam_to_world.double().numpy()
    centers, forward = poses[:, :3, 3], poses[:, :3, 2]
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    focus = np.linalg.lstsq(across.sum(0), (across @ centers[:, :, None]).sum(0)[:, 0], rcond=None)[0]
    reach = float(np.median(((focus - centers) * forward).sum(1)))
    if not 0 < reach < 1e6:  # parallel or diverging cameras
        reach = max(float(np.linalg.norm(centers - centers.mean(0), axis=1).mean()), 1.0)
    steps = np.linspace(0.3, 1.7, 15)[:, None, None] * reach
    return (centers + steps * forward).reshape(-1, 3).astype(np.float32)


def _keep_apart(source: Path, destination: Path) -> None:
    ours, theirs = destination.resolve(), source.resolve()
    if ours == theirs or ours in theirs.parents or theirs in ours.parents:
        raise SceneError(f"{destination}: lies within the source {source} or around it; give a folder of its own")
