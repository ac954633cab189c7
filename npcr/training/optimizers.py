# SPDX-License-Identifier: Apache-2.0
"""Optimizer, and schedules of learning rate, layers and resolution."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from typing import Any

import torch
from yacs.config import CfgNode

from npcr.config import KEYS
from npcr.errors import MissingExtraError
from npcr.out_of_memory import refuse_beyond_memory
from npcr.renderers import Renderer, SplatRenderer

logger = logging.getLogger("npcr")


def build_optimizer(cfg: CfgNode, renderer: Renderer, lr: float | None = None) -> torch.optim.Optimizer:
    """Make the optimizer that SOLVER.OPTIMIZER_NAME names.

    Args:
        cfg: the configuration; its SOLVER section names optimizer, rates and decays.
        renderer: gives the groups (`Renderer.param_groups`).
        lr: the rate of a group with factor 1; None: SOLVER.BASE_LR.

    Returns:
        The optimizer; each group keeps its rate relative to `lr` as `factor`, for `set_learning_rate`.

    Raises:
        MissingExtraError: the optimizer needs a package that is not installed.
        OutOfMemoryError: what training adds to the renderer does not fit in memory.
    """
    lr = cfg.SOLVER.BASE_LR if lr is None else lr
    adam = cfg.SOLVER.OPTIMIZER_NAME in ("Adam", "AdamW")  # the others know neither `fused` nor, all of them, `eps`
    groups = []
    for group in renderer.param_groups(cfg.SOLVER):
        trained = [parameter for parameter in group["params"] if parameter.requires_grad]
        if trained:
            # Not `fused=False`, which would have torch step through the others one by one on a GPU, too.
            adams: dict[str, Any] = {name: group[name] for name in ("eps", "fused") if adam and name in group}
            groups.append({"params": trained, "lr": lr * group["factor"], "factor": group["factor"],
                           "weight_decay": group["weight_decay"], **adams})
    _refuse_beyond_memory(cfg, renderer, groups)
    return _make(cfg.SOLVER, groups)


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    """List what an optimizer trains.

    Args:
        optimizer: of `build_optimizer`.

    Returns:
        The parameters, in the same order for the same model.
    """
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _refuse_beyond_memory(cfg: CfgNode, renderer: Renderer, groups: list[dict[str, Any]]) -> None:
    """Gradients and the optimizer's numbers come with the first step: better to refuse before it."""
    copies = {"SGD": 2}.get(cfg.SOLVER.OPTIMIZER_NAME, 3)  # gradient and moments
    clouds = {len(renderer.points(frame)) for frame in range(renderer.frames)}
    parameters = [parameter for group in groups for parameter in group["params"]]
    of_points = sum(parameter.nbytes for parameter in parameters if parameter.ndim and len(parameter) in clouds)
    refuse_beyond_memory(copies * sum(parameter.nbytes for parameter in parameters), renderer.device,
                         f"gradients and numbers of {cfg.SOLVER.OPTIMIZER_NAME}",
                         sum(len(renderer.points(frame)) for frame in range(renderer.frames)), copies * of_points)


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
    """Return the base rate at one point of training: BASE_LR times warm-up times decay.

    Args:
        cfg: the configuration.
        epochs_done: fractions count.
        progress: the share of the training that is over, 0 to 1, where time and not MAX_EPOCHS decides that.

    Returns:
        The rate of a group with factor 1.
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
    """Set the rate of every group.

    Args:
        optimizer: of `build_optimizer`.
        lr: the rate of a group with factor 1.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


def layers_at(cfg: CfgNode, epoch: int) -> int:
    """Return how many layers an epoch uses: one more from each epoch in SOLVER.LAYER_SCHEDULE on.

    Args:
        cfg: the configuration.
        epoch: from 1.

    Returns:
        From 1 to INPUT.LAYER_NUM.
    """
    if not cfg.SOLVER.LAYER_SCHEDULE:
        return cfg.INPUT.LAYER_NUM
    return 1 + bisect_right(cfg.SOLVER.LAYER_SCHEDULE, epoch)


def halvings_at(cfg: CfgNode, progress: float) -> int:
    """Return how often a step's photographs are halved: SOLVER.RESOLUTION_SCHEDULE, as far as they are large enough.

    Args:
        cfg: the configuration.
        progress: the share of the training that is over, 0 to 1.

    Returns:
        0: full resolution.
    """
    schedule, smallest = cfg.SOLVER.RESOLUTION_SCHEDULE, KEYS["INPUT.SIZE_TRAIN"].range[0]
    possible = max(0, int(math.log2(min(cfg.INPUT.SIZE_TRAIN) / smallest)))
    return min(possible, len(schedule) - bisect_right(schedule, progress))


def warn_of_small_photographs(cfg: CfgNode, renderer: Renderer) -> None:
    """Say where INPUT.SIZE_TRAIN is too small for SOLVER.RESOLUTION_SCHEDULE.

    Args:
        cfg: the configuration.
        renderer: only a `SplatRenderer` reads the schedule.
    """
    asked, made = len(cfg.SOLVER.RESOLUTION_SCHEDULE), halvings_at(cfg, 0.0)
    if made < asked and isinstance(renderer, SplatRenderer):
        logger.warning("SOLVER.RESOLUTION_SCHEDULE asks for %d halvings; INPUT.SIZE_TRAIN %s is halved %d times, for "
                       "no side may be below %d pixels", asked, list(cfg.INPUT.SIZE_TRAIN), made,
                       KEYS["INPUT.SIZE_TRAIN"].range[0])
