# SPDX-License-Identifier: Apache-2.0
"""Gaussians beside the definition, and what follows from it; hostile ones are in test_gaussians_degenerate.py."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from npcr.ops import compiled_available, composite_gaussians, project_gaussians
from tests.ops.gaussians_oracle import (
    KINDS,
    SCENES,
    Scene,
    Truth,
    along_rigid_motions,
    gradients,
    line_up,
    random_scene,
    relative,
    render,
    truth,
)

needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]


class Expected(NamedTuple):
    """Of one scene in one precision, by the definition in float64."""

    scene: Scene
    truth: Truth
    weight: Tensor  # random, for a sum over the picture; 0 where rounding decides what a pixel shows
    grads: dict[str, Tensor]


@functools.cache
def expected(seed: int, dtype: torch.dtype = torch.float32) -> Expected:
    scene = random_scene(seed).to(dtype)
    exact = scene.to(torch.float64)
    wanted = truth(exact)
    assert wanted.certain.double().mean() > 0.9
    assert wanted.image.abs().max() > 0.05
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(wanted.image.shape, generator=generator, dtype=torch.float64) * wanted.certain[..., None]
    grads = gradients(exact, wanted.image, weight)
    return Expected(scene, wanted._replace(image=wanted.image.detach()), weight, grads)


def errors(seed: int, dtype: torch.dtype, backend: str) -> tuple[float, float, dict[str, float]]:
    """Of the picture, of the mean depth in parts of it, and of the gradients in parts of their norms."""
    scene, wanted, weight, wanted_grads = expected(seed, dtype)
    image, mean_depth = render(scene, backend)
    depth_error = (mean_depth - wanted.mean_depth).abs() / wanted.mean_depth.clamp(min=1e-9)
    grads = gradients(scene, image, weight.to(dtype))
    # The definition turns the covariance by the pose, the operators use that a turn leaves a round one as it is.
    rigid = [along_rigid_motions(scene.cam_to_world, x["cam_to_world"]) for x in (grads, wanted_grads)]
    apart = {name: relative(grads[name], wanted_grads[name]) for name in grads} | {"cam_to_world": relative(*rigid)}
    return (float((image.detach() - wanted.image).abs()[wanted.certain].max()),
            float(depth_error[wanted.certain].max()), apart)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SCENES)
def test_the_picture_and_its_gradients_are_the_definitions(seed: int, backend: str) -> None:
    image, mean_depth, grads = errors(seed, torch.float32, backend)
    assert image < 1e-5
    assert mean_depth < 1e-5
    assert {name: error for name, error in grads.items() if error > 1e-4} == {}
    assert min(float(x.norm()) for name, x in expected(seed).grads.items() if name != "values") > 1e-6  # of some size


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_in_double_precision_only_rounding_is_left(seed: int) -> None:
    image, mean_depth, grads = errors(seed, torch.float64, "auto")
    assert image < 1e-11
    assert mean_depth < 1e-11
    assert max(grads.values()) < 1e-9


@needs_kernel
@pytest.mark.parametrize("seed", SCENES)
def test_the_kernels_gradients_are_the_references_in_every_number(seed: int) -> None:
    scene, _, weight, _ = expected(seed)
    found, wanted = (gradients(scene, render(scene, backend)[0], weight.float()) for backend in ("compiled", "torch"))
    assert max(relative(found[name], wanted[name]) for name in wanted) < 1e-4  # the pose's twelve numbers too


def test_the_reference_passes_gradcheck() -> None:
    few = random_scene(KINDS.index("big"), count=3)  # 17 x 33 pixels
    smaller = few.intrinsics * torch.tensor([[0.23], [0.1], [1.0]])
    scene = few._replace(size=(4, 3), intrinsics=smaller).to(torch.float64)

    def picture(*tensors: Tensor) -> Tensor:
        return render(Scene(*tensors, scene.size), "torch")[0]

    assert (picture(*scene.tensors)[..., -1] > 0.1).any()
    assert torch.autograd.gradcheck(picture, scene.tensors, eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["cam_to_world", "intrinsics"])
def test_the_cameras_gradient_is_that_of_finite_differences(name: str, backend: str) -> None:
    """Of the definition in float64, along ten random directions."""
    scene, _, weight, _ = expected(8)
    grad = gradients(scene, render(scene, backend)[0], weight.float())[name].double()
    exact = Scene(*(x.detach().double() for x in scene.tensors), scene.size)
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        direction = torch.randn(grad.shape, generator=generator, dtype=torch.float64)
        if name == "cam_to_world":  # a turn and a shift, which keep it rigid to the first order
            motion = torch.zeros_like(direction)
            motion[:3, :3], motion[:3, 3] = direction[:3, :3] - direction[:3, :3].T, direction[:3, 3]
            direction = exact.cam_to_world @ motion
        step = 1e-6 * direction / direction.norm()
        sums = [(truth(exact._replace(**{name: getattr(exact, name) + sign * step})).image * weight).sum()
                for sign in (1, -1)]
        assert float((grad * step).sum()) == pytest.approx(float((sums[0] - sums[1]).detach()) / 2, rel=1e-3,
                                                           abs=1e-9 * float(grad.norm()))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "filter_variance", "most"), [("mixed", 0.1, 0.002), ("mixed", 0.3, 0.012),
                                                               ("thin", 0.1, 0.12), ("thin", 0.3, 0.24)])
def test_half_the_resolution_is_the_mean_of_the_whole(kind: str, filter_variance: float, most: float,
                                                      backend: str) -> None:
    """What the low-pass filter is for: sizes are those of the world, and with them what is covered.

    The nearer the filter is to a pixel's own square, whose variance is 1/12, the less do single pixels differ, `most`
    being their mean difference over the mean coverage; below 1/255 shares are dropped.
    """
    scene = random_scene(KINDS.index(kind), count=150).to(torch.float32)
    coverage = []
    for side in (96, 48):
        intrinsics = torch.tensor([[1.15 * side, 0, side / 2 - 0.5], [0, 1.15 * side, side / 2 - 0.5], [0, 0, 1]])
        ellipses = project_gaussians(*scene[:5], intrinsics, (side, side), filter_variance=filter_variance,
                                     backend=backend)
        coverage.append(composite_gaussians(ellipses, scene.values, (side, side), backend=backend)[0][..., -1].detach())
    mean = torch.nn.functional.avg_pool2d(coverage[0][None], 2)[0]
    assert float(coverage[1].mean()) == pytest.approx(float(mean.mean()), rel=0.03)
    assert float((mean - coverage[1]).abs().mean()) < most * float(mean.mean())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_a_world_ten_times_as_large_looks_the_same(seed: int, backend: str) -> None:
    scene, wanted, *_ = expected(seed)
    pose = scene.cam_to_world.detach().clone()
    pose[:3, 3] *= 10
    image, mean_depth = render(scene._replace(means=10 * scene.means, strands=10 * scene.strands,
                                              widths=10 * scene.widths, cam_to_world=pose), backend)
    assert (image.detach() - wanted.image).abs()[wanted.certain].max() < 1e-5
    assert (mean_depth - 10 * wanted.mean_depth).abs()[wanted.certain].max() < 1e-4 * wanted.mean_depth.max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hair_thinner_than_a_pixel_covers_in_proportion_to_its_width(backend: str) -> None:
    covered = []
    for width in (0.0005, 0.001, 0.002):  # a hundredth to a twenty-fifth of a pixel
        hair = line_up(1, (64, 21), widths=torch.tensor([width]), strands=torch.tensor([[0.8, 0.0, 0.0]]),
                       opacities=torch.ones(1))
        ellipses = project_gaussians(*hair[:6], hair.size, min_share=1e-6, backend=backend)
        covered.append(float(composite_gaussians(ellipses, hair.values, hair.size, backend=backend)[0][..., -1].sum()))
    assert covered[1] / covered[0] == pytest.approx(2, rel=5e-3)
    assert covered[2] / covered[1] == pytest.approx(2, rel=5e-3)
    # All that a Gaussian covers: 2 pi times the square root of its covariance's determinant, before the filter.
    # The filter is so narrow that a level hair's rows of pixels do not add up to quite that.
    assert covered[0] == pytest.approx(2 * torch.pi * (0.8 * 10) * (0.0005 * 10), rel=4e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_order_of_the_rows_does_not_matter(seed: int, backend: str) -> None:
    scene = expected(seed).scene
    order = torch.randperm(len(scene.means), generator=torch.Generator().manual_seed(2))
    mixed = Scene(*(x[order] for x in scene[:4]), *scene[4:6], scene.values[order], scene.size)
    for found, wanted in zip(render(mixed, backend), render(scene, backend), strict=True):
        assert torch.equal(found, wanted)


def test_deterministic_algorithms_give_the_same_picture() -> None:
    scene = expected(0).scene.to(torch.float64)
    wanted = render(scene, "torch")
    torch.use_deterministic_algorithms(True)
    try:
        found = render(scene, "torch")
        gradient = gradients(scene, found[0], torch.ones_like(found[0]))
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-10, atol=1e-10)
    for name, grad in gradients(scene, wanted[0], torch.ones_like(wanted[0])).items():
        torch.testing.assert_close(gradient[name], grad, rtol=1e-8, atol=1e-10)
