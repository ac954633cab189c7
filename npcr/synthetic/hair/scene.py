# SPDX-License-Identifier: Apache-2.0
"""A ray-traced hair scene in the native layout; an interrupted run can be continued.

    SCENE/recipe.json                   everything it depends on; written first
    SCENE/img/0/img_0001.png …          photographs: straight RGBA, or .jpg, premultiplied, with img_0001_alpha.png
    SCENE/path/CamPose.inf, Intrinsic.inf, img_0001.png …   the video path and its ground truth
    SCENE/path/geometry_0001.npz …      `position` (H, W, 3) and `depth` (H, W) of each frame
    SCENE/pointclouds/frame1.ply, CamPose.inf, Intrinsic.inf
    SCENE/scene.yml                     configuration for training; written last
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npcr.cameras import Cameras
from npcr.data.point_initialization import mean_colors
from npcr.data.scene import split_holdout
from npcr.data.scene_config import point_settings, scene_settings, write_scene_config
from npcr.data.scene_folder import check_destination
from npcr.errors import SceneError
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.files import atomic_write
from npcr.io.images import inspect_image, read_image, read_matte, write_image
from npcr.io.points import PointCloud, write_points
from npcr.synthetic.hair.cameras import path_cameras, scene_intrinsics, view_cameras
from npcr.synthetic.hair.model import HairModel, build_model
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.point_cloud import sample_point_cloud
from npcr.synthetic.hair.recipe import RECIPE_FILE, has_recipe, make_recipe, write_recipe
from npcr.synthetic.hair.rendering import GeometryImage, load_mitsuba, write_model
from npcr.synthetic.hair.worker_pool import RenderJob, render_all
from npcr.synthetic.tone_mapping import to_srgb

_JPEG_QUALITY = 93
_SEED_STREAMS = {"view": 10, "frame": 11}  # of random numbers


def make_hair_scene(destination: str | Path, options: HairOptions, *, workers: int = 1, overwrite: bool = False,
                    progress: Callable[[Iterable[Any], int, int], Iterable[Any]] = lambda items, total, done: items,
                    ) -> None:
    """Make a scene, or continue an interrupted one.

    Args:
        destination: folder of the scene.
        options: of the scene.
        workers: rendering processes.
        overwrite: replace a scene in `destination`.
        progress: wraps the iterable of images; receives it, the total number of images, and the number that is already
            finished.

    Raises:
        SceneError: `destination` contains another scene or something else, or an input file is wrong.
        MissingExtraError: Mitsuba is not installed.
        NpcrError: a rendering process died.
    """
    load_mitsuba()
    folder = Path(destination)
    recipe = make_recipe(options)
    if overwrite:
        _check_replaceable(folder)
    begun = not overwrite and has_recipe(folder, recipe)
    model = build_model(options)  # before anything is removed or written: its files may be wrong
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if not begun:
        write_recipe(folder, recipe)
    views, frames = view_cameras(model, options), path_cameras(model, options) if options.path_frames else None
    with tempfile.TemporaryDirectory(prefix="npcr-hair-") as work:
        write_model(Path(work), model.body, model.strands)
        _render_missing(folder, Path(work), model, options, views, frames, workers, progress)
    if frames is not None:
        write_cam_poses(folder / "path" / "CamPose.inf", frames.cam_to_world)
        write_intrinsics(folder / "path" / "Intrinsic.inf", frames.intrinsics[:1])
    _write_scene(folder, model, options, views)


def to_straight_srgb(image: np.ndarray) -> np.ndarray:
    """Convert a rendered image to straight RGBA in sRGB.

    The color is divided by alpha before it is encoded. This project composites encoded colors: a half covered pixel
    then shows half of the hair's own encoded color.

    Args:
        image: (H, W, 4) float premultiplied RGBA, linear light.

    Returns:
        (H, W, 4) uint8.
    """
    linear = torch.from_numpy(np.nan_to_num(image)).float()
    alpha = linear[..., 3:].clamp(0, 1)
    color = to_srgb((linear[..., :3] / alpha.clamp_min(1e-6)).clamp_min(0)) * (alpha > 0)
    return (torch.cat([color, alpha], dim=-1) * 255 + 0.5).to(torch.uint8).numpy()


def write_photograph(path: Path, rgba: np.ndarray) -> None:
    """Write a photograph as a straight RGBA .png, or as a premultiplied .jpg with a matte, NAME_alpha.png, beside it.

    Premultiplied, since JPEG would let the undefined colors around the hair of a straight image bleed into it.

    Args:
        path: .png or .jpg.
        rgba: (H, W, 4) uint8 straight.
    """
    if path.suffix == ".png":
        write_image(path, rgba)
        return
    alpha = rgba[..., 3:].astype(np.float32) / 255
    write_image(path.with_name(f"{path.stem}_alpha.png"), rgba[..., 3])
    # The photograph comes last, since its presence marks the job as done.
    write_image(path, (rgba[..., :3] * alpha + 0.5).astype(np.uint8), quality=_JPEG_QUALITY)


def _check_replaceable(folder: Path) -> None:
    """Raise `SceneError` where the folder contains something else than a scene, finished or not."""
    if not (folder / RECIPE_FILE).exists():
        check_destination(folder, overwrite=True)


def _render_missing(folder: Path, work: Path, model: HairModel, options: HairOptions, views: Cameras,
                    frames: Cameras | None, workers: int,
                    progress: Callable[[Iterable[Any], int, int], Iterable[Any]]) -> None:
    jobs = [_make_job("view", i, views, options) for i in range(len(views))]
    jobs += [_make_job("frame", i, frames, options) for i in range(len(frames))] if frames is not None else []
    missing = [job for job in jobs if not _is_complete(folder, job, options, views.size)]
    with closing(render_all(work, scene_intrinsics(model, options), missing, workers)) as results:
        for result in progress(results, len(jobs), len(jobs) - len(missing)):
            if result.geometry is not None:
                _write_geometry(_geometry_path(folder, result.job), result.geometry)
            rgba = to_straight_srgb(result.image)
            if result.job.kind == "view":
                write_photograph(_image_path(folder, result.job, options), rgba)
            else:
                write_image(_image_path(folder, result.job, options), rgba)  # last: it marks the job as done


def _make_job(kind: str, index: int, cameras: Cameras, options: HairOptions) -> RenderJob:
    number = int(np.random.SeedSequence([options.seed, _SEED_STREAMS[kind], index]).generate_state(1)[0])
    is_ground_truth = kind == "frame" or index in split_holdout(len(cameras), options.holdout_every)[1]
    samples = options.truth_samples if is_ground_truth and options.truth_samples else options.samples
    return RenderJob(kind, index, cameras.cam_to_world[index].double().numpy(), number, samples,
               with_geometry=kind == "frame")


def _image_path(folder: Path, job: RenderJob, options: HairOptions) -> Path:
    if job.kind == "frame":
        return folder / "path" / f"img_{job.index + 1:04d}.png"
    return folder / "img" / "0" / f"img_{job.index + 1:04d}.{options.format}"


def _geometry_path(folder: Path, job: RenderJob) -> Path:
    return folder / "path" / f"geometry_{job.index + 1:04d}.npz"


def _is_complete(folder: Path, job: RenderJob, options: HairOptions, size: tuple[int, int]) -> bool:
    """Return whether the job's files are complete and of the right size."""
    image = _image_path(folder, job, options)
    if not image.exists():
        return False
    try:
        if inspect_image(image) != (size, image.suffix == ".png"):
            return False
        if job.with_geometry:
            with np.load(_geometry_path(folder, job), allow_pickle=False) as arrays:
                return arrays["depth"].shape == (size[1], size[0]) == arrays["position"].shape[:2]
    except (SceneError, OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False
    return True


def _write_geometry(path: Path, geometry: GeometryImage) -> None:
    with atomic_write(path) as file:
        np.savez_compressed(file, position=geometry.position, depth=geometry.depth)


def _read_premultiplied(photograph: Path) -> torch.Tensor:
    """Read a file of `write_photograph` as (4, H, W) premultiplied RGBA in [0, 1]."""
    pixels = torch.from_numpy(read_image(photograph)).float().permute(2, 0, 1) / 255
    if photograph.suffix == ".png":
        return torch.cat([pixels[:3] * pixels[3:], pixels[3:]])
    matte = torch.from_numpy(read_matte(photograph.with_name(f"{photograph.stem}_alpha.png"))).float() / 255
    return torch.cat([pixels, matte[None]])


def _write_scene(folder: Path, model: HairModel, options: HairOptions, cameras: Cameras) -> None:
    """Write point cloud, cameras and, last, scene.yml."""
    points = sample_point_cloud(model, options.points, options.skin_share, options.seed)
    colors = None
    if options.cloud_colors == "renders":
        training, _ = split_holdout(len(cameras), options.holdout_every)
        files = (folder / "img" / "0" / f"img_{i + 1:04d}.{options.format}" for i in training)
        colors = mean_colors(points, cameras[training], map(_read_premultiplied, files))
    write_points(folder / "pointclouds" / "frame1.ply", PointCloud(points, colors))
    write_cam_poses(folder / "CamPose.inf", cameras.cam_to_world)
    write_intrinsics(folder / "Intrinsic.inf", cameras.intrinsics[:1])
    settings = scene_settings(folder.resolve().name, cameras, mask=True)
    settings["DATASETS"]["HOLDOUT_EVERY"] = options.holdout_every
    settings["DATASETS"]["ALPHA_MODE"] = "straight" if options.format == "png" else "premultiplied"
    for section, values in point_settings(points, cameras, settings["INPUT"]["SIZE_TEST"]).items():
        settings[section].update(values)
    write_scene_config(folder, settings, "npcr hair")
