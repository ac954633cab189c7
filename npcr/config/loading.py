# SPDX-License-Identifier: Apache-2.0
"""Load, override, check and write the configuration (its keys: `npcr.config.schema`).

Values come, in this order, from the defaults, a YAML file and trailing `KEY VALUE` pairs. An unknown
key, a wrong type or values that contradict each other raise a `ConfigError` that names the file, the key
and what is allowed. Published NPCR YAML files load unchanged.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from npcr.config.schema import CHOICES, DEFAULTS, INTEGER_LISTS, LENGTHS, RANGES, TEXT_LISTS
from npcr.errors import ConfigError


def default_config() -> CfgNode:
    """A fresh, mutable copy of the defaults."""
    return DEFAULTS.clone()


def load_config(file: str | Path | None = None, options: Sequence[str] = ()) -> CfgNode:
    """Defaults, then the YAML `file`, then `options` ("KEY", "VALUE", ...), checked and frozen.

    `explicit_keys` of the result tells which keys the file or the options set. Raises `ConfigError`.
    """
    cfg = default_config()
    explicit: set[str] = set()
    if file is not None:
        explicit |= _merge(cfg, _read_yaml(Path(file)), "", str(file))
        if cfg.DATASETS.TRAIN:
            cfg.DATASETS.TRAIN = _beside(cfg.DATASETS.TRAIN, Path(file))
        if cfg.DATASETS.TEST:
            cfg.DATASETS.TEST = _beside(cfg.DATASETS.TEST, Path(file))
    explicit |= _merge_options(cfg, options)
    validate(cfg, str(file) if file is not None else "configuration")
    cfg.__dict__["explicit"] = frozenset(explicit)
    cfg.freeze()
    return cfg


def explicit_keys(cfg: CfgNode) -> frozenset[str]:
    """Dotted names of the keys that a file or the command line set (the rest are defaults)."""
    return cfg.__dict__.get("explicit", frozenset())


def changed(cfg: CfgNode, **values: Any) -> CfgNode:
    """A frozen copy with `SECTION__KEY=value` replaced, for callers that adjust a loaded configuration."""
    copy = cfg.clone()
    copy.defrost()
    for name, value in values.items():
        _assign(copy, name.replace("__", "."), value, "configuration")
    validate(copy, "configuration")
    copy.freeze()
    return copy


def dump_config(cfg: CfgNode, path: Path) -> None:
    """Write the resolved configuration as YAML; loading it gives the same configuration again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(to_dict(cfg), sort_keys=False, default_flow_style=None), encoding="utf-8")


def to_dict(cfg: CfgNode) -> dict[str, Any]:
    """The configuration as plain dicts, lists, numbers and strings."""
    return {k: to_dict(v) if isinstance(v, CfgNode) else _plain(v) for k, v in cfg.items()}


def from_dict(values: dict[str, Any], source: str) -> CfgNode:
    """The inverse of `to_dict`; `source` names the values' origin in error messages."""
    cfg = default_config()
    explicit = _merge(cfg, values, "", source)
    validate(cfg, source)
    cfg.__dict__["explicit"] = frozenset(explicit)
    cfg.freeze()
    return cfg


def validate(cfg: CfgNode, source: str) -> None:
    """Raise `ConfigError` where a value is out of range or two values contradict each other."""
    for key, allowed in CHOICES.items():
        value = _get(cfg, key)
        if any(each not in allowed for each in (value if isinstance(value, list) else [value])):
            raise ConfigError(f"{source}: {key} is {value!r}; allowed: {', '.join(allowed)}")
    for key, (low, high) in RANGES.items():
        value = _get(cfg, key)
        for number in value if isinstance(value, list) else [value]:
            if not (low <= number <= high):  # also false for NaN
                bounds = f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"
                raise ConfigError(f"{source}: {key} is {value}; each number must be {bounds}")
    for key, length in LENGTHS.items():
        if len(_get(cfg, key)) != length:
            raise ConfigError(f"{source}: {key} has {len(_get(cfg, key))} numbers; it needs {length}")
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
    if cfg.SOLVER.RECOMPUTE_LAYERS and cfg.MODEL.NORM == "batch":
        raise ConfigError(f"{source}: SOLVER.RECOMPUTE_LAYERS takes layers one by one, but MODEL.NORM batch has "
                          "statistics over all of them; use instance or none")
    if cfg.MODEL.FORM == "blended" and cfg.MODEL.LEGACY:
        raise ConfigError(f"{source}: MODEL.LEGACY True is about published models, which have MODEL.FORM layered")
    if cfg.MODEL.FORM == "blended" and cfg.SOLVER.RECOMPUTE_LAYERS:
        raise ConfigError(f"{source}: SOLVER.RECOMPUTE_LAYERS is for MODEL.FORM layered; blended has one network pass")
    if not any((cfg.LOSS.PERCEPTUAL, cfg.LOSS.MSE, cfg.LOSS.L1, cfg.LOSS.GRADIENT, cfg.LOSS.SSIM)):
        raise ConfigError(f"{source}: every weight under LOSS is 0; nothing would be learned")


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: needs sections such as 'MODEL:', found {type(values).__name__}")
    return values


