# SPDX-License-Identifier: Apache-2.0
"""Building of a refining run from the configuration: scheme, clips, photographs, validator."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

from npcr import distributed
from npcr.checkpoints import load_model
from npcr.data.samples import Sample, SceneDataset
from npcr.data.scene import Scene, split_holdout
from npcr.errors import ConfigError, SceneError
from npcr.factory import View, build_dataset, build_loss, build_vgg, held_out_views, open_scene
from npcr.refine.clips import ArcClips, ClipSource, PathClips
from npcr.refine.published import PathRefiner, RefineSettings
from npcr.refine.run import RefineRun, RunSettings, Scheme
from npcr.refine.steady import PhotometricSource, SteadyRefiner, SteadySettings
from npcr.refine.validation import RefineValidator
from npcr.rendering.path_inputs import PathInputs
from npcr.training.agreement import (
    refuse_different_paths,
    refuse_different_scenes,
    refuse_different_settings,
    refuse_different_weights,
)
from npcr.training.optimizers import build_optimizer

logger = logging.getLogger("npcr")

MAX_TRAINING_VIEWS = 12  # to measure PSNR on where no view is held out


def build_run(inputs: PathInputs, destination: Path) -> RefineRun:
    """Build the run that the configuration's REFINE section describes.

    Args:
        inputs: model, configuration and camera path.
        destination: the refined model's file.

    Returns:
        The run, ready to start or to resume.

    Raises:
        ConfigError: settings contradict each other, or VGG-19's weights cannot be had.
        TrainingError: the path is too short.
        SceneError: a file of DATASETS.TEST is missing or wrong.
        NpcrError: several processes have other settings, models, paths, scenes or versions.
    """
    cfg = inputs.cfg
    steady = cfg.REFINE.SCHEME == "steady"
    if cfg.REFINE.PATH == "random" and not steady:
        raise ConfigError(f"REFINE.PATH random needs REFINE.SCHEME steady; this run's is {cfg.REFINE.SCHEME} (legacy "
                          "models take it by themselves)")
    scene = _open_scene_if_available(cfg)
    _refuse_differences(inputs, scene)
    clips = _build_clips(inputs)
    scheme: Scheme = _build_steady_refiner(inputs, clips, scene) if steady else _build_path_refiner(inputs)
    _report_sharing(scheme, len(clips.draw(np.random.default_rng(0))))
    settings = RunSettings(cfg.REFINE.PASSES, cfg.REFINE.PSNR_DROP if steady else math.inf,
                           cfg.REFINE.PATIENCE if steady else 0, _identity(inputs))
    return RefineRun(scheme, _build_validator(inputs, clips, scene), settings, source=load_model(inputs.checkpoint),
                     destination=destination, log=log_folder(inputs))


def log_folder(inputs: PathInputs) -> Path:
    """Name the folder of a run's log.

    Args:
        inputs: model and configuration.

    Returns:
        OUTPUT_DIR/refine_{epoch}.
    """
    return Path(inputs.cfg.OUTPUT_DIR) / f"refine_{inputs.epoch}"


def _refuse_differences(inputs: PathInputs, scene: Scene | None) -> None:
    refuse_different_settings(inputs.cfg, inputs.renderer.device)
    refuse_different_weights(inputs.renderer, 0)
    refuse_different_paths(inputs.cameras, inputs.frame)
    distributed.refuse_differences({"whether there are photographs": scene is not None})
    if scene is not None:
        refuse_different_scenes(scene, [])


def _report_sharing(scheme: Scheme, clip: int) -> None:
    """Say what several processes share, and which of them have nothing to do in a step."""
    processes = distributed.world_size()
    if processes == 1:
        return
    if isinstance(scheme, SteadyRefiner):
        logger.info("%d processes share the %d renderings of a step, and clips and views of the validation", processes,
                    scheme.renderings(clip))
        if processes > scheme.renderings(clip) and distributed.is_writer():
            logger.warning("a step has %d renderings to learn from: %d of %d processes take part in the validation "
                           "alone", scheme.renderings(clip), processes - scheme.renderings(clip), processes)
    else:
        logger.info("%d processes share the frames of the path, and clips and views of the validation", processes)


def _open_scene_if_available(cfg: CfgNode) -> Scene | None:
    """The scene with its photographs; where there is none, a warning that names the reason, and None."""
    try:
        return open_scene(cfg, cfg.DATASETS.TRAIN)
    except (ConfigError, SceneError) as error:
        reason = str(error)
    consequence = "PSNR cannot be watched"
    if cfg.REFINE.SCHEME == "steady":
        consequence += (" and no photographs are mixed in: only REFINE.ANCHOR holds the model near what it renders now")
    logger.warning("refining without the scene's photographs (%s); %s", reason, consequence)
    return None


def _build_clips(inputs: PathInputs) -> ClipSource:
    refine = inputs.cfg.REFINE
    if refine.SCHEME == "steady" and refine.PATH == "random":
        points = inputs.renderer.points(inputs.frame)
        pivot = points.median(dim=0).values.double().cpu().numpy()
        return ArcClips(inputs.cameras, refine.WINDOW, refine.ARC_DEGREES, pivot)
    return PathClips(inputs.cameras, refine.WINDOW)


def _build_path_refiner(inputs: PathInputs) -> PathRefiner:
    cfg = inputs.cfg
    if not cfg.LOSS.MSE and not cfg.LOSS.PERCEPTUAL:
        raise ConfigError("REFINE.SCHEME published draws pictures to its target by LOSS.MSE and LOSS.PERCEPTUAL, and "
                          "both are 0; LOSS.MSE 1 LOSS.PERCEPTUAL 1 is as published, LOSS.MSE 1 alone needs no VGG-19")
    vgg = build_vgg(cfg)
    if vgg is not None:
        vgg.to(inputs.renderer.device)
    a, b, c, d = cfg.WEIGHTS.REFINE_WEIGHTS
    settings = RefineSettings((a, b, c, d), cfg.WEIGHTS.COLOR_THR, cfg.TEMPORAL.DEPTH_TOLERANCE,
                              cfg.LOSS.PERCEPTUAL, cfg.LOSS.MSE)
    return PathRefiner(inputs.renderer, inputs.cameras, _optimizer(inputs), vgg, settings, inputs.frame)


def _build_steady_refiner(inputs: PathInputs, clips: ClipSource, scene: Scene | None) -> SteadyRefiner:
    cfg, refine = inputs.cfg, inputs.cfg.REFINE
    photographs = _photometric_source(inputs, scene) if scene is not None and refine.PHOTOMETRIC > 0 else None
    if photographs is None and not refine.ANCHOR:
        raise ConfigError("REFINE.ANCHOR is 0 and no photographs are mixed in: nothing would hold the picture, which "
                          "is steadiest when it is blank; set REFINE.ANCHOR above 0 or name the scene's folder with "
                          "DATASETS.TRAIN and REFINE.PHOTOMETRIC above 0")
    settings = SteadySettings(
        passes=refine.PASSES, steps=refine.STEPS, lr=_learning_rate(cfg), steadiness=refine.STEADINESS,
        photometric=refine.PHOTOMETRIC, anchor=refine.ANCHOR, depth_tolerance=refine.DEPTH_TOLERANCE,
        seed=cfg.SOLVER.SEED, one_frame_at_a_time=cfg.SOLVER.RECOMPUTE_LAYERS,
        half_activations=cfg.SOLVER.HALF_ACTIVATIONS)
    return SteadyRefiner(inputs.renderer, clips, _optimizer(inputs), settings, photographs=photographs,
                         frame=inputs.frame)


def _photometric_source(inputs: PathInputs, scene: Scene) -> PhotometricSource:
    """The scene's training photographs of the refined frame, augmented as in training."""
    cfg, data = inputs.cfg, inputs.cfg.DATASETS
    dataset = build_dataset(cfg, scene, cfg.INPUT.SIZE_TRAIN, inputs.renderer.device)
    cameras = split_holdout(len(scene.cameras), data.HOLDOUT_EVERY)[0]

    def draw(rng: np.random.Generator) -> Sample:
        camera = cameras[int(rng.integers(len(cameras)))]
        return dataset.augmented_sample(inputs.frame, camera, rng, shift=data.SHIFT, max_zoom=data.MAXRATION,
                                        rotation=data.ROTATION)

    return PhotometricSource(draw, build_loss(cfg).to(inputs.renderer.device))


