# SPDX-License-Identifier: Apache-2.0
"""From the configuration to a refining run: scheme, clips, photographs, validator."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

from npcr.checkpoints import load_model
from npcr.data.samples import Sample, SceneDataset
from npcr.data.scene import Scene, split_holdout
from npcr.errors import ConfigError, SceneError
from npcr.factory import build_dataset, build_loss, build_vgg, held_out_views, open_scene
from npcr.refine.clips import ArcClips, ClipSource, PathClips
from npcr.refine.published import PathRefiner, RefineSettings
from npcr.refine.run import RefineRun, RunSettings, Scheme
from npcr.refine.steady import Photographs, SteadyRefiner, SteadySettings
from npcr.refine.validation import RefineValidator
from npcr.rendering.path_inputs import PathInputs
from npcr.training.optimizers import build_optimizer

logger = logging.getLogger("npcr")

# Training photographs to measure PSNR on where none was held out.
MOST_VIEWS = 12


def make_run(inputs: PathInputs, destination: Path) -> RefineRun:
    """The run that the configuration asks for. Raises an `NpcrError` where it cannot begin."""
    cfg = inputs.cfg
    steady = cfg.REFINE.SCHEME == "steady"
    if cfg.REFINE.PATH == "random" and not steady:
        raise ConfigError(f"REFINE.PATH random needs REFINE.SCHEME steady; this run's is {cfg.REFINE.SCHEME} (legacy "
                          "models take it by themselves)")
    scene = find_scene(cfg)
    clips = make_clips(inputs)
    scheme: Scheme = make_steady(inputs, clips, scene) if steady else make_published(inputs)
    settings = RunSettings(cfg.REFINE.PASSES, cfg.REFINE.PSNR_DROP if steady else math.inf,
                           cfg.REFINE.PATIENCE if steady else 0, identity(inputs))
    log = Path(cfg.OUTPUT_DIR) / f"refine_{inputs.epoch}"
    return RefineRun(scheme, make_validator(inputs, clips, scene), settings, source=load_model(inputs.checkpoint),
                     destination=destination, log=log)


def find_scene(cfg: CfgNode) -> Scene | None:
    """The scene with its photographs, or None, with a notice why, where it is not at hand."""
    if not cfg.DATASETS.TRAIN:
        reason = "DATASETS.TRAIN is empty"
    else:
        try:
            return open_scene(cfg, cfg.DATASETS.TRAIN)
        except SceneError as error:
            reason = str(error)
    what = "PSNR cannot be watched"
    if cfg.REFINE.SCHEME == "steady":
        what += (" and no photographs are mixed in: only REFINE.ANCHOR holds the model near what it renders now")
    logger.warning("refining without the scene's photographs (%s); %s", reason, what)
    return None


def make_clips(inputs: PathInputs) -> ClipSource:
    refine = inputs.cfg.REFINE
    if refine.SCHEME == "steady" and refine.PATH == "random":
        points = inputs.renderer.points(inputs.frame)
        pivot = points.median(dim=0).values.double().cpu().numpy()
        return ArcClips(inputs.cameras, refine.WINDOW, refine.ARC_DEGREES, pivot)
    return PathClips(inputs.cameras, refine.WINDOW)


def make_published(inputs: PathInputs) -> PathRefiner:
    cfg = inputs.cfg
    if not cfg.LOSS.MSE and not cfg.LOSS.PERCEPTUAL:
        raise ConfigError("REFINE.SCHEME published draws pictures to its target by LOSS.MSE and LOSS.PERCEPTUAL, and "
                          "both are 0; LOSS.MSE 1 LOSS.PERCEPTUAL 1 is as published, LOSS.MSE 1 alone needs no VGG-19")
    vgg = build_vgg(cfg)
    if vgg is not None:
        vgg.to(_device(inputs))
    a, b, c, d = cfg.WEIGHTS.REFINE_WEIGHTS
    settings = RefineSettings((a, b, c, d), cfg.WEIGHTS.COLOR_THR, cfg.TEMPORAL.DEPTH_TOLERANCE,
                              cfg.LOSS.PERCEPTUAL, cfg.LOSS.MSE)
    return PathRefiner(inputs.renderer, inputs.cameras, _optimizer(inputs), vgg, settings, inputs.frame)


def make_steady(inputs: PathInputs, clips: ClipSource, scene: Scene | None) -> SteadyRefiner:
    cfg, refine = inputs.cfg, inputs.cfg.REFINE
    mixed_in = scene is not None and refine.PHOTOMETRIC > 0
    if not mixed_in and not refine.ANCHOR:
        raise ConfigError("REFINE.ANCHOR is 0 and no photographs are mixed in: nothing would hold the picture, which "
                          "is steadiest when it is blank; set REFINE.ANCHOR above 0 or name the scene's folder with "
                          "DATASETS.TRAIN and REFINE.PHOTOMETRIC above 0")
    settings = SteadySettings(
        refine.PASSES, refine.STEPS, refine.LR or cfg.SOLVER.BASE_LR, refine.STEADINESS, refine.PHOTOMETRIC,
        refine.ANCHOR, refine.DEPTH_TOLERANCE, cfg.SOLVER.SEED, cfg.SOLVER.RECOMPUTE_LAYERS,
        cfg.SOLVER.HALF_ACTIVATIONS)
    photographs = make_photographs(inputs, scene) if scene is not None and mixed_in else None
    return SteadyRefiner(inputs.renderer, clips, _optimizer(inputs), settings, photographs=photographs,
                         frame=inputs.frame)


def make_photographs(inputs: PathInputs, scene: Scene) -> Photographs:
    """The scene's training photographs of the refined frame, augmented as in training."""
    cfg, data = inputs.cfg, inputs.cfg.DATASETS
    views = build_dataset(cfg, scene, cfg.INPUT.SIZE_TRAIN, _device(inputs))
    cameras = split_holdout(len(scene.cameras), data.HOLDOUT_EVERY)[0]

    def draw(rng: np.random.Generator) -> Sample:
        camera = cameras[int(rng.integers(len(cameras)))]
        return views.augmented_sample(inputs.frame, camera, rng, shift=data.SHIFT, max_zoom=data.MAXRATION,
                                      rotation=data.ROTATION)

    return Photographs(draw, build_loss(cfg).to(_device(inputs)))


