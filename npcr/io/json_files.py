# SPDX-License-Identifier: Apache-2.0
"""Reading and writing JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from npcr.errors import SceneError
from npcr.io.files import atomic_write
from npcr.io.text import read_bytes


def read_json(path: str | Path, kind: str, main_key: str) -> dict[str, Any]:
    """Read a file whose top level is an object.

    Args:
        path: JSON in UTF-8.
        kind: what the file is, for messages, such as "transforms.json".
        main_key: what such an object has in any case, for messages.

    Returns:
        Its values.

    Raises:
        SceneError: it cannot be read, is no such file, or gives a key two values.
    """
    path = Path(path)
    try:
        values = json.loads(read_bytes(path).decode("utf-8-sig"),
                            object_pairs_hook=lambda pairs: _without_contradiction(pairs, path))
    except UnicodeDecodeError as error:
        raise SceneError(f"{path}: not text in UTF-8 (byte {error.start}); save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise SceneError(f"{path}, line {error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise SceneError(f"{path}: not a {kind}: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise SceneError(f"{path}: not a {kind}: {error}") from None
    if not isinstance(values, dict):
        raise SceneError(f"{path}: needs an object with '{main_key}', found {type(values).__name__}")
    return values


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, atomically; numbers that are not finite, which JSON lacks, become null.

    Args:
        path: the file; missing parent folders are made.
        value: of dicts, lists, tuples, strings, numbers, booleans and None.

    Raises:
        OSError: the file cannot be written.
        TypeError: a value is of another type.
    """
    text = json.dumps(_replace_non_finite(value), indent=1, allow_nan=False)
    with atomic_write(path, "w") as file:
        file.write(text + "\n")


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_non_finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_contradiction(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """The object of these keys; JSON itself would silently take the last of two values."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values and values[key] != value:
            first, second = (repr(one)[:60] for one in (values[key], value))
            raise SceneError(f"{path}: an object has the key {key!r} twice, {first} and {second}; take one away")
        values[key] = value
    return values
