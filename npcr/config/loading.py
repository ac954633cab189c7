# SPDX-License-Identifier: Apache-2.0
"""Load, override, check and write the configuration (its keys: `npcr.config.keys`).

Values come, in this order, from the defaults, a YAML file and trailing `KEY VALUE` pairs. An unknown
key, a wrong type or values that contradict each other raise a `ConfigError` that names the file, the key
and what is allowed. Published NPCR YAML files load unchanged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from npcr.config.keys import KEYS, default_config, locate
from npcr.config.schema import parse_text
from npcr.config.validation import validate
from npcr.errors import ConfigError

logger = logging.getLogger("npcr")

_SOURCES = "npcr_sources"  # an attribute of a configuration, which copies keep: what set each key, "": the file


def load_config(file: str | Path | None = None, options: Sequence[str] = ()) -> CfgNode:
    """Load a configuration: the defaults, then a file, then options.

    Args:
        file: YAML; None: none.
        options: "KEY", "VALUE" and so on.

    Returns:
        The configuration, checked and frozen. Scenes that lie beside the file are named by their whole path.

    Raises:
        ConfigError: the file cannot be read, or a key or a value is wrong.
    """
    cfg = default_config()
    if file is not None:
        cfg.__dict__[_SOURCES] = {"": str(file)}
        _merge(cfg, _read_yaml(Path(file)), "", str(file))
        if cfg.DATASETS.TRAIN:
            cfg.DATASETS.TRAIN = _beside(cfg.DATASETS.TRAIN, Path(file))
        if cfg.DATASETS.TEST:
            cfg.DATASETS.TEST = _beside(cfg.DATASETS.TEST, Path(file))
    _merge_options(cfg, options)
    validate(cfg, str(file) if file is not None else "configuration", cfg.__dict__.get(_SOURCES, {}))
    cfg.freeze()
    return cfg


def source_of(cfg: CfgNode, key: str) -> str:
    """Name what set the value of a key, for messages about it.

    Args:
        cfg: the configuration.
        key: its dotted name.

    Returns:
        The file or "command line"; for a default, the file that could have set it, or "configuration".
    """
    sources = cfg.__dict__.get(_SOURCES, {})
    return str(sources.get(key) or sources.get("") or "configuration")


def unread_keys(cfg: CfgNode) -> list[str]:
    """List the keys that somebody set to another value than the default, but that MODEL.FORM does not read.

    What every scene.yml has (`Key.in_scene_files`) is among them only where the command line set it.

    Args:
        cfg: the configuration.

    Returns:
        Dotted names.
    """
    sources = cfg.__dict__.get(_SOURCES, {})
    return [name for name, key in KEYS.items() if cfg.MODEL.FORM in key.unread_by and name in sources
            and _value(cfg, name) != key.default
            and not (key.in_scene_files and sources[name] == sources.get(""))]


def explicit_keys(file: str | Path | None = None, options: Sequence[str] = ()) -> frozenset[str]:
    """List the keys that a file or options set; the others have their defaults.

    Args:
        file: YAML, as `load_config` takes it.
        options: "KEY", "VALUE" and so on.

    Returns:
        Dotted names.

    Raises:
        ConfigError: the file cannot be read.
    """
    values = {} if file is None else _read_yaml(Path(file))
    return frozenset(options[::2]) | {name for name in KEYS if _has(values, name)}


def load_beside(paths: Iterable[Path]) -> CfgNode:
    """Load the configuration that tools/render.py wrote beside its frames.

    Args:
        paths: folders of pictures, and videos; config.yml is in or beside the first that has one.

    Returns:
        The configuration; the defaults where there is none that can be read.
    """
    for path in paths:
        for file in (path / "config.yml", path.parent / "config.yml"):
            if file.is_file():
                try:
                    return load_config(file)
                except ConfigError as error:
                    logger.warning("its settings are not used: %s", error)
    return default_config()


def changed(cfg: CfgNode, **values: Any) -> CfgNode:
    """Copy a configuration with some values replaced.

    Args:
        cfg: the configuration.
        **values: `SECTION__KEY=value` each.

    Returns:
        The copy, checked and frozen.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    copy = cfg.clone()
    copy.defrost()
    for name, value in values.items():
        _assign(copy, name.replace("__", "."), value, "configuration")
    validate(copy, "configuration")
    copy.freeze()
    return copy


def dump_config(cfg: CfgNode, path: Path) -> None:
    """Write a configuration as YAML; loading it gives the same configuration again.

    Args:
        cfg: the configuration.
        path: the file; its folder is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(to_dict(cfg), sort_keys=False, default_flow_style=None), encoding="utf-8")


def to_dict(cfg: CfgNode) -> dict[str, Any]:
    """Return a configuration as plain dicts, lists, numbers and strings.

    Args:
        cfg: the configuration, or a section.

    Returns:
        Nested by section.
    """
    return {k: to_dict(v) if isinstance(v, CfgNode) else _plain(v) for k, v in cfg.items()}


def from_dict(values: dict[str, Any], source: str) -> CfgNode:
    """Make a configuration of nested values, the inverse of `to_dict`.

    Args:
        values: nested by section; keys that are missing have their defaults.
        source: the values' origin, for error messages.

    Returns:
        The configuration, checked and frozen.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    cfg = default_config()
    _merge(cfg, values, "", source)
    validate(cfg, source)
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


def _merge(cfg: CfgNode, values: dict[str, Any], prefix: str, source: str) -> None:
    """Write nested `values` into `cfg`."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if _retired(key, value, source):
            continue
        known = _find(cfg, key, source)
        if isinstance(known, CfgNode):
            if value is None:
                continue  # an empty section
            if not isinstance(value, dict):
                raise ConfigError(f"{source}: {key} is a section with keys {', '.join(known)}; found {value!r}")
            _merge(cfg, value, f"{key}.", source)
        else:
            _assign(cfg, key, value, source)


def _merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    if len(options) % 2:
        raise ConfigError(f"command line: KEY VALUE pairs expected; {options[-1]!r} has no value")
    for key, text in zip(options[::2], options[1::2], strict=True):
        known = _find(cfg, key, "command line")
        if isinstance(known, CfgNode):
            raise ConfigError(f"command line: {key} is a section; name one of its keys: {', '.join(known)}")
        _assign(cfg, key, parse_text(text), "command line")


def _retired(key: str, value: Any, source: str) -> bool:
    """Whether a key of files is one of older versions, which now has no effect; says so where that matters."""
    if key != "SOLVER.AMP":
        return False
    if value:
        logger.info("%s: SOLVER.AMP %s has no effect now: training is in float32. SOLVER.PRECISION bfloat16, or "
                    "float16 on a V100, is what it did on a GPU", source, value)
    return True


def _assign(cfg: CfgNode, key: str, value: Any, source: str) -> None:
    node, leaf = locate(cfg, key)
    node[leaf] = KEYS[key].convert(value, source)
    cfg.__dict__.setdefault(_SOURCES, {})[key] = source


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


def _value(cfg: CfgNode, name: str) -> Any:
    node, leaf = locate(cfg, name)
    return node[leaf]


def _has(values: Any, name: str) -> bool:
    """Whether nested values have a key of this dotted name."""
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (list, tuple)) else value


def _beside(folder: str, file: Path) -> str:
    """`folder` beside the configuration file where it exists there, else from the working directory."""
    candidate = file.parent / folder
    return str(candidate) if candidate.exists() else folder
