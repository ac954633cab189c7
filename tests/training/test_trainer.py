# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from yacs.config import CfgNode

from npcr.checkpoints import load_model, model_path
from npcr.config import load_config
from npcr.errors import CheckpointError, ConfigError, TrainingError
from npcr.training.trainer import Trainer
from tests.scenes import write_tiny_scene
from tests.training.interruption import ctrl_c_at_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene") / "tiny", cameras=5, size=(32, 28))


def config(scene: Path, output: Path, *options: str) -> CfgNode:
    return load_config(None, [
        "MODEL.FEATURE_DIM", "4", "MODEL.DEVICE", "cpu", "INPUT.SIZE_RAW", "[32, 28]",
        "INPUT.SIZE_TRAIN", "[24, 24]", "INPUT.SIZE_TEST", "[24, 24]", "INPUT.NEAR_FAR_SIZE", "[1, 9, 2]",
        "DATASETS.TRAIN", str(scene), "DATASETS.SHIFT", "3", "DATASETS.ROTATION", "20", "LOSS.PERCEPTUAL", "0",
        "SOLVER.MAX_EPOCHS", "2", "SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.LOG_PERIOD", "1",
        "SOLVER.BASE_LR", "0.001", "TEST.PERIOD", "1", "OUTPUT_DIR", str(output), *options])


class SmallNetwork(torch.nn.Module):
    """Replaces the U-Net in tests of the training around it: its checkpoint is a thousandth of the size."""

    def __init__(self, in_channels: int, norm: str, backend: str) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(in_channels, 16, 3, padding=1)
        self.last = torch.nn.Conv2d(16, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.first(x)))


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npcr.renderers.layered.GatedUNet", SmallNetwork)


def same_parameters(a: Path, b: Path) -> bool:
    first, second = load_model(a), load_model(b)
    return all(torch.equal(value, second.model[name]) for name, value in first.model.items())


def copy_epoch(source: Path, destination: Path, epoch: int) -> None:
    destination.mkdir()
    for kind in ("model", "optimizer"):
        shutil.copy(source / f"nr_{kind}_{epoch}.pth", destination)


def test_resuming_equals_not_stopping_bit_for_bit(scene: Path, tmp_path: Path) -> None:
    options = ["SOLVER.LAYER_SCHEDULE", "[2]", "INPUT.LAYER_NUM", "2", "DATALOADER.NUM_WORKERS", "2"]
    Trainer(config(scene, tmp_path / "whole", *options), CPU).run()
    copy_epoch(tmp_path / "whole", tmp_path / "resumed", 1)
    trainer = Trainer(config(scene, tmp_path / "resumed", *options, "RESUME", "True", "LOAD_EPOCH", "1"), CPU)
    trainer.run()
    assert trainer.renderer.layers == 2
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "resumed", 2))
    assert not same_parameters(model_path(tmp_path / "whole", 1), model_path(tmp_path / "whole", 2))


@pytest.mark.usefixtures("small_network")
def test_ctrl_c_in_the_middle_of_an_epoch_loses_nothing(scene: Path, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    Trainer(config(scene, tmp_path / "whole"), CPU).run()
    with ctrl_c_at_step(3, monkeypatch):  # of 5 in the first epoch
        Trainer(config(scene, tmp_path / "stopped"), CPU).run()
    Trainer(config(scene, tmp_path / "stopped", "RESUME", "True"), CPU).run()
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "stopped", 2))


BLENDED = ["MODEL.FORM", "blended", "MODEL.DOTS", "3", "INPUT.LAYER_NUM", "4", "PROJECTION.PEELING", "pixel",
           "LOSS.L1", "1", "MODEL.WIDTH", "4", "SOLVER.LR_DECAY", "cosine"]


STRANDS = ["MODEL.FORM", "strands", "LOSS.L1", "1", "LOSS.MATTE", "3", "MODEL.WIDTH", "4", "SOLVER.LR_DECAY", "cosine",
           "SOLVER.HARMONICS_CELL", "4", "SOLVER.COLOR_DECAY", "3", "MODEL.FIELD_NODES", "2"]


