# SPDX-License-Identifier: Apache-2.0
"""What became of many training runs: read from their output folders, for `npcr summary`."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from npcr.errors import NpcrError, SceneError
from npcr.io.json_files import read_json
from npcr.training.run_status import FILE, HEARTBEAT

STATES = ("finished", "running", "stopped", "failed", "unknown")
SILENCE = 10 * HEARTBEAT  # seconds without a sign of life, after which a run is taken for stopped
SCORES = ("psnr", "ssim", "alpha_mae", "alpha_sad")
_MODEL = re.compile(r"nr_model_(\d+)\.pth")
_EVALUATION = re.compile(r"evaluation_(\d+)")


@dataclass
class RunSummary:
    """One run; None is what nothing tells."""

    folder: str
    state: str  # one of STATES
    message: str = ""  # of an error, or why the state is so
    epochs: int | None = None  # done; without a status file, of the newest checkpoint
    steps: int | None = None
    seconds: float | None = None  # of training
    scored_epoch: int | None = None  # whose scores these are
    scores: dict[str, float] = field(default_factory=dict)  # means over the held-out views, of `npcr evaluate`

    def row(self) -> dict[str, Any]:
        """The run as one flat row, None where nothing is known."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "scores"}
        return {**values, **{name: self.scores.get(name) for name in SCORES}}


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Find the output folders of runs: those that hold a status or a model, below any depth.

    Args:
        folders: output folders, or folders that hold some.

    Returns:
        The runs' folders, sorted, each once.

    Raises:
        SceneError: a folder is missing.
    """
    found: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise SceneError(f"{folder}: no such folder; name output folders (OUTPUT_DIR), or one that holds some")
        for place, _, names in os.walk(folder):
            if FILE in names or any(_MODEL.fullmatch(name) for name in names):
                found.add(Path(place))
    return sorted(found)


def summarize(folder: Path) -> RunSummary:
    """Read what one run left.

    Args:
        folder: its output folder.

    Returns:
        The summary. Files that cannot be read are named in its message.
    """
    summary = RunSummary(str(folder), "unknown", "trained without a status file")
    if (folder / FILE).exists():
        try:
            status = read_json(folder / FILE, "a run's status", "state")
        except NpcrError as error:
            summary.message = str(error)
        else:
            summary.state, summary.message = _state(status)
            summary.epochs, summary.steps, summary.seconds = map(status.get, ("epochs", "steps", "seconds"))
    if summary.epochs is None:
        summary.epochs = max((int(found[1]) for file in folder.iterdir() if (found := _MODEL.fullmatch(file.name))),
                             default=None)
    _add_scores(folder, summary)
    return summary


def _state(status: dict[str, Any]) -> tuple[str, str]:
    """State and message of a status file; a run that says that it runs may be gone."""
    state, message = str(status.get("state")), str(status.get("message", ""))
    if state not in STATES:
        return "unknown", f"its status is {state!r}"
    if state != "running":
        return state, message
    silence = time.time() - float(status.get("last_sign", 0))
    if status.get("machine") == socket.gethostname() and not _lives(int(status.get("process", 0))):
        return "stopped", "its process is gone"
    if silence > SILENCE:
        return "stopped", f"no sign of life for {format_seconds(silence)}"
    return state, message


def _lives(process: int) -> bool:
    if process <= 0 or os.name == "nt":  # there, asking whether a process lives would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _add_scores(folder: Path, summary: RunSummary) -> None:
    """The scores of the newest epoch that was evaluated."""
    evaluated = sorted((int(found[1]), file / "evaluation.json") for file in folder.iterdir()
                       if (found := _EVALUATION.fullmatch(file.name)) and (file / "evaluation.json").exists())
    if not evaluated:
        return
    epoch, file = evaluated[-1]
    try:
        means = read_json(file, "an evaluation", "mean").get("mean")
        summary.scores = {name: float(means[name]) for name in SCORES if isinstance(means, dict) and name in means}
        summary.scored_epoch = epoch
    except NpcrError as error:
        summary.message = "; ".join(filter(None, (summary.message, str(error))))


def format_table(runs: Sequence[RunSummary]) -> str:
    """Make a table for a terminal.

    Args:
        runs: any number of them.

    Returns:
        Lines of text: a row for each run, and at the end how many are in which state.
    """
    head = ["run", "status", "epoch", "steps", "time", "PSNR", "SSIM", "alpha MAE", "message"]
    lines = [head]
    for run in runs:
        psnr, ssim, mae = (run.scores.get(name) for name in SCORES[:3])
        lines.append([run.folder, run.state, _text(run.epochs), _text(run.steps),
                      "" if run.seconds is None else format_seconds(run.seconds),
                      "" if psnr is None else f"{psnr:.2f}", "" if ssim is None else f"{ssim:.4f}",
                      "" if mae is None else f"{mae:.5f}", " ".join(run.message.split())])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head) - 1)]
    left = {0, 1}  # columns of words
    table = ["  ".join([*(cell.ljust(width) if i in left else cell.rjust(width)
                          for i, (cell, width) in enumerate(zip(line, widths, strict=False))), line[-1]]).rstrip()
             for line in lines]
    counts = [f"{count} {state}" for state in STATES if (count := sum(run.state == state for run in runs))]
    return "\n".join([*table, f"{len(runs)} runs: {', '.join(counts)}"])


def format_seconds(seconds: float) -> str:
    """Write a time in its largest two units.

    Args:
        seconds: at least 0.

    Returns:
        Such as "2 h 05 min", "3 min 20 s".
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24:02d} h"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _text(number: int | None) -> str:
    return "" if number is None else str(number)
