# SPDX-License-Identifier: Apache-2.0
"""What a check of a scene results in: measurements, problems and remarks (docs/checking-a-scene.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from npcr.data.cloud_geometry import round_significant


@dataclass(frozen=True)
class Finding:
    """A problem, which should be fixed before training, or a remark, which is worth knowing."""

    name: str
    text: str
    fix: str = ""


@dataclass
class Report:
    """Measurements of a scene, and what follows from them."""

    measures: dict[str, Any]  # numbers by name, ready for JSON
    problems: list[Finding] = field(default_factory=list)
    remarks: list[Finding] = field(default_factory=list)


def round_values(values: Any) -> Any:
    """Round numbers for a report, to four significant digits.

    Args:
        values: a number, or a list or an array of numbers.

    Returns:
        A float, or a list of floats.
    """
    if isinstance(values, (list, np.ndarray)):
        return [round_significant(float(value)) for value in values]
    return round_significant(values)


def format_numbers(numbers: Sequence[int]) -> str:
    """Write a list of camera numbers for a sentence.

    Args:
        numbers: any number of them.

    Returns:
        The first eight, with commas between, and an ellipsis where there are more.
    """
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
