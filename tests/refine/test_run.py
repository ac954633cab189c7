# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from npcr.checkpoints import load_model, load_training_state, save_training_state
from npcr.errors import CheckpointError
from npcr.refine.run import state_path
from npcr.refine.validation import ValidationScores
from npcr.renderers import Renderer
from tests.refine.shimmer_run import interrupt_after, shimmer_run, validator


class FixedScores:
    """A validator that returns given scores (flicker, PSNR) one after another."""

    def __init__(self, *scores: tuple[float, float]) -> None:
        self.scores = [ValidationScores(*each) for each in scores]

    def measure(self, renderer: Renderer) -> ValidationScores:
        return self.scores.pop(0)


def shimmer(file: Path) -> float:
    return load_model(file).model["shimmer"].item()


def test_a_run_makes_the_model_steadier_and_logs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shimmer_run(tmp_path, validator())
    best = run.run()
    assert run.start is not None
    assert best.flicker < 0.5 * run.start.flicker
    assert math.isnan(best.psnr)
    assert abs(shimmer(run.destination)) < 0.06
    assert load_model(run.destination).epoch == 7
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    flickers = [event.value for event in events.Scalars("validation/flicker")]
    assert len(flickers) == 5
    assert flickers[0] == pytest.approx(run.start.flicker)
    assert min(flickers) == pytest.approx(best.flicker)
    assert len(events.Scalars("refine/steadiness")) == 4
    assert "validation/psnr" not in events.Tags()["scalars"]
    out = capsys.readouterr().out
    assert out.count("pass ") == 4
    assert "unrefined: flicker" in out


