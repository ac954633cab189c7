# SPDX-License-Identifier: Apache-2.0
"""Evaluation of a model's video on a path, a fine orbit and a still camera, and its report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from yacs.config import CfgNode

from npcr import distributed
from npcr.camera_paths import orbit
from npcr.cameras import Cameras, concatenate
from npcr.config import changed, dump_config
from npcr.data.path_ground_truth import PathGroundTruth
from npcr.errors import ConfigError, MissingExtraError
from npcr.evaluation.video import GROUND_TRUTH, VideoScores, evaluate_video
from npcr.evaluation.video_plots import plot_scores, write_slices
from npcr.factory import build_blender
from npcr.io.camera_files import read_cameras
from npcr.io.json_files import write_json
from npcr.metrics.video import color_video_vdp
from npcr.renderers import Renderer, RenderOutput
from npcr.rendering import shared_path
from npcr.rendering.path_inputs import PathInputs
from npcr.temporal import Blender

logger = logging.getLogger("npcr")

BLENDS = ("off", "legacy", "default")  # values of TEMPORAL.BLEND, in the order of reports
FINE_FRAMES, FINE_STEP = 24, 0.25  # of the fine orbit: frames, and degrees from one to the next
STILL_FRAMES = 8


class PathSelection(NamedTuple):
    """Which path is evaluated, with which blendings."""

    cam_pose: Path | None = None  # default: the scene's path
    intrinsics: Path | None = None  # default: Intrinsic.inf beside the poses
    frame: int = 1  # of the scene, from 1
    row: int | None = None  # the image row of slices.png; default: the one with most detail
    blends: tuple[str, ...] = BLENDS  # some of these


def evaluate_paths(renderer: Renderer, cfg: CfgNode, selection: PathSelection, output: Path,
                   metadata: Mapping[str, Any], checkpoint: Path) -> None:
    """Evaluate a model's video; write video.json, curves.png, slices.png and config.yml, and print a table.

    Several processes of torchrun share the rendering; the first one measures and writes.

    Args:
        renderer: on the device to render on.
        cfg: the configuration.
        selection: which path and blendings.
        output: the folder for the files.
        metadata: entries that video.json begins with, `epoch` among them.
        checkpoint: the model's file.

    Raises:
        ConfigError: the selection does not fit the model or the path.
        NpcrError: a file of the path cannot be read; or several processes were not started alike.
    """
    if not 1 <= selection.frame <= renderer.frames:
        raise ConfigError(f"command line: --frame is {selection.frame}; the model has frames 1 to {renderer.frames}")
    cam_pose = selection.cam_pose or Path(cfg.DATASETS.TRAIN) / "path" / "CamPose.inf"
    cameras = read_cameras(cam_pose, selection.intrinsics or cam_pose.with_name("Intrinsic.inf"),
                           tuple(cfg.INPUT.SIZE_RAW)).resized(tuple(cfg.INPUT.SIZE_TEST), legacy=cfg.MODEL.LEGACY)
    if len(cameras) < 3:
        raise ConfigError(f"{cam_pose}: {len(cameras)} cameras; evaluating a video takes at least 3")
    if selection.row is not None and not 0 <= selection.row < cameras.size[1]:
        raise ConfigError(f"command line: --row is {selection.row}; pictures have rows 0 to {cameras.size[1] - 1}")
    ground_truth = PathGroundTruth(cam_pose.parent, len(cameras), cameras.size)
    center = renderer.points(selection.frame - 1).mean(dim=0).cpu().numpy()
    paths = {"path": cameras, "fine orbit": fine_orbit(cameras[0], center), "still camera": cameras[[0] * STILL_FRAMES]}
    together = concatenate(list(paths.values()))
    inputs = PathInputs(cfg, renderer, checkpoint, metadata["epoch"], together, selection.frame - 1,
                        (selection.frame - 1,) * len(together))
    with _outputs(inputs, output) as outputs:
        if distributed.is_writer():
            scores = {name: evaluate_video(renderer, path, build_blenders(cfg, selection.blends),
                                           gray=cfg.BACKGROUND_GRAY / 255, frame=selection.frame - 1, description=name,
                                           ground_truth=ground_truth if name == "path" else None,
                                           keep_pictures=name == "path",
                                           outputs=None if outputs is None else islice(outputs, len(path)))
                      for name, path in paths.items()}
            _write(scores, cfg, selection, ground_truth, output, {**metadata, "cam_pose": str(cam_pose)})


def _outputs(inputs: PathInputs,
             output: Path) -> AbstractContextManager[Iterator[tuple[RenderOutput, float]] | None]:
    """The frames of all paths by several processes, or of an unfinished evaluation; None where one renders alone."""
    if distributed.world_size() > 1 or (output / shared_path.FOLDER).exists():
        return shared_path.shared_outputs(inputs, output)
    return nullcontext()


def _write(scores: Mapping[str, VideoScores], cfg: CfgNode, selection: PathSelection, ground_truth: PathGroundTruth,
           output: Path, metadata: Mapping[str, Any]) -> None:
    row = _write_pictures(output, scores["path"], selection.row)
    report: dict[str, Any] = {**metadata, "row": row, "paths": {}}
    for name, one in scores.items():
        means = one.means()
        if name == "path" and ground_truth.has_images:
            _add_color_video_vdp(means, one, cfg.RENDER.FPS)
        report["paths"][name] = {"frames": one.frames, "mean": means, "each": one.per_frame,
                                 "seconds": {"render": one.render_seconds, "blend": one.blend_seconds}}
    dump_config(cfg, output / "config.yml")
    write_json(output / "video.json", report)
    print(format_report(report))
    print(f"{output}/video.json, curves.png, slices.png")


def build_blenders(cfg: CfgNode, blends: Sequence[str] = BLENDS) -> dict[str, Blender | None]:
    """Make several kinds of blenders with the configuration's settings.

    Args:
        cfg: the configuration; its own TEMPORAL.BLEND does not count.
        blends: values of TEMPORAL.BLEND.

    Returns:
        The blenders by these values; None for "off".
    """
    return {blend: build_blender(changed(cfg, TEMPORAL__BLEND=blend)) for blend in blends}


def fine_orbit(camera: Cameras, center: np.ndarray) -> Cameras:
    """Make a path of `FINE_FRAMES` cameras, `FINE_STEP` degrees apart.

    Args:
        camera: the first one, a batch of one.
        center: (3,) world coordinates; the path turns around it about the camera's own upward axis.

    Returns:
        The cameras.
    """
    pose = camera.cam_to_world[0].double().cpu().numpy()
    poses = orbit(pose, FINE_FRAMES, axis=-pose[:3, 1], center=center, degrees=FINE_STEP * (FINE_FRAMES - 1))
    return Cameras(torch.from_numpy(poses).to(camera.cam_to_world), camera.intrinsics.repeat(FINE_FRAMES, 1, 1),
                   camera.size)


def format_report(report: Mapping[str, Any]) -> str:
    """Make a table of each path for a terminal: a row for each blending, a column for each measure.

    Args:
        report: what video.json holds.

    Returns:
        Lines of text.
    """
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
    """Write curves.png and slices.png; returns the slices' row."""
    plot_scores(output / "curves.png", scores)
    order = [name for name in (GROUND_TRUTH, *BLENDS) if name in scores.pictures]
    return write_slices(output / "slices.png", {name: scores.pictures[name] for name in order}, row)


def _add_color_video_vdp(means: dict[str, dict[str, float]], scores: VideoScores, fps: float) -> None:
    """Add the quality in JOD to each blending's means; where the package is missing, warn and leave it out."""
    reference = np.stack(scores.pictures[GROUND_TRUTH])
    try:
        for name in scores.pictures.keys() - {GROUND_TRUTH}:
            means[name]["color_video_vdp"] = color_video_vdp(np.stack(scores.pictures[name]), reference, fps)
    except MissingExtraError as error:
        logger.warning("%s; left out", error)
