# SPDX-License-Identifier: Apache-2.0
"""Training: data order, step, and the handlers that log, evaluate and save around it (ignite).

Nothing random depends on what ran before: the order of an epoch and the augmentation of each sample are
drawn from (seed, epoch, position). So a resumed run meets the same data as one that never stopped.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from yacs.config import CfgNode

from npcr import checkpoints
from npcr.cameras import concatenate
from npcr.config import dump_config, to_dict
from npcr.data.samples import Sample
from npcr.data.scene import load_clouds, split_holdout
from npcr.errors import CheckpointError, TrainingError
from npcr.evaluation.views import evaluate_views, mean_scores
from npcr.factory import (
    View,
    build_dataset,
    build_loss,
    build_renderer,
    held_out_views,
    open_scene,
)
from npcr.io.points import PointCloud
from npcr.renderers import Photographs
from npcr.renderers.half_activations import half_activations
from npcr.training.log import TrainingLog
from npcr.training.optimizers import build_optimizer, layers_at, learning_rate, set_learning_rate

logger = logging.getLogger("npcr")

_MOST_PHOTOGRAPHS = 64  # of a frame, from which points are initialized


class Trainer:
    """One training run: `Trainer(cfg, device).run()`."""

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg = cfg
        self.device = device
        self.output = Path(cfg.OUTPUT_DIR)
        scene = open_scene(cfg, cfg.DATASETS.TRAIN)
        self.clouds: list[PointCloud] = load_clouds(Path(cfg.DATASETS.TRAIN), cfg.DATASETS.FRAME_NUM)
        cameras = split_holdout(len(scene.cameras), cfg.DATASETS.HOLDOUT_EVERY)[0]
        self.jobs: list[View] = [(frame, camera) for frame in range(len(scene.frames)) for camera in cameras]
        self.views = build_dataset(cfg, scene, cfg.INPUT.SIZE_TRAIN, device)
        self.held_out = held_out_views(cfg, scene, device)
        renderer = build_renderer(cfg, self.clouds)
        self.clouds = renderer.initialize_from(self.clouds, partial(self._photographs, cameras))
        self.renderer = renderer.to(device)
        self.loss = build_loss(cfg).to(device)
        self.optimizer = build_optimizer(cfg, self.renderer)
        half = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float16
        self.amp_type = half if device.type == "cuda" and cfg.SOLVER.AMP else None
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp_type == torch.float16)
        self.steps_per_epoch = math.ceil(len(self.jobs) / cfg.SOLVER.IMS_PER_BATCH)
        self.iteration = 0  # optimizer steps done
        self.seconds = 0.0  # that they took
        self.stop_asked = False
        self.result: dict[str, Any] = {}  # the last step's mean losses, and its last sample with its pictures

    def _photographs(self, cameras: list[int], frame: int) -> Photographs:
        """Some of the training photographs of a frame, evenly chosen, for initializing the points."""
        some = cameras[::math.ceil(len(cameras) / _MOST_PHOTOGRAPHS)]
        samples = [self.views.sample(frame, camera) for camera in some]
        return Photographs(concatenate([sample.cameras.to("cpu") for sample in samples]),
                           [sample.target[:4].cpu() for sample in samples])

    # Data -------------------------------------------------------------------------------------------------

    def _order(self, epoch: int) -> list[View]:
        shuffled = np.random.default_rng([self.cfg.SOLVER.SEED, epoch]).permutation(len(self.jobs))
        return [self.jobs[i] for i in shuffled]

    def _batches(self) -> Iterator[list[Sample]]:
        """Batches from `self.iteration` on, without end."""
        size, data = self.cfg.SOLVER.IMS_PER_BATCH, self.cfg.DATASETS

        def jobs() -> Iterator[Callable[[], Sample]]:
            epoch, step = divmod(self.iteration, self.steps_per_epoch)
            start = step * size
            while True:
                for position, (frame, camera) in list(enumerate(self._order(epoch)))[start:]:
                    rng = np.random.default_rng([self.cfg.SOLVER.SEED, epoch, position])
                    yield lambda frame=frame, camera=camera, rng=rng: self.views.augmented_sample(  # type: ignore[misc]
                        frame, camera, rng, shift=data.SHIFT, max_zoom=data.MAXRATION, rotation=data.ROTATION)
                epoch, start = epoch + 1, 0

        samples = self.views.prefetch(jobs())
        done = self.iteration
        while True:
            first = done % self.steps_per_epoch * size
            yield [next(samples) for _ in range(min(size, len(self.jobs) - first))]
            done += 1

    # One step ---------------------------------------------------------------------------------------------

    def step(self, batch: list[Sample]) -> None:
        """One optimizer step over `batch`; `self.result` is what it gave."""
        self.renderer.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for sample in batch:
            with (torch.autocast(self.device.type, dtype=self.amp_type, enabled=self.amp_type is not None),
                  half_activations(self.cfg.SOLVER.HALF_ACTIVATIONS)):
                output = self.renderer(sample.cameras, sample.frame)
                terms = self.loss(output.trained_color, output.alpha, output.depth, sample.target[None])
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.item() / len(batch)
            if not math.isfinite(sums["total"]):
                self._stop_on_nan(terms, batch)
            self.scaler.scale(terms["total"] / len(batch)).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.result = {"losses": sums, "output": output, "sample": batch[-1]}

    def _stop_on_nan(self, terms: dict[str, torch.Tensor], batch: list[Sample]) -> None:
        epoch, step = divmod(self.iteration, self.steps_per_epoch)
        values = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
        raise TrainingError(
            f"the loss is not finite in epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}, at "
            f"{'; '.join(sample.name for sample in batch)} ({values}). Checkpoints in {self.output} are intact; "
            "lower SOLVER.BASE_LR or set SOLVER.AMP False")

    # The run ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to SOLVER.MAX_EPOCHS; Ctrl-C finishes the step, writes a checkpoint and returns."""
        dump_config(self.cfg, self.output / "config.yml")
        if self.cfg.RESUME:
            self._resume()
        limit = self.cfg.SOLVER.MAX_MINUTES * 60
        if self.iteration >= self.cfg.SOLVER.MAX_EPOCHS * self.steps_per_epoch or 0 < limit <= self.seconds:
            logger.info("training is complete: %d of %d epochs done", self.iteration // self.steps_per_epoch,
                        self.cfg.SOLVER.MAX_EPOCHS)
            return
        log = TrainingLog(self.cfg, self.iteration, self.steps_per_epoch, self.seconds)
        engine = self._engine(log)
        logging.getLogger("ignite").setLevel(logging.CRITICAL)  # its tracebacks would bury our errors
        engine.logger.setLevel(logging.CRITICAL)
        engine.load_state_dict({"iteration": self.iteration, "epoch_length": self.steps_per_epoch,
                                "max_epochs": self.cfg.SOLVER.MAX_EPOCHS})
        batches = self._batches()
        previous = signal.signal(signal.SIGINT, self._ask_to_stop)
        try:
            engine.run(batches)
        finally:
            signal.signal(signal.SIGINT, previous)
            batches.close()  # type: ignore[attr-defined]
            log.close()
        if self.stop_asked:
            raise KeyboardInterrupt

    def _engine(self, log: TrainingLog) -> Engine:
        engine = Engine(lambda _, batch: self.step(batch))

        limit = self.cfg.SOLVER.MAX_MINUTES * 60

        @engine.on(Events.ITERATION_STARTED)
        def prepare() -> None:
            self._began = time.monotonic()
            progress = self.seconds / limit if limit else 0.0
            set_learning_rate(self.optimizer,
                              learning_rate(self.cfg, self.iteration / self.steps_per_epoch, progress))
            self.renderer.layers = layers_at(self.cfg, engine.state.epoch)

        @engine.on(Events.ITERATION_COMPLETED)
        def report() -> None:
            self.iteration += 1
            self.seconds += time.monotonic() - self._began
            log.step(self.iteration, engine.state.epoch, self.result["losses"],
                     self.optimizer.param_groups[0]["lr"], self.seconds)
            if self.stop_asked:
                self.save(engine.state.epoch)
                engine.terminate()
            elif limit and self.seconds >= limit:
                self._finish_early(log, engine.state.epoch)
                engine.terminate()

        @engine.on(Events.EPOCH_COMPLETED)
        def finish_epoch() -> None:
            epoch = engine.state.epoch
            last = epoch == self.cfg.SOLVER.MAX_EPOCHS
            if epoch % self.cfg.SOLVER.CHECKPOINT_PERIOD == 0 or last:
                log.pictures(self.iteration, self.result["output"], self.result["sample"])
                self.save(epoch)
            if self.cfg.TEST.PERIOD and (epoch % self.cfg.TEST.PERIOD == 0 or last):
                self._evaluate(log, epoch)

        return engine

    def _finish_early(self, log: TrainingLog, epoch: int) -> None:
        """What the last epoch would end with, where SOLVER.MAX_MINUTES are over."""
        log.pictures(self.iteration, self.result["output"], self.result["sample"])
        self.save(epoch)
        if self.cfg.TEST.PERIOD:
            self._evaluate(log, epoch)
        logger.info("SOLVER.MAX_MINUTES %g are over: %d steps in %d of at most %d epochs", self.cfg.SOLVER.MAX_MINUTES,
                    self.iteration, epoch, self.cfg.SOLVER.MAX_EPOCHS)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stop_asked:
            raise KeyboardInterrupt
        self.stop_asked = True
        logger.info("\nstopping after this step and writing a checkpoint (Ctrl-C again: at once, without)")

    def _evaluate(self, log: TrainingLog, epoch: int) -> None:
        if self.held_out is None:
            return
        views, jobs = self.held_out
        scores = evaluate_views(self.renderer, views, jobs, batch=self.cfg.TEST.IMS_PER_BATCH, device=self.device)
        log.evaluation(self.iteration, epoch, mean_scores(scores))

    # Checkpoints ------------------------------------------------------------------------------------------

    def save(self, epoch: int) -> None:
        """Write the model's and the training's checkpoint; `epoch` may be incomplete after Ctrl-C."""
        checkpoints.save_model(checkpoints.model_path(self.output, epoch),
                         checkpoints.make_checkpoint(self.renderer, self.clouds, to_dict(self.cfg), epoch))
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        checkpoints.save_training_state(checkpoints.optimizer_path(self.output, epoch), {
            "iteration": self.iteration, "seconds": self.seconds, "steps_per_epoch": self.steps_per_epoch,
            "jobs": [list(job) for job in self.jobs], "seed": self.cfg.SOLVER.SEED,
            "optimizer": self.optimizer.state_dict(), "optimizer_name": self.cfg.SOLVER.OPTIMIZER_NAME,
            "scaler": self.scaler.state_dict(), "torch_rng": torch.get_rng_state(), "cuda_rng": cuda})

    def _resume(self) -> None:
        epoch = checkpoints.find_epoch(self.output, self.cfg.LOAD_EPOCH, resume=True)
        path = checkpoints.optimizer_path(self.output, epoch)
        model_path = checkpoints.model_path(self.output, epoch)
        checkpoints.load_parameters(self.renderer, checkpoints.load_model(model_path), model_path)
        state = checkpoints.load_training_state(path)
        for name, now in (("optimizer_name", self.cfg.SOLVER.OPTIMIZER_NAME), ("seed", self.cfg.SOLVER.SEED),
                          ("steps_per_epoch", self.steps_per_epoch),
                          ("jobs", [list(job) for job in self.jobs])):
            if state[name] != now:
                shown = "" if name == "jobs" else f" ({state[name]} then, {now} now)"
                raise CheckpointError(f"{path}: cannot go on: {name} differs from the run that wrote it{shown}")
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.iteration = state["iteration"]
        self.seconds = state.get("seconds", 0.0)
        logger.info("resumed from %s: %d of %d epochs done", model_path,
                    self.iteration // self.steps_per_epoch, self.cfg.SOLVER.MAX_EPOCHS)
