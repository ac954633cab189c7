# SPDX-License-Identifier: Apache-2.0
"""Progress as it ends up in a log file and in a terminal, and what --quiet leaves of it."""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from npcr import cli, progress
from npcr.progress import LogHandler, progress_bar, titled, write_result

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(file for folder in ("tools", "ExParamGen") for file in (ROOT / folder).glob("*.py"))
LOGGER = logging.getLogger("npcr")


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    before = LOGGER.level
    yield
    LOGGER.setLevel(before)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the lines, in its only element."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_after_some_seconds_and_then_every_half_minute(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    with progress_bar(total=100, title="work", unit="view") as bar:
        for _ in range(100):
            clock[0] += 1
            bar.set_postfix(loss="0.5", refresh=False)
            bar.update()
            bar.refresh()
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert [int(line.split("|")[1].split("/")[0]) for line in lines] == [5, 35, 65, 95, 100]
    for line in lines:
        assert line.endswith("loss=0.5]\n")
        assert line.startswith("work:")
        assert "view/s" in line or "s/view" in line
        assert not set(line) & {"\r", "\x1b"}
    assert "work: 100%| 100/100 [" in lines[-1]


def test_an_iteration_is_counted_to_where_it_is(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    for step in progress_bar(range(10), total=10, title="work", mininterval=0):
        clock[0] += 6 if step == 7 else 0
    assert [line.partition("[")[0] for line in capsys.readouterr().err.splitlines()] == ["work:  80%| 8/10 ",
                                                                                    "work: 100%| 10/10 "]


def test_short_work_is_no_line_where_it_need_not_stay_in_view(capsys: pytest.CaptureFixture[str],
                                                              clock: list[float]) -> None:
    assert list(titled("short", leave=False)(range(3), 3)) == [0, 1, 2]
    assert list(titled("late", delay=2)(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    assert list(titled("kept")(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err.startswith("kept: 100%| 3/3 [")


def test_a_bar_of_minutes_has_no_bar_in_a_log_file(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(total=60, bar_format="{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}") as bar:
        bar.set_description("epoch 3", refresh=False)
        bar.update(30)
    assert capsys.readouterr().err.startswith("epoch 3:  50%| 00:00<")


def test_work_that_fails_leaves_a_line_of_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with progress_bar(total=4, title="work") as bar:
            bar.update(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert "75%| 3/4" in capsys.readouterr().err


def test_quiet_leaves_warnings_and_results_alone(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    cli.add_quiet_option(parser)
    assert parser.parse_args([]).quiet is False
    assert parser.parse_args(["--quiet"]).quiet is True
    handler = LogHandler(sys.stderr)
    LOGGER.addHandler(handler)
    try:
        for _ in progress_bar(range(3), total=3, title="work"):
            LOGGER.info("a note")
            LOGGER.warning("a warning")
        write_result("a result")
    finally:
        LOGGER.removeHandler(handler)
    assert capsys.readouterr() == ("a result\n", "a warning\n" * 3)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda file: file.name)
def test_every_tool_can_be_quiet(script: Path, monkeypatch: pytest.MonkeyPatch,
                                 capsys: pytest.CaptureFixture[str]) -> None:
    kind = ["transforms"] if script.name == "import_scene.py" else []
    monkeypatch.setattr(sys, "argv", [script.name, *kind, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "--quiet" in capsys.readouterr().out


IN_TERMINAL = """
import logging, sys
from npcr.progress import LogHandler, progress_bar
logger = logging.getLogger("npcr")
logger.addHandler(LogHandler(sys.stderr))
for step in progress_bar(range(3), total=3, title="work"):
    if step == 1:
        logger.warning("a warning")
"""


def _in_terminal(code: str, **variables: str) -> str:
    """What a program writes to stderr where that is a terminal."""
    fcntl, pty, termios = (pytest.importorskip(name, reason="this system has no pseudo-terminals")
                           for name in ("fcntl", "pty", "termios"))
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **variables}, stderr=terminal):
        os.close(terminal)
        written = b""
        with suppress(OSError), os.fdopen(controller, "rb", buffering=0) as screen:  # Linux ends a terminal so
            while part := screen.read(4096):
                written += part
    return written.decode()


@pytest.mark.parametrize("no_color", ["1", ""])
def test_in_a_terminal_messages_and_bar_keep_apart_and_colors_can_be_turned_off(no_color: str) -> None:
    text = _in_terminal(IN_TERMINAL, NO_COLOR=no_color, TQDM_COLOUR="green", TERM="xterm")
    assert "100%|" in text
    assert ("\x1b[" in text) == (not no_color)
    line = next(line for line in text.split("\n") if "a warning" in line)
    assert line.rstrip("\r").rpartition("\r")[2] == "a warning"  # the bar before it was wiped


def test_nothing_else_draws_bars() -> None:
    files = [file for folder in ("npcr", "tools", "ExParamGen", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    users = {str(file.relative_to(ROOT)) for file in files if "import tqdm" in file.read_text(encoding="utf-8")}
    assert users == {"npcr/progress.py"}
