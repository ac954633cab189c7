# SPDX-License-Identifier: Apache-2.0
"""docs/gpu.md holds what the results hold."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from benchmarks.gpu_check.page import MARKER, command, kind_of, main, tables
from npcr.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*_h200.json"))


def test_the_page_is_that_of_its_results(tmp_path: Path) -> None:
    """`benchmarks/gpu_check/page.py benchmarks/results/*_h200.json --page docs/gpu.md` changes nothing."""
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    copy = tmp_path / "gpu.md"
    copy.write_text(page, encoding="utf-8")
    main([*map(str, RESULTS), "--page", str(copy)])
    assert copy.read_text(encoding="utf-8") == page
    assert f"<!-- {MARKER} -->" in page


def test_each_card_and_commit_has_a_section(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "frame_h200.json").read_text())
    result["environment"] |= {"gpu": "NVIDIA Other", "driver": "580.1", "commit": None,
                              "options": {"points": 1e6, "size": [6, 7], "steps": True, "vgg": None, "device": "cuda"}}
    other = tmp_path / "frame.json"
    other.write_text(json.dumps(result))
    (tmp_path / "unknown.json").write_text("{}")
    with caplog.at_level(logging.WARNING):
        text = tables([ROOT / "benchmarks" / "results" / "frame_h200.json", other, tmp_path / "unknown.json"])
    first, second = text.split("### ")[1:]
    assert first.startswith("NVIDIA H200, commit 813c3fc\n")
    assert second.startswith("NVIDIA Other, commit None\n")
    assert "driver 580.1" in second
    assert "`python benchmarks/frame.py --points 1e+06 --size 6 7 --steps --device cuda`" in second
    assert "| network | 37.3 (37.3–37.4) | 0.948 |" in second
    assert "1 files left out" in caplog.text
    assert "unknown.json" in caplog.text


@pytest.mark.parametrize(("name", "kind"), [
    ("options_layered_h200", "options"), ("training_step_h200", "training_step"), ("check", "check"),
    ("frame", "frame"), ("training_minute_blended", "training_minute"), ("common", ""),
    ("check_h200", ""), ("unknown", "")])
def test_a_result_is_named_after_its_benchmark(name: str, kind: str) -> None:
    assert kind_of(Path(f"{name}.json")) == kind


def test_options_that_were_not_kept_give_no_command() -> None:
    assert command("frame", {"points": 7}) == ""


def test_files_without_results_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "frame.json"
    with pytest.raises(ConfigError, match=r"frame\.json: no such file"):
        tables([file])
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"frame\.json: not JSON"):
        tables([file])
    file.write_text("{}")
    with pytest.raises(ConfigError, match=r"frame\.json: holds no results"):
        tables([file])
    with pytest.raises(ConfigError, match="no table for any of 1 files"):
        tables([tmp_path / "unknown.json"])
