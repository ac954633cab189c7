# SPDX-License-Identifier: Apache-2.0
"""The page docs/configuration.md, made from the table of keys."""

from __future__ import annotations

from math import inf
from typing import Any

from npcr.config.keys import KEYS, SECTIONS
from npcr.config.schema import UNLIMITED, Key

_INTRODUCTION = """\
# Configuration

<!-- Made by `python -m npcr.config > docs/configuration.md` from npcr/config/keys.py. -->

Values come, in this order, from the defaults below, the YAML file of `--config-file`, and `KEY VALUE` pairs at the end
of the command line: `npcr train --config-file datasets/cat/scene.yml SOLVER.MAX_MINUTES 20`. The defaults are the
published settings; new scenes are trained with those of
[`npcr/config/recommended.py`](../npcr/config/recommended.py), which `scene.yml` holds.

*structure* marks keys on which a checkpoint's parameters depend: rendering takes them from the checkpoint, and refuses
a file or a command line that has another value. *rendering* marks keys that a model is rendered with as it was trained,
unless a file or the command line has another value.
"""


def markdown() -> str:
    """Describe all keys in Markdown.

    Returns:
        The page, with a table for each section.
    """
    parts = [_INTRODUCTION]
    for section, title in SECTIONS.items():
        parts.append(f"\n## {f'{section}: ' if section else ''}{title}\n\n"
                     "| Key | Default | Values | Meaning | Checkpoint |\n|---|---|---|---|---|\n")
        parts.extend(_row(key) for name, key in KEYS.items() if name.rpartition(".")[0] == section)
    return "".join(parts)


def _row(key: Key) -> str:
    meaning = key.help + (f" Only with `MODEL.FORM {key.only_form}`." if key.only_form else "")
    return f"| `{key.name}` | {_default(key.default)} | {_values(key)} | {meaning} | {key.checkpoint or ''} |\n"


def _default(value: Any) -> str:
    text = f"[{', '.join(map(_plain, value))}]" if isinstance(value, list) else _plain(value)
    return f"`{text}`" if text else "empty"


def _plain(value: Any) -> str:
    """A number without needless digits, any other value as it is."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value)


def _values(key: Key) -> str:
    """The allowed values in words."""
    if key.choices:
        values = ", ".join(f"`{choice}`" for choice in key.choices)
        return f"a list of {values}" if isinstance(key.default, list) else values
    kind = key.kind
    if isinstance(key.default, list):
        numbers = "whole numbers" if key.element is int else "numbers"
        kind = f"a list of {numbers}" if key.length is None else f"{key.length} {numbers}"
        kind += " or pairs" if key.pairs else ""
    if key.range == UNLIMITED:
        return kind
    low, high = key.range
    each = "each " if isinstance(key.default, list) else ""
    bounds = f"at least {_plain(low)}" if high == inf else f"from {_plain(low)} to {_plain(high)}"
    return f"{kind}, {each}{bounds}"
