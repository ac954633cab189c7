# SPDX-License-Identifier: Apache-2.0
"""What rendering and refining both start from: a model and a camera path."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from yacs.config import CfgNode

from npcr.cameras import Cameras
from npcr.config import changed, source_of
from npcr.errors import ConfigError
from npcr.factory import load_renderer
from npcr.io.camera_files import read_cameras
from npcr.io.camera_path_files import CameraPath, read_camera_path
from npcr.renderers import Renderer


@dataclass(frozen=True)
class PathInputs:
    """A model and the camera path that it renders or is refined along."""

    cfg: CfgNode  # completed by the checkpoint
    renderer: Renderer  # in eval mode, on its device
    checkpoint: Path
    epoch: int
    cameras: Cameras  # at INPUT.SIZE_TEST
    frame: int  # the frame of the scene, from 0
    frames: tuple[int, ...] = ()  # the frame for each camera where a path has times; else `frame` for each


def load_path_inputs(cfg: CfgNode, device: torch.device, *, explicit: Collection[str], cam_pose: Path,
                     intrinsics: Path, checkpoint: Path, camera_path: Path | None = None,
                     frame: int | None = None) -> PathInputs:
    """Read a model and a camera path.

    Args:
        cfg: the configuration.
        device: where the renderer goes.
        explicit: the keys that the user set (`npcr.config.explicit_keys`); the checkpoint decides others.
        cam_pose: file of the path's poses.
        intrinsics: file of intrinsics in pixels of INPUT.SIZE_RAW, one block or one for each pose.
        checkpoint: the model's file.
        camera_path: a JSON file in place of `cam_pose` and `intrinsics`. INPUT.SIZE_TEST and RENDER.FPS are then the
            file's, unless the command line sets them; its times choose frames of the scene.
        frame: the frame of the scene (pose of the object), from 1; None: the path's times, else 1.

    Returns:
        What was read. A legacy model is blended and refined as published unless `explicit` has these keys.

    Raises:
        NpcrError: a file is missing or wrong, or they do not fit together.
    """
    if camera_path is None:
        path = CameraPath(read_cameras(cam_pose, intrinsics, tuple(cfg.INPUT.SIZE_RAW)))
    else:
        path = read_camera_path(camera_path)
        cfg = _follow_path(cfg, path)
    renderer, cfg, epoch = load_renderer(cfg, checkpoint, device, explicit=explicit)
    if frame is not None and not 1 <= frame <= renderer.frames:
        raise ConfigError(f"command line: --frame is {frame}; {checkpoint} has frames 1 to {renderer.frames}")
    frames = tuple(frames_of_times(path.times, renderer.frames)) if path.times is not None and frame is None else ()
    first = frames[0] if frames else (frame or 1) - 1
    cameras = path.cameras.resized(tuple(cfg.INPUT.SIZE_TEST), legacy=cfg.MODEL.LEGACY)
    return PathInputs(_follow_legacy_model(cfg, explicit), renderer, checkpoint, epoch, cameras, first,
                      frames or (first,) * len(cameras))


def frames_of_times(times: Iterable[float], count: int) -> list[int]:
    """Choose the frame of the scene for each time of a path.

    Args:
        times: 0, the scene's first frame, to 1, its last.
        count: frames of the scene.

    Returns:
        Frames, from 0.
    """
    return [round(float(time) * (count - 1)) for time in times]


def _follow_path(cfg: CfgNode, path: CameraPath) -> CfgNode:
    """`cfg` with a path's size and rate, but for what the command line sets."""
    own = {"INPUT.SIZE_TEST": list(path.cameras.size), "RENDER.FPS": path.fps}
    return changed(cfg, **{key.replace(".", "__"): value for key, value in own.items()
                           if source_of(cfg, key) != "command line"})


def _follow_legacy_model(cfg: CfgNode, explicit: Collection[str]) -> CfgNode:
    """`cfg` blended and refined as published where the model is legacy, but for the keys that the user set."""
    if not cfg.MODEL.LEGACY:
        return cfg
    published = {"TEMPORAL.BLEND": "legacy", "REFINE.SCHEME": "published"}
    return changed(cfg, **{key.replace(".", "__"): value for key, value in published.items() if key not in explicit})
