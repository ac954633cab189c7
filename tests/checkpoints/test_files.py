# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are read as they were written, found by their epoch, and checked for damage."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.checkpoints import (
    choose_model,
    find_epoch,
    load_model,
    load_training_state,
    model_path,
    optimizer_path,
    save_model,
    save_training_state,
)
from npcr.errors import CheckpointError
from tests.checkpoints.small_checkpoints import assert_same, make_model


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = model_path(tmp_path / "new folder", 1)
    save_model(path, make_model())
    assert_same(load_model(path), make_model())
    assert [entry.name for entry in path.parent.iterdir()] == ["nr_model_1.pth"]


def test_parameters_and_views_are_stored_as_plain_compact_tensors(tmp_path: Path) -> None:
    model = make_model()
    model.model["default_feature"] = torch.nn.Parameter(torch.arange(4.0))
    model.model["part"] = torch.zeros(1_000_000)[:3]
    save_model(tmp_path / "m.pth", model)
    found = load_model(tmp_path / "m.pth").model
    assert type(found["default_feature"]) is torch.Tensor
    assert not found["default_feature"].requires_grad
    assert found["part"].shape == (3,)
    assert (tmp_path / "m.pth").stat().st_size < 20_000


def test_a_training_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "jobs": [[0, 1], [0, 2]],
        "rate": 5e-5,
        "done": False,
        "scaler": {},
        "name": "Adam",
        "nothing": None,
        "betas": (0.9, 0.999),
        "iteration": 2**40,
    }
    save_training_state(tmp_path / "s.pth", state)
    found = load_training_state(tmp_path / "s.pth")
    assert {k: v for k, v in found.items() if k not in ("optimizer", "torch_rng")} == {
        k: v for k, v in state.items() if k not in ("optimizer", "torch_rng")
    }
    assert torch.equal(found["torch_rng"], state["torch_rng"])
    assert found["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for number, entries in state["optimizer"]["state"].items():
        for name, value in entries.items():
            assert torch.equal(found["optimizer"]["state"][number][name], value)


@pytest.mark.parametrize(
    "value",
    [np.float64(1.0), np.zeros(3), Path("a"), {1, 2}, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"s\.pth\.state\.deep\.0 is a "):
        save_training_state(tmp_path / "s.pth", {"deep": [value]})
    assert list(tmp_path.iterdir()) == []


# --- finding the epoch


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Epochs 2 and 10 complete, 11 without training state, and files that are no checkpoints of an epoch."""
    for name in (
        "nr_model_2.pth",
        "nr_optimizer_2.pth",
        "nr_model_10.pth",
        "nr_optimizer_10.pth",
        "nr_model_11.pth",
        "nr_optimizer_12.pth",
        "nr_model_20_refined.pth",
        ".nr_model_30.pth.123-0a1b2c3d.tmp.pth",
        "nr_model_40.pth.tmp",
        "nr_model_x.pth",
        "my_nr_model_50.pth",
    ):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "resume", "found"), [(-1, False, 11), (-1, True, 10), (2, True, 2), (11, False, 11)]
)
def test_find_epoch(output: Path, asked: int, resume: bool, found: int) -> None:
    assert find_epoch(output, asked, resume=resume) == found


@pytest.mark.parametrize(
    ("asked", "resume", "message"),
    [
        (7, False, "no nr_model_7.pth; epochs there: 2, 10, 11"),
        (7, True, "no nr_model_7.pth; complete epochs there: 2, 10"),
        (11, True, "no nr_optimizer_11.pth, which resuming needs; complete epochs there: 2, 10"),
        (20, False, "no nr_model_20.pth; epochs there: 2, 10, 11"),
    ],
)
def test_find_epoch_lists_what_is_there(output: Path, asked: int, resume: bool, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_epoch(output, asked, resume=resume)
    assert str(caught.value) == f"{output}: {message}"


def test_find_epoch_without_any(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError) as caught:
            find_epoch(folder)
        assert str(caught.value) == f"{folder}: no nr_model_*.pth; epochs there: none"
    with pytest.raises(CheckpointError, match=r"epochs there: none; --checkpoint names a model or the folder of one$"):
        choose_model(None, tmp_path, -1)
    (tmp_path / "nr_model_3.pth").touch()
    with pytest.raises(
        CheckpointError, match=r"no nr_optimizer_\*.pth, which resuming needs; complete .*: none"
    ):
        find_epoch(tmp_path, resume=True)


def test_names() -> None:
    assert model_path("o", 5) == Path("o/nr_model_5.pth")
    assert model_path("o", 5, refined=True) == Path("o/nr_model_5_refined.pth")
    assert optimizer_path("o", 5) == Path("o/nr_optimizer_5.pth")


# --- damaged files


@pytest.mark.parametrize("length", [1, 3, 100, 1000, -1])
@pytest.mark.parametrize("load", [load_model, load_training_state])
def test_a_truncated_file_is_called_so(tmp_path: Path, length: int, load: Callable[[Path], object]) -> None:
    path = tmp_path / "nr_model_1.pth"
    save_model(path, make_model(points=100))
    data = path.read_bytes()[:length]
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert (
        str(caught.value)
        == f"{path}: truncated (it ends after {len(data)} bytes, before its table of contents)"
    )


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "nr_model_1.pth"
    save_model(path, make_model(points=1000))
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + len(largest.FileHeader()) + 5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: damaged (the checksum of {largest.filename} is wrong)"
