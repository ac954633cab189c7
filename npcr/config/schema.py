# SPDX-License-Identifier: Apache-2.0
"""What a configuration key is: its default, its help, what values it takes, and how a value becomes one of them."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from npcr.errors import ConfigError

# What a checkpoint has to do with a key. "structure": its parameters depend on it, so that the configuration must
# agree. "rendering": it was trained with this value, and is rendered with it unless the user set another.
CheckpointRole = Literal["structure", "rendering"]
UNLIMITED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Key:
    """One configuration key; `npcr.config.keys` holds all of them."""

    name: str  # dotted: SECTION.KEY, or KEY for those without a section
    default: Any  # bool, int, float, str or list; a value has the same type
    help: str  # one or more sentences
    choices: tuple[str, ...] = ()  # the allowed texts; empty: any. For a list, of every entry
    range: tuple[float, float] = UNLIMITED  # lowest and highest number, inclusive. For a list, of every entry
    length: int | None = None  # entries of a list; None: any number
    element: type = float  # of a list's entries: float, int or str
    pairs: bool = False  # a list may hold pairs of numbers, which are written one after the other
    checkpoint: CheckpointRole | None = None
    unread_by: tuple[str, ...] = ()  # values of MODEL.FORM that do not read it; `unread_keys` says so where it is set
    in_scene_files: bool = False  # every scene.yml has it: that a form does not read it is said of options only
    only_form: str = ""  # the value of MODEL.FORM with which alone it may differ from the default; empty: any

    def convert(self, value: Any, source: str) -> Any:
        """Return a value in this key's type.

        Args:
            value: as YAML or the command line gave it.
            source: the value's origin, for the error message.

        Raises:
            ConfigError: the value is of another kind.
        """
        converted = self._converted(value)
        if converted is None:
            raise ConfigError(f"{source}: {self.name} is {value!r} ({type(value).__name__}); it needs {self.kind}, "
                              f"such as {self.default!r}")
        return converted

    def check(self, value: Any, source: str) -> None:
        """Compare a converted value with the choices, the range and the length.

        Args:
            value: in this key's type.
            source: the value's origin, for the error message.

        Raises:
            ConfigError: the value is not allowed.
        """
        entries = value if isinstance(value, list) else [value]
        if self.choices and any(entry not in self.choices for entry in entries):
            raise ConfigError(f"{source}: {self.name} is {value!r}; allowed: {', '.join(self.choices)}")
        low, high = self.range
        if self.range != UNLIMITED and not all(low <= entry <= high for entry in entries):  # false for NaN
            raise ConfigError(f"{source}: {self.name} is {value}; each number must be {self.bounds}")
        if self.length is not None and len(value) != self.length:
            raise ConfigError(f"{source}: {self.name} has {len(value)} numbers; it needs {self.length}")

    @property
    def kind(self) -> str:
        """What values this key takes, in words."""
        if isinstance(self.default, list):
            return "a list of names" if self.element is str else "a list of numbers"
        return {bool: "True or False", int: "a whole number", float: "a number", str: "text"}[type(self.default)]

    @property
    def bounds(self) -> str:
        """The range in words; empty where there is none."""
        low, high = self.range
        if self.range == UNLIMITED:
            return ""
        return f"at least {low:g}" if math.isinf(high) else f"from {low:g} to {high:g}"

    def _converted(self, value: Any) -> Any:
        """`value` in this key's type, or None where it is of another kind."""
        converters: dict[type, Callable[[Any], Any]] = {bool: _boolean, int: _integer, float: _number, str: _text,
                                                        list: self._entries}
        return converters[type(self.default)](value)

    def _entries(self, value: Any) -> list[Any] | None:
        if self.element is str:
            return _names(value)
        if isinstance(value, str):
            value = parse_text(value)
        if not isinstance(value, (list, tuple)):
            return None
        if self.pairs and any(isinstance(entry, (list, tuple)) for entry in value):
            if not all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in value):
                return None
            value = [number for pair in value for number in pair]
        numbers = [(_integer if self.element is int else _number)(entry) for entry in value]
        return None if None in numbers else numbers


def parse_text(text: str) -> Any:
    """Read a value from the command line.

    Args:
        text: a Python literal, true or false in any case, or plain text.

    Returns:
        The literal's value, a boolean, or the text itself.
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False}.get(text.lower(), text)


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    if isinstance(value, (list, tuple)) and len(value) == 1:  # published files: a tuple of one folder
        value = value[0]
    return value if isinstance(value, str) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == math.floor(number) else None


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


def _names(value: Any) -> list[str] | None:
    """A list of names, each once, from a list or from text such as "a,b", "[a, b]" or "none"."""
    if isinstance(value, str):
        value = [] if value == "none" else [name.strip() for name in value.strip("[]").split(",")]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        return None
    return list(dict.fromkeys(value))
