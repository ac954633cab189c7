# SPDX-License-Identifier: Apache-2.0
"""From the configuration to objects: the only place where networks and losses get their arguments from it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

from npcr.checkpoints.files import ModelCheckpoint, load_model
from npcr.checkpoints.published import is_published, read_published
from npcr.config import changed, explicit_keys, to_dict
from npcr.data.scene import load_clouds
from npcr.data.scene_config import point_spacing
from npcr.errors import CheckpointError, SceneError
from npcr.io.points import PointCloud
from npcr.renderers import BlendedRenderer, LayeredRenderer, Renderer
from npcr.renderers.acceleration import compile_network
from npcr.renderers.losses import RenderLoss, VggFeatures

logger = logging.getLogger("npcr")

# What a checkpoint's parameters depend on: these must agree with it.
_STRUCTURE = ("MODEL.FORM", "MODEL.FEATURE_DIM", "MODEL.NORM", "MODEL.WIDTH", "MODEL.DOTS", "MODEL.HARMONICS",
              "INPUT.USE_RGB")
# What it was trained with, and is rendered with unless the user says otherwise.
_HABITS = ("MODEL.LEGACY", "INPUT.NEAR_FAR_SIZE", "INPUT.LAYER_NUM", "PROJECTION.PEELING", "WEIGHTS.DEPTH_THR")


def build_renderer(cfg: CfgNode, clouds: Sequence[PointCloud],
                   strands: Sequence[np.ndarray] | None = None) -> Renderer:
    """A renderer with fresh parameters for these clouds; seeds torch with SOLVER.SEED.

    strands: of each cloud (N, 3), directions of length 0 to 1 that the blended form's strands start from.
    """
    torch.manual_seed(cfg.SOLVER.SEED)
    blended = cfg.MODEL.FORM == "blended"
    renderer = _build_blended(cfg, clouds, strands) if blended else _build_layered(cfg, clouds)
    if cfg.MODEL.COMPILE:
        compile_network(renderer.network)
    return renderer


def _build_blended(cfg: CfgNode, clouds: Sequence[PointCloud],
                   strands: Sequence[np.ndarray] | None) -> BlendedRenderer:
    colors = None
    if all(cloud.colors is not None for cloud in clouds):
        colors = _unit_colors(clouds)
    near, far, max_size = cfg.INPUT.NEAR_FAR_SIZE
    return BlendedRenderer(
        [torch.from_numpy(cloud.positions) for cloud in clouds], colors, feature_dim=cfg.MODEL.FEATURE_DIM,
        layers=cfg.INPUT.LAYER_NUM, splat=(near, far, max_size), peeling=cfg.PROJECTION.PEELING,
        degree=cfg.MODEL.HARMONICS, width=cfg.MODEL.WIDTH, dots=cfg.MODEL.DOTS,
        spacing=[point_spacing(cloud.positions) for cloud in clouds],
        strands=None if strands is None else [torch.from_numpy(strand) for strand in strands],
        backend=cfg.PROJECTION.BACKEND)


def _build_layered(cfg: CfgNode, clouds: Sequence[PointCloud]) -> LayeredRenderer:
    colors = None
    if cfg.INPUT.USE_RGB:
        missing = [frame for frame, cloud in enumerate(clouds) if cloud.colors is None]
        if missing:
            raise SceneError(f"INPUT.USE_RGB True needs colors in every point cloud; frame {missing[0] + 1}'s "
                             "has none (rows are x y z r g b)")
        colors = _unit_colors(clouds)
    near, far, max_size = cfg.INPUT.NEAR_FAR_SIZE
    return LayeredRenderer(
        [torch.from_numpy(cloud.positions) for cloud in clouds], colors,
        feature_dim=cfg.MODEL.FEATURE_DIM, layers=cfg.INPUT.LAYER_NUM, splat=(near, far, max_size),
        peeling=cfg.PROJECTION.PEELING, norm=cfg.MODEL.NORM, legacy=cfg.MODEL.LEGACY,
        depth_threshold=cfg.WEIGHTS.DEPTH_THR, backend=cfg.PROJECTION.BACKEND,
        recompute_layers=cfg.SOLVER.RECOMPUTE_LAYERS, margin=cfg.RENDER.MARGIN)


def _unit_colors(clouds: Sequence[PointCloud]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(cloud.colors, np.float32) / 255) for cloud in clouds]


def build_loss(cfg: CfgNode) -> RenderLoss:
    """The training loss; VGG-19 is loaded only where LOSS.PERCEPTUAL asks for it."""
    return RenderLoss(perceptual=cfg.LOSS.PERCEPTUAL, mse=cfg.LOSS.MSE, gradient=cfg.LOSS.GRADIENT,
                      ssim=cfg.LOSS.SSIM, l1=cfg.LOSS.L1, vgg=build_vgg(cfg),
                      everywhere=not cfg.MODEL.LEGACY)


def build_vgg(cfg: CfgNode) -> VggFeatures | None:
    if not cfg.LOSS.PERCEPTUAL:
        return None
    return VggFeatures(cfg.PERCEPTUAL.CHECKPOINT, legacy=cfg.MODEL.LEGACY)


def load_renderer(cfg: CfgNode, checkpoint_path: Path,
                  device: torch.device) -> tuple[Renderer, CfgNode, int]:
    """The trained renderer in eval mode on `device`, the configuration with the checkpoint's, its epoch.

    Points come from the checkpoint; a published one holds none, then they come from DATASETS.TRAIN. Raises
    `CheckpointError` where checkpoint, configuration and cloud do not fit together.
    """
    checkpoint = read_checkpoint(cfg, checkpoint_path)
    cfg = merge_checkpoint_config(cfg, checkpoint, checkpoint_path)
    renderer = build_renderer(cfg, checkpoint_clouds(cfg, checkpoint, checkpoint_path))
    load_parameters(renderer, checkpoint, checkpoint_path)
    return renderer.eval().to(device), cfg, checkpoint.epoch


def read_checkpoint(cfg: CfgNode, path: Path) -> ModelCheckpoint:
    """`load_model`; of a published model also the norms' running statistics where MODEL.NORM batch asks."""
    if cfg.MODEL.NORM == "batch" and path.is_file() and is_published(path):
        return read_published(path, norm="batch")
    return load_model(path)


