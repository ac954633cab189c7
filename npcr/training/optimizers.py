# SPDX-License-Identifier: Apache-2.0
"""The optimizer and its schedules, as functions of the configuration and the training's progress."""

from __future__ import annotations

import math
from bisect import bisect_right

import torch
from torch import nn
from yacs.config import CfgNode

from npcr.errors import MissingExtraError

_POINT_KINDS = ("splat", "shade", "opacity", "position", "width")


def build_optimizer(cfg: CfgNode, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
    """Groups: network weights, biases (BIAS_LR_FACTOR, own decay), features and colors (FEATURE_LR_FACTOR), and in
    the blended form the colors' change with direction, opacities, places and widths, each with its factor.

    Each group keeps its rate relative to `lr` (default SOLVER.BASE_LR) as `factor` for `set_learning_rate`.
    """
    solver = cfg.SOLVER
    lr = solver.BASE_LR if lr is None else lr
    kinds = {  # factor, weight decay
        "weight": (1.0, solver.WEIGHT_DECAY),
        "bias": (solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS),
        "feature": (solver.FEATURE_LR_FACTOR, solver.WEIGHT_DECAY),
        # No decay: Adam would move a point that no photograph sees as fast as any other.
        "splat": (solver.FEATURE_LR_FACTOR, 0.0),
        "shade": (solver.HARMONICS_LR_FACTOR, solver.HARMONICS_DECAY),
        "opacity": (solver.OPACITY_LR_FACTOR, 0.0),
        "position": (solver.POSITION_LR_FACTOR, 0.0),
        "width": (solver.WIDTH_LR_FACTOR, 0.0),
    }
    parameters: dict[str, list[nn.Parameter]] = {kind: [] for kind in kinds}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameters[_kind(name, cfg.MODEL.FORM == "blended")].append(parameter)
    groups = [{"params": parameters[kind], "lr": lr * factor, "factor": factor, "weight_decay": decay}
              for kind, (factor, decay) in kinds.items() if parameters[kind]]
    if solver.OPTIMIZER_NAME in ("Adam", "AdamW"):
        # The points' tables are large and plainly laid out. Torch's fused step reads a parameter and its gradient in
        # the order they lie in memory, which must be the same: not to be counted on in a channels_last network.
        for group, kind in zip(groups, (kind for kind in kinds if parameters[kind]), strict=True):
            group["fused"] = kind in _POINT_KINDS
    return _make(solver, groups)


def _kind(name: str, blended: bool) -> str:
    """Which group a parameter of a renderer belongs to."""
    if name.startswith("opacity."):
        return "opacity"
    if name.startswith(("offsets.", "strands.")):
        return "position"
    if name.startswith("shades."):
        return "shade"
    if name.startswith("log_width."):
        return "width"
    if name == "default_feature" or name.startswith(("features.", "colors.")):
        return "splat" if blended else "feature"
    return "bias" if name.endswith("bias") else "weight"


def _make(solver: CfgNode, groups: list[dict]) -> torch.optim.Optimizer:
    if solver.OPTIMIZER_NAME == "SGD":
        return torch.optim.SGD(groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM)
    if solver.OPTIMIZER_NAME == "FusedAdam":
        try:
            from apex.optimizers import FusedAdam
        except ImportError:
            raise MissingExtraError("SOLVER.OPTIMIZER_NAME FusedAdam needs NVIDIA apex, which is not installed "
                                    "(pip install from its sources); Adam gives the same results") from None
        return FusedAdam(groups, lr=solver.BASE_LR, adam_w_mode=False)
    return getattr(torch.optim, solver.OPTIMIZER_NAME)(groups, lr=solver.BASE_LR)


def learning_rate(cfg: CfgNode, epochs_done: float, progress: float = 0.0) -> float:
    """BASE_LR after `epochs_done` epochs (fractions count): warm-up times decay.

    progress: the share of the training that is over, where time and not MAX_EPOCHS decides that.
    """
    solver = cfg.SOLVER
    rate = solver.BASE_LR
    if epochs_done < solver.WARMUP_ITERS:
        warm = epochs_done / solver.WARMUP_ITERS if solver.WARMUP_METHOD == "linear" else 0.0
        rate *= solver.WARMUP_FACTOR * (1 - warm) + warm
    if solver.LR_DECAY == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, max(progress, epochs_done / solver.MAX_EPOCHS))))
    return rate * solver.GAMMA ** bisect_right(solver.STEPS, epochs_done)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def layers_at(cfg: CfgNode, epoch: int) -> int:
    """Layers used in `epoch` (from 1): one more from each epoch in SOLVER.LAYER_SCHEDULE on."""
    if not cfg.SOLVER.LAYER_SCHEDULE:
        return cfg.INPUT.LAYER_NUM
    return 1 + bisect_right(cfg.SOLVER.LAYER_SCHEDULE, epoch)
