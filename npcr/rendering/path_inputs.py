# SPDX-License-Identifier: Apache-2.0
"""What rendering and refining both start from: a model and a camera path."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from yacs.config import CfgNode

from npcr.cameras import Cameras
from npcr.config import changed
from npcr.errors import ConfigError
from npcr.factory import load_renderer
from npcr.io.camera_files import read_cameras
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


def load_path_inputs(cfg: CfgNode, device: torch.device, *, explicit: Collection[str], cam_pose: Path,
                     intrinsics: Path, checkpoint: Path, frame: int = 1) -> PathInputs:
    """Read a model and a camera path.

    Args:
        cfg: the configuration.
        device: where the renderer goes.
        explicit: the keys that the user set (`npcr.config.explicit_keys`); the checkpoint decides others.
        cam_pose: file of the path's poses.
        intrinsics: file of intrinsics in pixels of INPUT.SIZE_RAW, one block or one for each pose.
        checkpoint: the model's file.
        frame: the frame of the scene (pose of the object), from 1.

    Returns:
        What was read. A legacy model is blended and refined as published unless `explicit` has these keys.

    Raises:
        NpcrError: a file is missing or wrong, or they do not fit together.
    """
    cameras = read_cameras(cam_pose, intrinsics, tuple(cfg.INPUT.SIZE_RAW))
    renderer, cfg, epoch = load_renderer(cfg, checkpoint, device, explicit=explicit)
    if not 1 <= frame <= renderer.frames:
        raise ConfigError(f"command line: --frame is {frame}; {checkpoint} has frames 1 to {renderer.frames}")
    return PathInputs(_follow_legacy_model(cfg, explicit), renderer, checkpoint, epoch,
                      cameras.resized(tuple(cfg.INPUT.SIZE_TEST), legacy=cfg.MODEL.LEGACY), frame - 1)


def _follow_legacy_model(cfg: CfgNode, explicit: Collection[str]) -> CfgNode:
    """`cfg` blended and refined as published where the model is legacy, but for the keys that the user set."""
    if not cfg.MODEL.LEGACY:
        return cfg
    published = {"TEMPORAL.BLEND": "legacy", "REFINE.SCHEME": "published"}
    return changed(cfg, **{key.replace(".", "__"): value for key, value in published.items() if key not in explicit})
