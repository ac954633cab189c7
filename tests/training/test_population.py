# SPDX-License-Identifier: Apache-2.0
"""Training that moves, leaves out and removes splats: it resumes exactly, is logged, and its models load."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from npcr.cameras import Cameras
from npcr.checkpoints import load_model, model_path
from npcr.config import default_config
from npcr.errors import CheckpointError
from npcr.factory import load_renderer
from npcr.renderers import RenderOutput, StrandsRenderer
from npcr.training.population import dropping_at, relocation_at
from npcr.training.trainer import Trainer
from tests.devices import DEVICES
from tests.scenes import orbit_cameras, write_tiny_scene
from tests.training.interruption import ctrl_c_at_step
from tests.training.test_trainer import STRANDS, config, copy_epoch, same_parameters

CPU = torch.device("cpu")
RANDOM = ["SOLVER.RELOCATE_EVERY", "2", "SOLVER.RELOCATE_BELOW", "0.3", "SOLVER.DROP_SPLATS", "0.4",
          "SOLVER.DROP_HARMONICS", "0.5", "LOSS.OPACITY", "0.1", "LOSS.SIZE", "0.1", "SOLVER.OPTIMIZER_NAME", "AdamW"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene") / "tiny", cameras=5, size=(32, 28), points=60)


def train(scene: Path, output: Path, *options: str, device: str = "cpu") -> Trainer:
    trainer = Trainer(config(scene, output, *STRANDS, "TEST.PERIOD", "0", *options), torch.device(device))
    trainer.run()
    return trainer


def moved(output: Path) -> list[float]:
    log = EventAccumulator(str(output / "log")).Reload()
    return [event.value for event in log.Scalars("splats/moved")] if "splats/moved" in log.Tags()["scalars"] else []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [["MODEL.MAX_SPLATS", "90"],
                                     ["SOLVER.DROP_CELL", "2", "SOLVER.RELOCATE_BY", "opacity",
                                      "SOLVER.RELOCATE_BELOW", "0.98"]], ids=["gradient", "opacity"])
def test_resuming_equals_not_stopping_bit_for_bit(options: list[str], device: str, scene: Path, tmp_path: Path) -> None:
    options = [*RANDOM, *options, "SOLVER.DETERMINISTIC", "True", "MODEL.DEVICE", device]
    train(scene, tmp_path / "whole", *options, device=device)
    copy_epoch(tmp_path / "whole", tmp_path / "resumed", 1)
    np.random.seed(7)
    train(scene, tmp_path / "resumed", *options, "RESUME", "True", "LOAD_EPOCH", "1", device=device)
    assert sum(moved(tmp_path / "whole")) > 0
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "resumed", 2))


def test_ctrl_c_between_two_moves_loses_nothing(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(scene, tmp_path / "whole", *RANDOM)
    with ctrl_c_at_step(3, monkeypatch):
        train(scene, tmp_path / "stopped", *RANDOM)
    train(scene, tmp_path / "stopped", *RANDOM, "RESUME", "True")
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "stopped", 2))


def test_every_process_decides_the_same_whatever_it_did_before(scene: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several has the state of torch's and numpy's random numbers that it happens to have."""
    train(scene, tmp_path / "one", *RANDOM)
    real_step = Trainer.step

    def after_other_draws(self: Trainer, batch: list) -> None:
        torch.rand(7)
        np.random.rand(7)
        real_step(self, batch)

    monkeypatch.setattr(Trainer, "step", after_other_draws)
    train(scene, tmp_path / "other", *RANDOM)
    assert same_parameters(model_path(tmp_path / "one", 2), model_path(tmp_path / "other", 2))


def test_moves_are_logged_and_end_before_the_training(scene: Path, tmp_path: Path) -> None:
    options = ["SOLVER.RELOCATE_EVERY", "2", "SOLVER.RELOCATE_BELOW", "0.7", "SOLVER.RELOCATE_UNTIL", "0.6"]
    trainer = train(scene, tmp_path, *options)
    counts = moved(tmp_path)
    assert len(counts) == 3  # of 10 steps, after the second, fourth and sixth
    assert 0 < sum(counts) < 180
    assert isinstance(trainer.renderer, StrandsRenderer)


def test_the_network_joins_late_and_resuming_across_it_is_exact(scene: Path, tmp_path: Path) -> None:
    options = [*RANDOM, "SOLVER.NETWORK_FROM", "0.7"]  # in the second of two epochs
    train(scene, tmp_path / "whole", *options)
    copy_epoch(tmp_path / "whole", tmp_path / "resumed", 1)
    train(scene, tmp_path / "resumed", *options, "RESUME", "True", "LOAD_EPOCH", "1")
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "resumed", 2))
    before, after = (load_model(model_path(tmp_path / "whole", epoch)).model for epoch in (1, 2))
    assert (before["network.out.weight"] == 0).all()
    assert not (after["network.out.weight"] == 0).all()
    assert not torch.equal(before["features.0"], after["features.0"])
    train(scene, tmp_path / "shorter", *options[:-1], "0.6", "SOLVER.MAX_EPOCHS", "1")
    assert not (load_model(model_path(tmp_path / "shorter", 1)).model["network.out.weight"] == 0).all()


