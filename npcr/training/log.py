# SPDX-License-Identifier: Apache-2.0
"""What a training run shows: a progress bar, and TensorBoard scalars and pictures under OUTPUT_DIR/log."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from yacs.config import CfgNode

from npcr.data.samples import Sample
from npcr.renderers import RenderOutput


class TrainingLog:
    """The bar counts optimizer steps over the whole run, or its seconds where SOLVER.MAX_MINUTES ends it, so that
    its time left is the run's."""

    def __init__(self, cfg: CfgNode, done: int, steps_per_epoch: int, seconds: float = 0.0) -> None:
        self.period = cfg.SOLVER.LOG_PERIOD
        self.epochs = cfg.SOLVER.MAX_EPOCHS
        self.writer = SummaryWriter(str(Path(cfg.OUTPUT_DIR) / "log"), purge_step=done or None)
        self.limit = cfg.SOLVER.MAX_MINUTES * 60
        if self.limit:
            self.bar = tqdm(total=self.limit, initial=seconds, dynamic_ncols=True,
                            bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}")
        else:
            self.bar = tqdm(total=self.epochs * steps_per_epoch, initial=done, unit="step", dynamic_ncols=True)

    def step(self, iteration: int, epoch: int, losses: dict[str, float], lr: float, seconds: float) -> None:
        """`iteration` steps are done, in `seconds`."""
        self.bar.set_description(f"epoch {epoch}, step {iteration}" if self.limit else f"epoch {epoch}/{self.epochs}",
                                 refresh=False)
        self.bar.set_postfix(loss=f"{losses['total']:.4f}", lr=f"{lr:.2g}", refresh=False)
        self.bar.update(min(seconds, self.limit) - self.bar.n if self.limit else 1)
        if iteration % self.period == 0:
            for name, value in losses.items():
                self.writer.add_scalar(f"loss/{name}", value, iteration)
            self.writer.add_scalar("learning_rate", lr, iteration)

    def pictures(self, iteration: int, output: RenderOutput, sample: Sample) -> None:
        """Rendered, target, both mattes, depth and region of interest of the last training sample."""
        target_alpha = sample.target[3:4]
        for name, image in (("rendered", output.color[0]), ("target", sample.color), ("alpha", output.alpha[0]),
                            ("alpha_target", target_alpha), ("depth", _shown_depth(output.depth[0])),
                            ("region_of_interest", sample.target[4:5])):
            self.writer.add_image(f"train/{name}", image.detach().float().clamp(0, 1), iteration)

    def evaluation(self, iteration: int, epoch: int, scores: dict[str, float]) -> None:
        for name, value in scores.items():
            self.writer.add_scalar(f"held_out/{name}", value, iteration)
        text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
        self.bar.write(f"epoch {epoch}: held-out {text}")

    def close(self) -> None:
        self.bar.close()
        self.writer.close()


def _shown_depth(depth: Tensor) -> Tensor:
    """(1, H, W): near is bright, far is dark, empty is black."""
    seen = depth > 0
    if not seen.any():
        return torch.zeros_like(depth)[None]
    near, far = depth[seen].min(), depth[seen].max()
    return ((1 - 0.8 * (depth - near) / (far - near).clamp(min=1e-6)) * seen)[None]
