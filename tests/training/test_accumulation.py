# SPDX-License-Identifier: Apache-2.0
"""A step of several views is that of their mean gradient, in the memory of one."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from npcr.training.trainer import Trainer
from tests.scenes import write_tiny_scene
from tests.training.test_trainer import config

CPU = torch.device("cpu")


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    scene = write_tiny_scene(tmp_path / "scene", cameras=6, size=(32, 28))
    return Trainer(config(scene, tmp_path, "MODEL.FORM", "strands", "MODEL.WIDTH", "4", "SOLVER.IMS_PER_BATCH", "3",
                          "SOLVER.OPTIMIZER_NAME", "SGD", "SOLVER.BASE_LR", "0"), CPU)


def gradient(trainer: Trainer) -> torch.Tensor:
    """Of the last step, which leaves it."""
    return torch.cat([p.grad.flatten() for p in trainer.renderer.parameters() if p.grad is not None])


def test_the_gradient_of_a_batch_is_the_mean_of_its_views(trainer: Trainer) -> None:
    batch = next(trainer._batches())
    assert len(batch) == 3
    trainer.step(batch)
    found, alone = gradient(trainer), []
    for sample in batch:
        trainer.step([sample])
        alone.append(gradient(trainer))
    assert found.norm() > 0
    torch.testing.assert_close(found, sum(alone) / 3, rtol=1e-5, atol=1e-6 * float(found.abs().max()))


def test_one_views_activations_are_kept_at_a_time(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

    kept: weakref.WeakSet[Kept] = weakref.WeakSet()
    at_start, forward = [], trainer.renderer.forward

    def pack(tensor: torch.Tensor) -> Kept:
        kept.add(box := Kept(tensor))
        return box

    def counted(*arguments: object) -> object:
        at_start.append(len(kept))
        output = forward(*arguments)
        assert len(kept) > at_start[-1] + 10
        return output

    monkeypatch.setattr(trainer.renderer, "forward", counted)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        trainer.step(next(trainer._batches()))
    assert at_start == [0, 0, 0]
