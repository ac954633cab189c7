# SPDX-License-Identifier: Apache-2.0
"""Writing of a capture as a scene: photographs undistorted and reduced, cameras, clouds, scene.yml."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npcr.cameras import Cameras
from npcr.command_names import as_typed
from npcr.data.cloud_geometry import MAX_ROUNDING, UNSEEN, is_seen, near_far_size, rounding_in_pixels
from npcr.data.scene_config import point_settings, scene_settings, write_scene_config
from npcr.data.scene_folder import check_destination
from npcr.errors import SceneError
from npcr.importers.base import SPLITS, Capture
from npcr.importers.image_conversion import (
    ConvertedImage,
    ImageConversion,
    convert_image,
    plan_conversions,
    with_trimaps,
)
from npcr.importers.matte_sources import warn_of_blank_mattes
from npcr.importers.matting import Matting
from npcr.importers.partial_scene import PartialScene, code_digest, digest, partial_scene
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.points import PointCloud, read_points, write_points
from npcr.reconstruction.plane_sweep import densify
from npcr.reconstruction.point_filters import PointFilters
from npcr.reconstruction.visual_hull import estimate_bounds

logger = logging.getLogger("npcr")

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # wraps an iteration of so many steps, with a title


def import_capture(capture: Capture, destination: str | Path, *, downscale: float = 1.0, mask: bool | None = None,
                   matting: Matting | None = None, filters: PointFilters | None = None, densify_to: int = 0,
                   overwrite: bool = False, workers: int = 4,
                   progress: Progress = lambda steps, count, title: steps) -> Cameras:
    """Write a capture as a scene with a scene.yml; the source is only read.

    Views held out by the source go to DESTINATION/test (or val), a scene of its own with the same cloud, which
    DATASETS.TEST names. The scene appears when it is whole, or not at all; after Ctrl-C, a kill or a full disk the same
    call goes on with the photographs that were done.

    Args:
        capture: what an importer has read.
        destination: folder of the scene; it is created, and must lie neither within the source nor around it.
        downscale: factor by which the photographs are made smaller, at least 1.
        mask: whether to keep mattes; None: where every photograph has one.
        matting: how to compute mattes instead; None: do not.
        filters: applied to the clouds; None: they stay as they are.
        densify_to: search the photographs for points until the cloud has about so many; 0: do not.
        overwrite: replace a scene that exists already.
        workers: threads.
        progress: wraps the iterations over photographs.

    Returns:
        The cameras to train on.

    Raises:
        SceneError: the capture is malformed, an argument out of range, or the destination taken.
        MissingExtraError: trimaps need pymatting.
    """
    if not (math.isfinite(downscale) and downscale >= 1):
        raise SceneError(f"--downscale is {downscale:g}; it must be at least 1")
    check_destination(destination, overwrite)
    _check_apart(capture.folder, Path(destination))
    if not any(view.split == "train" for view in capture.views):
        raise SceneError(f"{capture.file}: has no photograph to train on")
    if matting is not None and matting.trimaps is not None:
        capture = replace(capture, views=with_trimaps(capture, matting.trimaps))
    if densify_to and not capture.clouds:
        raise SceneError(f"{capture.file}: --densify needs a sparse cloud to begin with; name one with --points")
    filters = filters or PointFilters()
    clouds = _load_clouds(capture, filters)
    conversions = plan_conversions(capture, downscale, mask, matting)
    splits = {name: [c for c in conversions if c.view.split == name] for name in SPLITS}
    cameras = _cameras(splits["train"])
    _check_distance(cameras, clouds, capture)
    _check_seen(cameras, clouds, capture)
    basis = {"the version of this program": code_digest(), "its options": digest([downscale, mask, matting]),
             "its photographs, mattes or cameras": digest([(c, _stamps(c)) for c in conversions])}
    with partial_scene(destination, len(conversions), basis, overwrite=overwrite) as partial:
        folder = partial.folder
        images: dict[str, list[ConvertedImage]] = {}
        for name, group in splits.items():
            if group:
                images[name] = _write_views(partial, "" if name == "train" else name, group, matting, workers, progress)
        pairs = [pair for name in images for pair in zip(splits[name], images[name], strict=True)]
        warn_of_blank_mattes(capture, [conversion.view.mask or conversion.view.image for conversion, _ in pairs],
                             [image.small_matte for _, image in pairs])
        if densify_to:
            clouds = _densified(clouds, splits["train"], images["train"], cameras, densify_to, workers, progress)
            clouds = [filters.apply(cloud) for cloud in clouds]
        for number, cloud in enumerate(clouds, 1):
            write_points(folder / "pointclouds" / f"frame{number}.ply", cloud)
        mattes = [image.small_matte for conversion, image in zip(splits["train"], images["train"], strict=True)
                  if conversion.view.frame == 0]
        try:
            settings = _settings(Path(destination).resolve().name, cameras, clouds, mattes)
        except SceneError as error:
            raise SceneError(f"{capture.file}: {error}") from None
        settings["DATASETS"].update(_dataset_settings(splits, matting, settings["DATASETS"]))
        write_scene_config(folder, settings, "npcr import")
    return cameras


def _load_clouds(capture: Capture, filters: PointFilters) -> list[PointCloud]:
    clouds = [cloud if isinstance(cloud, PointCloud) else read_points(cloud) for cloud in capture.clouds]
    return [filters.apply(cloud) for cloud in clouds]


def _first_frame(conversions: list[ImageConversion]) -> list[ImageConversion]:
    """Those of the first frame, whose cameras all frames share."""
    return [c for c in conversions if c.view.frame == conversions[0].view.frame]


def _cameras(conversions: list[ImageConversion]) -> Cameras:
    first = _first_frame(conversions)
    return Cameras(torch.from_numpy(np.stack([c.view.cam_to_world for c in first])).float(),
                   torch.from_numpy(np.stack([c.intrinsics for c in first])).float(), first[0].size)


def _check_distance(cameras: Cameras, clouds: list[PointCloud], capture: Capture) -> None:
    """Raise `SceneError` where coordinates are so large (of a map, of the globe) that float32 blurs them."""
    points = [cloud.positions for cloud in clouds] or [_in_front(cameras)]
    pixels = max(rounding_in_pixels(positions, cameras) for positions in points)
    if pixels > MAX_ROUNDING:
        middle = cameras.cam_to_world[:, :3, 3].median(0).values
        offset = " ".join(f"{value:.6g}" for value in middle.tolist())
        raise SceneError(f"{capture.file}: cameras and cloud lie {float(middle.norm()):.3g} away from the origin, "
                         f"where float32 misplaces points by {pixels:.2g} pixels; {MAX_ROUNDING} are allowed. Subtract "
                         f"an offset, such as {offset}, from cameras and cloud (export them in local coordinates)")


def _check_seen(cameras: Cameras, clouds: list[PointCloud], capture: Capture) -> None:
    """Raise `SceneError` where no camera sees a point of a cloud, before the photographs are converted."""
    for source, cloud in zip(capture.clouds, clouds, strict=True):
        if not is_seen(cloud.positions, cameras):
            name = f"the cloud {source}" if isinstance(source, Path) else "its cloud"
            raise SceneError(f"{capture.file}: none of the {len(cameras)} cameras sees a point of {name}: {UNSEEN}. To "
                             "know which, import without a cloud, copy the cloud to SCENE/pointclouds/frame1 (with its "
                             f"suffix) and run {as_typed('npcr check')} SCENE")


def _stamps(conversion: ImageConversion) -> list[tuple[int, int]]:
    """Sizes and times of the files that a photograph is converted from."""
    stats = [file.stat() for file in (conversion.view.image, conversion.view.mask) if file is not None]
    return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def _write_views(partial: PartialScene, split: str, conversions: list[ImageConversion], matting: Matting | None,
                 workers: int, progress: Progress) -> list[ConvertedImage]:
    """Write cameras and photographs of one split; the images in the order of `conversions`."""
    folder = partial.folder / split
    first = _first_frame(conversions)
    write_cam_poses(folder / "CamPose.inf", [c.view.cam_to_world for c in first])
    write_intrinsics(folder / "Intrinsic.inf", [c.intrinsics for c in first])
    jobs: list[tuple[ImageConversion, Path]] = []
    numbers = dict.fromkeys((c.view.frame for c in conversions), 0)
    for conversion in conversions:
        frame = conversion.view.frame
        numbers[frame] += 1
        place = folder / "img" / str(frame)
        place.mkdir(parents=True, exist_ok=True)
        jobs.append((conversion, place / f"img_{numbers[frame]:04d}"))

    def convert(job: tuple[ImageConversion, Path]) -> ConvertedImage:
        conversion, stem = job
        image = partial.find(stem)
        if image is None:
            image = convert_image(conversion, stem, matting)
            partial.add(stem, image)
        return image

    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(convert, jobs)
        try:
            return list(progress(results, len(jobs), "photographs"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _densified(clouds: list[PointCloud], conversions: list[ImageConversion], images: list[ConvertedImage],
               cameras: Cameras, count: int, workers: int, progress: Progress) -> list[PointCloud]:
    result = []
    for frame, cloud in enumerate(clouds):
        mine = [image for conversion, image in zip(conversions, images, strict=True) if conversion.view.frame == frame]
        dense = densify(cloud, cameras, [image.image for image in mine], [image.matte for image in mine], count,
                        workers=workers, progress=lambda steps, number: progress(steps, number, "stereo"))
        logger.info("--densify: %d points were %d", len(dense), len(cloud))
        result.append(dense)
    return result


def _settings(name: str, cameras: Cameras, clouds: list[PointCloud], mattes: list[np.ndarray | None]) -> dict[str, Any]:
    """scene.yml's values but for those that `_dataset_settings` adds."""
    kept = [matte for matte in mattes if matte is not None]
    settings = scene_settings(name, cameras, mask=bool(kept))
    found = _point_settings(clouds, cameras, kept, settings["INPUT"]["SIZE_TEST"])
    for section, values in found.items():
        settings[section].update(values)
    return settings


