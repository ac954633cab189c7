# SPDX-License-Identifier: Apache-2.0
"""Load, override, check and write the configuration (its keys: `npcr.config.keys`).

Values come, in this order, from the defaults, a YAML file and trailing `KEY VALUE` pairs. An unknown
key, a wrong type or values that contradict each other raise a `ConfigError` that names the file, the key
and what is allowed. Published NPCR YAML files load unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from npcr.config.keys import KEYS, default_config, locate
from npcr.config.schema import parse_text
from npcr.config.validation import validate
from npcr.errors import ConfigError


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
        known = _find(cfg, key, "command line")
        if isinstance(known, CfgNode):
            raise ConfigError(f"command line: {key} is a section; name one of its keys: {', '.join(known)}")
        _assign(cfg, key, parse_text(text), "command line")
    return set(options[::2])


def _assign(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    node, leaf = locate(cfg, key)
    node[leaf] = KEYS[key].convert(value, source)


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


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _beside(folder: str, file: Path) -> str:
    """`folder` beside the configuration file where it exists there, else from the working directory."""
    candidate = file.parent / folder
    return str(candidate) if candidate.exists() else folder
