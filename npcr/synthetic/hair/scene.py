# SPDX-License-Identifier: Apache-2.0
"""A ray-traced hair scene in the native layout, made in steps that a stopped run takes up again.

    SCENE/recipe.json                   what it is made of; written first
    SCENE/img/0/img_0001.png …          photographs: straight RGBA, or .jpg, premultiplied, with img_0001_alpha.png
    SCENE/path/CamPose.inf, Intrinsic.inf, img_0001.png …   the video path and its true frames
    SCENE/path/geometry_0001.npz …      `position` (H, W, 3) and `depth` (H, W) of each frame
    SCENE/pointclouds/frame1.ply, CamPose.inf, Intrinsic.inf
    SCENE/scene.yml                     ready to train; written last
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
from npcr.synthetic.hair.model import Model, build_model, optics_of, path_cameras, view_cameras
from npcr.synthetic.hair.options import FILE_NAME, HairOptions, is_recorded, recipe, record
from npcr.synthetic.hair.point_cloud import sample_cloud
from npcr.synthetic.hair.rendering import Geometry, load_mitsuba, write_model
from npcr.synthetic.hair.worker_pool import Job, render_all
from npcr.synthetic.tone_mapping import to_srgb

_JPEG_QUALITY = 93
_STREAMS = {"view": 10, "frame": 11}  # of random numbers


def make_hair_scene(destination: str | Path, options: HairOptions, *, workers: int = 1, overwrite: bool = False,
                    progress: Callable[[Iterable[Any], int, int], Iterable[Any]] = lambda items, total, done: items,
                    ) -> None:
    """Make the scene, or what is missing of it.

    progress: wraps the iteration over pictures; takes it, their number in all, and how many are there already.
    Raises `SceneError` where `destination` holds another scene or something else, `MissingExtraError` without
    Mitsuba.
    """
    load_mitsuba()
    folder = Path(destination)
    wanted = recipe(options)
    begun = is_recorded(folder, wanted) if not overwrite else _check_clearable(folder)
    model = build_model(options)  # before anything is removed or written: its files may be wrong
    if overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    if not begun:
        record(folder, wanted)
    views, frames = view_cameras(model, options), path_cameras(model, options) if options.path_frames else None
    with tempfile.TemporaryDirectory(prefix="npcr-hair-") as work:
        write_model(Path(work), model.surface, model.strands)
        _render_missing(folder, Path(work), model, options, views, frames, workers, progress)
    if frames is not None:
        write_cam_poses(folder / "path" / "CamPose.inf", frames.cam_to_world)
        write_intrinsics(folder / "path" / "Intrinsic.inf", frames.intrinsics[:1])
    _finish(folder, model, options, views)


def straight_srgb(picture: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 straight RGBA in sRGB of a linear premultiplied picture (H, W, 4).

    The color is divided by its alpha before it is encoded: composited in the encoded space, as this project
    composites, a half covered pixel then shows half of the hair's own encoded color.
    """
    linear = torch.from_numpy(np.nan_to_num(picture)).float()
    alpha = linear[..., 3:].clamp(0, 1)
    color = to_srgb((linear[..., :3] / alpha.clamp_min(1e-6)).clamp_min(0)) * (alpha > 0)
    return (torch.cat([color, alpha], dim=-1) * 255 + 0.5).to(torch.uint8).numpy()


def write_view(path: Path, rgba: np.ndarray) -> None:
    """Write a photograph, (H, W, 4) uint8 straight: a .png as it is, a .jpg of premultiplied color beside its matte.

    Premultiplied, for JPEG would let the undefined colors around a straight picture's hair bleed into it.
    """
    if path.suffix == ".png":
        write_image(path, rgba)
        return
    alpha = rgba[..., 3:].astype(np.float32) / 255
    write_image(path.with_name(f"{path.stem}_alpha.png"), rgba[..., 3])
    write_image(path, (rgba[..., :3] * alpha + 0.5).astype(np.uint8), quality=_JPEG_QUALITY)  # last: it says "done"


def _check_clearable(folder: Path) -> bool:
    """False; raises `SceneError` where the folder holds something else than a scene, finished or not."""
    if not (folder / FILE_NAME).exists():
        check_destination(folder, overwrite=True)
    return False