def merge_checkpoint_config(cfg: CfgNode, checkpoint: ModelCheckpoint, path: Path) -> CfgNode:
    """`cfg` with what the checkpoint was trained with, where the user did not say otherwise."""
    values = {}
    explicit = explicit_keys(cfg)
    for key in (*_STRUCTURE, *_HABITS):
        section, name = key.split(".")
        trained = checkpoint.config.get(section, {}).get(name)
        wanted = cfg[section][name]
        if trained is None or trained == wanted:
            continue
        if key not in explicit:
            values[key.replace(".", "__")] = trained
        elif key in _STRUCTURE:
            raise CheckpointError(f"{path}: was trained with {key} {trained}, the configuration says {wanted}")
        elif key == "MODEL.LEGACY":
            logger.warning("%s was trained with MODEL.LEGACY %s; rendering with %s, as the configuration says",
                           path, trained, wanted)
    if values.get("INPUT__LAYER_NUM", cfg.INPUT.LAYER_NUM) != cfg.INPUT.LAYER_NUM:
        values.setdefault("SOLVER__LAYER_SCHEDULE", [])  # it is about training, and counts the old layers
    return changed(cfg, **values) if values else cfg


def checkpoint_clouds(cfg: CfgNode, checkpoint: ModelCheckpoint, path: Path) -> list[PointCloud]:
    """The checkpoint's own clouds, or the scene's where it holds none."""
    if checkpoint.points:
        colors = [c.numpy() for c in checkpoint.colors]
        return [PointCloud(p.numpy(), colors[frame] if colors else None)
                for frame, p in enumerate(checkpoint.points)]
    if not cfg.DATASETS.TRAIN:
        raise CheckpointError(f"{path}: holds no points; name the scene's folder with DATASETS.TRAIN")
    return load_clouds(Path(cfg.DATASETS.TRAIN), cfg.DATASETS.FRAME_NUM)


def load_parameters(renderer: Renderer, checkpoint: ModelCheckpoint, path: Path) -> None:
    """Copy the checkpoint's parameters into `renderer`; every one must be there and fit."""
    wanted = renderer.state_dict()
    for name in sorted(wanted.keys() | checkpoint.model.keys()):
        if name not in checkpoint.model or name not in wanted:
            problem = "lacks" if name in wanted else "has a parameter unknown here,"
            raise CheckpointError(f"{path}: {problem} {name}")
        found, expected = tuple(checkpoint.model[name].shape), tuple(wanted[name].shape)
        if found != expected:
            hint = " (a feature row per point: is this the cloud it was trained on?)" if "features" in name else ""
            raise CheckpointError(f"{path}: {name} is {found}, the configuration and scene need {expected}{hint}")
    renderer.load_state_dict(checkpoint.model)


def make_checkpoint(renderer: Renderer, clouds: Sequence[PointCloud], cfg: CfgNode,
                    epoch: int) -> ModelCheckpoint:
    """Everything that rendering needs: parameters, points, configuration, epoch."""
    colors = [torch.from_numpy(np.asarray(c.colors)) for c in clouds if c.colors is not None]
    return ModelCheckpoint(
        epoch=epoch, config=to_dict(cfg),
        model={name: value.detach().cpu().contiguous() for name, value in renderer.state_dict().items()},
        points=[torch.from_numpy(cloud.positions) for cloud in clouds],
        colors=colors if len(colors) == len(clouds) else [])
