# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from npcr.config import load_config
from npcr.data.samples import Sample
from npcr.errors import TrainingError
from npcr.refine.clips import PathClips
from npcr.refine.steady import PhotometricSource, SteadyRefiner, SteadySettings, render_frame
from npcr.renderers.losses import RenderLoss
from npcr.training.optimizers import build_optimizer
from tests.path_stub import SIZE, orbit
from tests.refine.shimmer import Shimmer

SETTINGS = SteadySettings(passes=4, steps=10, lr=0.01, steadiness=30.0, photometric=1.0, anchor=1.0,
                          depth_tolerance=0.02)


def make(renderer: Shimmer, photographs: PhotometricSource | None = None, length: int = 2,
         **changes: object) -> SteadyRefiner:
    settings = SteadySettings(**{**SETTINGS.__dict__, **changes})  # type: ignore[arg-type]
    optimizer = build_optimizer(load_config(None, ["SOLVER.WEIGHT_DECAY", "0"]), renderer, lr=settings.lr)
    return SteadyRefiner(renderer, PathClips(orbit(6), length), optimizer, settings, photographs=photographs)


def refine(refiner: SteadyRefiner) -> list[tuple[float, ...]]:
    return [tuple(losses.read()) for number in range(1, refiner.settings.passes + 1)
            for losses in refiner.run_pass(number)]


def bright_photographs(brightness: float) -> PhotometricSource:
    """Photographs of the plane at another brightness."""
    painter = Shimmer()
    painter.brightness.data.fill_(brightness)
    painter.shimmer.data.zero_()

    def draw(rng: np.random.Generator) -> Sample:
        camera = orbit(6)[int(rng.integers(6))]
        output = painter(camera)
        target = torch.cat([output.color, output.alpha, torch.ones_like(output.alpha)], dim=1)[0].detach()
        return Sample("0/img", 0, 0, camera, target)

    return PhotometricSource(draw, RenderLoss(perceptual=0, mse=100, gradient=0, ssim=0, vgg=None))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("length", [2, 3])
def test_shimmer_goes_and_the_anchor_holds_the_rest(legacy: bool, length: int) -> None:
    renderer = Shimmer(legacy)
    losses = refine(make(renderer, length=length))
    assert len(losses) == 40
    assert abs(renderer.shimmer.item()) < 0.03
    assert renderer.brightness.item() == pytest.approx(0.5, abs=0.05)
    assert losses[-1][0] < 0.3 * losses[0][0]
    assert losses[0][1] == 0
    assert all(loss[3] == pytest.approx(sum(loss[:3]), rel=1e-5) for loss in losses)


def test_photographs_pull_towards_what_they_show() -> None:
    renderer = Shimmer()
    losses = refine(make(renderer, bright_photographs(0.6), lr=0.02, anchor=0.0))
    assert renderer.brightness.item() == pytest.approx(0.6, abs=0.02)
    assert losses[0][1] > 10 * losses[-1][1] > 0
    assert losses[0][2] == 0
    without = Shimmer()
    assert all(loss[1] == 0 for loss in refine(make(without, bright_photographs(0.6), photometric=0.0)))
    assert without.brightness.item() == pytest.approx(0.5, abs=0.05)


def test_a_step_depends_on_its_number_and_the_parameters_alone() -> None:
    whole = Shimmer()
    refine(make(whole))
    parts = Shimmer()
    refiner = make(parts)
    iterator = refiner.run_pass(1)
    for _ in range(4):
        next(iterator)
    list(refiner.run_pass(1, first=4))
    for number in (2, 3, 4):
        list(refiner.run_pass(number))
    assert torch.equal(parts.shimmer, whole.shimmer)
    assert torch.equal(parts.brightness, whole.brightness)


def test_one_frame_at_a_time_gives_the_same_gradients() -> None:
    gradients = []
    for apart in (False, True):
        renderer = Shimmer()
        next(make(renderer, length=3, one_frame_at_a_time=apart).run_pass(1))
        assert renderer.shimmer.grad is not None
        gradients.append(renderer.shimmer.grad)
    assert gradients[0].item() != 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=0)


def test_the_rate_rises_then_falls_to_zero() -> None:
    renderer = Shimmer()
    refiner = make(renderer)
    rates = []
    for number in range(1, 5):
        for _ in refiner.run_pass(number):
            rates.append(refiner.optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.002)
    assert max(rates) == rates[4] > 0.0095
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.0001


def test_a_loss_that_is_not_finite_names_step_and_pass_and_changes_nothing() -> None:
    renderer = Shimmer()
    refiner = make(renderer)
    next(refiner.run_pass(3))
    before = renderer.brightness.item()
    renderer.alpha = math.nan
    with pytest.raises(TrainingError, match="the loss of step 3 in pass 2 is nan; a lower REFINE"):
        list(refiner.run_pass(2, first=2))
    assert renderer.brightness.item() == before


def test_frames_are_premultiplied_whatever_the_model() -> None:
    camera = orbit(1)
    torch.testing.assert_close(render_frame(Shimmer(legacy=True), camera, 0).image,
                               render_frame(Shimmer(legacy=False), camera, 0).image)
    assert render_frame(Shimmer(), camera, 0).image.shape == (1, 4, SIZE[1], SIZE[0])