def _point_settings(clouds: list[PointCloud], cameras: Cameras, mattes: list[np.ndarray],
                    size: list[int]) -> dict[str, Any]:
    """Depths and centers from the first cloud, else the object's box, else a guess."""
    if clouds:
        return point_settings(clouds[0].positions, cameras, size)
    if mattes:
        try:
            low, high = estimate_bounds(cameras.resized((mattes[0].shape[1], mattes[0].shape[0])), mattes)
            grid = np.linspace(0, 1, 9)
            box = low + (high - low) * np.stack(np.meshgrid(grid, grid, grid), -1).reshape(-1, 3)
            return point_settings(box.astype(np.float32), cameras, size, is_cloud=False)
        except SceneError as error:
            logger.warning("the object's bounds could not be found from the mattes: %s", error)
    near, far, _ = near_far_size(_in_front(cameras), cameras.resized((size[0], size[1])))
    return {"INPUT": {"NEAR_FAR_SIZE": [near, far, 1.0]}}  # the object's place in the images is unknown


def _dataset_settings(splits: dict[str, list[ImageConversion]], matting: Matting | None,
                      found: dict[str, Any]) -> dict[str, Any]:
    """Values of DATASETS that follow from the frames, the source's own splits and keyed mattes."""
    values: dict[str, Any] = {"FRAME_NUM": len({c.view.frame for c in splits["train"]})}
    if matting is not None and matting.background is not None:
        values.update(ALPHA_MODE="composited", ALPHA_BACKGROUND=list(matting.background))
    held_out = next((name for name in ("test", "val") if splits[name]), None)
    if held_out is not None:
        values.update(TEST=held_out, HOLDOUT_EVERY=0)
        if len(found.get("CENTER", [])) > 2:  # a pair per camera would not fit the held-out cameras
            pairs = np.array(found["CENTER"]).reshape(-1, 2)
            values["CENTER"] = [round(v) for v in pairs.mean(0).tolist()]
    return values


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


def _check_apart(source: Path, destination: Path) -> None:
    ours, theirs = destination.resolve(), source.resolve()
    if ours == theirs or ours in theirs.parents or theirs in ours.parents:
        raise SceneError(f"{destination}: lies within the source {source} or around it; give a folder of its own")