@pytest.mark.parametrize("form", [BLENDED, STRANDS], ids=["blended", "strands"])
def test_the_forms_of_splats_learn_and_resume_bit_for_bit(form: list[str], scene: Path, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npcr.training.population._SMOOTH_EVERY", 3)  # of 10 steps, in either run
    Trainer(config(scene, tmp_path / "whole", *form), CPU).run()
    copy_epoch(tmp_path / "whole", tmp_path / "resumed", 1)
    trainer = Trainer(config(scene, tmp_path / "resumed", *form, "RESUME", "True", "LOAD_EPOCH", "1"), CPU)
    trainer.run()
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "resumed", 2))
    before = Trainer(config(scene, tmp_path / "fresh", *form), CPU).renderer.state_dict()
    after = trainer.renderer.state_dict()
    for name in ("features.0", "colors.0", "opacity.0", "log_width.0", "offsets.0", "strands.0", "network.out.weight"):
        assert not torch.equal(before[name], after[name]), name


def test_a_run_does_not_go_on_with_another_structure_and_stays_as_it_was(scene: Path, tmp_path: Path) -> None:
    options = [*STRANDS, "SOLVER.MAX_EPOCHS", "1", "MODEL.NETWORK", "False"]
    Trainer(config(scene, tmp_path, *options), CPU).run()
    written = (tmp_path / "config.yml").read_text()
    again = ["RESUME", "True", "SOLVER.MAX_EPOCHS", "2"]
    with pytest.raises(CheckpointError, match=r"was trained with MODEL\.NETWORK False, MODEL\.MAX_SPLATS 0, the "
                                              r"configuration says True, 7; use the config\.yml beside it"):
        Trainer(config(scene, tmp_path, *options, *again, "MODEL.NETWORK", "True", "MODEL.MAX_SPLATS", "7"), CPU).run()
    assert (tmp_path / "config.yml").read_text() == written
    unread = ["MODEL.DOTS", "5", "MODEL.FEATURE_DIM", "9"]  # the second only with a network
    Trainer(config(scene, tmp_path, *options, *again, *unread), CPU).run()
    assert model_path(tmp_path, 2).is_file()


def test_the_blended_form_starts_from_the_photographs(scene: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(scene, bare)
    for cloud in (bare / "pointclouds").iterdir():
        rows = [" ".join(row.split()[:3]) for row in cloud.read_text().splitlines()]
        cloud.write_text("\n".join(rows) + "\n")
    trainer = Trainer(config(bare, tmp_path / "output", *BLENDED), CPU)
    assert trainer.clouds[0].colors is not None
    assert trainer.renderer.strands[0].abs().max() > 0.1


def test_training_ends_with_its_time(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 30))  # each look at it costs half a minute, each step so takes 30 seconds
    monkeypatch.setattr("npcr.training.trainer.time.monotonic", lambda: float(next(clock)))
    options = [*BLENDED, "SOLVER.MAX_MINUTES", "1.5", "SOLVER.MAX_EPOCHS", "1000"]
    trainer = Trainer(config(scene, tmp_path, *options), CPU)
    trainer.run()
    assert trainer.iteration == 3
    assert trainer.optimizer.param_groups[0]["lr"] < 0.3 * 0.001  # the cosine's end is the time's
    assert model_path(tmp_path, 1).exists()
    again = Trainer(config(scene, tmp_path, *options, "RESUME", "True"), CPU)
    again.run()
    assert again.iteration == 3  # nothing is left to do


@pytest.mark.usefixtures("small_network")
def test_nan_stops_with_the_photograph_named(scene: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(scene, tmp_path), CPU)
    with torch.no_grad():
        trainer.renderer.default_feature[0] = float("nan")
    with pytest.raises(TrainingError, match=r"not finite in epoch 1, step 1 of 5, at 0/img_000\d\.png"):
        trainer.run()


@pytest.mark.usefixtures("small_network")
def test_log_has_scalars_and_pictures(scene: Path, tmp_path: Path) -> None:
    cfg = config(scene, tmp_path, "DATASETS.HOLDOUT_EVERY", "3", "SOLVER.IMS_PER_BATCH", "3", "LOSS.SSIM", "0.1")
    trainer = Trainer(cfg, CPU)
    assert trainer.steps_per_epoch == 2  # four photographs in batches of three
    trainer.run()
    log = EventAccumulator(str(tmp_path / "log"), size_guidance={"images": 0}).Reload()
    assert {"loss/total", "loss/mse", "loss/ssim", "loss/gradient", "learning_rate", "held_out/psnr",
            "held_out/ssim", "held_out/alpha_mae"} <= set(log.Tags()["scalars"])
    assert set(log.Tags()["images"]) == {f"train/{name}" for name in (
        "rendered", "target", "alpha", "alpha_target", "depth", "region_of_interest")}
    assert len(log.Scalars("loss/total")) == 4
    assert len(log.Scalars("held_out/psnr")) == 2
    assert load_config(tmp_path / "config.yml") == cfg


