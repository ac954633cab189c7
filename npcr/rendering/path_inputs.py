# SPDX-License-Identifier: Apache-2.0
"""What rendering and refining both need: a model and a camera path, as the command line names them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from yacs.config import CfgNode

from npcr.cameras import Cameras
from npcr.checkpoints import find_epoch, model_path
from npcr.cli import config_from_args, make_parser, resolve_device
from npcr.config import changed, explicit_keys
from npcr.errors import ConfigError
from npcr.factory import load_renderer
from npcr.io.camera_files import read_cameras
from npcr.renderers import Renderer

# Where the published instructions put the configuration, the cameras and the model.
MODELS = Path("models")


@dataclass(frozen=True)
class PathInputs:
    """A model and a path to walk with it."""

    cfg: CfgNode  # completed by the checkpoint
    renderer: Renderer  # in eval mode, on its device
    checkpoint: Path
    epoch: int
    cameras: Cameras  # at INPUT.SIZE_TEST
    frame: int  # the cloud to show, from 0


def make_path_parser(description: str, examples: str) -> argparse.ArgumentParser:
    """A parser for scripts that walk a camera path; `load_path_inputs` takes what it parses."""
    parser = make_parser(description, examples, config_default=str(MODELS / "config.yml"))
    parser.add_argument("--cam-pose", type=Path, default=MODELS / "CamPose.inf", metavar="FILE",
                        help="the path's poses (default: %(default)s)")
    parser.add_argument("--intrinsics", type=Path, default=MODELS / "Intrinsic.inf", metavar="FILE",
                        help="intrinsics in pixels of INPUT.SIZE_RAW, one block or one for each pose "
                             "(default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help=f"the model (default: {MODELS}/nr_model_{{LOAD_EPOCH}}.pth)")
    parser.add_argument("--frame", type=int, default=1, metavar="N",
                        help="the frame of the scene (pose of the object) to show (default: 1)")
    return parser


def load_path_inputs(args: argparse.Namespace) -> PathInputs:
    """Read everything the arguments name. Raises an `NpcrError` where something is missing or wrong."""
    given = config_from_args(args)
    device = resolve_device(given.MODEL.DEVICE)
    checkpoint = args.checkpoint or model_path(MODELS, find_epoch(MODELS, given.LOAD_EPOCH))
    cameras = read_cameras(args.cam_pose, args.intrinsics, tuple(given.INPUT.SIZE_RAW))
    renderer, cfg, epoch = load_renderer(given, checkpoint, device)
    if not 1 <= args.frame <= renderer.frames:
        raise ConfigError(f"command line: --frame is {args.frame}; {checkpoint} has frames 1 to "
                          f"{renderer.frames}")
    return PathInputs(_follow_legacy_model(cfg, given), renderer, checkpoint, epoch,
                      cameras.resized(tuple(cfg.INPUT.SIZE_TEST), legacy=cfg.MODEL.LEGACY), args.frame - 1)


def _follow_legacy_model(cfg: CfgNode, given: CfgNode) -> CfgNode:
    """`cfg` blended and refined as published where the model is legacy, unless `given`, the user's, says otherwise."""
    published = {"TEMPORAL.BLEND": "legacy", "REFINE.SCHEME": "published"}
    open_keys = {key.replace(".", "__"): value for key, value in published.items() if key not in explicit_keys(given)}
    return changed(cfg, **open_keys) if cfg.MODEL.LEGACY and open_keys else cfg
