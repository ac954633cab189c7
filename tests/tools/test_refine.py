# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from npcr.checkpoints import load_model, load_training_state
from npcr.config import load_config
from npcr.errors import TrainingError
from npcr.refine.published import PathRefiner, RefineLoss
from npcr.training.pending_losses import PendingLosses
from tests.models_folder import call_script, write_models_folder
from tests.scenes import write_tiny_scene
from tests.training.test_trainer import SmallNetwork

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "refine.py"
OLD, NEW = Path("models/nr_model_3.pth"), Path("models/nr_model_3_refined.pth")
STATE = Path("models/nr_optimizer_3_refined.pth")
Script = Callable[..., tuple[int, str, str]]
PUBLISHED = ("REFINE.SCHEME", "published")
QUICK = ("REFINE.STEPS", "2", "REFINE.LR", "0.0001", "REFINE.PASSES")


@pytest.fixture(scope="module", autouse=True)
def small_network() -> Iterator[None]:
    """The script is tested here; with the real network it would mostly write 150 MB files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("npcr.renderers.layered.GatedUNet", SmallNetwork)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_network: None) -> Path:
    root = tmp_path_factory.mktemp("refine")
    write_models_folder(root)
    return root


@pytest.fixture
def refine(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
           capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs the script in a folder with models/; gives status, stdout, stderr."""
    shutil.copytree(prepared / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call_script(SCRIPT, arguments, monkeypatch, capsys)


def stop_in_pass(monkeypatch: pytest.MonkeyPatch, stopped: int, error: BaseException) -> None:
    walk = PathRefiner.run_pass

    def run_pass(self: PathRefiner, number: int = 1, first: int = 0) -> Iterator[PendingLosses[RefineLoss]]:
        for loss in walk(self, number, first):
            if number == stopped:
                raise error
            yield loss

    monkeypatch.setattr(PathRefiner, "run_pass", run_pass)


def test_writes_a_new_checkpoint_beside_the_old_one(refine: Script, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    before = OLD.read_bytes()
    status, out, _ = refine(*PUBLISHED, "REFINE.PASSES", "3", "REFINE.LR", "0.001")
    assert status == 0
    assert str(NEW) in out
    assert OLD.read_bytes() == before
    old, new = load_model(OLD), load_model(NEW)
    assert new.epoch == old.epoch == 3
    assert new.config == old.config
    assert all(torch.equal(a, b) for a, b in zip(new.points, old.points, strict=True))
    moved = {name for name in new.model if not torch.equal(new.model[name], old.model[name])}
    assert "features.0" in moved
    assert "features.1" not in moved  # of the frame that was not shown
    assert any(name.startswith("network.") for name in moved)

    losses = [float(line.split()[3].removesuffix(":")) for line in out.splitlines() if line.startswith("pass ")]
    assert len(losses) == 3
    assert losses[2] != losses[0]
    events = EventAccumulator("output/refine_3")
    events.Reload()
    assert [event.value for event in events.Scalars("refine/total")] == pytest.approx(losses, abs=1e-6)
    assert load_config("models/nr_model_3_refined.yml").REFINE.PASSES == 3

    render = SCRIPT.with_name("render.py")
    assert call_script(render, ("--checkpoint", NEW), monkeypatch, capsys)[0] == 0
    assert Path("output/res_3_refined/video.mp4").exists()


def test_never_over_what_is_there(refine: Script) -> None:
    NEW.write_bytes(b"mine")
    status, _, err = refine(*PUBLISHED, "REFINE.PASSES", "1")
    assert status == 2
    assert "nr_model_3_refined.pth: exists already; --overwrite replaces it" in err
    assert NEW.read_bytes() == b"mine"
    assert refine("--overwrite", *PUBLISHED, "REFINE.PASSES", "1")[0] == 0
    load_model(NEW)
    status, _, err = refine("--overwrite", *PUBLISHED, "REFINE.PATH", "random")
    assert status == 2
    assert "REFINE.PATH random needs REFINE.SCHEME steady; this run's is published" in err
    status, _, err = refine(*PUBLISHED)
    assert status == 2
    assert "--overwrite replaces it; --resume goes on with it" in err
    status, _, err = refine("--overwrite", "--checkpoint", NEW)
    assert status == 2
    assert "would overwrite itself" in err


def test_ctrl_c_writes_what_the_finished_passes_gave(refine: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refine(*PUBLISHED, "REFINE.PASSES", "1")[0] == 0
    one_pass = load_model(NEW).model
    NEW.unlink()
    stop_in_pass(monkeypatch, 2, KeyboardInterrupt())
    status, out, _ = refine("--overwrite", *PUBLISHED, "REFINE.PASSES", "4")
    assert status == 130
    assert f"1 of 4 passes: {NEW}" in out
    assert "1 of 4 passes; --resume goes on" in out
    interrupted = load_model(NEW).model
    assert all(torch.equal(interrupted[name], one_pass[name]) for name in one_pass)


def test_ctrl_c_in_the_first_pass_writes_nothing(refine: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in_pass(monkeypatch, 1, KeyboardInterrupt())
    assert refine(*PUBLISHED)[0] == 130
    assert not NEW.exists()


def test_a_loss_that_is_not_finite_writes_nothing(refine: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in_pass(monkeypatch, 1, TrainingError("the loss of frame 2 in pass 1 is nan"))
    status, _, err = refine(*PUBLISHED)
    assert status == 2
    assert "frame 2 in pass 1 is nan" in err
    assert not NEW.exists()


def test_vgg_that_is_missing_is_told_before_the_work(refine: Script) -> None:
    status, _, err = refine(*PUBLISHED, "LOSS.PERCEPTUAL", "1", "PERCEPTUAL.CHECKPOINT", "nowhere.pth")
    assert status == 2
    assert "PERCEPTUAL.CHECKPOINT: nowhere.pth: no such file" in err


def test_the_published_scheme_without_a_loss_says_which_keys_it_follows(refine: Script) -> None:
    status, _, err = refine(*PUBLISHED, "LOSS.MSE", "0", "LOSS.PERCEPTUAL", "0", "LOSS.L1", "1")
    assert status == 2
    assert "LOSS.MSE and LOSS.PERCEPTUAL" in err
    assert not NEW.exists()


def test_without_the_scene_the_steady_scheme_says_what_it_does_without(refine: Script,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    status, out, _ = refine(*QUICK, "1")
    assert status == 0
    assert "DATASETS.TRAIN is empty" in caplog.text
    assert "only REFINE.ANCHOR holds the model near what it renders now" in caplog.text
    assert "unrefined: flicker" in out
    assert " dB" not in out
    load_model(NEW)
    status, _, err = refine("--overwrite", *QUICK, "1", "REFINE.ANCHOR", "0")
    assert status == 2
    assert "REFINE.ANCHOR is 0 and no photographs are mixed in" in err
    status, _, _ = refine("--overwrite", *QUICK, "1", "DATASETS.TRAIN", "elsewhere")
    assert status == 0
    assert "elsewhere" in caplog.text


def test_all_around_with_photographs_and_going_on(refine: Script, tmp_path: Path,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=6, size=(64, 48))
    for file in ("CamPose.inf", "Intrinsic.inf"):
        (tmp_path / "models" / file).unlink()  # the scene's own cameras serve
    photographed = ("DATASETS.TRAIN", scene, "DATASETS.HOLDOUT_EVERY", "3", "REFINE.PATH", "random",
                    "INPUT.SIZE_TRAIN", "[32, 24]", "DATASETS.SHIFT", "2", "REFINE.PSNR_DROP", "100",
                    "REFINE.PATIENCE", "0")
    status, out, _ = refine(*QUICK, "1", *photographed)
    assert status == 0
    assert len(re.findall(r"PSNR [\d.]+ dB", out)) == 4  # before, after the pass, and both again at the end
    assert not caplog.records
    caplog.set_level("INFO")
    state = load_training_state(STATE)
    assert state["progress"][0] == 1
    assert state["identity"]["REFINE.PATH"] == "random"
    status, out, _ = refine("--resume", *QUICK, "2", *photographed)
    assert status == 0
    assert "pass 2: loss" in out
    assert "pass 1: loss" not in out
    assert "resuming from models/nr_optimizer_3_refined.pth: 1 of 2 passes done" in caplog.text
    assert float(re.search(r"photometric ([\d.]+)", out)[1]) > 0  # type: ignore[index]
    status, _, err = refine("--resume", *QUICK, "2", *photographed, "REFINE.WINDOW", "3")
    assert status == 2
    assert "REFINE.WINDOW differs from the run that wrote it (2 then, 3 now)" in err


def test_without_held_out_photographs_a_notice_says_what_is_measured(refine: Script, tmp_path: Path,
                                                                    caplog: pytest.LogCaptureFixture) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=3, size=(64, 48))
    assert refine(*QUICK, "1", "DATASETS.TRAIN", scene, "INPUT.SIZE_TRAIN", "[32, 24]")[0] == 0
    assert "PSNR is measured on photographs that the model was trained on" in caplog.text
