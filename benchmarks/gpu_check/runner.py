# SPDX-License-Identifier: Apache-2.0
"""Runs steps as processes of their own, side by side where they may be, each with a limit of time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_POLL_S = 0.1
_TAIL = 4000  # characters of a step's output that go into its row


@dataclass(frozen=True)
class Step:
    """One command of the check."""

    name: str
    command: Sequence[str]
    limit: float  # seconds; it is killed after them
    least: float  # seconds; where fewer are left, it is not begun
    environment: Mapping[str, str] = field(default_factory=dict)  # beside the process's own
    result: Path | None = None  # the JSON file that it writes
    figures: Callable[[str], dict[str, Any]] = lambda output: {}  # from its output
    left_out: str = ""  # why it cannot run here


@dataclass
class _Running:
    step: Step
    process: subprocess.Popen[bytes]
    began: float
    limit: float


class Runner:
    """Runs stages of steps until the time is over, and keeps a row for each step.

    Args:
        folder: for each step's output, NAME.log.
        seconds: for all steps together.
        root: the folder to run them in.
        say: shows a line of progress.
    """

    def __init__(self, folder: Path, seconds: float, root: Path, say: Callable[[str], None] = print) -> None:
        self.folder, self.seconds, self.root, self.say = folder, seconds, root, say
        self.rows: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._stopping = False

    def stop(self, *signal_and_frame: object) -> None:
        """Stop the running steps: a handler of signals, which itself does nothing that a row could get lost by."""
        self._stopping = True

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.seconds - (time.monotonic() - self._began)

    def run(self, stage: Sequence[Step]) -> None:
        """Run the steps of a stage side by side.

        Args:
            stage: the steps. Those that cannot run here, or not in the time that is left, get a row that says so.

        Raises:
            KeyboardInterrupt: `stop` was called; the running steps were stopped, and have their rows.
        """
        running: list[_Running] = []
        for step in stage:
            reason = step.left_out or self._lacks_time(step)
            if reason:
                self._add(step, "left out", reason=reason)
            else:
                running.append(self._start(step))
        while running and not self._stopping:
            running = [each for each in running if not self._is_over(each)]
            time.sleep(_POLL_S if running else 0)
        for each in running:
            _kill(each.process)
            self._finish(each, "interrupted")
        if self._stopping:
            raise KeyboardInterrupt

    def _lacks_time(self, step: Step) -> str:
        if self.left >= step.least:
            return ""
        return f"{max(0, self.left):.0f} of {self.seconds:.0f} s are left, it needs some {step.least:.0f}"

    def _start(self, step: Step) -> _Running:
        limit = min(step.limit, self.left)
        self.say(f"[{self.seconds - self.left:3.0f} s] {step.name}: at most {limit:.0f} s")
        with self._log(step).open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches it only through `_kill`, with all it started.
            process = subprocess.Popen(list(step.command), stdout=log, stderr=subprocess.STDOUT, cwd=self.root,
                                       env=os.environ | dict(step.environment), stdin=subprocess.DEVNULL,
                                       start_new_session=os.name == "posix")
        return _Running(step, process, time.monotonic(), limit)

    def _is_over(self, each: _Running) -> bool:
        status = each.process.poll()
        if status is None and time.monotonic() - each.began < each.limit:
            return False
        if status is None:
            _kill(each.process)
            self._finish(each, "timed out", f"it had {each.limit:.0f} s")
        elif status:
            self._finish(each, "failed", f"status {status}")
        elif each.step.result is not None and not each.step.result.is_file():
            self._finish(each, "failed", f"it did not write {each.step.result.name}")
        else:
            self._finish(each, "passed")
        return True

    def _finish(self, each: _Running, status: str, reason: str = "") -> None:
        output = self._log(each.step).read_text(encoding="utf-8", errors="replace")
        figures = each.step.figures(output)
        if status == "passed" and figures.get("passed") == 0:  # tests that are all skipped pass, too
            status, reason = "failed", "no test ran"
        self._add(each.step, status, reason=reason, seconds=time.monotonic() - each.began, limit_s=each.limit,
                  figures=figures, tail=output[-_TAIL:])

    def _add(self, step: Step, status: str, *, reason: str, **found: Any) -> None:
        result = step.result.name if step.result is not None and status == "passed" else None
        line = shlex.join(step.command).replace(sys.executable, "python").replace(str(self.folder), self.folder.name)
        self.rows.append({"step": step.name, "status": status, "reason": reason, "command": line, "result": result,
                          **found})
        seconds = f" after {found['seconds']:.0f} s" if "seconds" in found else ""
        figures = ", ".join(f"{name} {value}" for name, value in found.get("figures", {}).items())
        self.say(f"[{self.seconds - self.left:3.0f} s] {step.name}: {status}{seconds}"
                 + "".join(f"; {part}" for part in (reason, figures) if part)
                 + (f" ({self._log(step)})" if status in ("failed", "timed out") else ""))

    def _log(self, step: Step) -> Path:
        return self.folder / f"{step.name}.log"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a step and all that it started."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
