# SPDX-License-Identifier: Apache-2.0
"""docs/architecture.md names what exists: every dotted name resolves, every room of the table is a room."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tests.test_imports import MAY_IMPORT

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(npcr(?:\.\w+)+)`", PAGE)))


def resolve(name: str) -> object:
    """The module, class or function that a dotted name means; raises where there is none."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[count:]:
            found = getattr(found, attribute)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", NAMES)
def test_names_on_the_page_exist(name: str) -> None:
    assert resolve(name) is not None


def test_the_way_of_a_point_is_told_by_functions() -> None:
    assert sum(callable(resolve(name)) for name in NAMES) >= 20


def test_every_room_is_in_the_table_and_in_the_rules() -> None:
    rooms = {path.stem for path in (ROOT / "npcr").iterdir()
             if (path.is_dir() and (path / "__init__.py").exists()) or path.suffix == ".py"} - {"__init__"}
    table = PAGE.partition("## Rooms")[2].partition("## Kernels")[0]
    listed = {name.removesuffix(".py").rstrip("/").rpartition("/")[2]
              for row in table.splitlines() if row.startswith("| `")
              for name in re.findall(r"`([\w/]+(?:\.py)?/?)`", row.split("|")[1])}
    assert rooms <= listed
    assert rooms - {"entry_point"} == set(MAY_IMPORT)
