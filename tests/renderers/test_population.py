# SPDX-License-Identifier: Apache-2.0
"""The population of splats: what moves, what of it shows, what is left out and what is removed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from npcr.checkpoints import load_parameters, make_checkpoint
from npcr.config import default_config, load_config, to_dict
from npcr.errors import ConfigError
from npcr.factory import build_renderer
from npcr.io.points import PointCloud
from npcr.ops import compiled_available
from npcr.renderers import StrandsRenderer
from npcr.renderers.population import (
    Dropping,
    Relocation,
    cut_strands,
    draw_cut,
    harmonic_degree,
    kept_share,
    mean_gradients,
)
from npcr.training.optimizers import build_optimizer
from tests.scenes import orbit_cameras

SIZE = (48, 36)
BACKENDS = ["torch", pytest.param("compiled", marks=pytest.mark.skipif(not compiled_available(),
                                                                       reason="no compiled CPU kernel"))]
BY_OPACITY = Relocation("opacity", 0.01, (0, 100))


def make_renderer(count: int = 400, frames: int = 1, **options: int | str) -> StrandsRenderer:
    generator = torch.Generator().manual_seed(3)
    clouds = [torch.rand(count, 3, generator=generator) - 0.5 for _ in range(frames)]
    torch.manual_seed(0)
    renderer = StrandsRenderer(clouds, [0.06] * frames, [torch.rand(count, 3, generator=generator)] * frames,
                               **({"width": 0} | options))
    with torch.no_grad():
        for strands, opacity, width in zip(renderer.strands, renderer.opacity, renderer.log_width, strict=True):
            strands.normal_(std=2.0, generator=generator)
            opacity.normal_(0.5, 1.5, generator=generator)
            width.normal_(0, 0.5, generator=generator)
    return renderer


def make_optimizer(renderer: StrandsRenderer, steps: int = 1) -> torch.optim.Optimizer:
    cfg = default_config()
    cfg.SOLVER.OPTIMIZER_NAME = "AdamW"
    optimizer = build_optimizer(cfg, renderer, lr=1e-4)
    for _ in range(steps):
        optimizer.zero_grad()
        for frame in range(renderer.frames):
            renderer(orbit_cameras(1, SIZE), frame).color.square().sum().backward()
        optimizer.step()
    return optimizer


@torch.no_grad()
def bury(renderer: StrandsRenderer, every: int = 4, frame: int = 0) -> None:
    """Let every so many splats die."""
    renderer.opacity[frame][::every] = -9.0


def picture(renderer: StrandsRenderer, frame: int = 0) -> Tensor:
    with torch.no_grad():
        output = renderer(orbit_cameras(2, SIZE), frame)
    return torch.cat([output.color, output.alpha], dim=1)


# Which ones move


def test_every_dead_splat_becomes_a_piece_of_a_live_one_as_often_as_its_use_says() -> None:
    use = np.random.default_rng(1).random(1000)
    dead = use < 0.6 * use.mean()
    cut = draw_cut(use, 0.6, (0, 100))
    moved = cut.rows[cut.place > 0]
    assert 200 < dead.sum() < 400
    assert sorted(moved) == sorted(np.flatnonzero(dead))
    assert not dead[cut.source].any()
    assert sorted(cut.rows[cut.place == 0]) == sorted(set(cut.source))
    counts = np.bincount(cut.source[cut.place > 0], minlength=1000)
    wanted = dead.sum() * use / use[~dead].sum()
    assert (abs(counts - wanted)[~dead] <= 1 + 1e-9).all()
    for row, source, pieces in zip(cut.rows, cut.source, cut.pieces, strict=True):
        assert pieces == counts[source] + 1, row
    for whole in np.unique(cut.source):
        assert sorted(cut.place[cut.source == whole]) == list(range(counts[whole] + 1))


def test_the_choice_follows_from_its_seeds_alone() -> None:
    use = np.where(np.arange(500) % 3 == 0, 0.0, 1.0)
    np.random.seed(1)
    first = draw_cut(use, 0.1, (0, 100))
    np.random.seed(2)
    again, other = draw_cut(use, 0.1, (0, 100)), draw_cut(use, 0.1, (0, 200))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first.source != other.source).any()


@pytest.mark.parametrize("use", [[1.0, 1.0], [0.0, 0.0], []])
def test_where_all_are_of_the_same_use_or_of_none_nothing_moves(use: list[float]) -> None:
    assert [len(part) for part in draw_cut(np.array(use), 0.5, (0, 1))] == [0, 0, 0, 0]


def test_the_last_splat_of_use_is_cut_and_none_behind_it() -> None:
    for seed in range(200):
        cut = draw_cut(np.array([0.0, 1e-3, 1.0, 0.0]), 0.9, (seed,))
        assert set(cut.source) == {2}
        assert cut.pieces.tolist() == [4, 4, 4, 4]


# What they become


def row_of_pieces(strand: list[float], width: float, opacity: float, pieces: int) -> tuple[Tensor, ...]:
    n = torch.full((pieces,), float(pieces), dtype=torch.float64)
    logit = torch.logit(torch.tensor(opacity, dtype=torch.float64)).expand(pieces)
    return cut_strands(torch.tensor([strand], dtype=torch.float64).expand(pieces, 3),
                       torch.full((pieces,), width, dtype=torch.float64), logit,
                       torch.arange(pieces, dtype=torch.float64), n)


@pytest.mark.parametrize(("pieces", "apart"), [(2, 0.07), (3, 0.15), (7, 0.3)])  # many are an even row, less a bell
def test_pieces_of_a_strand_have_its_covariance_and_add_up_to_it(pieces: int, apart: float) -> None:
    strand, width, opacity = torch.tensor([3.0, 1.0, -2.0], dtype=torch.float64), 0.2, 0.5
    shift, half, logit = row_of_pieces(strand.tolist(), width, opacity, pieces)
    spread = (shift[:, :, None] * shift[:, None]).mean(0) + half[0, :, None] * half[0]
    torch.testing.assert_close(spread, strand[:, None] * strand)
    assert shift.sum(0).abs().max() < 1e-9
    along = torch.linspace(-2.5, 2.5, 101, dtype=torch.float64)[:, None] * strand.norm()
    whole = opacity * torch.exp(-along**2 / (2 * (strand.square().sum() + width**2)))
    at, variance = shift @ strand / strand.norm(), half.square().sum(1) + width**2
    added = (torch.sigmoid(logit) * torch.exp(-(along - at)**2 / (2 * variance))).sum(1)
    assert (added - whole[:, 0]).abs().max() < apart * opacity
    assert added.sum() == pytest.approx(float(whole.sum()), rel=0.03)


@pytest.mark.parametrize("opacity", [0.006, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("strand", [0.0, 0.5])
def test_pieces_of_any_opacity_cover_as_much_as_the_whole(opacity: float, strand: float) -> None:
    shift, half, logit = row_of_pieces([strand, 0, 0], 0.3, opacity, 4)
    assert logit.isfinite().all()
    assert (shift.abs().max() > 0) == (strand > 0)
    area = torch.sigmoid(logit) * torch.sqrt(0.3**2 + half.square().sum(1))
    assert float(area.sum()) == pytest.approx(opacity * (0.3**2 + strand**2)**0.5)


@pytest.mark.parametrize("by", ["opacity", "gradient"])
def test_moving_hardly_changes_the_picture(by: str) -> None:
    renderer = make_renderer()
    bury(renderer)
    optimizer = make_optimizer(renderer)
    before = picture(renderer)
    wrong = make_renderer()
    wrong.load_state_dict(renderer.state_dict())
    moved = renderer.relocate(optimizer, Relocation(by, 0.01, (0, 100)))
    assert moved == 100 if by == "opacity" else moved > 100
    assert (torch.sigmoid(renderer.opacity[0]) > 0.003).all()
    change = float((picture(renderer) - before).abs().mean())
    with torch.no_grad():  # as many, but copies of others as they are
        for parameters in wrong._lists():
            parameters[0][::4] = parameters[0][1::4]
        wrong.points_0[::4] = wrong.points_0[1::4]
    assert 0 < change < 0.5 * float((picture(wrong) - before).abs().mean())
    assert change < 0.1 * float(before.abs().mean())


def test_the_optimizer_goes_on_with_the_pieces() -> None:
    renderer = make_renderer()
    optimizer = make_optimizer(renderer, steps=3)
    bury(renderer)
    squares = optimizer.state[renderer.colors[0]]["exp_avg_sq"].clone()
    untouched = optimizer.state[renderer.colors[0]]["exp_avg"].clone()
    cut = draw_cut(torch.sigmoid(renderer.opacity[0][:, 0]).detach().double().numpy(), 0.01, (0, 100, 0))
    renderer.relocate(optimizer, BY_OPACITY)
    state = optimizer.state[renderer.colors[0]]
    rows, source = torch.from_numpy(cut.rows), torch.from_numpy(cut.source)
    assert state["exp_avg"][rows].abs().max() == 0
    torch.testing.assert_close(state["exp_avg_sq"][rows],
                               squares[source] / torch.from_numpy(cut.pieces)[:, None, None])
    others = torch.ones(400, dtype=torch.bool).index_fill(0, rows, False)
    assert torch.equal(state["exp_avg"][others], untouched[others])
    assert torch.equal(renderer.colors[0][rows], renderer.colors[0][source])
    for name in ("offsets", "strands", "opacity", "log_width"):
        assert optimizer.state[getattr(renderer, name)[0]]["exp_avg"][rows].abs().max() == 0


def test_frames_are_populated_for_themselves() -> None:
    renderer = make_renderer(frames=2)
    optimizer = make_optimizer(renderer)
    bury(renderer, frame=1)
    start = {name: value.clone() for name, value in renderer.state_dict().items()}
    assert renderer.relocate(optimizer, BY_OPACITY) == 100
    for name, value in renderer.state_dict().items():
        assert torch.equal(start[name], value) == name.endswith(".0"), name


def test_a_splat_that_is_not_finite_is_made_anew() -> None:
    renderer = make_renderer()
    optimizer = make_optimizer(renderer)
    with torch.no_grad():
        renderer.offsets[0][5, 1] = torch.nan
        renderer.opacity[0][6] = torch.nan
        renderer.log_width[0][7] = torch.inf
    assert renderer.relocate(optimizer, BY_OPACITY) == 3
    assert all(parameter.isfinite().all() for parameter in renderer.parameters())


def test_gradients_say_which_splats_are_seen() -> None:
    """Those of the colors, which Adam keeps, tell as well as measuring it what splats cover."""
    renderer = make_renderer(count=3000)
    with torch.no_grad():
        renderer.opacity[0].add_(1)  # so that some hide behind others
    optimizer = make_optimizer(renderer, steps=0)
    covered = torch.zeros(3000)
    for i in range(8):
        camera = orbit_cameras(8, SIZE)[i]
        optimizer.zero_grad()
        (renderer(camera).color - 0.5).abs().sum().backward()
        optimizer.step()
        covered += renderer.coverage(camera, 0)
    use = mean_gradients(renderer.colors[0], optimizer)
    ranks = torch.stack([use, covered]).argsort(1).argsort(1).float()
    assert float(torch.corrcoef(ranks)[0, 1]) > 0.9
    dead = use < 0.2 * use.mean()
    assert 0.1 < float(dead.float().mean()) < 0.6
    assert float(covered[dead].sum() / covered.sum()) < 0.2 * float(dead.float().mean())


def test_splats_that_are_not_seen_become_pieces_of_those_that_are() -> None:
    renderer = make_renderer()
    optimizer = make_optimizer(renderer)
    squares = optimizer.state[renderer.colors[0]]["exp_avg_sq"]
    squares.fill_(1e-12)
    squares[[21, 22]] = 1.0
    places = renderer.gaussians(0)[0].detach().clone()
    assert renderer.relocate(optimizer, Relocation("gradient", 0.05, (0, 1))) == 398
    moved = renderer.gaussians(0)[0].detach()
    from_those = torch.minimum((moved - places[21]).norm(dim=1), (moved - places[22]).norm(dim=1))
    assert from_those.max() < 1.0
    assert (moved - places).norm(dim=1).mean() > 0.3


def test_gradients_need_an_optimizer_that_keeps_them() -> None:
    options = ["MODEL.FORM", "strands", "SOLVER.RELOCATE_EVERY", "100", "SOLVER.RELOCATE_BY", "gradient"]
    load_config(None, options)
    with pytest.raises(ConfigError, match=r"RELOCATE_BY gradient .* SGD does not keep"):
        load_config(None, [*options, "SOLVER.OPTIMIZER_NAME", "SGD"])


# What is left out


@pytest.mark.parametrize("cell", [0.0, 3.0])
def test_as_many_splats_are_left_out_as_wanted_and_others_in_another_step(cell: float) -> None:
    positions = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(1)) * 100 - 50
    shares = kept_share(positions, 1.0, Dropping(0.2, cell, 0, (0, 1, 0)))
    assert set(shares.tolist()) == {0.0, 1.25}
    assert float((shares == 0).float().mean()) == pytest.approx(0.2, abs=0.02)
    torch.manual_seed(5)
    assert torch.equal(shares, kept_share(positions, 1.0, Dropping(0.2, cell, 0, (0, 1, 0))))
    assert not torch.equal(shares, kept_share(positions, 1.0, Dropping(0.2, cell, 0, (0, 2, 0))))


def test_splats_of_a_cell_are_left_out_together() -> None:
    positions = torch.rand(3000, 3, generator=torch.Generator().manual_seed(1))
    beside = positions + 1e-4
    for cell, alike in ((3.0, 0.99), (0.0, 0.8)):
        first, second = kept_share(torch.cat([positions, beside]), 0.05, Dropping(0.5, cell, 0, (1,))).view(2, -1)
        same = float((first == second).float().mean())
        assert same > alike if cell else same < alike


@pytest.mark.parametrize("backend", BACKENDS)
def test_leaving_splats_out_keeps_the_picture_on_average_and_only_in_training(backend: str) -> None:
    renderer = make_renderer(count=150, backend=backend)
    with torch.no_grad():
        renderer.log_width[0].sub_(3)  # so thin that coverage adds up
        renderer.opacity[0].fill_(2)
    whole = picture(renderer.eval())
    pictures = []
    for step in range(25):
        renderer.dropping = Dropping(0.3, 0, 0, (0, step, 0))
        assert torch.equal(picture(renderer.eval()), whole)
        pictures.append(picture(renderer.train()))
    mean = torch.stack(pictures).mean(0)
    assert (pictures[0] - whole).abs().mean() > 0.2 * whole.abs().mean()
    assert float(mean.sum() / whole.sum()) == pytest.approx(1, abs=0.05)  # more reach 1/255 of a pixel


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_left_out_learns_nothing_in_that_step(backend: str) -> None:
    renderer = make_renderer(backend=backend)
    renderer.dropping = Dropping(0.4, 0, 0, (0, 3, 0))
    renderer(orbit_cameras(1, SIZE)).color.sum().backward()
    out = kept_share(renderer.points(0), 0.06, renderer.dropping) == 0
    for name in ("colors", "offsets", "opacity", "strands", "log_width"):
        grad = getattr(renderer, name)[0].grad.flatten(1)
        assert grad.isfinite().all()
        assert grad[out].abs().max() == 0
        assert grad[~out].abs().max() > 0


def test_high_harmonics_are_left_out() -> None:
    renderer = make_renderer()
    with torch.no_grad():
        renderer.shades[0].normal_(std=0.1, generator=torch.Generator().manual_seed(4))
    whole, lower = picture(renderer), {}
    for degree in (0, 1):
        lower[degree] = make_renderer()
        lower[degree].load_state_dict(renderer.state_dict())
        with torch.no_grad():
            lower[degree].shades[0][:, (degree + 1)**2 - 1:] = 0
    degrees = set()
    for step in range(20):
        renderer.dropping = Dropping(0, 0, 0.5, (0, step, 0))
        degree = harmonic_degree(2, renderer.dropping)
        degrees.add(degree)
        torch.testing.assert_close(picture(renderer), picture(lower[degree]) if degree < 2 else whole)
    assert degrees == {0, 1, 2}
    assert harmonic_degree(0, Dropping(0, 0, 1, (1,))) == 0


# What is removed


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_splats_cover_adds_up_to_the_matte(backend: str) -> None:
    renderer = make_renderer(backend=backend)
    bury(renderer)
    cameras = orbit_cameras(3, SIZE)
    with torch.no_grad():
        covered, alpha = renderer.coverage(cameras, 0), renderer(cameras).alpha
    assert float(covered.sum()) == pytest.approx(float(alpha.sum()), rel=1e-4)
    assert covered[::4].abs().max() == 0
    assert (covered > 0).float().mean() > 0.5


def test_removing_what_is_not_seen_keeps_the_picture_and_loads_again(tmp_path: Path) -> None:
    cfg = default_config()
    cfg.MODEL.FORM, cfg.MODEL.WIDTH, cfg.MODEL.FEATURE_DIM = "strands", 4, 3
    rng = np.random.default_rng(1)
    clouds = [PointCloud(rng.random((300, 3)).astype(np.float32) - 0.5, np.zeros((300, 3), np.uint8)) for _ in "ab"]
    renderer = build_renderer(cfg, clouds)
    assert isinstance(renderer, StrandsRenderer)
    with torch.no_grad():
        for parameter in renderer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    optimizer = make_optimizer(renderer)
    bury(renderer, frame=1)
    before = [picture(renderer, frame) for frame in (0, 1)]
    squares = optimizer.state[renderer.colors[1]]["exp_avg_sq"]
    rows = torch.arange(300)[torch.arange(300) % 4 > 0]
    clouds[1] = PointCloud(renderer.keep(optimizer, 1, rows), clouds[1].colors[rows.numpy()])
    assert len(renderer.colors[1]) == len(clouds[1]) == 225
    close = torch.isclose(picture(renderer, 1), before[1], rtol=1e-3, atol=1e-3)
    assert float(close.float().mean()) > 0.99  # rounding decides whether a share of just 1/255 is drawn
    assert torch.equal(optimizer.state[renderer.colors[1]]["exp_avg_sq"], squares[rows])
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in renderer.parameters()} == {id(p) for p in optimizer.state}
    again = build_renderer(cfg, clouds)
    load_parameters(again, make_checkpoint(renderer, clouds, to_dict(cfg), 1), tmp_path / "model.pth")
    for frame in (0, 1):
        assert torch.equal(picture(again, frame), picture(renderer, frame))


# Where they start


def test_without_strands_splats_start_nearly_round_and_learn_directions() -> None:
    renderer = make_renderer(strands=False)
    fresh = StrandsRenderer([renderer.points(0)], [0.06], width=0, strands=False)
    _, strands, widths, _ = fresh.gaussians(0)
    ratio = strands.norm(dim=1) / widths
    assert 0.5 < ratio.mean() < 1.5
    fresh(orbit_cameras(1, SIZE)).alpha.sum().backward()
    assert fresh.strands[0].grad.abs().max() > 0