def _merge(cfg: CfgNode, values: dict[str, Any], prefix: str, source: str) -> set[str]:
    """Write nested `values` into `cfg`; returns the dotted keys written."""
    written: set[str] = set()
    for name, value in values.items():
        key = f"{prefix}{name}"
        known = _find(cfg, key, source)
        if isinstance(known, CfgNode):
            if value is None:
                continue  # an empty section
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {key} is a section with keys {', '.join(known)}; found {value!r}")
            written |= _merge(cfg, value, f"{key}.", source)
        else:
            _assign(cfg, key, value, source)
            written.add(key)
    return written


def _merge_options(cfg: CfgNode, options: Sequence[str]) -> set[str]:
    if len(options) % 2:
        raise ConfigError(f"command line: KEY VALUE pairs expected; {options[-1]!r} has no value")
    for key, text in zip(options[::2], options[1::2], strict=True):
        if isinstance(_find(cfg, key, "command line"), CfgNode):
            raise ConfigError(f"command line: {key} is a section; name one of its keys: "
                              f"{', '.join(_get(cfg, key))}")
        _assign(cfg, key, _parse(text), "command line")
    return set(options[::2])


def _parse(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _assign(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    default = _get(DEFAULTS, key)
    converted = _convert(value, default, key)
    if converted is None:
        kind = {bool: "True or False", int: "a whole number", float: "a number", str: "text",
                list: "a list of names" if key in TEXT_LISTS else "a list of numbers"}[type(default)]
        raise ConfigError(f"{source}: {key} is {value!r} ({type(value).__name__}); it needs {kind}, "
                          f"such as {default!r}")
    *sections, leaf = key.split(".")
    node = cfg
    for section in sections:
        node = node[section]
    node[leaf] = converted


def _convert(value: Any, default: Any, key: str) -> Any:
    """`value` in the type of `default`, or None where it is of another kind."""
    if isinstance(default, bool):
        return value if isinstance(value, bool) else None
    if isinstance(default, list):
        return _convert_list(value, key)
    if isinstance(default, str):
        if isinstance(value, (list, tuple)) and len(value) == 1:  # published files: a tuple of one folder
            value = value[0]
        return value if isinstance(value, str) else None
    number = _number(value)
    if number is None or isinstance(default, float):
        return number
    return int(number) if number == math.floor(number) else None


def _convert_list(value: Any, key: str) -> list[Any] | None:
    if key in TEXT_LISTS:
        return _names(value)
    if isinstance(value, str):
        value = _parse(value)
    if not isinstance(value, (list, tuple)):
        return None
    if key == "DATASETS.CENTER" and any(isinstance(pair, (list, tuple)) for pair in value):
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in value):
            return None
        value = [entry for pair in value for entry in pair]
    numbers = [_number(entry) for entry in value]
    if any(number is None for number in numbers):
        return None
    if key in INTEGER_LISTS:
        if any(number != math.floor(number) for number in numbers if number is not None):
            return None
        return [int(number) for number in numbers if number is not None]
    return numbers


def _names(value: Any) -> list[str] | None:
    """A list of names, each once, from a list or from text such as "a,b", "[a, b]" or "none"."""
    if isinstance(value, str):
        value = [] if value == "none" else [name.strip() for name in value.strip("[]").split(",")]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        return None
    return list(dict.fromkeys(value))


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):  # YAML 1.1 reads "5e-5" as text
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _find(cfg: CfgNode, key: str, source: str) -> Any:
    node: Any = cfg
    known: Iterable[str] = cfg
    for name in str(key).split("."):
        if not isinstance(node, CfgNode) or name not in node:
            parent = key.rpartition(".")[0]
            place = f"keys under {parent}" if parent else "sections and keys"
            raise ConfigError(f"{source}: unknown key {key}; {place}: {', '.join(known)}")
        node = node[name]
        known = node if isinstance(node, CfgNode) else ()
    return node


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for name in key.split("."):
        node = node[name]
    return node


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _beside(folder: str, file: Path) -> str:
    """`folder` beside the configuration file where it exists there, else from the working directory."""
    candidate = file.parent / folder
    return str(candidate) if candidate.exists() else folder
