# SPDX-License-Identifier: Apache-2.0
"""Progress bar of a training run, and its TensorBoard scalars and images under OUTPUT_DIR/log."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from yacs.config import CfgNode

from npcr.data.samples import Sample
from npcr.progress import progress_bar, write_result
from npcr.renderers import RenderOutput


class TrainingLog:
    """Progress bar and TensorBoard log of one run.

    The bar counts the optimizer steps of the whole run, or its seconds where SOLVER.MAX_MINUTES limits it, so that it
    estimates the time left of the run, not of the epoch.

    Args:
        cfg: the configuration.
        steps_done: optimizer steps that a resumed run has behind it.
        steps_per_epoch: of the training.
        seconds: that these steps took.
    """

    def __init__(self, cfg: CfgNode, steps_done: int, steps_per_epoch: int, seconds: float = 0.0) -> None:
        self.period = cfg.SOLVER.LOG_PERIOD
        self.epochs = cfg.SOLVER.MAX_EPOCHS
        self.writer = SummaryWriter(str(Path(cfg.OUTPUT_DIR) / "log"), purge_step=steps_done or None)
        self.limit = cfg.SOLVER.MAX_MINUTES * 60
        self.losses: dict[str, float] = {}  # of the newest step that was logged
        self.scores: dict[str, float] = {}  # of the newest evaluation
        self.scored_epoch = 0  # when that was
        self.moved: dict[str, int] = {}  # splats that were moved in this run, for the bar
        if self.limit:
            self.bar = progress_bar(total=self.limit, initial=seconds,
                                    bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}")
        else:
            self.bar = progress_bar(total=self.epochs * steps_per_epoch, initial=steps_done, unit="step")

    def log_step(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, seconds: float) -> None:
        """Log one optimizer step.

        Args:
            iteration: steps done, with this one.
            epoch: from 1.
            losses: `total` and each term.
            lr: the learning rate of the first parameter group.
            seconds: that all steps took.
        """
        self.losses = losses
        self.bar.set_description(f"epoch {epoch}, step {iteration}" if self.limit else f"epoch {epoch}/{self.epochs}",
                                 refresh=False)
        self.bar.set_postfix({"loss": f"{losses['total']:.4f}", "lr": f"{lr:.2g}", **self.moved}, refresh=False)
        self.bar.update(min(seconds, self.limit) - self.bar.n if self.limit else 1)
        if iteration % self.period == 0:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, iteration)
            self.writer.add_scalar("learning_rate", lr, iteration)

    def log_relocation(self, iteration: int, moved: int) -> None:
        """Log how many splats became parts of others after an optimizer step."""
        self.moved["moved"] = self.moved.get("moved", 0) + moved
        self.writer.add_scalar("splats/moved", moved, iteration)

    def log_images(self, iteration: int, output: RenderOutput, sample: Sample) -> None:
        """Log the rendered and the target image of a sample, both mattes, depth and region of interest."""
        target_alpha = sample.target[3:4]
        for name, image in (("rendered", output.color[0]), ("target", sample.color), ("alpha", output.alpha[0]),
                            ("alpha_target", target_alpha), ("depth", _depth_image(output.depth[0])),
                            ("region_of_interest", sample.target[4:5])):
            self.writer.add_image(f"train/{name}", image.detach().float().clamp(0, 1), iteration)

    def log_evaluation(self, iteration: int, epoch: int, scores: dict[str, float]) -> None:
        """Log the mean scores of the held-out views, by metric."""
        self.scores, self.scored_epoch = scores, epoch
        for name, value in scores.items():
            self.writer.add_scalar(f"held_out/{name}", value, iteration)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        write_result(f"epoch {epoch}: held-out {text}")

    def close(self) -> None:
        """Close the bar and the log's file; say how many splats were moved."""
        self.bar.close()
        if self.moved:
            write_result(f"{self.moved['moved']} times a splat of no use became part of another")
        self.writer.close()


class NoLog(TrainingLog):
    """The log of a process that does not write: none."""

    def __init__(self) -> None:
        """Do nothing."""

    def log_step(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, seconds: float) -> None:
        """Do nothing."""

    def log_relocation(self, iteration: int, moved: int) -> None:
        """Do nothing."""

    def log_images(self, iteration: int, output: RenderOutput, sample: Sample) -> None:
        """Do nothing."""

    def log_evaluation(self, iteration: int, epoch: int, scores: dict[str, float]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def _depth_image(depth: Tensor) -> Tensor:
    """(1, H, W): near is bright, far is dark, empty is black."""
    occupied = depth > 0
    if not occupied.any():
        return torch.zeros_like(depth)[None]
    near, far = depth[occupied].min(), depth[occupied].max()
    return ((1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6)) * occupied)[None]
