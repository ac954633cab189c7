# SPDX-License-Identifier: Apache-2.0
"""Check a whole configuration: each value by its key, and values that must fit together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from yacs.config import CfgNode

from npcr.config.keys import KEYS, locate
from npcr.errors import ConfigError


def validate(cfg: CfgNode, source: str, sources: Mapping[str, str] = MappingProxyType({})) -> None:
    """Check every value of a configuration.

    Args:
        cfg: all keys, each in its type.
        source: the values' origin, for error messages.
        sources: the origin of single keys, where it is known.

    Raises:
        ConfigError: a value is out of range, or two values contradict each other.
    """
    for name, key in KEYS.items():
        node, leaf = locate(cfg, name)
        key.check(node[leaf], sources.get(name, source))
        if key.only_form not in ("", cfg.MODEL.FORM) and node[leaf] != key.default:
            raise ConfigError(f"{source}: {name} {node[leaf]} is for MODEL.FORM {key.only_form}; here it is "
                              f"{cfg.MODEL.FORM}")
    _check_device(cfg, source)
    _check_together(cfg, source)


def _check_device(cfg: CfgNode, source: str) -> None:
    name = cfg.MODEL.DEVICE
    if name not in ("cuda", "cpu") and not (name.startswith("cuda:") and name[5:].isdigit()):
        raise ConfigError(f"{source}: MODEL.DEVICE is {name!r}; allowed: cuda, cpu, cuda:N")


def _check_together(cfg: CfgNode, source: str) -> None:
    near, far, _ = cfg.INPUT.NEAR_FAR_SIZE
    if near >= far:
        raise ConfigError(f"{source}: INPUT.NEAR_FAR_SIZE has near {near:g} not below far {far:g}")
    center = cfg.DATASETS.CENTER
    if len(center) % 2 and not all(isinstance(c, list) for c in center):
        raise ConfigError(f"{source}: DATASETS.CENTER has {len(center)} numbers; it needs pairs of [y, x]")
    if cfg.DATASETS.HOLDOUT_EVERY == 1:
        raise ConfigError(f"{source}: DATASETS.HOLDOUT_EVERY 1 leaves no camera to train on; use 0 or at least 2")
    if cfg.DATASETS.HOLDOUT_EVERY and cfg.DATASETS.TEST:
        raise ConfigError(f"{source}: DATASETS.TEST and DATASETS.HOLDOUT_EVERY both name held-out views; "
                          "give one of them")
    schedule = cfg.SOLVER.LAYER_SCHEDULE
    if schedule != sorted(set(schedule)):
        raise ConfigError(f"{source}: SOLVER.LAYER_SCHEDULE is {schedule}; the epochs must increase")
    if schedule and len(schedule) != cfg.INPUT.LAYER_NUM - 1:
        raise ConfigError(f"{source}: SOLVER.LAYER_SCHEDULE has {len(schedule)} epochs, but INPUT.LAYER_NUM "
                          f"{cfg.INPUT.LAYER_NUM} adds {cfg.INPUT.LAYER_NUM - 1} layers to the first")
    if sorted(set(cfg.SOLVER.STEPS)) != cfg.SOLVER.STEPS:
        raise ConfigError(f"{source}: SOLVER.STEPS is {cfg.SOLVER.STEPS}; the epochs must increase")
    doublings = cfg.SOLVER.RESOLUTION_SCHEDULE
    if doublings != sorted(set(doublings)):
        raise ConfigError(f"{source}: SOLVER.RESOLUTION_SCHEDULE is {doublings}; the shares must increase")
    if cfg.SOLVER.RECOMPUTE_LAYERS and cfg.MODEL.NORM == "batch":
        raise ConfigError(f"{source}: SOLVER.RECOMPUTE_LAYERS takes layers one by one, but MODEL.NORM batch has "
                          "statistics over all of them; use instance or none")
    moved = cfg.SOLVER.RELOCATE_EVERY and cfg.MODEL.FORM not in KEYS["SOLVER.RELOCATE_EVERY"].unread_by
    if moved and cfg.SOLVER.RELOCATE_BY == "gradient" and cfg.SOLVER.OPTIMIZER_NAME == "SGD":
        raise ConfigError(f"{source}: SOLVER.RELOCATE_BY gradient reads the mean squares of the gradients, which "
                          "SOLVER.OPTIMIZER_NAME SGD does not keep; use Adam or AdamW, or RELOCATE_BY opacity")
    given = cfg.SOLVER.POINT_EPS
    if given != KEYS["SOLVER.POINT_EPS"].default and cfg.SOLVER.OPTIMIZER_NAME not in ("Adam", "AdamW"):
        raise ConfigError(f"{source}: SOLVER.POINT_EPS is Adam's, and SOLVER.OPTIMIZER_NAME is "
                          f"{cfg.SOLVER.OPTIMIZER_NAME}; leave it out, or use Adam or AdamW")
    if not any((cfg.LOSS.PERCEPTUAL, cfg.LOSS.MSE, cfg.LOSS.L1, cfg.LOSS.GRADIENT, cfg.LOSS.SSIM)):
        raise ConfigError(f"{source}: every weight under LOSS is 0; nothing would be learned")
