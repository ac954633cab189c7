# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from npcr.checkpoints import is_published, load_model
from npcr.commands import convert_checkpoint as tool
from npcr.errors import CheckpointError

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "convert_checkpoint.py"


def test_converts_and_says_what_it_found(
    parity: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, destination = parity / "nr_model_0.pth", tmp_path / "new" / "nr_model_7.pth"
    tool.main([str(source), str(destination)])
    assert capsys.readouterr().out == (
        "epoch:      0\n"
        "points:     6000 (of each frame; their positions come from the scene)\n"
        "layers:     4\n"
        "parameters: 13,029,188 in the network, 192,032 in the features\n"
        "MODEL.LEGACY: True\nMODEL.NORM: instance\nMODEL.FEATURE_DIM: 32\nINPUT.USE_RGB: False\n"
        "INPUT.LAYER_NUM: 4\nINPUT.SIZE_TRAIN: [120, 96]\nWEIGHTS.DEPTH_THR: 0.5\n"
        f"written: {destination}\n"
    )
    assert not is_published(destination)
    found, wanted = load_model(destination), load_model(source)
    assert (found.epoch, found.config, found.points) == (0, wanted.config, [])
    assert found.model.keys() == wanted.model.keys()
    assert all(torch.equal(found.model[name], value) for name, value in wanted.model.items())


def test_batch_norm_keeps_running_statistics(parity: Path, tmp_path: Path) -> None:
    tool.main(["--norm", "batch", str(parity / "nr_model_0.pth"), str(tmp_path)])
    checkpoint = load_model(tmp_path / "nr_model_0.pth")
    assert checkpoint.config["MODEL"]["NORM"] == "batch"
    assert "network.enter.norm1.running_var" in checkpoint.model


def test_nothing_is_overwritten_unasked(parity: Path, tmp_path: Path) -> None:
    destination = tmp_path / "nr_model_0.pth"
    destination.write_text("mine")
    with pytest.raises(CheckpointError) as caught:
        tool.main([str(parity / "nr_model_0.pth"), str(destination)])
    assert str(caught.value) == f"{destination}: exists; --overwrite replaces it"
    assert destination.read_text() == "mine"
    tool.main([str(parity / "nr_model_0.pth"), str(destination), "--overwrite"])
    assert load_model(destination).config["MODEL"]["LEGACY"] is True


def test_the_source_is_never_the_destination(tmp_path: Path) -> None:
    source = tmp_path / "nr_model_0.pth"
    source.write_text("published")
    with pytest.raises(CheckpointError, match="is the published file itself; name another one to write"):
        tool.main([str(source), str(tmp_path), "--overwrite"])
    assert source.read_text() == "published"


def test_errors_are_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "none.pth", tmp_path / "out.pth"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path}/none.pth: no such file\n"