def make_validator(inputs: PathInputs, clips: ClipSource, scene: Scene | None) -> RefineValidator:
    cfg = inputs.cfg
    views, jobs = (None, []) if scene is None else validation_views(inputs, scene)
    return RefineValidator(clips, depth_tolerance=cfg.REFINE.DEPTH_TOLERANCE, seed=cfg.SOLVER.SEED,
                       frame=inputs.frame, views=views, jobs=jobs, batch=cfg.TEST.IMS_PER_BATCH)


def validation_views(inputs: PathInputs, scene: Scene) -> tuple[SceneDataset, list[tuple[int, int]]]:
    """The photographs that PSNR is measured on: held-out ones of the refined frame, else some of training's."""
    cfg, device = inputs.cfg, _device(inputs)
    held_out = held_out_views(cfg, scene, device)
    if held_out is not None:
        views, jobs = held_out
        return views, [job for job in jobs if job[0] == inputs.frame]
    logger.warning("no photograph is held out (DATASETS.HOLDOUT_EVERY, DATASETS.TEST); PSNR is measured on "
                   "photographs that the model was trained on, where smearing shows less")
    count = len(scene.cameras)
    which = np.unique(np.linspace(0, count - 1, min(count, MOST_VIEWS)).round().astype(int))
    return build_dataset(cfg, scene, cfg.INPUT.SIZE_TEST, device), [(inputs.frame, int(camera)) for camera in which]


def identity(inputs: PathInputs) -> dict[str, object]:
    """What must not change between a run and its continuation."""
    cfg = inputs.cfg
    refine = {f"REFINE.{name}": value for name, value in cfg.REFINE.items() if name not in ("PASSES", "PATIENCE")}
    return {**refine, "SOLVER.SEED": cfg.SOLVER.SEED, "SOLVER.OPTIMIZER_NAME": cfg.SOLVER.OPTIMIZER_NAME,
            "INPUT.SIZE_TEST": list(cfg.INPUT.SIZE_TEST), "--frame": inputs.frame + 1,
            "the number of cameras": len(inputs.cameras)}


def _optimizer(inputs: PathInputs) -> torch.optim.Optimizer:
    cfg = inputs.cfg
    return build_optimizer(cfg, inputs.renderer, lr=cfg.REFINE.LR or cfg.SOLVER.BASE_LR)


def _device(inputs: PathInputs) -> torch.device:
    return inputs.renderer.device
