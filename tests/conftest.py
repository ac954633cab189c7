# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import npcr.entry_point  # noqa: F401  before any test imports torch

# isort: split
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none: the one place where tests ask for a CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with parity data and weights; tests that need it skip without it."""
    folder = os.environ.get("NPCR_SHARED")
    if not folder:
        pytest.skip("NPCR_SHARED is not set: no parity data here")
    return Path(folder)


@pytest.fixture(scope="session")
def parity(shared: Path) -> Path:
    """The parity scene with its published model and numbers."""
    return shared / "parity" / "strands"
