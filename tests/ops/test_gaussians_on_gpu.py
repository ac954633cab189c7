# SPDX-License-Identifier: Apache-2.0
"""Gaussians on a GPU: beside the CPU, beside gsplat where it is installed, and many at once. Skipped without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from npcr.ops import compiled_available, composite_gaussians, project_gaussians
from tests.ops.gaussians_oracle import SCENES, Scene, gradients, random_scene, relative, render

pytestmark = pytest.mark.gpu
needs_kernel = pytest.mark.skipif(not compiled_available("cuda"), reason="no compiled CUDA kernel for this device")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]


def on_gpu(scene: Scene) -> Scene:
    return Scene(*(x.detach().float().cuda().requires_grad_() for x in scene.tensors), scene.size)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", SCENES)
def test_the_picture_and_its_gradients_equal_the_cpus(seed: int, backend: str) -> None:
    scene = random_scene(seed).to(torch.float32)
    image, mean_depth = render(scene, "auto")
    weight = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    expected = gradients(scene, image, weight)
    found_image, found_depth = render(on_gpu(scene), backend)
    torch.testing.assert_close(found_image.detach().cpu(), image.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_depth.cpu(), mean_depth, rtol=1e-4, atol=1e-5)
    leaves = on_gpu(scene)
    found = gradients(leaves, render(leaves, backend)[0], weight.cuda())
    assert {name: error for name in found if (error := relative(found[name].cpu(), expected[name])) > 1e-4} == {}


@needs_kernel
@pytest.mark.parametrize("seed", range(4))
def test_two_runs_are_equal_to_the_bit(seed: int) -> None:
    runs = []
    for _ in range(2):
        scene = on_gpu(random_scene(seed, count=3000))
        image, mean_depth = render(scene, "compiled")
        runs.append((image, mean_depth, *gradients(scene, image, image.detach().cos()).values()))
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@needs_kernel
def test_ten_millions_and_their_gradients_fit_into_six_gigabytes() -> None:
    count, size = 10_000_000, (800, 800)
    generator = torch.Generator("cuda").manual_seed(0)
    random = {"generator": generator, "device": "cuda"}
    means = torch.randn(count, 3, **random)
    strands = 0.004 * torch.randn(count, 3, **random)
    pose = torch.eye(4, device="cuda")
    pose[2, 3] = -5.0
    intrinsics = torch.tensor([[800.0, 0, 399.5], [0, 800.0, 399.5], [0, 0, 1]], device="cuda")
    scene = Scene(means, strands, torch.full((count,), 1e-3, device="cuda"), torch.rand(count, **random), pose,
                  intrinsics, torch.rand(count, 3, **random), size)
    scene = Scene(*(x.requires_grad_() for x in scene.tensors), size)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    image, _ = render(scene, "compiled")
    grads = gradients(scene, image, torch.ones_like(image))
    assert torch.cuda.max_memory_allocated() - before < 6e9
    assert image[400, 400, -1] > 0.99
    assert image[..., -1].max() <= 1
    assert all(grad.isfinite().all() for grad in grads.values())
    assert grads["means"].abs().sum() > 0


def as_quaternions(directions: Tensor) -> Tensor:
    """(N, 4) w x y z: the turns of the x axis to unit directions, none of which is -x."""
    return torch.nn.functional.normalize(torch.stack([1 + directions[:, 0], torch.zeros_like(directions[:, 0]),
                                                      -directions[:, 2], directions[:, 1]], 1), dim=1)


@needs_kernel
@pytest.mark.parametrize("seed", range(3))
def test_pictures_and_gradients_are_gsplats(seed: int) -> None:
    """It ends a pixel before the fragment that leaves less than 1e-4, and these after: no pixel comes to that here.

    Its pixels have their centers at halves.
    """
    gsplat = pytest.importorskip("gsplat")
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(*shape, generator=generator)).cuda()

    count, (width, height) = 400, (150, 110)
    means, directions = uniform(-1, 1, count, 3), torch.nn.functional.normalize(uniform(-1, 1, count, 3), dim=1)
    widths, lengths, opacities = uniform(0.004, 0.02, count), uniform(0.0, 0.15, count), uniform(0.05, 0.5, count)
    values = uniform(0, 1, count, 3)
    pose = torch.eye(4, device="cuda")
    pose[:3, 3] = torch.tensor([0.1, -0.2, -4.0])
    intrinsics = torch.tensor([[170.0, 0, 74.5], [0, 165.0, 54.5], [0, 0, 1]], device="cuda")
    leaves = [x.requires_grad_() for x in (means, widths, lengths, opacities, values)]

    def ours() -> Tensor:
        ellipses = project_gaussians(means, lengths[:, None] * directions, widths, opacities, pose, intrinsics,
                                     (width, height), filter_variance=0.3, backend="compiled")
        return composite_gaussians(ellipses, values, (width, height), backend="compiled")[0]

    def theirs() -> Tensor:
        along = torch.sqrt(widths.square() + lengths.square())
        moved = intrinsics.clone()
        moved[:2, 2] += 0.5
        colors, alphas, _ = gsplat.rasterization(
            means, as_quaternions(directions), torch.stack([along, widths, widths], 1), opacities, values,
            torch.linalg.inv(pose)[None], moved[None], width, height, rasterize_mode="antialiased", eps2d=0.3,
            packed=False)
        return torch.cat([colors, alphas], -1)[0]

    found, wanted = ours(), theirs()
    assert 0.3 < float(found[..., -1].max()) < 0.9995
    # A share of just 1/255 may fall on either side of the threshold.
    apart = (found - wanted).detach().abs().amax(-1)
    assert float((apart < 1e-4).double().mean()) > 0.999
    assert float(apart.max()) < 2 / 255
    weight = torch.randn(found.shape, generator=generator).cuda() * (apart < 1e-4)[..., None]
    pairs = zip(*(torch.autograd.grad((image * weight).sum(), leaves) for image in (found, wanted)), strict=True)
    assert [error for pair in pairs if (error := relative(*pair)) > 1e-3] == []