def test_what_costs_too_much_psnr_or_is_no_steadier_is_not_kept(tmp_path: Path,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    run = shimmer_run(tmp_path, FixedScores((0.05, 30), (0.03, 29.95), (0.01, 29.89), (0.04, 31), (0.02, 29.91)))
    assert run.run() == ValidationScores(0.02, 29.91)
    assert run.progress.best_pass == 4
    out = capsys.readouterr().out
    assert "flicker 0.01000, PSNR 29.890 dB (not kept: PSNR too low)" in out
    assert "flicker 0.04000, PSNR 31.000 dB (not kept: no steadier)" in out


def test_the_run_ends_when_nothing_gets_better(tmp_path: Path) -> None:
    scores = FixedScores((0.05, 30), (0.03, 30), (0.04, 30), (0.04, 30), (0.01, 30))
    run = shimmer_run(tmp_path, scores, passes=9, patience=2)
    assert run.run() == ValidationScores(0.03, 30)
    assert run.progress.passes == 3


def test_a_matte_that_smears_is_not_kept() -> None:
    start = ValidationScores(0.05, 30, 31)
    assert ValidationScores(0.03, 29.95, 30.95).keeps_psnr(start, 0.1)
    assert not ValidationScores(0.03, 30, 30.8).keeps_psnr(start, 0.1)
    assert not ValidationScores(0.03, 29.8, 31).keeps_psnr(start, 0.1)
    assert ValidationScores(0.03, math.nan).keeps_psnr(ValidationScores(0.05, math.nan), 0.1)


def test_passes_whose_psnr_is_too_low_are_waited_out(tmp_path: Path) -> None:
    scores = FixedScores((0.05, 30), (0.03, 20), (0.03, 20), (0.03, 20), (0.04, 30), (0.04, 30), (0.04, 30), (0.01, 30))
    run = shimmer_run(tmp_path, scores, passes=9, patience=2)
    assert run.run() == ValidationScores(0.04, 30)
    assert run.progress.best_pass == 4  # the falling learning rate brought PSNR back
    assert run.progress.passes == 6


def test_where_no_pass_is_worth_keeping_the_model_is_the_result_as_it_was(tmp_path: Path) -> None:
    run = shimmer_run(tmp_path, FixedScores((0.05, 30), (0.06, 30), (0.01, 20)), passes=2)
    assert run.run() == ValidationScores(0.05, 30)
    assert shimmer(run.destination) == pytest.approx(0.1)
    assert run.progress.best_pass == 0


def test_the_published_scheme_keeps_its_last_pass_whatever_it_is(tmp_path: Path) -> None:
    scores = FixedScores((0.05, 30), (0.01, 30), (0.06, 20))
    run = shimmer_run(tmp_path, scores, passes=2, drop=math.inf, published=True)
    assert run.run() == ValidationScores(0.06, 20)
    assert shimmer(run.destination) == run.scheme.renderer.state_dict()["shimmer"].item()


@pytest.mark.parametrize("steps", [3, 5, 7, 18])
def test_resuming_equals_not_stopping_bit_for_bit(tmp_path: Path, steps: int) -> None:
    whole = shimmer_run(tmp_path / "whole", validator())
    whole.run()
    stopped = shimmer_run(tmp_path / "parts", validator())
    interrupt_after(stopped, steps)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.progress.passes * 5 + stopped.progress.steps == steps
    resumed = shimmer_run(tmp_path / "parts", validator())
    assert resumed.run(resume=True) == whole.best
    assert resumed.progress == whole.progress
    first, second = load_model(whole.destination).model, load_model(resumed.destination).model
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_states_with_flicker_of_255_are_resumed_as_if_it_were_of_1(tmp_path: Path) -> None:
    """States had no entry for the range of flicker when it was 0 to 255."""
    whole = shimmer_run(tmp_path / "whole", validator())
    whole.run()
    stopped = shimmer_run(tmp_path / "parts", validator())
    interrupt_after(stopped, 12)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.start is not None
    state = load_training_state(stopped.state_file)
    assert state.pop("flicker_range") == 1.0
    assert state["start"]["flicker"] == stopped.start.flicker < 1
    for name in ("start", "best"):
        state[name]["flicker"] *= 255
    save_training_state(stopped.state_file, state)
    resumed = shimmer_run(tmp_path / "parts", validator())
    best = resumed.run(resume=True)
    assert whole.best is not None
    assert best.flicker == pytest.approx(whole.best.flicker, rel=1e-12)
    assert resumed.start is not None
    assert resumed.start.flicker == pytest.approx(stopped.start.flicker, rel=1e-12)
    assert resumed.progress == whole.progress
    assert shimmer(resumed.destination) == shimmer(whole.destination)


def test_a_published_pass_that_was_stopped_is_repeated(tmp_path: Path) -> None:
    whole = shimmer_run(tmp_path / "whole", validator(), passes=2, drop=math.inf, published=True)
    whole.run()
    stopped = shimmer_run(tmp_path / "parts", validator(), passes=2, drop=math.inf, published=True)
    interrupt_after(stopped, 7)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert (stopped.progress.passes, stopped.progress.steps) == (1, 0)
    resumed = shimmer_run(tmp_path / "parts", validator(), passes=2, drop=math.inf, published=True)
    resumed.run(resume=True)
    assert shimmer(resumed.destination) == shimmer(whole.destination)


def test_ctrl_c_twice_stops_at_once_and_the_handler_goes(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = shimmer_run(tmp_path, validator())
    interrupt_after(run, 3, times=2)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert not run.state_file.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_state_of_another_run_or_model_is_refused(tmp_path: Path) -> None:
    shimmer_run(tmp_path, validator(), passes=1).run()
    changed = shimmer_run(tmp_path, validator())
    changed.settings.identity["REFINE.STEPS"] = 6
    with pytest.raises(CheckpointError, match=r"REFINE\.STEPS differs from the run .* \(5 then, 6 now\)"):
        changed.run(resume=True)
    other = shimmer_run(tmp_path, validator())
    other.source.model["default_feature"] += 1
    with pytest.raises(CheckpointError, match="model differs from the run that wrote it; --overwrite"):
        other.run(resume=True)
    state_path(tmp_path / "nr_model_7_refined.pth").rename(tmp_path / "kept")
    with pytest.raises(CheckpointError, match=r"nr_optimizer_7_refined\.pth: no such checkpoint"):
        shimmer_run(tmp_path, validator()).run(resume=True)
    (tmp_path / "kept").rename(tmp_path / "nr_optimizer_7_refined.pth")
    (tmp_path / "nr_model_7_refined.pth").unlink()
    with pytest.raises(CheckpointError, match="is gone, which held the best of the run so far"):
        shimmer_run(tmp_path, validator()).run(resume=True)
