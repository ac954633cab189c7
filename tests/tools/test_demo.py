# SPDX-License-Identifier: Apache-2.0
"""How long the demo trains: less on a GPU, unless the user says otherwise; and how long its steps took.

What it runs, other tests run.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest
import torch

from npcr.command_names import called_by_script
from npcr.commands import demo
from npcr.errors import NpcrError


def training_time(monkeypatch: pytest.MonkeyPatch, gpu: bool, *arguments: str) -> list[str]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    return demo._training_time(demo.parse(arguments))


def test_a_minute_on_a_gpu(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), called_by_script():
        assert training_time(monkeypatch, True, "--frames", "3", "MODEL.DOTS", "3") == ["SOLVER.MAX_MINUTES", "1"]
    assert "trains for 1 minute, not 8; longer: python tools/demo.py SOLVER.MAX_MINUTES 8" in caplog.text


def test_as_configured_on_a_cpu_or_where_the_user_chose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    own = tmp_path / "own.yml"
    own.write_text("SOLVER: {MAX_MINUTES: 20}\n")
    with caplog.at_level(logging.INFO):
        for gpu, *arguments in ((False,), (True, "MODEL.DEVICE", "cpu"), (True, "SOLVER.MAX_MINUTES", "5"),
                                (True, "--config-file", str(own))):
            assert training_time(monkeypatch, gpu, *arguments) == []
    assert caplog.text == ""


def test_how_long_each_step_took(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    program = "import sys, time; time.sleep(float(sys.argv[1])); sys.exit(int(sys.argv[2]))"
    monkeypatch.setattr(demo, "to_start", lambda name: [sys.executable, "-c", program])
    steps = demo.Steps()
    steps.run("evaluate", "1.2", "0")
    with pytest.raises(NpcrError, match="npcr orbit failed with status 2"):
        steps.run("orbit", "0", "2")
    with pytest.raises(KeyboardInterrupt):
        steps.run("render", "0", "130")
    assert capfd.readouterr().out == "\n$ npcr evaluate 1.2 0\n\n$ npcr orbit 0 2\n\n$ npcr render 0 130\n"
    total, *lines = steps.report().splitlines()
    assert re.fullmatch(r"Took \d+\.\d minutes:", total)
    took = [re.fullmatch(r"  npcr (\w+) +(\d+) s", line) for line in lines]
    assert [found and found[1] for found in took] == ["evaluate", "orbit", "render"]
    assert took[0] is not None
    assert int(took[0][2]) >= 1
