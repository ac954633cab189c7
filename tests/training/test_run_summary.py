# SPDX-License-Identifier: Apache-2.0
"""The status that a run leaves, and the summary of many."""

from __future__ import annotations

import csv
import json
import os
import socket
import time
from pathlib import Path

import pytest

from npcr.commands import summary
from npcr.errors import SceneError, TrainingError
from npcr.training import run_status
from npcr.training.run_status import FILE, RunStatus
from npcr.training.run_summary import SILENCE, find_runs, format_seconds, summarize


def status_of(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / FILE).read_text()))


def test_a_run_says_how_it_fares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_status, "HEARTBEAT", 0.01)
    steps = 0
    with RunStatus(tmp_path / "new") as status:
        assert status_of(tmp_path / "new")["state"] == "running"
        steps = 7
        status.watch(lambda: {"steps": steps})
        end = time.monotonic() + 10
        while status_of(tmp_path / "new").get("steps") != 7:
            assert time.monotonic() < end
        assert summarize(tmp_path / "new").state == "running"
        steps = 9
    assert (status_of(tmp_path / "new")["state"], status_of(tmp_path / "new")["steps"]) == ("finished", 9)


@pytest.mark.parametrize(("error", "state", "message"), [
    (TrainingError("the loss is not finite in epoch 3"), "failed", "the loss is not finite in epoch 3"),
    (KeyboardInterrupt(), "stopped", "by Ctrl-C"), (MemoryError(), "failed", "MemoryError")])
def test_a_run_that_ends_early_says_why(error: BaseException, state: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), RunStatus(tmp_path):
        raise error
    assert (summarize(tmp_path).state, summarize(tmp_path).message) == (state, message)


def write_status(folder: Path, **values: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    usual = {"state": "running", "message": "", "machine": socket.gethostname(), "process": os.getpid(),
             "last_sign": time.time(), "steps": 120, "seconds": 3725.0}
    (folder / FILE).write_text(json.dumps({**usual, **values}))
    return folder


def test_a_run_that_vanished_is_stopped(tmp_path: Path) -> None:
    gone = write_status(tmp_path / "gone", process=2**22 + 5)  # above any process's number
    assert summarize(gone).message == "its process is gone"
    silent = write_status(tmp_path / "silent", machine="elsewhere", last_sign=time.time() - SILENCE - 60)
    assert summarize(silent).state == "stopped"
    assert summarize(silent).message == "no sign of life for 6 min 00 s"
    assert summarize(write_status(tmp_path / "alive", machine="elsewhere")).state == "running"


def prepare(root: Path) -> None:
    """A finished run with scores, one that failed, one of an earlier version, a damaged one, and other folders."""
    done = write_status(root / "cat" / "a", state="finished")
    for epoch in (2, 10):
        (done / f"nr_model_{epoch}.pth").touch()
        (done / f"evaluation_{epoch}").mkdir()
        (done / f"evaluation_{epoch}" / "evaluation.json").write_text(json.dumps(
            {"mean": {"psnr": 20.0 + epoch, "ssim": 0.9, "alpha_mae": 0.01, "alpha_sad": 1.0}}))
    write_status(root / "cat" / "b", state="failed", message="disk\nfull")
    (root / "old").mkdir()
    (root / "old" / "nr_model_5.pth").touch()
    (root / "cat" / "photographs").mkdir()
    write_status(root / "damaged")
    (root / "damaged" / FILE).write_text("{")


def test_the_summary_of_many_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path)
    summary.main([str(tmp_path), str(tmp_path / "cat"), "--json", str(tmp_path / "s.json"), "--csv",
                  str(tmp_path / "s.csv")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [str(tmp_path / "cat" / "a"), "finished", "10", "120", "1", "h", "02", "min", "30.00",
                                "0.9000", "0.01000"]
    assert lines[2].endswith("disk full")
    assert "not JSON" in lines[3]
    assert lines[-1] == "4 runs: 1 finished, 1 failed, 2 unknown"
    rows = json.loads((tmp_path / "s.json").read_text())["runs"]
    assert [row["state"] for row in rows] == ["finished", "failed", "unknown", "unknown"]
    assert rows[0]["scored_epoch"] == 10
    assert rows[3]["epochs"] == 5
    with (tmp_path / "s.csv").open(newline="") as file:
        assert [row["psnr"] for row in csv.DictReader(file)] == ["30.0", "", "", ""]


def test_names_of_some_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(tmp_path)
    summary.main([str(tmp_path), "--only", "failed", "--names"])
    assert capsys.readouterr().out == f"{tmp_path / 'cat' / 'b'}\n"


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="nowhere: no such folder"):
        find_runs([tmp_path / "nowhere"])


def test_times_are_in_two_units() -> None:
    assert [format_seconds(s) for s in (5, 200, 7500)] == ["0 min 05 s", "3 min 20 s", "2 h 05 min"]
    assert format_seconds(200_000) == "2 d 07 h"
