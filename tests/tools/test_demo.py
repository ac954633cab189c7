# SPDX-License-Identifier: Apache-2.0
"""How long the demo trains: less on a GPU, unless the user says otherwise. What it runs, other tests run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from npcr.command_names import called_by_script
from npcr.commands import demo


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
