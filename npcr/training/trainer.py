# SPDX-License-Identifier: Apache-2.0
"""Training of a renderer: the optimizer steps, and the handlers that log, evaluate and save between them (ignite).

The order of an epoch and the augmentation of each sample are drawn from (seed, epoch, position) alone, so that a
resumed run sees the same data as one that never stopped. Several processes of torchrun share each batch; the first one
writes (docs/distributed.md).
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from ignite.engine import Engine, Events
from yacs.config import CfgNode

from npcr import checkpoints, distributed
from npcr.cameras import Cameras, concatenate
from npcr.config import checkpoint_keys, dump_config, to_dict
from npcr.data.cloud_size import with_size
from npcr.data.samples import Sample
from npcr.data.scene import load_clouds, split_holdout
from npcr.errors import CheckpointError, TrainingError
from npcr.evaluation.views import evaluate_views, mean_scores
from npcr.factory import (
    View,
    build_dataset,
    build_loss,
    build_renderer,
    checkpoint_clouds,
    held_out_views,
    merge_checkpoint_config,
    open_scene,
)
from npcr.io.files import remove_leftovers
from npcr.io.points import PointCloud
from npcr.numerics import autocast, deterministic, tf32, warn_without_tensor_cores
from npcr.out_of_memory import explain_out_of_memory
from npcr.renderers import Photographs, RenderOutput, SplatRenderer
from npcr.renderers.half_activations import half_activations
from npcr.training.agreement import (
    refuse_different_scenes,
    refuse_different_settings,
    refuse_different_weights,
    refuse_untrainable,
    warn_of_idle_processes,
    weights_checksum,
)
from npcr.training.batches import Order, samples_from
from npcr.training.exchange import StepExchange
from npcr.training.interruption import StopRequest
from npcr.training.log import NoLog, TrainingLog
from npcr.training.optimizers import (
    build_optimizer,
    halvings_at,
    layers_at,
    learning_rate,
    set_learning_rate,
    trained_parameters,
    warn_of_small_photographs,
)
from npcr.training.pending_losses import STEPS_AHEAD, PendingLosses, StepLosses, mean_losses, take_read
from npcr.training.population import learn_together, prepare, prune, relocation_at
from npcr.training.restarts import epoch_to_resume, refuse_other_run

logger = logging.getLogger("npcr")

MAX_INITIAL_PHOTOGRAPHS = 64  # of a frame, from which points are initialized
_LESS_MEMORY = ("A smaller INPUT.SIZE_TRAIN or INPUT.LAYER_NUM, SOLVER.HALF_ACTIVATIONS True and, in the layered form, "
                "SOLVER.RECOMPUTE_LAYERS True need less; so does a smaller DATASETS.CACHE_MB on the host")


class StepResult(NamedTuple):
    """The result of one optimizer step."""

    losses: PendingLosses[StepLosses]
    output: RenderOutput  # of the last sample of this process
    sample: Sample  # the last one


class Trainer:
    """One training run: `Trainer(cfg, device).run()`.

    Args:
        cfg: the configuration.
        device: where to train.

    Raises:
        ConfigError: DATASETS.TRAIN is empty, or VGG-19's weights cannot be had.
        SceneError: a file of a scene is missing or wrong.
        MissingExtraError: the optimizer needs a package that is not installed.
        NpcrError: several processes cannot train this, or have other settings, scenes or versions.
    """

    def __init__(self, cfg: CfgNode, device: torch.device) -> None:
        self.cfg = cfg
        self.device = device
        self.output = Path(cfg.OUTPUT_DIR)
        refuse_different_settings(cfg, device)
        refuse_untrainable(cfg)
        scene = open_scene(cfg, cfg.DATASETS.TRAIN)
        clouds: list[PointCloud] = [
            with_size(cloud, cfg.MODEL.MAX_SPLATS, (cfg.SOLVER.SEED, frame), f"frame {frame + 1}")
            for frame, cloud in enumerate(load_clouds(Path(cfg.DATASETS.TRAIN), cfg.DATASETS.FRAME_NUM))]
        refuse_different_scenes(scene, clouds)
        cameras = split_holdout(len(scene.cameras), cfg.DATASETS.HOLDOUT_EVERY)[0]
        self.views: list[View] = [(frame, camera) for frame in range(len(scene.frames)) for camera in cameras]
        warn_of_idle_processes(len(self.views))
        self.dataset = build_dataset(cfg, scene, cfg.INPUT.SIZE_TRAIN, device)
        self.held_out = held_out_views(cfg, scene, device)
        renderer = build_renderer(cfg, clouds)
        warn_of_small_photographs(cfg, renderer)
        self.clouds = renderer.initialize_from(clouds, partial(self._photographs, cameras))
        self.renderer = renderer.to(device)
        self.loss = build_loss(cfg).to(device)
        self.optimizer = build_optimizer(cfg, self.renderer)
        self.precision: str = cfg.SOLVER.PRECISION
        warn_without_tensor_cores("SOLVER.PRECISION", self.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "float16")
        self.order = Order(self.views, cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.SEED)
        self.steps_per_epoch = self.order.steps_per_epoch
        self.iteration = 0  # optimizer steps done
        self.seconds = 0.0  # that they took
        self.stop = StopRequest()
        self.exchange = StepExchange(device) if distributed.world_size() > 1 else None
        self._stop_agreed = False  # whether any process was to stop, at the last exchange
        self.result: StepResult | None = None  # of the last step
        self._unread: deque[PendingLosses[StepLosses]] = deque()  # losses of steps that are not logged yet

    def _photographs(self, cameras: list[int], frame: int) -> Photographs:
        """Some of the training photographs of a frame, evenly chosen, for initializing the points."""
        chosen = cameras[::math.ceil(len(cameras) / MAX_INITIAL_PHOTOGRAPHS)]
        samples = [self.dataset.sample(frame, camera) for camera in chosen]
        return Photographs(concatenate([sample.cameras.to("cpu") for sample in samples]),
                           [sample.target[:4].cpu() for sample in samples])

    def _batches(self) -> Iterator[list[Sample]]:
        """Endless batches from `self.iteration` on: this process's samples of each."""
        return samples_from(self.order, self.iteration, self.dataset, self.cfg.DATASETS)

    # One step ---------------------------------------------------------------------------------------------

    def step(self, batch: list[Sample]) -> None:
        """Make one optimizer step over a batch, and set `self.result`; several processes make it over all samples.

        Raises:
            TrainingError: the loss is not finite; on a GPU this may be that of an earlier step, up to `STEPS_AHEAD`.
            ConfigError: SOLVER.DETERMINISTIC, with an operation that torch cannot compute so.
            OutOfMemoryError: the memory does not suffice.
            LostProcessError: another process did not answer.
        """
        with (explain_out_of_memory("training", self.cfg.INPUT.SIZE_TRAIN, _LESS_MEMORY),
              deterministic(self.cfg.SOLVER.DETERMINISTIC), tf32(self.precision == "tf32")):
            self._step(batch)

    def _step(self, batch: list[Sample]) -> None:
        self.renderer.train()
        self.optimizer.zero_grad(set_to_none=True)
        places = self.order.batch(self.iteration)  # of all processes
        count = len(batch) if self.exchange is None else len(places)
        losses = PendingLosses(partial(self._not_finite, self.iteration),
                               partial(mean_losses, self.iteration + 1, self.optimizer.param_groups[0]["lr"]))
        shared = torch.zeros(count, len(self.loss.names), device=self.device)  # losses of all processes
        splats = self.renderer if isinstance(self.renderer, SplatRenderer) else None
        for position, whole in zip(distributed.share(range(count)), batch, strict=True):
            if splats is not None:
                prepare(splats, self.cfg, self.iteration, position, self._progress())
            sample = whole.halved(halvings_at(self.cfg, self._progress()) if splats else 0)
            with autocast(self.precision, self.device), half_activations(self.cfg.SOLVER.HALF_ACTIVATIONS):
                output = self.renderer(sample.cameras, sample.frame)
                regularizers = splats.regularizers(sample.frame) if splats and self.loss.regularizers else None
                terms = self.loss(output.trained_color, output.alpha, output.depth, sample.target[None], regularizers)
            if self.exchange is None:
                losses.add(terms, sample.name)
            else:
                shared[position] = torch.stack([terms[name].detach() for name in self.loss.names])
            self.scaler.scale(terms["total"] / count).backward()
            self.result = StepResult(losses, output, sample)
        if self.exchange is not None:
            self._stop_agreed = self.exchange.add_up(trained_parameters(self.optimizer), shared, self.stop.made)
            for place, row in zip(places, shared, strict=True):
                losses.add(dict(zip(self.loss.names, row, strict=True)), self.dataset.name(*place.view))
        if splats is not None:
            learn_together(splats, self.cfg, self.iteration, self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._unread.append(losses)
        if len(self._unread) > STEPS_AHEAD:  # so that the steps' time is the device's
            self._unread[-1 - STEPS_AHEAD].read()

    def _progress(self) -> float:
        """The share of the training that is over, 0 to 1, by whichever ends it first: its time or its epochs."""
        limit = self.cfg.SOLVER.MAX_MINUTES * 60
        steps = self.iteration / (self.cfg.SOLVER.MAX_EPOCHS * self.steps_per_epoch)
        return min(1.0, max(steps, self.seconds / limit if limit else 0.0))

    def _relocate(self, log: TrainingLog) -> None:
        relocation = relocation_at(self.cfg, self.iteration, self._progress())
        if relocation is not None and isinstance(self.renderer, SplatRenderer):
            log.log_relocation(self.iteration, self.renderer.relocate(self.optimizer, relocation))

    def _prune(self, log: TrainingLog) -> None:
        """Remove what contributes nothing, at the end of the training."""
        def cameras(frame: int) -> Iterator[Cameras]:
            return (self.dataset.sample(*view).cameras for view in self.views if view[0] == frame)

        if self.cfg.SOLVER.PRUNE_BELOW and isinstance(self.renderer, SplatRenderer):
            self._log_losses(log, ahead=0)  # which raises where one is not finite
            self.clouds = prune(self.renderer, self.optimizer, self.clouds, cameras, self.cfg.SOLVER.PRUNE_BELOW)

    def _not_finite(self, iteration: int, losses: dict[str, float], photograph: str) -> TrainingError:
        epoch, step = divmod(iteration, self.steps_per_epoch)
        values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        hint = "" if self.precision == "float32" else " or set SOLVER.PRECISION float32"
        return TrainingError(
            f"the loss is not finite in epoch {epoch + 1}, step {step + 1} of {self.steps_per_epoch}, at "
            f"{photograph} ({values}). Checkpoints in {self.output} are intact; "
            f"lower SOLVER.BASE_LR{hint}")

    # The run ----------------------------------------------------------------------------------------------

    def run(self, watch: Callable[[Engine, TrainingLog], None] | None = None) -> None:
        """Train until SOLVER.MAX_EPOCHS or SOLVER.MAX_MINUTES are over.

        Ctrl-C finishes the step, writes a checkpoint and raises `KeyboardInterrupt`; a second one does so at once.

        Args:
            watch: adds handlers to ignite's engine, such as the viewer's. At ITERATION_COMPLETED they find the step
                counted and logged, and Ctrl-C not yet obeyed.

        Raises:
            CheckpointError: with RESUME, the checkpoint is missing or of another run; or one cannot be written.
            TrainingError: the loss is not finite.
            NpcrError: another process was lost, or has other weights.
        """
        if distributed.is_writer():
            remove_leftovers(self.output)
        epoch = epoch_to_resume(self.cfg)
        if epoch is not None:
            self._resume(epoch)
        refuse_different_weights(self.renderer, self.iteration)
        if distributed.is_writer():  # after: what refuses to go on leaves the run as it was
            dump_config(self.cfg, self.output / "config.yml")
        limit = self.cfg.SOLVER.MAX_MINUTES * 60
        if self.iteration >= self.cfg.SOLVER.MAX_EPOCHS * self.steps_per_epoch or 0 < limit <= self.seconds:
            logger.info("training is complete: %d of %d epochs done", self.iteration // self.steps_per_epoch,
                        self.cfg.SOLVER.MAX_EPOCHS)
            return
        log = (TrainingLog(self.cfg, self.iteration, self.steps_per_epoch, self.seconds) if distributed.is_writer()
               else NoLog())
        engine = self._engine(log, watch)
        logging.getLogger("ignite").setLevel(logging.CRITICAL)  # its tracebacks would bury our errors
        engine.logger.setLevel(logging.CRITICAL)
        engine.load_state_dict({"iteration": self.iteration, "epoch_length": self.steps_per_epoch,
                                "max_epochs": self.cfg.SOLVER.MAX_EPOCHS})
        batches = self._batches()
        try:
            with self.stop.listening():
                engine.run(batches)
                self._log_losses(log, ahead=0)
        finally:
            batches.close()  # type: ignore[attr-defined]
            log.close()
        if self._is_stopping():
            raise KeyboardInterrupt

    def _is_stopping(self) -> bool:
        return self.stop.made if self.exchange is None else self._stop_agreed

    def _engine(self, log: TrainingLog, watch: Callable[[Engine, TrainingLog], None] | None) -> Engine:
        engine = Engine(lambda _, batch: self.step(batch))
        limit = self.cfg.SOLVER.MAX_MINUTES * 60

        @engine.on(Events.ITERATION_STARTED)
        def prepare() -> None:
            self._step_start = time.monotonic()
            set_learning_rate(self.optimizer,
                              learning_rate(self.cfg, self.iteration / self.steps_per_epoch, self._progress()))
            self.renderer.layers = layers_at(self.cfg, engine.state.epoch)

        @engine.on(Events.ITERATION_COMPLETED)
        def report() -> None:
            self.iteration += 1
            self._relocate(log)
            self.seconds += time.monotonic() - self._step_start
            if limit:  # each clock tells another time
                self.seconds = distributed.from_writer(self.seconds)
            self._log_losses(log)

        if watch is not None:
            watch(engine, log)

        @engine.on(Events.ITERATION_COMPLETED)
        def end() -> None:
            if self._is_stopping():
                self._log_losses(log, ahead=0)
                self.save(engine.state.epoch)
                engine.terminate()
            elif limit and self.seconds >= limit:
                self._prune(log)
                self._finish_epoch(log, engine.state.epoch, save=True, evaluate=self.cfg.TEST.PERIOD > 0)
                engine.terminate()
                logger.info("SOLVER.MAX_MINUTES %g are over: %d steps in %d of at most %d epochs",
                            self.cfg.SOLVER.MAX_MINUTES, self.iteration, engine.state.epoch, self.cfg.SOLVER.MAX_EPOCHS)

        @engine.on(Events.EPOCH_COMPLETED)
        def finish_epoch() -> None:
            epoch = engine.state.epoch
            last = epoch == self.cfg.SOLVER.MAX_EPOCHS
            save, evaluate = (period > 0 and (last or epoch % period == 0)
                              for period in (self.cfg.SOLVER.CHECKPOINT_PERIOD, self.cfg.TEST.PERIOD))
            if last:
                self._prune(log)
            self._finish_epoch(log, epoch, save=save, evaluate=evaluate)

        return engine

    def _log_losses(self, log: TrainingLog, ahead: int = STEPS_AHEAD) -> None:
        """Log the steps whose losses are there, and in any case all but the last `ahead`."""
        for losses in take_read(self._unread, ahead, early=self.exchange is None):
            epoch = (losses.iteration - 1) // self.steps_per_epoch + 1
            log.log_step(losses.iteration, epoch, losses.means, losses.lr, self.seconds)

    def _finish_epoch(self, log: TrainingLog, epoch: int, *, save: bool, evaluate: bool) -> None:
        """Save and evaluate at the end of an epoch, or where SOLVER.MAX_MINUTES cut it short."""
        if save or evaluate:
            self._log_losses(log, ahead=0)  # weights after a loss that is not finite are neither saved nor measured
        if save:
            if self.result is not None:  # of this process, which may have had no view yet
                log.log_images(self.iteration, self.result.output, self.result.sample)
            self.save(epoch)
        if evaluate and self.held_out is not None:
            dataset, views = self.held_out
            scores = evaluate_views(self.renderer, dataset, distributed.share(views),
                                    batch=self.cfg.TEST.IMS_PER_BATCH, device=self.device)
            log.log_evaluation(self.iteration, epoch, mean_scores(distributed.gather_shares(scores)))

    # Checkpoints ------------------------------------------------------------------------------------------

    def save(self, epoch: int) -> None:
        """Write the model's file and the training state of an epoch, which may be incomplete after Ctrl-C.

        Of several processes the first one writes; nothing in the files tells how many there were.

        Raises:
            CheckpointError: a file cannot be written.
            NpcrError: another process was lost, or has other weights.
        """
        refuse_different_weights(self.renderer, self.iteration)
        if not distributed.is_writer():
            return
        checkpoints.save_model(checkpoints.model_path(self.output, epoch),
                               checkpoints.make_checkpoint(self.renderer, self.clouds, to_dict(self.cfg), epoch))
        cuda = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        checkpoints.save_training_state(checkpoints.optimizer_path(self.output, epoch), {
            "iteration": self.iteration, "seconds": self.seconds, "steps_per_epoch": self.steps_per_epoch,
            "jobs": [list(view) for view in self.views], "seed": self.cfg.SOLVER.SEED,
            "weights": weights_checksum(self.renderer),
            "optimizer": self.optimizer.state_dict(), "optimizer_name": self.cfg.SOLVER.OPTIMIZER_NAME,
            "scaler": self.scaler.state_dict(), "torch_rng": torch.get_rng_state(), "cuda_rng": cuda})

    def _resume(self, epoch: int) -> None:
        path = checkpoints.optimizer_path(self.output, epoch)
        model_path = checkpoints.model_path(self.output, epoch)
        model = checkpoints.load_model(model_path)
        merge_checkpoint_config(self.cfg, model, model_path, checkpoint_keys("structure"))  # refuses another structure
        self._take_points(model, model_path)
        checkpoints.load_parameters(self.renderer, model, model_path)
        state = checkpoints.load_training_state(path)
        refuse_other_run(state, {"optimizer_name": self.cfg.SOLVER.OPTIMIZER_NAME, "seed": self.cfg.SOLVER.SEED,
                                 "jobs": [list(view) for view in self.views],
                                 "steps_per_epoch": self.steps_per_epoch}, path)
        if state.get("weights") not in (None, weights_checksum(self.renderer)):
            raise CheckpointError(f"{path}: is not of the same step as {model_path.name}, for writing was interrupted "
                                  "between them; name an earlier epoch by LOAD_EPOCH")
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where SOLVER.PRECISION needed none
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["torch_rng"])
        if state["cuda_rng"] and self.device.type == "cuda":
            torch.cuda.set_rng_state_all(state["cuda_rng"][:torch.cuda.device_count()])
        self.iteration = state["iteration"]
        self.seconds = state.get("seconds", 0.0)
        logger.info("resumed from %s: %d of %d epochs done", model_path,
                    self.iteration // self.steps_per_epoch, self.cfg.SOLVER.MAX_EPOCHS)

    def _take_points(self, model: checkpoints.ModelCheckpoint, path: Path) -> None:
        """Begin anew with a checkpoint's clouds where splats of its frames were removed at the end of its training."""
        clouds = checkpoint_clouds(self.cfg, model, path)
        if any(len(now) < len(cloud) for now, cloud in zip(clouds, self.clouds, strict=False)):
            self.clouds = clouds
            self.renderer = build_renderer(self.cfg, clouds).to(self.device)
            self.optimizer = build_optimizer(self.cfg, self.renderer)
