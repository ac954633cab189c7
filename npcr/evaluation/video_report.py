# SPDX-License-Identifier: Apache-2.0
"""The whole judgment of a model's video: the path with its truth, a fine orbit, a still camera, and a report."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from yacs.config import CfgNode

from npcr.camera_paths import orbit
from npcr.cameras import Cameras
from npcr.config import changed, dump_config
from npcr.data.path_ground_truth import PathGroundTruth
from npcr.errors import ConfigError, MissingExtraError
from npcr.evaluation.video import TRUTH, VideoScores, evaluate_video
from npcr.evaluation.video_plots import plot_scores, write_slices
from npcr.io.camera_files import read_cameras
from npcr.io.files import atomic_write
from npcr.metrics.video import color_video_vdp
from npcr.renderers import Renderer
from npcr.rendering.frames import make_blender
from npcr.temporal import Blender

logger = logging.getLogger("npcr")

BLENDS = ("off", "legacy", "default")  # as TEMPORAL.BLEND names them
FINE_FRAMES, FINE_STEP = 24, 0.25  # of the fine orbit: frames, and degrees from one to the next
STILL_FRAMES = 8


class PathSelection(NamedTuple):
    """Which path to judge, and where to cut it."""

    cam_pose: Path | None = None  # default: the scene's path
    intrinsics: Path | None = None  # default: Intrinsic.inf beside the poses
    frame: int = 1  # of the scene, from 1
    row: int | None = None  # of the slices; default: the busiest
    blends: tuple[str, ...] = BLENDS  # what to judge, of these


def evaluate_paths(renderer: Renderer, cfg: CfgNode, choice: PathSelection, output: Path,
                facts: Mapping[str, Any]) -> dict[str, Any]:
    """Judge, write video.json (with `facts`), curves.png, slices.png and config.yml to `output`, print a table.

    Raises an `NpcrError` where the choice does not fit the model or the path.
    """
    if not 1 <= choice.frame <= renderer.frames:
        raise ConfigError(f"command line: --frame is {choice.frame}; the model has frames 1 to {renderer.frames}")
    cam_pose = choice.cam_pose or Path(cfg.DATASETS.TRAIN) / "path" / "CamPose.inf"
    cameras = read_cameras(cam_pose, choice.intrinsics or cam_pose.with_name("Intrinsic.inf"),
                           tuple(cfg.INPUT.SIZE_RAW)).resized(tuple(cfg.INPUT.SIZE_TEST), legacy=cfg.MODEL.LEGACY)
    if len(cameras) < 3:
        raise ConfigError(f"{cam_pose}: {len(cameras)} cameras; to judge a video takes at least 3")
    if choice.row is not None and not 0 <= choice.row < cameras.size[1]:
        raise ConfigError(f"command line: --row is {choice.row}; pictures have rows 0 to {cameras.size[1] - 1}")
    truth = PathGroundTruth(cam_pose.parent, len(cameras), cameras.size)
    center = renderer.points(choice.frame - 1).mean(dim=0).cpu().numpy()
    paths = {"path": (cameras, truth), "fine orbit": (fine_orbit(cameras[0], center), None),
             "still camera": (cameras[[0] * STILL_FRAMES], None)}
    scores = {name: evaluate_video(renderer, which, make_blenders(cfg, choice.blends), gray=cfg.BACKGROUND_GRAY / 255,
                                   truth=known, frame=choice.frame - 1, keep_pictures=name == "path", description=name)
              for name, (which, known) in paths.items()}
    row = _write_pictures(output, scores["path"], choice.row)
    report = {**facts, "cam_pose": str(cam_pose), "row": row, "paths": {}}
    for name, one in scores.items():
        means = one.means()
        if name == "path" and truth.has_pictures:
            _add_color_video_vdp(means, one, cfg.RENDER.FPS)
        report["paths"][name] = {"frames": one.frames, "mean": means, "each": one.each,
                                 "seconds": {"render": one.render_seconds, "blend": one.blend_seconds}}
    dump_config(cfg, output / "config.yml")
    with atomic_write(output / "video.json", "w") as file:
        file.write(json.dumps(_finite(report), indent=1, allow_nan=False) + "\n")
    print(format_report(report))
    print(f"{output}/video.json, curves.png, slices.png")
    return report


def make_blenders(cfg: CfgNode, blends: Sequence[str] = BLENDS) -> dict[str, Blender | None]:
    """One of each kind, as the configuration has them."""
    return {blend: make_blender(changed(cfg, TEMPORAL__BLEND=blend)) for blend in blends}


def fine_orbit(camera: Cameras, center: np.ndarray) -> Cameras:
    """FINE_FRAMES cameras from `camera` (a batch of one) on, around `center` along its own upward axis."""
    pose = camera.cam_to_world[0].double().cpu().numpy()
    poses = orbit(pose, FINE_FRAMES, axis=-pose[:3, 1], center=center, degrees=FINE_STEP * (FINE_FRAMES - 1))
    return Cameras(torch.from_numpy(poses).to(camera.cam_to_world), camera.intrinsics.repeat(FINE_FRAMES, 1, 1),
                   camera.size)


def format_report(report: Mapping[str, Any]) -> str:
    """A table a path for a terminal: a row for each blending, a column for each measure."""
    lines = []
    for path, values in report["paths"].items():
        columns = list(dict.fromkeys(metric for means in values["mean"].values() for metric in means))
        widths = [max(len(column), 9) for column in columns]
        heads = "  ".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
        lines.append(f"{path + ', ' + str(values['frames']) + ' frames':<26}{heads}")
        for name, means in values["mean"].items():
            cells = (f"{means[column]:.5g}" if column in means else "" for column in columns)
            lines.append(f"  {name:<24}" + "  ".join(f"{cell:>{width}}"
                                                     for cell, width in zip(cells, widths, strict=True)))
        seconds = values["seconds"]
        shares = ", ".join(f"{name} {100 * spent / seconds['render']:.1f}%" for name, spent in seconds["blend"].items())
        lines.append(f"  {seconds['render']:.3f} s to render a frame; to show it, of that: {shares}")
    return "\n".join(lines)


def _write_pictures(output: Path, scores: VideoScores, row: int | None) -> int:
    plot_scores(output / "curves.png", scores)
    order = [name for name in (TRUTH, *BLENDS) if name in scores.pictures]
    return write_slices(output / "slices.png", {name: scores.pictures[name] for name in order}, row)


def _add_color_video_vdp(means: dict[str, dict[str, float]], scores: VideoScores, fps: float) -> None:
    """Add the quality in JOD to each blending's means; where the package is missing, say so and leave it out."""
    truth = np.stack(scores.pictures[TRUTH])
    try:
        for name in scores.pictures.keys() - {TRUTH}:
            means[name]["color_video_vdp"] = color_video_vdp(np.stack(scores.pictures[name]), truth, fps)
    except MissingExtraError as error:
        logger.warning("%s; left out", error)


def _finite(value: Any) -> Any:
    """JSON has no infinity: null stands for the PSNR of pictures without any difference."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
