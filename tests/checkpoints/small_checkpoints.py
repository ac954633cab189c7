# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints, and what tests of several files do with them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from npcr.checkpoints import ModelCheckpoint, save_model, save_training_state
from npcr.errors import CheckpointError


def make_model(epoch: int = 1, points: int = 10) -> ModelCheckpoint:
    generator = torch.Generator().manual_seed(epoch)
    return ModelCheckpoint(
        epoch,
        {"MODEL": {"LEGACY": False, "FEATURE_DIM": 4}, "INPUT": {"SIZE_TEST": [64, 48]}},
        {
            "default_feature": torch.randn(4, generator=generator),
            "features.0": torch.randn(points, 4, generator=generator),
            "network.norm1.num_batches_tracked": torch.tensor(7),
        },
        [torch.randn(points, 3, generator=generator)],
        [torch.randint(0, 256, (points, 3), generator=generator, dtype=torch.uint8)],
    )


def assert_same(found: ModelCheckpoint, expected: ModelCheckpoint) -> None:
    assert (found.epoch, found.config) == (expected.epoch, expected.config)
    assert found.model.keys() == expected.model.keys()
    pairs = [(found.model[name], expected.model[name]) for name in expected.model]
    pairs += list(zip(found.points + found.colors, expected.points + expected.colors, strict=True))
    for value, wanted in pairs:
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted)


SAVES: dict[str, Callable[[Path, int], None]] = {
    "model": lambda path, points: save_model(path, make_model(2, points)),
    "training state": lambda path, points: save_training_state(path, {"a": torch.zeros(points, 7)}),
}


def assert_refused(path: Path, save: Callable[[Path, int], None], reason: int) -> None:
    """Check that saving 10,000 points fails with `reason`, and leaves the old file and the folder as they were."""
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    with pytest.raises(CheckpointError) as caught:
        save(path, 10_000)
    assert str(caught.value) == (
        f"{path}: cannot be written: {os.strerror(reason)}; the file that was there before, "
        "if any, is untouched"
    )
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir()} == before
