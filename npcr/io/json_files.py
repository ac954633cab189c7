# SPDX-License-Identifier: Apache-2.0
"""Writing JSON files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from npcr.io.files import atomic_write


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
