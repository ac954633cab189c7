# SPDX-License-Identifier: Apache-2.0
"""Colors of splats come nearer to those of their neighbors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from npcr.renderers import StrandsRenderer
from npcr.renderers.population import smooth_colors

SIDE = 2.5


def points(count: int = 500) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 10


def numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def smoothed(colors: Tensor, weights: Tensor, share: float, at: Tensor | None = None, seed: int = 3) -> Tensor:
    result = colors.clone()
    smooth_colors(result, weights, points() if at is None else at, SIDE, share, (seed,))
    return result


def cells() -> list[Tensor]:
    """The points of each cell, found by the colors that they have in common afterwards."""
    found = (smoothed(numbers(500, 3), torch.ones(500), 1) * 1e4).round()
    return [(found == row).all(dim=1).nonzero()[:, 0] for row in found.unique(dim=0)]


def test_a_color_moves_by_its_share_to_the_weighted_mean_of_its_cell() -> None:
    colors, weights = numbers(500, 1, 3), numbers(500)
    assert 8 < len(cells()) < 250  # of a grid of 4 to 5 cells a side
    expected = colors.clone()
    for cell in cells():
        mean = (weights[cell, None, None] * colors[cell]).sum(0) / weights[cell].sum()
        expected[cell] += 0.3 * (mean - colors[cell])
        assert float((points()[cell].amax(0) - points()[cell].amin(0)).max()) < SIDE
    assert sum(map(len, cells())) == 500
    torch.testing.assert_close(smoothed(colors, weights, 0.3), expected, atol=1e-5, rtol=0)


def test_equal_colors_stay_and_the_grid_follows_from_its_seeds_alone() -> None:
    equal = torch.full((500, 3), 0.7)
    torch.testing.assert_close(smoothed(equal, numbers(500), 0.5), equal, atol=1e-6, rtol=0)
    colors, weights = numbers(500, 3), torch.ones(500)
    assert torch.equal(smoothed(colors, weights, 0.5), smoothed(colors, weights, 0.5))
    assert not torch.equal(smoothed(colors, weights, 0.5), smoothed(colors, weights, 0.5, seed=4))


def test_the_order_of_the_splats_does_not_matter() -> None:
    """Sums are of whole numbers: a GPU, which adds up in any order, and several processes get the same bits."""
    colors, weights, order = numbers(500, 3), numbers(500), torch.randperm(500)
    assert torch.equal(smoothed(colors, weights, 0.5)[order],
                       smoothed(colors[order], weights[order], 0.5, points()[order]))


def test_what_is_nowhere_unseen_or_not_a_number_does_not_break_the_others() -> None:
    at, colors, weights = points(), numbers(500, 3), torch.ones(500)
    at[0], at[1] = torch.nan, torch.inf
    colors[2], colors[3] = torch.nan, 1e30
    weights[4] = torch.nan
    found = smoothed(colors, weights, 0.5, at)
    assert torch.isfinite(found[[0, 1, 4]]).all()
    assert torch.isfinite(found[5:]).all()
    unseen = smoothed(numbers(500, 3), torch.zeros(500), 0.5)
    assert torch.equal(unseen, numbers(500, 3))  # nobody to follow


@pytest.mark.parametrize("decay", [0.1, 100.0])
def test_frames_of_the_step_are_smoothed_by_their_learning_rate(decay: float) -> None:
    renderer = StrandsRenderer([points(50), points(60)], [2.0, 2.0], [numbers(50, 3), numbers(60, 3)], width=0)
    optimizer = torch.optim.AdamW([{"params": list(renderer.opacity), "lr": 0.5},
                                   {"params": list(renderer.colors), "lr": 0.25}])
    before = [color.detach().clone() for color in renderer.colors]
    renderer.colors[1].grad = torch.zeros_like(renderer.colors[1])
    renderer.smooth_colors(optimizer, decay, (0,))
    assert torch.equal(renderer.colors[0], before[0])  # was not in this step
    expected = before[1][:, 0].clone()
    smooth_colors(expected, torch.full((60,), 0.5), points(60), 4.0, min(1.0, 0.25 * decay), (0, 1))
    torch.testing.assert_close(renderer.colors[1][:, 0].detach(), expected)
    assert not torch.equal(expected, before[1][:, 0])
