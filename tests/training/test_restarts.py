# SPDX-License-Identifier: Apache-2.0
"""Where a restart by torchrun goes on: at what was written since torchrun began, and nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from yacs.config import CfgNode

from npcr.config import load_config
from npcr.errors import CheckpointError
from npcr.training.restarts import LAUNCH_FILE, epoch_to_resume
from tests.training.kills import survives


def config(output: Path, *options: str) -> CfgNode:
    return load_config(None, ["OUTPUT_DIR", str(output), *options])


def write_epoch(output: Path, epoch: int, time_ns: int) -> None:
    output.mkdir(exist_ok=True)
    for kind in ("model", "optimizer"):
        file = output / f"nr_{kind}_{epoch}.pth"
        file.touch()
        os.utime(file, ns=(time_ns, time_ns))


def attempt(monkeypatch: pytest.MonkeyPatch, restarts: int, allowed: int = 3, run: str = "none") -> None:
    for name, value in (("RESTART_COUNT", restarts), ("MAX_RESTARTS", allowed), ("RUN_ID", run)):
        monkeypatch.setenv(f"TORCHELASTIC_{name}", str(value))


@pytest.mark.parametrize("run", ["none", "a-job"])
def test_a_restart_goes_on_from_what_its_launch_wrote(run: str, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    write_epoch(tmp_path, 9, 10)  # of an earlier training
    attempt(monkeypatch, 0, run=run)
    assert epoch_to_resume(config(tmp_path)) is None
    attempt(monkeypatch, 1, run=run)
    assert epoch_to_resume(config(tmp_path)) is None  # nothing was written yet
    assert epoch_to_resume(config(tmp_path, "RESUME", "True")) == 9  # as the first attempt did
    write_epoch(tmp_path, 3, 20)
    assert epoch_to_resume(config(tmp_path)) == 3
    attempt(monkeypatch, 2, run=run)
    write_epoch(tmp_path, 4, 30)
    (tmp_path / "nr_model_5.pth").touch()  # without its training state it is not whole
    assert epoch_to_resume(config(tmp_path)) == 4
    write_epoch(tmp_path, 9, 40)
    assert epoch_to_resume(config(tmp_path, "RESUME", "True", "LOAD_EPOCH", "3")) == 9


def test_another_launch_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(monkeypatch, 0, run="first")
    epoch_to_resume(config(tmp_path))
    write_epoch(tmp_path, 3, 20)
    attempt(monkeypatch, 1, run="second")  # whose first attempt ended before it came here
    assert epoch_to_resume(config(tmp_path)) is None
    assert epoch_to_resume(config(tmp_path)) is None
    (tmp_path / LAUNCH_FILE).write_text("{")  # damaged
    assert epoch_to_resume(config(tmp_path)) is None


def test_without_restarts_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(monkeypatch, 0, allowed=0)
    assert epoch_to_resume(config(tmp_path)) is None
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="no nr_model_"):
        epoch_to_resume(config(tmp_path, "RESUME", "True"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_killed_processes_lead_to_the_weights_of_an_undisturbed_training(tmp_path: Path) -> None:
    """Of either number, the first one too; `python -m tests.training.kills` kills more."""
    assert survives(tmp_path, moments=2, seed=1, limit=170)