def test_the_resolution_doubles_and_resuming_across_it_is_exact(tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=5, size=(97, 97), points=60)
    options = [*RANDOM, "INPUT.SIZE_RAW", "[97, 97]", "INPUT.SIZE_TRAIN", "[97, 97]",
               "SOLVER.RESOLUTION_SCHEDULE", "[0.35, 0.7]"]
    sizes: list[tuple[int, int]] = []
    forward = StrandsRenderer.forward

    def seen(self: StrandsRenderer, cameras: Cameras, frame: int = 0) -> RenderOutput:
        sizes.append(cameras.size)
        return forward(self, cameras, frame)

    monkeypatch.setattr(StrandsRenderer, "forward", seen)
    train(scene, tmp_path / "whole", *options)
    assert sizes == [(24, 24)] * 4 + [(48, 48)] * 3 + [(97, 97)] * 3  # of two epochs of five steps
    copy_epoch(tmp_path / "whole", tmp_path / "resumed", 1)
    train(scene, tmp_path / "resumed", *options, "RESUME", "True", "LOAD_EPOCH", "1")
    assert sizes[10:] == sizes[5:10]
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "resumed", 2))


def test_photographs_too_small_for_the_schedule_are_said(scene: Path, tmp_path: Path,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    train(scene, tmp_path, "SOLVER.RESOLUTION_SCHEDULE", "[0.5]", "SOLVER.MAX_EPOCHS", "1")
    assert "SOLVER.RESOLUTION_SCHEDULE asks for 1 halvings; INPUT.SIZE_TRAIN" in caplog.text
    assert "is halved 0 times, for no side may be below 24 pixels" in caplog.text


def test_what_happens_when() -> None:
    cfg = default_config()
    assert relocation_at(cfg, 100, 0.5) is None
    assert dropping_at(cfg, 100, 0, 0.5) is None
    cfg.SOLVER.RELOCATE_EVERY, cfg.SOLVER.DROP_SPLATS, cfg.SOLVER.SEED = 100, 0.2, 3
    assert relocation_at(cfg, 150, 0.5) is None
    assert relocation_at(cfg, 100, 0.9) is None
    found = relocation_at(cfg, 100, 0.5)
    assert found is not None
    assert (found.by, found.below, found.seeds) == ("gradient", 0.2, (3, 100))
    dropping = dropping_at(cfg, 100, 1, 0.5)
    assert dropping is not None
    assert (dropping.splats, dropping.seeds) == (0.1, (3, 100, 1))
    assert dropping_at(cfg, 0, 0, 0.0) is None


@pytest.mark.parametrize("splats", [25, 130])
def test_the_number_of_splats_is_that_of_the_configuration_and_models_load(splats: int, tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=3, size=(32, 28), points=60, frames=2)
    options = ["MODEL.MAX_SPLATS", str(splats), "DATASETS.FRAME_NUM", "2", *RANDOM]
    trainer = train(scene, tmp_path / "out", *options)
    assert isinstance(trainer.renderer, StrandsRenderer)
    assert [len(colors) for colors in trainer.renderer.colors] == [splats, splats]
    cfg = config(scene, tmp_path / "elsewhere", "MODEL.FORM", "strands")
    loaded = load_renderer(cfg, model_path(tmp_path / "out", 2), CPU, explicit=())[0]
    camera = orbit_cameras(1, (32, 28))
    with torch.no_grad():
        for frame in (0, 1):
            assert torch.equal(loaded(camera, frame).color, trainer.renderer.eval()(camera, frame).color)
    with pytest.raises(CheckpointError, match=rf"was trained with MODEL\.MAX_SPLATS {splats}, the .* says 7"):
        train(scene, tmp_path / "out", *options, "RESUME", "True", "SOLVER.MAX_EPOCHS", "3", "MODEL.MAX_SPLATS", "7")


def test_splats_that_cover_nothing_are_removed_at_the_end_and_training_can_go_on(
        scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "npcr")
    options = ["SOLVER.PRUNE_BELOW", "3", "SOLVER.CHECKPOINT_PERIOD", "1"]
    trainer = train(scene, tmp_path, *options, "SOLVER.MAX_EPOCHS", "3")
    counts = [len(load_model(model_path(tmp_path, epoch)).points[0]) for epoch in (1, 2, 3)]
    assert counts[:2] == [60, 60]
    assert 0 < counts[2] < 60
    assert f"frame 1: {60 - counts[2]} of 60 splats are removed, which cover less than 3 pixels of 5" in caplog.text
    assert len(trainer.clouds[0]) == counts[2]
    again = train(scene, tmp_path, *options, "RESUME", "True", "SOLVER.MAX_EPOCHS", "4")
    assert again.iteration == 20
    assert 0 < len(load_model(model_path(tmp_path, 4)).points[0]) <= counts[2]


def test_where_every_splat_covers_too_little_none_is_removed(scene: Path, tmp_path: Path,
                                                            caplog: pytest.LogCaptureFixture) -> None:
    train(scene, tmp_path, "SOLVER.PRUNE_BELOW", "1e6", "SOLVER.MAX_EPOCHS", "1")
    assert "none of 60 splats covers SOLVER.PRUNE_BELOW 1e+06 pixels; none is removed" in caplog.text
    assert len(load_model(model_path(tmp_path, 1)).points[0]) == 60


def test_the_loss_keeps_opacity_and_size_small(scene: Path, tmp_path: Path) -> None:
    found: dict[str, dict[str, float]] = {}
    terms: dict[str, set[str]] = {}
    for key in ("", "LOSS.OPACITY", "LOSS.SIZE"):
        renderer = train(scene, tmp_path / key, *([key, "3"] if key else []), "SOLVER.MAX_EPOCHS", "4").renderer
        assert isinstance(renderer, StrandsRenderer)
        found[key] = {name: float(value.detach()) for name, value in renderer.regularizers(0).items()}
        terms[key] = set(EventAccumulator(str(tmp_path / key / "log")).Reload().Tags()["scalars"])
    for key, name in (("LOSS.OPACITY", "opacity"), ("LOSS.SIZE", "size")):
        assert found[key][name] < 0.97 * found[""][name]
        assert f"loss/{name}" in terms[key] - terms[""]
