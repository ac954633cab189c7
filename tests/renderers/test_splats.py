# SPDX-License-Identifier: Apache-2.0
"""Soft splats: against a loop over pixels, their gradients, and what they promise between frames."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.ops import Fragments, compiled_available, native, rasterize
from npcr.ops.compositing import MAX_COVERAGE, front_to_back
from npcr.ops.spherical_harmonics import spherical_harmonics
from npcr.renderers import BlendedRenderer
from npcr.renderers.splats import (
    Splats,
    composite_splats,
    dots_along,
    soft_splat,
    start_width,
)
from tests.scenes import orbit_cameras

SPLAT = (2.0, 8.0, 1.0)
DOTS = 3


def make_splats(count: int = 60, channels: int = 5) -> Splats:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return Splats(0.6 * normal(count, 3), 0.05 * normal(count, 3), normal(count, channels), normal(count, 1),
                  0.3 * normal(count, 1), normal(channels))


def fragments_of(splats: Splats, camera: Cameras, layers: int = 4) -> Fragments:
    dots = dots_along(splats.points, splats.strands, DOTS)
    near, far, max_size = soft_splat(SPLAT)
    return rasterize(dots, camera.cam_to_world, camera.intrinsics, camera.size, near=near, far=far,
                     max_size=max_size, layers=layers, peeling="pixel")


def by_loops(splats: Splats, camera: Cameras, fragments: Fragments) -> tuple[Tensor, Tensor, Tensor]:
    """The definition, pixel by pixel and layer by layer."""
    pixels, depths = (result[0] for result in project(dots_along(splats.points, splats.strands, DOTS)[None], camera))
    middle = depths[1::DOTS]
    width, height = camera.size
    values, alphas, depth = torch.zeros(len(splats.background), height, width), torch.zeros(height, width), \
        torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            passing, moment = 1.0, 0.0
            for k in range(fragments.index.shape[1]):
                dot = int(fragments.index[0, k, y, x])
                if dot < 0:
                    continue
                point = dot // DOTS
                away = (float(pixels[dot, 0]) - x) ** 2 + (float(pixels[dot, 1]) - y) ** 2
                near, far, largest = SPLAT
                share = min(1.0, max(0.0, 1 - (float(middle[point]) - near) / (far - near)))
                sigma = 0.6 * (1 + largest * share) * math.exp(float(splats.log_width[point]))
                reach = 1.5 + largest * (1 - (float(middle[point]) - near) / (far - near))
                fading = max(0.0, 1 - away / reach**2)
                cover = min(MAX_COVERAGE, fading * math.exp(-away / (2 * sigma**2)) / (1 + math.exp(
                    -float(splats.opacity[point]))))
                values[:, y, x] += passing * cover * splats.values[point]
                moment += passing * cover * float(depths[dot])
                passing *= 1 - cover
            alphas[y, x] = 1 - passing
            values[:, y, x] += passing * splats.background
            depth[y, x] = moment / (1 - passing) if 1 - passing > 1e-3 else 0.0
    return values, alphas, depth


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_equals_the_definition(backend: str) -> None:
    splats, camera = make_splats(), orbit_cameras(1, (12, 10))
    fragments = fragments_of(splats, camera)
    assert (fragments.index[0, 1] >= 0).sum() > 10
    result = composite_splats(splats, camera, fragments, DOTS, SPLAT, backend=backend)
    for ours, wanted in zip(result, by_loops(splats, camera, fragments), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_gradients_of_every_number() -> None:
    splats, camera = make_splats(20, 2), orbit_cameras(1, (8, 8))
    fragments = fragments_of(splats, camera, layers=3)
    double = Cameras(camera.cam_to_world.double(), camera.intrinsics.double(), camera.size)
    fragments = Fragments(fragments.index, fragments.depth.double())
    leaves = [part.double().requires_grad_() for part in splats]

    def compose(*parts: Tensor) -> tuple[Tensor, Tensor]:
        image = composite_splats(Splats(*parts), double, fragments, DOTS, (2.0, 8.0, 0.0))
        return image.values, image.alpha

    assert torch.autograd.gradcheck(compose, leaves, eps=1e-6, atol=1e-5)


@pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")
@pytest.mark.parametrize(("channels", "layers", "size"), [(1, 1, (7, 5)), (11, 16, (33, 21)), (4, 5, (64, 64))])
def test_the_kernel_equals_the_reference(channels: int, layers: int, size: tuple[int, int]) -> None:
    """Values and gradients of one random cotangent; some splats are so opaque that they are clamped."""
    splats, camera = make_splats(400, channels), orbit_cameras(1, size)
    splats = splats._replace(opacity=4 * splats.opacity)
    fragments = fragments_of(splats, camera, layers)
    results = []
    for backend in ("compiled", "torch"):
        leaves = [part.clone().requires_grad_() for part in splats]
        image = composite_splats(Splats(*leaves), camera, fragments, DOTS, SPLAT, backend=backend)
        generator = torch.Generator().manual_seed(1)
        loss = sum((part * torch.randn(part.shape, generator=generator)).sum() for part in image[:2])
        results.append([*(part.detach() for part in image), *torch.autograd.grad(loss, leaves)])
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")
def test_the_kernel_gives_the_same_on_any_number_of_threads() -> None:
    splats, camera = make_splats(3000, 3), orbit_cameras(1, (128, 96))
    fragments = fragments_of(splats, camera, 6)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            dots = torch.rand(9000, 2, generator=torch.Generator().manual_seed(0)) * 96
            points = torch.rand(3000, 6, generator=torch.Generator().manual_seed(0))
            image, depth = native.composite(dots, points, fragments.index[0], fragments.depth[0], torch.ones(3))
            grads = native.composite_grad(dots, points, fragments.index[0], torch.ones(3), image)
            results.append([image, depth, *grads])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


def test_the_layers_shares_sum_to_what_they_cover() -> None:
    cover = torch.rand(5, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(front_to_back(cover).sum(0), 1 - (1 - cover).prod(0))


def test_harmonics_are_orthonormal() -> None:
    random = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(random, dim=1)
    basis = spherical_harmonics(directions, 3)
    gram = 4 * math.pi * basis.T @ basis / len(directions)
    torch.testing.assert_close(gram, torch.eye(16), rtol=0, atol=0.03)


def test_an_untrained_splat_follows_the_published_radius() -> None:
    widths = start_width(torch.tensor([1.0, 2.0, 5.0, 8.0, 99.0]), (2.0, 8.0, 3.0))
    torch.testing.assert_close(widths / widths[-1], torch.tensor([4.0, 4.0, 2.5, 1.0, 1.0]))


@pytest.mark.parametrize("colored", [True, False])
def test_before_training_the_image_is_the_clouds_colors(colored: bool) -> None:
    cloud = 0.6 * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))
    color = torch.tensor([0.9, 0.3, 0.1]).expand(4000, 3)
    renderer = BlendedRenderer([cloud], [color] if colored else None, splat=(2.0, 8.0, 1.0)).eval()
    with torch.no_grad():
        output = renderer(orbit_cameras(2, (32, 24)))
    assert output.color.shape == (2, 3, 24, 32)
    assert output.depth.shape == (2, 24, 32)
    middle = output.alpha[:, :, 8:16, 12:20]
    assert middle.min() > 0.15
    found = output.color[:, :, 8:16, 12:20] / middle
    wanted = color[0] if colored else torch.full((3,), 0.5)
    torch.testing.assert_close(found, wanted[:, None, None].expand_as(found), rtol=0, atol=1e-4)
    assert (output.depth[output.alpha[:, 0] == 0] == 0).all()


def test_a_batch_equals_its_cameras() -> None:
    torch.manual_seed(0)
    renderer = BlendedRenderer([torch.randn(500, 3)], splat=(2.0, 8.0, 1.0)).eval()
    torch.nn.init.normal_(renderer.network.out.weight)
    cameras = orbit_cameras(3, (32, 24))
    with torch.no_grad():
        whole = renderer(cameras)
        for i in range(3):
            torch.testing.assert_close(renderer(cameras[i]).color[0], whole.color[i], rtol=1e-4, atol=1e-4)


def test_an_image_moves_smoothly_with_the_camera() -> None:
    """Hard splats jump a whole pixel now and then; soft ones change in proportion to the camera's step."""
    generator = torch.Generator().manual_seed(5)
    renderer = BlendedRenderer([torch.rand(800, 3, generator=generator) - 0.5],
                                    [torch.rand(800, 3, generator=generator)], splat=(2.0, 8.0, 0.0)).eval()
    camera = orbit_cameras(1, (32, 32))

    def change(step: float) -> float:
        moved = camera.intrinsics.clone()
        moved[:, 0, 2] += step
        with torch.no_grad():
            before, after = renderer(camera).color, renderer(Cameras(camera.cam_to_world, moved, camera.size)).color
        return float((after - before).abs().mean())

    assert 0 < change(0.02) < 0.15 * change(0.4)


@pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")
def test_backend_torch_leaves_the_kernels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the kernel was called")

    monkeypatch.setattr(native, "composite", refuse)
    cameras = orbit_cameras(1, (32, 24))
    with torch.no_grad():
        BlendedRenderer([torch.zeros(3, 3)], backend="torch")(cameras)
        with pytest.raises(AssertionError, match="kernel was called"):
            BlendedRenderer([torch.zeros(3, 3)])(cameras)


def test_colors_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="colors must have a row"):
        BlendedRenderer([torch.zeros(3, 3)], [torch.zeros(2, 3)])
    with pytest.raises(ValueError, match="degree is 4"):
        BlendedRenderer([torch.zeros(3, 3)], degree=4)