@pytest.mark.usefixtures("small_network")
def test_training_learns(scene: Path, tmp_path: Path) -> None:
    trainer = Trainer(config(scene, tmp_path, "SOLVER.MAX_EPOCHS", "8", "SOLVER.WARMUP_ITERS", "0",
                             "SOLVER.BASE_LR", "0.01",
                             "TEST.PERIOD", "0", "SOLVER.CHECKPOINT_PERIOD", "8"), CPU)
    trainer.run()
    losses = [event.value for event in
              EventAccumulator(str(tmp_path / "log")).Reload().Scalars("loss/total")]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.usefixtures("small_network")
def test_frames_have_their_own_features(tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "moving", cameras=3, size=(32, 28), frames=2)
    cfg = config(scene, tmp_path / "out", "DATASETS.FRAME_NUM", "2", "SOLVER.MAX_EPOCHS", "1",
                 "DATASETS.CENTER", "[14, 16]")
    trainer = Trainer(cfg, CPU)
    before = [feature.detach().clone() for feature in trainer.renderer.features]
    trainer.run()
    assert trainer.steps_per_epoch == 6
    for old, new in zip(before, trainer.renderer.features, strict=True):
        assert not torch.equal(old, new)


@pytest.mark.usefixtures("small_network")
def test_a_finished_run_is_left_alone(scene: Path, tmp_path: Path) -> None:
    Trainer(config(scene, tmp_path, "SOLVER.MAX_EPOCHS", "1"), CPU).run()
    written = model_path(tmp_path, 1).stat().st_mtime_ns
    Trainer(config(scene, tmp_path, "SOLVER.MAX_EPOCHS", "1", "RESUME", "True"), CPU).run()
    assert model_path(tmp_path, 1).stat().st_mtime_ns == written


@pytest.mark.usefixtures("small_network")
def test_resuming_something_else_is_refused(scene: Path, tmp_path: Path) -> None:
    Trainer(config(scene, tmp_path, "SOLVER.MAX_EPOCHS", "1"), CPU).run()
    for options, message in ((("SOLVER.OPTIMIZER_NAME", "SGD"), r"SOLVER.OPTIMIZER_NAME differs.*Adam then, SGD now"),
                             (("DATASETS.HOLDOUT_EVERY", "2"), "the list of training views differs"),
                             (("SOLVER.IMS_PER_BATCH", "2"), r"another SOLVER\.IMS_PER_BATCH, differs"),
                             (("MODEL.FEATURE_DIM", "8"), "trained with MODEL.FEATURE_DIM 4, the configuration says 8"),
                             (("LOAD_EPOCH", "7"), "nr_model_7.pth")):
        with pytest.raises(CheckpointError, match=message):
            Trainer(config(scene, tmp_path, "RESUME", "True", *options), CPU).run()


@pytest.mark.usefixtures("small_network")
def test_a_model_with_the_state_of_another_step_is_refused(scene: Path, tmp_path: Path) -> None:
    Trainer(config(scene, tmp_path), CPU).run()
    shutil.copy(model_path(tmp_path, 1), model_path(tmp_path, 2))
    with pytest.raises(CheckpointError, match=r"nr_optimizer_2.pth: is not of the same step as nr_model_2\.pth"):
        Trainer(config(scene, tmp_path, "RESUME", "True", "SOLVER.MAX_EPOCHS", "3"), CPU).run()


def test_no_scene_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN is empty"):
        Trainer(config(Path(), tmp_path, "DATASETS.TRAIN", ""), CPU)


@pytest.mark.usefixtures("small_network")
def test_half_activations_change_the_gradients_and_not_the_first_loss(scene: Path, tmp_path: Path) -> None:
    results = []
    for half in ("False", "True"):
        trainer = Trainer(config(scene, tmp_path / half, "INPUT.LAYER_NUM", "2", "SOLVER.HALF_ACTIVATIONS", half), CPU)
        trainer.step(next(trainer._batches()))
        results.append((trainer.result.losses.read().means["total"], [p.grad for p in trainer.renderer.parameters()]))
    (loss, exact), (half_loss, close) = results
    assert half_loss == loss
    assert not all(torch.equal(a, b) for a, b in zip(exact, close, strict=True))
    for a, b in zip(exact, close, strict=True):
        assert (a - b).norm() <= 2e-3 * a.norm()
