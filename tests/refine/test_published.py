# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.errors import TrainingError
from npcr.refine.published import PathRefiner, RefineLoss, RefineSettings
from npcr.temporal import RenderedFrame, reproject, reproject_legacy
from tests.path_stub import PlaneRenderer, nan_after, orbit

SETTINGS = RefineSettings((0.6, 0.4, 0.25, 0.75), 1e9, 0.01, perceptual=0.0)


def make(renderer: PlaneRenderer, count: int = 4, lr: float = 0.1,
         settings: RefineSettings = SETTINGS) -> PathRefiner:
    return PathRefiner(renderer, orbit(count), torch.optim.SGD(renderer.parameters(), lr), None, settings)


def losses_written_out(renderer: PlaneRenderer, count: int) -> list[Tensor]:
    """The refiner's losses with all graphs at once, the history detached."""
    frames = []
    for index in range(count):
        camera = orbit(count)[index]
        output = renderer(camera)
        image = output.legacy_color
        if image is None:
            image = torch.cat([output.color, output.alpha], dim=1)
        frames.append(RenderedFrame(image, output.depth, camera))
    blended, losses = frames[0].image.detach(), []
    for earlier, current in pairwise(frames):
        images = [blended, earlier.image.detach()]
        now = current.detach()
        warped = (reproject_legacy(now, earlier, images, color_threshold=1e9) if renderer.legacy else
                  reproject(now, earlier, images, color_threshold=1e9, depth_tolerance=0.01))
        target = 0.6 * warped[0] + 0.4 * warped[1]
        losses.append(F.mse_loss(current.image, target))
        blended = 0.25 * now.image + 0.75 * target
    return losses


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pass_adds_up_gradients_and_steps_once(legacy: bool) -> None:
    expected = losses_written_out(PlaneRenderer(legacy, flicker=0.05), 4)
    reference = PlaneRenderer(legacy, flicker=0.05)
    torch.stack(losses_written_out(reference, 4)).sum().backward()
    assert reference.brightness.grad is not None

    renderer = PlaneRenderer(legacy, flicker=0.05)
    losses = []
    for loss in make(renderer).run_pass():
        losses.append(loss.read())
        assert renderer.brightness.item() == 1.0
    assert [loss.mse for loss in losses] == pytest.approx([loss.item() for loss in expected], rel=1e-5)
    assert renderer.brightness.item() == pytest.approx(1.0 - 0.1 * reference.brightness.grad.item(), rel=1e-6)
    assert abs(reference.brightness.grad.item()) > 1e-4


def test_gradients_of_one_pass_do_not_reach_the_next() -> None:
    renderer = PlaneRenderer(flicker=0.05)
    refiner = make(renderer, lr=0.0)
    list(refiner.run_pass(1))
    first = renderer.brightness.grad.clone()  # type: ignore[union-attr]
    renderer.calls.clear()  # the same flicker again
    list(refiner.run_pass(2))
    assert torch.equal(renderer.brightness.grad, first)  # type: ignore[arg-type]


def test_a_pass_left_early_changes_nothing() -> None:
    renderer = PlaneRenderer(flicker=0.05)
    next(make(renderer).run_pass())
    assert renderer.brightness.item() == 1.0


def test_memory_is_that_of_one_frames_graph() -> None:
    """What autograd saved for a frame is gone when the frame's loss comes out."""
    saved: list[weakref.ref[Tensor]] = []

    def pack(tensor: Tensor) -> Tensor:
        copy = tensor.detach().clone()
        saved.append(weakref.ref(copy))
        return copy

    identity: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, identity):
        for _ in make(PlaneRenderer(flicker=0.05), 5).run_pass():
            gc.collect()
            assert saved
            assert all(reference() is None for reference in saved)


def test_the_model_is_refined_as_it_will_be_rendered() -> None:
    renderer = PlaneRenderer().train()
    optimizer = torch.optim.SGD(renderer.parameters(), 0.1)
    refiner = PathRefiner(renderer, orbit(3), optimizer, None, SETTINGS, frame=1)
    list(refiner.run_pass())
    assert renderer.calls == [(1, 1, False, False), (1, 1, False, True), (1, 1, False, True)]


def test_a_loss_that_is_not_finite_names_frame_and_pass_and_changes_nothing() -> None:
    renderer = nan_after(PlaneRenderer(), 2)
    with pytest.raises(TrainingError, match="the loss of frame 3 in pass 7 is nan"):
        list(make(renderer, 5).run_pass(7))
    assert renderer.brightness.item() == 1.0


def test_weights_of_the_terms() -> None:
    def loss(mse: float) -> RefineLoss:
        settings = RefineSettings(SETTINGS.weights, 1e9, 0.01, perceptual=0.0, mse=mse)
        return next(make(PlaneRenderer(flicker=0.05), settings=settings).run_pass()).read()

    assert loss(3.0).mse == pytest.approx(3 * loss(1.0).mse)
    assert loss(1.0).feature == 0
    assert loss(1.0).total == loss(1.0).mse


def test_what_cannot_be_refined() -> None:
    with pytest.raises(TrainingError, match="at least 2 cameras; this one has 1"):
        make(PlaneRenderer(), count=1)
    with pytest.raises(ValueError, match="needs vgg"):
        make(PlaneRenderer(), settings=RefineSettings(SETTINGS.weights, 1e9, 0.01))
