# SPDX-License-Identifier: Apache-2.0
"""Progress of long work: a bar in a terminal, a line now and then in a log file, nothing where it is to be quiet.

Quiet is where the logger "npcr" was set to a level above INFO, as --quiet does. `LogHandler` keeps messages and bars
out of each other's lines.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm import tqdm

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps an iteration of so many steps, as `titled` does

FIRST_LINE, NEXT_LINE = 5.0, 30.0  # seconds until the first line in a log file, and from each to the next

_LINE = "{l_bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def progress_bar(steps: Iterable[Any] | None = None, *, total: float, title: str = "", hidden: bool = False,
                 **options: Any) -> tqdm[Any]:
    """Show how far some work is, on stderr.

    Args:
        steps: what is iterated over; None: the caller calls `update`.
        total: number of steps, or the size of the work in another unit.
        title: what stands before the numbers.
        hidden: show nothing.
        options: other options of `tqdm`, such as unit, initial, leave, and delay in seconds.

    Returns:
        A `tqdm` over the steps; where stderr is no terminal, one that writes whole lines, `FIRST_LINE` and `NEXT_LINE`
        seconds apart and at the end.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org; TQDM_COLOUR may ask for one
        options["colour"] = None
    kind = tqdm if _is_terminal(sys.stderr) else _Lines
    return kind(steps, total=total, desc=title, disable=hidden or is_quiet(), file=sys.stderr,
                dynamic_ncols=True, **options)


def titled(title: str, **options: Any) -> Progress:
    """Make the `Progress` that shows `progress_bar` with a title.

    Args:
        title: what stands before the numbers.
        options: of `progress_bar`.

    Returns:
        A function of an iterable and its number of steps.
    """
    def progress(steps: Iterable[Any], count: int) -> Iterable[Any]:
        return progress_bar(steps, total=count, title=title, **options)
    return progress


def no_progress(steps: Iterable[Any], count: int) -> Iterable[Any]:
    """Return the steps as they are: the `Progress` that shows nothing.

    Args:
        steps: what is iterated over.
        count: number of steps.

    Returns:
        The steps.
    """
    return steps


def write_result(text: str) -> None:
    """Print a line to stdout, between the bars; quiet or not.

    Args:
        text: the line.
    """
    tqdm.write(text)


def is_quiet() -> bool:
    """Tell whether progress is to be left out, with all that is less than a warning.

    Returns:
        Whether the logger "npcr" was set to a level above INFO.
    """
    return logging.getLogger("npcr").level > logging.INFO


class LogHandler(logging.StreamHandler):  # subscripted it needs Python 3.11
    """Writes messages to stderr between the bars: they are wiped before, and drawn again below the message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        with tqdm.external_write_mode(self.stream):
            super().emit(record)


class _Lines(tqdm):  # type: ignore[type-arg]
    """Whole lines in place of a bar that is drawn over itself, which a file would keep in every state."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._begun = time.monotonic()
        self._written: tuple[float, float] | None = None  # time and count of the last line
        options["bar_format"] = (options.get("bar_format") or _LINE).replace("{bar}|", "")
        super().__init__(*arguments, **{**options, "miniters": 1, "dynamic_ncols": False})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line where one is due."""
        due = self._begun + FIRST_LINE if self._written is None else self._written[0] + NEXT_LINE
        if time.monotonic() >= due:
            self._write_line()

    def clear(self, *arguments: Any, **options: Any) -> None:
        """Leave what is written."""

    def close(self) -> None:
        """Write the last line; nothing of work that is not to be kept in view and was over before its first line."""
        if self.disable:
            return
        self.disable = True
        self._decr_instances(self)  # type: ignore[attr-defined]
        with self.get_lock():
            if self._written is not None or (self.leave and time.monotonic() >= self._begun + (self.delay or 0)):
                self._write_line()

    def _write_line(self) -> None:
        if self._written is None or self._written[1] != self.n:
            self.fp.write(f"{self}\n")
            self.fp.flush()
            self._written = time.monotonic(), self.n


def _is_terminal(stream: TextIO) -> bool:
    """Whether a line can be drawn over itself, and has a width."""
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        return False
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0  # 0: a terminal of a script's or a container's
    except OSError:
        return False
