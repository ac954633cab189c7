# SPDX-License-Identifier: Apache-2.0
"""From the configuration to objects: the only place where networks and losses get their arguments from it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

from npcr.checkpoints import ModelCheckpoint, load_model, load_parameters
from npcr.config import KEYS, changed, checkpoint_keys, source_of
from npcr.data.samples import SceneDataset
from npcr.data.scene import Scene, load_clouds, load_scene, split_holdout
from npcr.errors import CheckpointError, ConfigError, SceneError
from npcr.io.points import PointCloud
from npcr.out_of_memory import refuse_beyond_memory
from npcr.renderers import Renderer, find_form
from npcr.renderers.losses import RenderLoss, VggFeatures
from npcr.renderers.tiles import describe_tiles
from npcr.temporal import Blender, DefaultBlender, LegacyBlender

logger = logging.getLogger("npcr")

_OF_NETWORK = ("MODEL.FEATURE_DIM", "MODEL.WIDTH", "MODEL.NETWORK_HALVINGS")  # unread by strands without one

MANY_POINTS = 1_000_000  # from which on memory is reckoned before it is asked for
View = tuple[int, int]  # frame and camera, from 0


def build_renderer(cfg: CfgNode, clouds: Sequence[PointCloud]) -> Renderer:
    """Make a renderer with fresh parameters; seeds torch with SOLVER.SEED.

    Args:
        cfg: the configuration; MODEL.FORM names the class.
        clouds: one for each frame of the scene.

    Returns:
        The renderer, on the CPU.

    Raises:
        NpcrError: the clouds lack what the configuration asks for.
        OutOfMemoryError: they have more points than fit in memory.
    """
    points = sum(map(len, clouds))
    if points >= MANY_POINTS:
        needed = points * point_bytes(cfg)
        refuse_beyond_memory(needed, torch.device("cpu"), "the model's numbers", points, needed)
    torch.manual_seed(cfg.SOLVER.SEED)
    renderer = find_form(cfg.MODEL.FORM).from_config(cfg, clouds)
    if cfg.MODEL.COMPILE:
        renderer.runner.compile(renderer.network)
    return renderer


def point_bytes(cfg: CfgNode) -> int:
    """Count the memory of a point in a renderer, with its place.

    Args:
        cfg: the configuration.

    Returns:
        Bytes.
    """
    count = 1009  # a prime, which is no size of anything else
    rng = np.random.default_rng(0)
    cloud = PointCloud(rng.random((count, 3), np.float32), np.zeros((count, 3), np.uint8))
    renderer = find_form(cfg.MODEL.FORM).from_config(cfg, [cloud])
    return sum(tensor.nbytes for tensor in (*renderer.parameters(), *renderer.buffers())
               if tensor.ndim and len(tensor) == count) // count


def prepare_rendering(renderer: Renderer, cfg: CfgNode) -> None:
    """Let RENDER.PRECISION, RENDER.CUDA_GRAPHS and RENDER.TILE take effect, and say what tiles there are.

    Args:
        renderer: on the device that will render, in eval mode.
        cfg: the configuration.

    Raises:
        ConfigError: the renderer cannot render in tiles.
    """
    renderer.tile = cfg.RENDER.TILE
    if renderer.tile:
        if reason := renderer.why_no_tiles():
            raise ConfigError(f"{source_of(cfg, 'RENDER.TILE')}: RENDER.TILE is {renderer.tile}, but {reason}, with "
                              "RENDER.TILE 0")
        logger.info("%s", describe_tiles(renderer, cfg.INPUT.SIZE_TEST))
        without = [key for key, on in (("MODEL.COMPILE", cfg.MODEL.COMPILE),
                                       ("RENDER.CUDA_GRAPHS", cfg.RENDER.CUDA_GRAPHS)) if on]
        if without:
            logger.warning("%s: tiles are rendered without", " and ".join(without))
    renderer.runner.prepare_rendering(cfg.RENDER.PRECISION, cfg.RENDER.CUDA_GRAPHS, renderer.device)


def build_blender(cfg: CfgNode) -> Blender | None:
    """Make the blender that TEMPORAL.BLEND names.

    Args:
        cfg: the configuration.

    Returns:
        The blender; None for "off".
    """
    temporal = cfg.TEMPORAL
    if temporal.BLEND == "default":
        return DefaultBlender(temporal.HISTORY, temporal.COLOR_TOLERANCE, temporal.DEPTH_TOLERANCE, temporal.ANGLE,
                              backend=cfg.PROJECTION.BACKEND)
    return LegacyBlender(cfg.WEIGHTS.RENDER_WEIGHTS, cfg.WEIGHTS.COLOR_THR) if temporal.BLEND == "legacy" else None


def build_loss(cfg: CfgNode) -> RenderLoss:
    """Make the training loss; VGG-19 is loaded only where LOSS.PERCEPTUAL asks for it.

    Args:
        cfg: the configuration.

    Returns:
        The loss, on the CPU.

    Raises:
        ConfigError: VGG-19's weights cannot be had.
    """
    return RenderLoss(perceptual=cfg.LOSS.PERCEPTUAL, mse=cfg.LOSS.MSE, gradient=cfg.LOSS.GRADIENT,
                      ssim=cfg.LOSS.SSIM, l1=cfg.LOSS.L1, vgg=build_vgg(cfg),
                      matte=cfg.LOSS.MATTE if cfg.DATASETS.MASK else 1.0,  # without mattes alpha is 1 everywhere
                      everywhere=not cfg.MODEL.LEGACY, opacity=cfg.LOSS.OPACITY, size=cfg.LOSS.SIZE)


def build_vgg(cfg: CfgNode) -> VggFeatures | None:
    """Load VGG-19 for the perceptual term.

    Args:
        cfg: the configuration.

    Returns:
        The network, on the CPU; None where LOSS.PERCEPTUAL is 0.

    Raises:
        ConfigError: the weights cannot be had.
    """
    if not cfg.LOSS.PERCEPTUAL:
        return None
    return VggFeatures(cfg.PERCEPTUAL.CHECKPOINT, legacy=cfg.MODEL.LEGACY)


def open_scene(cfg: CfgNode, folder: str) -> Scene:
    """Check the scene in a folder against the configuration.

    Args:
        cfg: the configuration.
        folder: DATASETS.TRAIN or DATASETS.TEST.

    Returns:
        The scene; photographs are not read yet.

    Raises:
        ConfigError: the folder's name is empty.
        SceneError: the folder is not there, or a file is missing or wrong; where a key is to blame, it names its file.
    """
    key = "DATASETS.TEST" if folder and folder == cfg.DATASETS.TEST else "DATASETS.TRAIN"
    place = scene_folder(cfg, key)
    try:
        return load_scene(place, size_raw=tuple(cfg.INPUT.SIZE_RAW), frame_num=cfg.DATASETS.FRAME_NUM,
                          mask=cfg.DATASETS.MASK, center=cfg.DATASETS.CENTER)
    except SceneError as error:
        blamed = next((key for key in KEYS if key in str(error)), None)
        if blamed is None:
            raise
        raise SceneError(f"{error} (configuration: {source_of(cfg, blamed)})") from None


def scene_folder(cfg: CfgNode, key: str = "DATASETS.TRAIN") -> Path:
    """Return the scene's folder that a key names.

    Args:
        cfg: the configuration.
        key: DATASETS.TRAIN or DATASETS.TEST.

    Returns:
        The folder, which is there.

    Raises:
        ConfigError: the key is empty.
        SceneError: there is no such folder.
    """
    folder = cfg.DATASETS.TRAIN if key == "DATASETS.TRAIN" else cfg.DATASETS.TEST
    source = source_of(cfg, key)
    if not folder:
        raise ConfigError(f"{source}: {key} is empty; name the scene's folder, such as {key} datasets/cat")
    if not Path(folder).is_dir():
        raise SceneError(f"{folder}: no such scene folder; {key} names it ({source})")
    return Path(folder)


def build_dataset(cfg: CfgNode, scene: Scene, size: Sequence[int], device: torch.device) -> SceneDataset:
    """Make the samples of a scene's photographs.

    Args:
        cfg: the configuration.
        scene: whose photographs.
        size: (width, height) of a sample, pixels: INPUT.SIZE_TRAIN or INPUT.SIZE_TEST.
        device: where samples go.

    Returns:
        The dataset; photographs are decoded when they are asked for.
    """
    return SceneDataset(scene, size=tuple(size), alpha_mode=cfg.DATASETS.ALPHA_MODE,
                        alpha_background=cfg.DATASETS.ALPHA_BACKGROUND, legacy=cfg.MODEL.LEGACY,
                        max_zoom=cfg.DATASETS.MAXRATION, cache_bytes=int(cfg.DATASETS.CACHE_MB) * 2**20,
                        device=device, workers=cfg.DATALOADER.NUM_WORKERS)


def held_out_views(cfg: CfgNode, scene: Scene, device: torch.device) -> tuple[SceneDataset, list[View]] | None:
    """Choose the views that training does not see: the TEST scene's, else the held-out cameras.

    Args:
        cfg: the configuration.
        scene: DATASETS.TRAIN's.
        device: where samples go.

    Returns:
        The dataset at INPUT.SIZE_TEST and its held-out views; None where no view is held out.

    Raises:
        SceneError: a file of the TEST scene is missing or wrong.
    """
    if cfg.DATASETS.TEST:
        scene = open_scene(cfg, cfg.DATASETS.TEST)
        cameras = list(range(len(scene.cameras)))
    elif cfg.DATASETS.HOLDOUT_EVERY:
        cameras = split_holdout(len(scene.cameras), cfg.DATASETS.HOLDOUT_EVERY)[1]
    else:
        return None
    views = [(frame, camera) for frame in range(len(scene.frames)) for camera in cameras]
    return build_dataset(cfg, scene, cfg.INPUT.SIZE_TEST, device), views


def load_renderer(cfg: CfgNode, checkpoint_path: Path, device: torch.device, *,
                  explicit: Collection[str]) -> tuple[Renderer, CfgNode, int]:
    """Make the renderer of a checkpoint.

    Points come from the checkpoint; a published one holds none, then they come from DATASETS.TRAIN.

    Args:
        cfg: the configuration.
        checkpoint_path: the model's file.
        device: where the renderer goes.
        explicit: the keys that the user set (`npcr.config.explicit_keys`); the checkpoint decides others.

    Returns:
        The renderer in eval mode, the configuration completed by the checkpoint, and its epoch.

    Raises:
        CheckpointError: checkpoint, configuration and cloud do not fit together.
    """
    checkpoint = load_model(checkpoint_path, cfg.MODEL.NORM)
    cfg = merge_checkpoint_config(cfg, checkpoint, checkpoint_path, explicit)
    renderer = build_renderer(cfg, checkpoint_clouds(cfg, checkpoint, checkpoint_path))
    load_parameters(renderer, checkpoint, checkpoint_path)
    return renderer.eval().to(device), cfg, checkpoint.epoch


def merge_checkpoint_config(cfg: CfgNode, checkpoint: ModelCheckpoint, path: Path,
                            explicit: Collection[str]) -> CfgNode:
    """Complete a configuration by what a checkpoint was trained with (`npcr.config.checkpoint_keys`).

    Args:
        cfg: the configuration.
        checkpoint: the trained model.
        path: its file, for messages.
        explicit: the keys that the user set; these stay.

    Returns:
        The configuration to render with.

    Raises:
        CheckpointError: the user set a key on which the checkpoint's parameters depend to another value.
    """
    values, different = {}, {}
    model = checkpoint.config.get("MODEL", {})
    form, without_network = model.get("FORM"), model.get("FORM") == "strands" and not model.get("NETWORK", True)
    structure = checkpoint_keys("structure")
    for key in (*structure, *checkpoint_keys("rendering")):
        section, name = key.split(".")
        # One of ours without a key is older than the key, whose default is what it was trained with.
        trained = checkpoint.config.get(section, {}).get(name, None if form is None else KEYS[key].default)
        wanted = cfg[section][name]
        if trained is None or trained == wanted or form in KEYS[key].unread_by:
            continue
        if without_network and key in _OF_NETWORK:
            continue
        if key not in explicit:
            values[key.replace(".", "__")] = trained
        elif key in structure:
            different[key] = trained, wanted
        elif key in ("MODEL.LEGACY", "MODEL.FILTER_VARIANCE"):
            logger.warning("%s was trained with %s %s; rendering with %s, as the configuration says",
                           path, key, trained, wanted)
    if different:
        trained_with = ", ".join(f"{key} {trained}" for key, (trained, _) in different.items())
        says = ", ".join(str(wanted) for _, wanted in different.values())
        raise CheckpointError(f"{path}: was trained with {trained_with}, the configuration says {says}; use the "
                              "config.yml beside it, or train anew in another OUTPUT_DIR")
    if values.get("INPUT__LAYER_NUM", cfg.INPUT.LAYER_NUM) != cfg.INPUT.LAYER_NUM:
        values.setdefault("SOLVER__LAYER_SCHEDULE", [])  # it is about training, and counts the old layers
    return changed(cfg, **values) if values else cfg


def checkpoint_clouds(cfg: CfgNode, checkpoint: ModelCheckpoint, path: Path) -> list[PointCloud]:
    """Choose the point clouds of a checkpoint: its own, or the scene's where it holds none.

    Args:
        cfg: the configuration; DATASETS.TRAIN names the scene.
        checkpoint: the trained model.
        path: its file, for messages.

    Returns:
        One for each frame.

    Raises:
        CheckpointError: there are none.
        SceneError: a cloud of the scene is missing or wrong.
    """
    if checkpoint.points:
        colors = [c.numpy() for c in checkpoint.colors]
        return [PointCloud(p.numpy(), colors[frame] if colors else None)
                for frame, p in enumerate(checkpoint.points)]
    if not cfg.DATASETS.TRAIN:
        raise CheckpointError(f"{path}: holds no points; name the scene's folder with DATASETS.TRAIN")
    return load_clouds(scene_folder(cfg), cfg.DATASETS.FRAME_NUM)
