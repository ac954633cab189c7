# SPDX-License-Identifier: Apache-2.0
"""Colors by direction that the splats around share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from npcr.config import default_config
from npcr.factory import load_renderer
from npcr.ops import OperatorError, compiled_available
from npcr.ops.spherical_harmonics import view_colors_reference
from npcr.renderers import StrandsRenderer
from npcr.renderers.color_field import ColorField
from npcr.renderers.tiles import render_pictures
from npcr.training.optimizers import build_optimizer, trained_parameters
from npcr.training.trainer import Trainer
from tests.scenes import orbit_cameras, write_tiny_scene
from tests.training.test_trainer import config

CPU = torch.device("cpu")
ORIGIN = torch.tensor([1.0, 2.0, 6.0])


def random_field(nodes: int = 3, lobes: int = 48) -> ColorField:
    torch.manual_seed(0)
    field = ColorField([torch.rand(400, 3) * torch.tensor([1.0, 2.0, 3.0])], nodes, lobes)
    torch.nn.init.normal_(field.lobes[0], std=0.2)
    return field


def splats(count: int = 50, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    places = torch.rand(count, 3, generator=generator) * torch.tensor([1.4, 2.8, 4.2]) - 0.2  # some of them outside
    return places, torch.rand(count, 3, generator=generator) * 1.1 - 0.55


@pytest.mark.parametrize("lobes", [48, 16])
def test_values_and_gradients_are_those_of_a_loop(lobes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("npcr.renderers.color_field._AT_ONCE", {"cpu": 7})  # 50 splats in parts, the last one short
    field = random_field(lobes=lobes)
    places, strands = splats()
    field.double()
    places, strands, origin = places.double(), strands.double(), ORIGIN.double()
    weight = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    colors = field(places, strands, origin)
    grad, = torch.autograd.grad((weight * colors).sum(), [field.lobes[0]])
    wanted = looped(field, places, strands, origin)
    wanted_grad, = torch.autograd.grad((weight * wanted).sum(), [field.lobes[0]])
    torch.testing.assert_close(colors, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("nodes", [1, 2, 3, 5])
def test_the_kernel_equals_torch(nodes: int) -> None:
    if not compiled_available("cpu"):
        pytest.skip("no compiled kernels")
    field = random_field(nodes)
    places, strands = splats(5000)  # in several parts
    places[:4, 0] = torch.tensor([math.nan, math.inf, -math.inf, 1e30])
    strands[4:7, 1] = torch.tensor([math.nan, math.inf, -math.inf])
    weight = torch.randn(5000, 3, generator=torch.Generator().manual_seed(2))
    results = {}
    for backend, threads in (("torch", 1), ("compiled", 1), ("compiled", 3)):
        with threads_of_torch(threads):
            colors = field(places, strands, ORIGIN, backend=backend)
            grad, = torch.autograd.grad((weight * colors).sum(), [field.lobes[0]])
        results[backend, threads] = colors.detach(), grad
    wanted, ours, on_three = results.values()
    torch.testing.assert_close(ours[0], wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours[1], wanted[1], rtol=1e-4, atol=1e-4 * float(wanted[1].abs().max()))
    assert torch.equal(ours[0], on_three[0])
    assert torch.equal(ours[1], on_three[1])
    with pytest.raises(OperatorError, match="ColorField: backend 'compiled' takes torch\\.float32"):
        field.double()(places.double(), strands.double(), ORIGIN.double(), backend="compiled")


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def looped(field: ColorField, places: Tensor, strands: Tensor, origin: Tensor) -> Tensor:
    """Each splat by itself, from the eight nodes around it."""
    (low, high), n = field.get_buffer("box_0").double(), field.nodes
    centers = []
    count = len(field.lobes[0])
    for i in range(count):
        z = 1 - 2 * (i + 0.5) / count
        around = math.pi * (1 + 5**0.5) * (i + 0.5)
        centers.append([math.cos(around) * (1 - z * z)**0.5, math.sin(around) * (1 - z * z)**0.5, z])
    lobes = field.lobes[0].view(count, n, n, n, 6, 3)
    colors = []
    for place, strand in zip(places, strands, strict=True):
        at = ((place - low) / (high - low)).clamp(0, 1) * (n - 1)
        cell = at.floor().long().clamp(max=n - 2)
        total = torch.zeros(6, 3, dtype=torch.float64)
        for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
            x, y, z = (cell + corner).tolist()
            share = torch.where(corner == 1, at - cell, 1 - (at - cell)).prod()
            node = low + (high - low) * torch.tensor([x, y, z]) / (n - 1)
            direction = (node - origin) / (node - origin).norm()
            heights = torch.exp(6.25 / 48 * count * (torch.tensor(centers, dtype=torch.float64) @ direction - 1))
            total = total + share * (heights[:, None, None] * lobes[:, z, y, x]).sum(0)
        outer = torch.outer(strand, strand) - torch.eye(3) * (strand @ strand) / 3
        parts = torch.stack([torch.ones(()).double(), outer[0, 0], outer[1, 1], outer[0, 1], outer[1, 2], outer[0, 2]])
        colors.append(parts @ total)
    return torch.stack(colors)


def test_both_ends_of_a_strand_are_the_same() -> None:
    field, (places, strands) = random_field(), splats()
    assert torch.equal(field(places, strands, ORIGIN), field(places, -strands, ORIGIN))
    assert not torch.allclose(field(places, strands, ORIGIN), field(places, strands.flip(1), ORIGIN))


def test_outside_the_grid_the_nearest_place_counts() -> None:
    field = random_field()
    low, high = field.get_buffer("box_0")
    strands = torch.zeros(2, 3)
    ends = torch.stack([low, high])
    torch.testing.assert_close(field(ends + torch.tensor([[-5.0], [5.0]]), strands, ORIGIN),
                               field(ends, strands, ORIGIN))


def test_a_few_stray_points_do_not_stretch_the_grid() -> None:
    cloud = torch.rand(1000, 3, generator=torch.Generator().manual_seed(0))
    cloud[:4], cloud[4] = 1e6, torch.nan
    low, high = ColorField([cloud], 4).get_buffer("box_0")
    assert bool((low > -0.01).all())
    assert bool((high < 1.01).all())
    assert bool((high - low > 0.95).all())


@pytest.mark.parametrize("cloud", [torch.zeros(1, 3), torch.eye(3)[:, [0, 1, 1]] * torch.tensor([1.0, 1.0, 0.0])])
def test_a_cloud_without_thickness_has_a_grid(cloud: Tensor) -> None:
    field = ColorField([cloud], 3)
    torch.nn.init.ones_(field.lobes[0])
    assert bool(field(cloud, cloud, ORIGIN).isfinite().all())


def test_one_node_is_the_same_everywhere() -> None:
    field, (places, _) = random_field(nodes=1), splats()
    colors = field(places, torch.zeros_like(places), ORIGIN)
    torch.testing.assert_close(colors, colors[:1].expand_as(colors))
    assert colors[0].abs().max() > 0.01


def test_a_splat_that_is_nowhere_does_not_break_the_others() -> None:
    field, (places, strands) = random_field(), splats()
    usual = field(places, strands, ORIGIN)
    places[3], strands[4] = torch.nan, torch.inf
    colors = field(places, strands, ORIGIN)
    others = [row for row in range(50) if row not in (3, 4)]
    torch.testing.assert_close(colors[others], usual[others])
    colors[others].sum().backward()
    assert field.lobes[0].grad is not None
    assert bool(field.lobes[0].grad.isfinite().all())


@torch.no_grad()
def test_harmonics_are_the_nearest_of_their_degree() -> None:
    """What harmonics can say they say; of what is sharper they keep the means."""
    field, (places, strands) = random_field(), splats()
    cameras = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(4)), dim=1)
    seen = torch.stack([field(places, strands, 1e4 * origin) for origin in cameras])  # from far: one direction for all
    left = []
    for degree in (0, 1, 2, 3):
        fitted = field.harmonics(places, strands, degree)
        assert fitted.shape == (50, (degree + 1)**2, 3)
        colors = torch.stack([view_colors_reference(places, 1e4 * origin, fitted[:, :1], fitted[:, 1:])
                              for origin in cameras])
        left.append(float((colors - seen).square().mean() / (seen - seen.mean(0)).square().mean()))
    assert left[0] == pytest.approx(1, abs=0.05)
    assert left[0] > left[1] > left[2] > left[3]
    assert left[3] < 0.7


def with_field(count: int = 300, **options: Any) -> StrandsRenderer:
    torch.manual_seed(1)
    renderer = StrandsRenderer([torch.rand(count, 3) - 0.5], [0.1], [torch.rand(count, 3)],
                               **({"field_nodes": 3} | options))
    torch.nn.init.normal_(renderer.strands[0])
    assert renderer.field is not None
    torch.nn.init.normal_(renderer.field.lobes[0], std=0.1)
    return renderer


def test_shared_colors_show_and_learn() -> None:
    renderer = with_field()
    cameras = orbit_cameras(1, (48, 36))
    output = renderer(cameras)
    output.color.sum().backward()
    lobes = renderer.field.lobes[0]  # type: ignore[union-attr]
    assert lobes.grad is not None
    assert lobes.grad.abs().max() > 0
    grouped = [id(parameter) for group in renderer.param_groups(default_config().SOLVER)
               for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in renderer.parameters())
    torch.nn.init.zeros_(lobes)
    plain = renderer(cameras)
    assert (plain.color - output.color).abs().max() > 0.02
    torch.testing.assert_close(plain.alpha, output.alpha)


def test_tiles_show_what_the_whole_shows() -> None:
    renderer, camera = with_field(), orbit_cameras(1, (64, 48))
    with torch.no_grad():
        whole = renderer(camera).color
        renderer.tile = 24
        torch.testing.assert_close(render_pictures(renderer, camera).color, whole, rtol=1e-4, atol=1e-5)


def test_a_new_field_changes_nothing() -> None:
    renderer, plain = with_field(), with_field()
    torch.nn.init.zeros_(renderer.field.lobes[0])  # type: ignore[union-attr]
    plain.field = None
    cameras = orbit_cameras(1, (48, 36))
    assert torch.equal(renderer(cameras).color, plain(cameras).color)


@pytest.mark.parametrize("degree", [0, 2])
def test_harmonics_alone_stand_in_for_shared_colors(degree: int) -> None:
    renderer, cameras = with_field(width=0, degree=degree), orbit_cameras(4, (48, 36))
    alone = renderer.with_harmonics_alone()
    assert (alone.field, alone.degree) == (None, 3)
    with torch.no_grad():
        shown, wanted = alone(cameras).color, renderer(cameras).color
        renderer.field = None
        without = renderer(cameras).color
    assert (shown - wanted).square().mean() < 0.5 * (without - wanted).square().mean()
    assert renderer.with_harmonics_alone() is renderer


def test_a_pruned_model_comes_back_from_its_checkpoint(tmp_path: Path) -> None:
    """The grid stays where it was trained, though the cloud is another."""
    scene = tmp_path / "scene"
    write_tiny_scene(scene, cameras=5, size=(32, 28))
    cfg = config(scene, tmp_path / "out", "MODEL.FORM", "strands", "MODEL.FIELD_NODES", "3", "SOLVER.PRUNE_BELOW", "8",
                 "SOLVER.MAX_EPOCHS", "3", "SOLVER.BASE_LR", "0.01")
    trainer = Trainer(cfg, CPU)
    before = len(trainer.renderer.points(0))
    trainer.run()
    trained = trainer.renderer
    assert isinstance(trained, StrandsRenderer)
    assert 0 < len(trained.points(0)) < before
    loaded, _, _ = load_renderer(config(scene, tmp_path / "out"), tmp_path / "out" / "nr_model_3.pth", CPU, explicit=[])
    assert isinstance(loaded, StrandsRenderer)
    assert loaded.field is not None
    assert trained.field is not None
    assert float(trained.field.lobes[0].detach().abs().max()) > 0
    assert torch.equal(loaded.field.get_buffer("box_0"), trained.field.get_buffer("box_0"))
    assert not np.allclose(loaded.field.get_buffer("box_0"), ColorField([loaded.points(0)], 3).get_buffer("box_0"))
    cameras = orbit_cameras(1, (32, 28))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(cameras).color, trained.eval()(cameras).color)


def test_refining_leaves_shared_colors_as_they_are() -> None:
    renderer = with_field()
    renderer.hold_for_refining()
    trained = {id(parameter) for parameter in trained_parameters(build_optimizer(default_config(), renderer))}
    others = {id(parameter) for name, parameter in renderer.named_parameters() if not name.startswith("field")}
    assert trained == others
    renderer(orbit_cameras(1, (48, 36))).color.sum().backward()
    assert renderer.field.lobes[0].grad is None  # type: ignore[union-attr]