def _render_missing(folder: Path, work: Path, model: Model, options: HairOptions, views: Cameras,
                    frames: Cameras | None, workers: int,
                    progress: Callable[[Iterable[Any], int, int], Iterable[Any]]) -> None:
    jobs = [_job("view", i, views, options) for i in range(len(views))]
    jobs += [_job("frame", i, frames, options) for i in range(len(frames))] if frames is not None else []
    missing = [job for job in jobs if not _is_there(folder, job, options, views.size)]
    with closing(render_all(work, optics_of(model, options), missing, workers)) as results:
        for result in progress(results, len(jobs), len(jobs) - len(missing)):
            if result.geometry is not None:
                _write_geometry(_geometry_path(folder, result.job), result.geometry)
            picture = straight_srgb(result.picture)
            if result.job.kind == "view":
                write_view(_picture_path(folder, result.job, options), picture)
            else:
                write_image(_picture_path(folder, result.job, options), picture)  # last: it says "done"


def _job(kind: str, index: int, cameras: Cameras, options: HairOptions) -> Job:
    number = int(np.random.SeedSequence([options.seed, _STREAMS[kind], index]).generate_state(1)[0])
    judges = kind == "frame" or index in split_holdout(len(cameras), options.holdout_every)[1]
    samples = options.truth_samples if judges and options.truth_samples else options.samples
    return Job(kind, index, cameras.cam_to_world[index].double().numpy(), number, samples,
               with_geometry=kind == "frame")


def _picture_path(folder: Path, job: Job, options: HairOptions) -> Path:
    if job.kind == "frame":
        return folder / "path" / f"img_{job.index + 1:04d}.png"
    return folder / "img" / "0" / f"img_{job.index + 1:04d}.{options.format}"


def _geometry_path(folder: Path, job: Job) -> Path:
    return folder / "path" / f"geometry_{job.index + 1:04d}.npz"


def _is_there(folder: Path, job: Job, options: HairOptions, size: tuple[int, int]) -> bool:
    """Whether the job's files are whole and of the right size."""
    picture = _picture_path(folder, job, options)
    if not picture.exists():
        return False
    try:
        if inspect_image(picture) != (size, picture.suffix == ".png"):
            return False
        if job.with_geometry:
            with np.load(_geometry_path(folder, job), allow_pickle=False) as arrays:
                return arrays["depth"].shape == (size[1], size[0]) == arrays["position"].shape[:2]
    except (SceneError, OSError, KeyError, ValueError, zipfile.BadZipFile):
        return False
    return True


def _write_geometry(path: Path, geometry: Geometry) -> None:
    with atomic_write(path) as file:
        np.savez_compressed(file, position=geometry.position, depth=geometry.depth)


def _premultiplied(photograph: Path) -> torch.Tensor:
    """(4, H, W) in [0, 1] of what `write_view` wrote."""
    pixels = torch.from_numpy(read_image(photograph)).float().permute(2, 0, 1) / 255
    if photograph.suffix == ".png":
        return torch.cat([pixels[:3] * pixels[3:], pixels[3:]])
    matte = torch.from_numpy(read_matte(photograph.with_name(f"{photograph.stem}_alpha.png"))).float() / 255
    return torch.cat([pixels, matte[None]])


def _finish(folder: Path, model: Model, options: HairOptions, cameras: Cameras) -> None:
    """Cloud, cameras and, last of all, scene.yml."""
    points = sample_cloud(model, options.points, options.skin_share, options.seed)
    colors = None
    if options.cloud_colors == "renders":
        training, _ = split_holdout(len(cameras), options.holdout_every)
        photographs = (_premultiplied(folder / "img" / "0" / f"img_{i + 1:04d}.{options.format}") for i in training)
        colors = mean_colors(points, cameras[training], photographs)
    write_points(folder / "pointclouds" / "frame1.ply", PointCloud(points, colors))
    write_cam_poses(folder / "CamPose.inf", cameras.cam_to_world)
    write_intrinsics(folder / "Intrinsic.inf", cameras.intrinsics[:1])
    settings = scene_settings(folder.resolve().name, cameras, mask=True)
    settings["DATASETS"]["HOLDOUT_EVERY"] = options.holdout_every
    settings["DATASETS"]["ALPHA_MODE"] = "straight" if options.format == "png" else "premultiplied"
    for section, values in point_settings(points, cameras, settings["INPUT"]["SIZE_TEST"]).items():
        settings[section].update(values)
    write_scene_config(folder, settings, "tools/make_hair.py")
