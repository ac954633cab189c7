# SPDX-License-Identifier: Apache-2.0
"""Losses that a GPU is still computing: no step waits for them, and none that is not finite is missed."""

from __future__ import annotations

import os
import signal
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from npcr.checkpoints import model_path
from npcr.errors import TrainingError
from npcr.ops import compiled_available
from npcr.refine.clips import PathClips
from npcr.refine.steady import SteadyRefiner, SteadySettings
from npcr.renderers.losses import RenderLoss
from npcr.temporal.reprojection import FULL_CROP
from npcr.training.pending_losses import PendingLosses, take_read
from npcr.training.trainer import Trainer
from tests.late_copies import LateCopy, WaitCounter
from tests.path_stub import orbit
from tests.refine.shimmer import Shimmer
from tests.scenes import write_tiny_scene
from tests.training.test_trainer import BLENDED, CPU, SmallNetwork, config, same_parameters

HOST_COPY = "npcr.training.pending_losses.HostCopy"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene") / "tiny", cameras=5, size=(32, 28))


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses come as from a GPU."""
    monkeypatch.setattr(HOST_COPY, LateCopy)


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npcr.renderers.layered.GatedUNet", SmallNetwork)


def pending(*totals: float) -> deque[PendingLosses[list[float]]]:
    """Steps of one loss each."""
    queue: deque[PendingLosses[list[float]]] = deque()
    for total in totals:
        losses = PendingLosses(lambda values: TrainingError(f"it is {values['total']}"),
                               lambda parts: [part["total"] for part in parts])
        losses.add({"total": torch.tensor(total)})
        queue.append(losses)
    return queue


def nan_in_step(monkeypatch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Let the loss of a step, from 1, be NaN; returns the list of the steps made."""
    made: list[int] = []
    forward = RenderLoss.forward

    def broken(self: RenderLoss, *arguments: Tensor) -> dict[str, Tensor]:
        made.append(len(made) + 1)
        terms = forward(self, *arguments)
        return {name: value * float("nan") for name, value in terms.items()} if made[-1] == step else terms

    monkeypatch.setattr(RenderLoss, "forward", broken)
    return made


def test_on_the_host_a_loss_is_checked_when_it_is_added() -> None:
    with pytest.raises(TrainingError, match="it is inf"):
        pending(1.0, float("inf"))
    assert list(take_read(pending(1.0, 2.0, 3.0))) == [[1.0], [2.0], [3.0]]


@pytest.mark.usefixtures("late")
def test_on_a_gpu_it_is_read_a_few_steps_behind() -> None:
    queue = pending(1.0, 2.0, 3.0, float("nan"))
    assert list(take_read(queue, ahead=2)) == [[1.0], [2.0]]
    with pytest.raises(TrainingError, match="it is nan"):
        list(take_read(queue, ahead=0))


@pytest.mark.usefixtures("late")
@pytest.mark.skipif(not compiled_available(), reason="the reference in torch looks at its results")
@pytest.mark.parametrize("form", [[], [*BLENDED, "LOSS.SSIM", "0.1"]], ids=["layered", "blended"])
def test_the_host_waits_for_nothing_in_a_step(scene: Path, tmp_path: Path, form: list[str]) -> None:
    options = [*form, "SOLVER.OPTIMIZER_NAME", "SGD"]  # Adam counts its steps on the host, which looks like a wait
    trainer = Trainer(config(scene, tmp_path, *options, "SOLVER.IMS_PER_BATCH", "2"), CPU)
    trainer.renderer.network.backend = "torch"  # the network that a GPU runs
    batches = trainer._batches()
    for _ in range(2):
        with WaitCounter() as counter:
            trainer.step(next(batches))
        assert counter.waits == []
    with WaitCounter() as counter:
        assert trainer.optimizer.param_groups[0]["params"][0].isfinite().all()
    assert counter.waits  # or the counter finds nothing


@pytest.mark.usefixtures("late")
def test_the_host_waits_for_nothing_in_a_step_of_refining(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npcr.temporal.reprojection.occupied_crop", lambda depth, margin: FULL_CROP)  # as on a GPU
    renderer = Shimmer()
    settings = SteadySettings(passes=1, steps=2, lr=0.1, steadiness=1, photometric=0, anchor=1, depth_tolerance=0.01)
    refiner = SteadyRefiner(renderer, PathClips(orbit(6), 3),
                            torch.optim.SGD([{"params": [renderer.shimmer], "lr": 0.1, "factor": 1.0}]), settings)
    steps = refiner.run_pass(1)
    with WaitCounter() as counter:
        losses = next(steps)
    assert counter.waits == []
    assert losses.read().total > 0


@pytest.mark.usefixtures("small_network")
def test_late_losses_train_and_log_the_same(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trainer(config(scene, tmp_path / "host"), CPU).run()
    monkeypatch.setattr(HOST_COPY, LateCopy)
    Trainer(config(scene, tmp_path / "gpu"), CPU).run()
    assert same_parameters(model_path(tmp_path / "host", 2), model_path(tmp_path / "gpu", 2))
    logged = [[(event.step, event.value) for event in EventAccumulator(str(tmp_path / name / "log")).Reload()
               .Scalars("loss/total")] for name in ("host", "gpu")]
    assert logged[0] == logged[1]
    assert len(logged[0]) == 10


@pytest.mark.usefixtures("small_network", "late")
def test_a_late_nan_names_its_step_and_is_not_saved(scene: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    made = nan_in_step(monkeypatch, 2)
    with pytest.raises(TrainingError, match=r"not finite in epoch 1, step 2 of 5, at 0/img_000\d\.png \(total nan"):
        Trainer(config(scene, tmp_path), CPU).run()
    assert made == [1, 2, 3, 4]
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.usefixtures("small_network", "late")
@pytest.mark.parametrize(("step", "stop"), [(5, "at the epoch's end"), (1, "by Ctrl-C")])
def test_what_follows_a_late_nan_is_not_saved(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int,
                                              stop: str) -> None:
    nan_in_step(monkeypatch, step)
    real = Trainer.step

    def stopped(self: Trainer, batch: list[Any]) -> None:
        if stop == "by Ctrl-C":
            os.kill(os.getpid(), signal.SIGINT)
        real(self, batch)

    monkeypatch.setattr(Trainer, "step", stopped)
    with pytest.raises(TrainingError, match=f"not finite in epoch 1, step {step} of 5"):
        Trainer(config(scene, tmp_path), CPU).run()
    assert not list(tmp_path.glob("*.pth"))