def _build_validator(inputs: PathInputs, clips: ClipSource, scene: Scene | None) -> RefineValidator:
    cfg = inputs.cfg
    dataset, views = (None, []) if scene is None else _validation_views(inputs, scene)
    return RefineValidator(clips, depth_tolerance=cfg.REFINE.DEPTH_TOLERANCE, seed=cfg.SOLVER.SEED,
                           frame=inputs.frame, dataset=dataset, views=views, batch=cfg.TEST.IMS_PER_BATCH)


def _validation_views(inputs: PathInputs, scene: Scene) -> tuple[SceneDataset, list[View]]:
    """The views that PSNR is measured on: held-out ones of the refined frame, else some of training's."""
    cfg, device = inputs.cfg, inputs.renderer.device
    held_out = held_out_views(cfg, scene, device)
    if held_out is not None:
        dataset, views = held_out
        return dataset, [view for view in views if view[0] == inputs.frame]
    logger.warning("no photograph is held out (DATASETS.HOLDOUT_EVERY, DATASETS.TEST); PSNR is measured on "
                   "photographs that the model was trained on, where smearing shows less")
    count = len(scene.cameras)
    cameras = np.unique(np.linspace(0, count - 1, min(count, MAX_TRAINING_VIEWS)).round().astype(int))
    return build_dataset(cfg, scene, cfg.INPUT.SIZE_TEST, device), [(inputs.frame, int(camera)) for camera in cameras]


def _identity(inputs: PathInputs) -> dict[str, object]:
    """Settings that must be the same to resume a run."""
    cfg = inputs.cfg
    refine = {f"REFINE.{name}": value for name, value in cfg.REFINE.items() if name not in ("PASSES", "PATIENCE")}
    return {**refine, "SOLVER.SEED": cfg.SOLVER.SEED, "SOLVER.OPTIMIZER_NAME": cfg.SOLVER.OPTIMIZER_NAME,
            "INPUT.SIZE_TEST": list(cfg.INPUT.SIZE_TEST), "--frame": inputs.frame + 1,
            "the number of cameras": len(inputs.cameras)}


def _optimizer(inputs: PathInputs) -> torch.optim.Optimizer:
    inputs.renderer.hold_for_refining()
    return build_optimizer(inputs.cfg, inputs.renderer, lr=_learning_rate(inputs.cfg))


def _learning_rate(cfg: CfgNode) -> float:
    return cfg.REFINE.LR or cfg.SOLVER.BASE_LR
