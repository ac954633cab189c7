# SPDX-License-Identifier: Apache-2.0
"""Neighboring splats learn together how their color changes with direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras
from npcr.renderers import StrandsRenderer
from npcr.renderers.population import share_gradients


def points(count: int = 500) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(0)) * 10


def test_in_one_cell_each_gets_the_mean_and_a_tenth_of_its_own() -> None:
    gradients = torch.randn(500, 8, 3, generator=torch.Generator().manual_seed(1))
    wanted = gradients.mean(0) + 0.1 * gradients
    for seed in range(20):  # a grid may cut the points in two
        shared = gradients.clone()
        share_gradients(shared, points(), 1e4, (seed,))
        if torch.allclose(shared, wanted, atol=1e-6):
            return
    pytest.fail("none of 20 grids has all points in one cell")


def test_cells_are_those_of_a_grid() -> None:
    """Points get the same mean that lie in one cell of some grid, and others never share."""
    at, side = points(), 2.5
    one_hot = torch.eye(len(at))
    share_gradients(one_hot, at, side, (3,))
    together = (one_hot - 0.1 * torch.eye(len(at))) > 0
    assert torch.equal(together, together.T)
    assert bool(together.diagonal().all())
    distances = torch.cdist(at, at, p=torch.inf)
    assert float(distances[together].max()) < side
    assert int(together.sum()) > 4 * len(at)  # of 500 in 4 to 5 cells a side
    for row in (0, 250, 499):  # who shares with one shares with all of its cell
        assert torch.equal(together[row], together[together[row]][0])
        torch.testing.assert_close(one_hot[row].sum(), torch.tensor(1.1))


def test_the_grid_follows_from_its_seeds_alone() -> None:
    results = []
    for seeds in ((0, 1), (0, 1), (0, 2)):
        gradients = torch.eye(500)
        share_gradients(gradients, points(), 2.5, seeds)
        results.append(gradients)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_a_splat_that_is_nowhere_does_not_break_the_others() -> None:
    at = points()
    at[7] = torch.nan
    at[8] = torch.inf
    gradients = torch.ones(500, 3)
    share_gradients(gradients, at, 2.5, (0,))
    torch.testing.assert_close(gradients, torch.full((500, 3), 1.1))


@pytest.mark.parametrize("degree", [0, 2])
def test_only_the_color_by_direction_of_frames_in_the_step_is_shared(degree: int) -> None:
    clouds = [points(50), points(60)]
    renderer = StrandsRenderer(clouds, [0.5, 0.5], feature_dim=4, width=0, degree=degree)
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([5.0, 5.0, -12.0])
    intrinsics = torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]])
    renderer(Cameras(pose[None], intrinsics[None], (32, 32)), 1).color.square().sum().backward()
    before = {name: p.grad.clone() for name, p in renderer.named_parameters() if p.grad is not None}
    assert before
    renderer.share_gradients(4, (0,))
    changed = {name for name, p in renderer.named_parameters()
               if p.grad is not None and not torch.equal(p.grad, before[name])}
    assert changed == ({"shades.1"} if degree else set())
