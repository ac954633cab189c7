# SPDX-License-Identifier: Apache-2.0
"""Gaussians that are hardly any, hostile numbers, and many at once: nothing but the others may be seen."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from npcr.ops import OperatorError, compiled_available, composite_gaussians, native_gaussians, project_gaussians
from tests.ops.gaussians_oracle import Scene, gradients, line_up, random_scene, render, truth

needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]
SIZE = (21, 19)
NAN, INF = math.nan, math.inf


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def one(**changes: object) -> Scene:
    """One round Gaussian in the middle, two pixels wide, but for what `changes` says."""
    return line_up(1, SIZE, **{name: torch.tensor([value]) for name, value in changes.items()})


UNSEEN = {
    "no width and no length": {"widths": 0.0},
    "a line without width": {"widths": 0.0, "strands": [0.5, 0.2, 0.1]},
    "a width whose square is 0": {"widths": 1e-30},
    "a negative width": {"widths": -0.2},
    "behind the camera": {"means": [0.0, 0.0, -2.0]},
    "at the camera's plane": {"means": [0.0, 0.0, 0.0]},
    "reaching the camera's plane": {"means": [0.0, 0.0, 0.2]},
    "a strand that reaches it": {"strands": [0.0, 0.0, 1.9]},
    "no opacity": {"opacities": 0.0},
    "a negative opacity": {"opacities": -1.0},
    "less than 1/255 of any pixel": {"opacities": 1 / 256},
    "outside the picture": {"means": [40.0, 0.0, 2.0]},
    "far outside": {"means": [1e30, 0.0, 2.0]},
    "too large for float32": {"widths": 1e30, "means": [0.0, 0.0, 2e30]},
    "too long for float32": {"strands": [1e30, 0.0, 0.0]},
}
UNSEEN |= {f"{value} in {name}": {name: [value, 0.0, 2.0] if name in ("means", "strands") else value}
           for name in ("means", "strands", "widths", "opacities") for value in (NAN, INF, -INF)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", UNSEEN.values(), ids=UNSEEN.keys())
def test_what_cannot_be_seen_leaves_no_trace(change: dict[str, object], backend: str) -> None:
    """Neither in the picture, nor in its own gradients, nor in those of the one beside it."""
    hidden, seen = one(**change), one(means=[0.05, 0.1, 3.0], strands=[0.3, 0.1, 0.2])
    both = Scene(*(torch.cat([a, b]) for a, b in zip(hidden[:4], seen[:4], strict=True)), *seen[4:6],
                 torch.tensor([[7.0], [2.0]]), SIZE).to(torch.float32)
    alone = seen._replace(values=torch.tensor([[2.0]])).to(torch.float32)
    weight = torch.randn(19, 21, 2, generator=torch.Generator().manual_seed(0))
    (image, mean_depth), (image_alone, mean_depth_alone) = render(both, backend), render(alone, backend)
    assert image_alone[..., -1].max() > 0.3
    assert torch.equal(image, image_alone)
    assert torch.equal(mean_depth, mean_depth_alone)
    found, wanted = gradients(both, image, weight), gradients(alone, image_alone, weight)
    for name in ("means", "strands", "widths", "opacities", "values"):
        assert torch.equal(found[name][1:], wanted[name]), name
        assert (found[name][0] == 0).all(), name
    for name in ("cam_to_world", "intrinsics"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["cam_to_world", "intrinsics"])
@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e20, 0.0])
def test_a_camera_of_hostile_numbers_gives_finite_pictures_and_gradients(value: float, name: str, backend: str) -> None:
    for row in range(3):
        for column in range(3):
            scene = line_up(3, SIZE)
            getattr(scene, name)[row, column] = value
            scene = scene.to(torch.float32)
            image, mean_depth = render(scene, backend)
            assert image.isfinite().all()
            assert mean_depth.isfinite().all()
            assert all(grad.isfinite().all() for grad in gradients(scene, image, torch.ones_like(image)).values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("opacity", [1.0, 1.5, 1e30, 3e38])
def test_an_opacity_above_one_covers_no_more_than_all(opacity: float, backend: str) -> None:
    scene = one(opacities=opacity)._replace(size=(121, 19)).to(torch.float32)
    image, _ = render(scene, backend)
    coverage = image.detach()[..., 1]
    assert float(coverage[9, 10]) == pytest.approx(0.999 if opacity > 1 else 0.952, abs=1e-3)
    assert (coverage.diff(dim=1)[:, 10:] <= 0).all()  # falls to the right
    assert coverage.min() == 0
    assert coverage.max() <= 0.9991
    assert all(grad.isfinite().all() for grad in gradients(scene, image, torch.ones_like(image)).values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("min_share", [1e-46, 1e-45, 1e-38, 1e-20, 0.9])
def test_any_smallest_share_gives_shares(min_share: float, backend: str) -> None:
    scene = line_up(3, (101, 3), opacities=torch.ones(3))
    ellipses = project_gaussians(*scene[:6], scene.size, min_share=min_share, backend=backend)
    image, _ = composite_gaussians(ellipses, scene.values, scene.size, backend=backend)
    assert ellipses.isfinite().all()
    assert image.isfinite().all()
    assert image.min() >= 0
    assert image[..., 1].max() <= 1
    assert image[1, 50, 1] > 0.9


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_huge_cover_everything(backend: str) -> None:
    scene = one(widths=1e6, means=[0.0, 0.0, 1.1e6], opacities=0.5)._replace(
        intrinsics=torch.tensor([[300.0, 0, 10], [0, 300.0, 9], [0, 0, 1]]))
    image, mean_depth = render(scene, backend)
    exact = truth(scene.to(torch.float64))
    assert image[..., 1].min() > 0.49
    assert (image - exact.image).abs().max() < 1e-5
    assert (mean_depth - 1.1e6).abs().max() < 11


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [0, 3])
def test_nothing_at_all(channels: int, backend: str) -> None:
    none = Scene(*(x[:0] for x in line_up(1, SIZE)[:4]), *line_up(1, SIZE)[4:6], torch.zeros(0, channels), SIZE)
    behind = line_up(3, SIZE, values=torch.ones(3, channels))
    behind = behind._replace(means=-behind.means)
    for scene in (none.to(torch.float32), behind.to(torch.float32)):
        image, mean_depth = render(scene, backend)
        assert image.shape == (19, 21, channels + 1)
        assert (image == 0).all()
        assert (mean_depth == 0).all()
        grads = gradients(scene, image, torch.ones_like(image))
        assert all((grads[name] == 0).all() and grads[name].shape == getattr(scene, name).shape for name in grads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_of_two_at_one_depth_the_lower_row_is_in_front(backend: str) -> None:
    scene = line_up(2, SIZE, means=torch.tensor([[0.0, 0, 2]]).repeat(2, 1), values=torch.eye(2))
    swapped = scene._replace(values=torch.eye(2).flip(0))
    first, second = (render(x, backend)[0][9, 10] for x in (scene, swapped))
    share = first[0]
    torch.testing.assert_close(first, torch.stack([share, share * (1 - share), share + share * (1 - share)]))
    assert torch.equal(first[:2], second[:2].flip(0))


@needs_kernel
def test_many_in_one_tile() -> None:
    generator = torch.Generator().manual_seed(0)
    count = 60_000
    scene = line_up(count, (4, 4), opacities=torch.full((count,), 0.006),
                    means=torch.cat([0.2 * torch.randn(count, 2, generator=generator),
                                     4 + torch.rand(count, 1, generator=generator)], 1),
                    values=torch.randn(count, 2, generator=generator)).to(torch.float32)
    image, mean_depth = render(scene, "compiled")
    exact = scene.to(torch.float64)
    wanted, wanted_depth = render(exact, "torch")
    assert image[1:, 1:, -1].min() > 0.999
    assert (image - wanted).abs().max() < 2e-4  # what the last fragment may show
    assert ((mean_depth - wanted_depth).abs() / wanted_depth).max() < 2e-4
    found, expected = (gradients(x, y, torch.ones_like(y)) for x, y in ((scene, image), (exact, wanted)))
    assert (found["opacities"] - expected["opacities"]).norm() < 1e-3 * expected["opacities"].norm()


def outcome(scene: Scene) -> list[Tensor]:
    """Picture, mean depth and all gradients, by the kernels."""
    scene = scene.to(torch.float32)
    image, mean_depth = render(scene, "compiled")
    weight = torch.randn(image.shape, generator=torch.Generator().manual_seed(3))
    return [image.detach(), mean_depth, *gradients(scene, image, weight).values()]


@needs_kernel
@pytest.mark.parametrize(("seed", "count"), [(0, 60), (2, 9000), (1, 300_000)])
def test_results_do_not_depend_on_the_threads_nor_on_the_call(seed: int, count: int, threads: None) -> None:
    """With many, the lists are made in several parts."""
    scene = random_scene(seed, count)
    scene = scene._replace(size=(150, 90), intrinsics=scene.intrinsics * torch.tensor([[4.0], [4.0], [1.0]]))
    results = []
    for number in (1, 2, 3, 7, 7):
        torch.set_num_threads(number)
        results.append(outcome(scene))
    assert results[0][0][..., -1].mean() > 0.05
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_kernel
def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_gaussians, "MAX_PAIRS", 11)
    image, _ = render(line_up(11, (16, 16)), "compiled")
    assert image[8, 8, 1] > 0.9
    with pytest.raises(OperatorError, match=r"12 ellipses reach 12 tiles of 16 x 16 pixels, more than 11; render a sm"):
        render(line_up(12, (16, 16)), "compiled")


@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend: str) -> None:
    scene = random_scene(0).to(torch.float32)
    strided = Scene(*(torch.stack([x, x], -1)[..., 0].detach() for x in scene[:4]),
                    scene.cam_to_world.detach().T.contiguous().T, scene.intrinsics.detach().T.contiguous().T,
                    scene.values.detach().T.contiguous().T, scene.size)
    assert not any(x.is_contiguous() for x in strided[:7])
    leaves = Scene(*(x.requires_grad_() for x in strided[:7]), scene.size)
    pictures = [render(x, backend)[0] for x in (leaves, scene)]
    assert torch.equal(*pictures)
    weight = torch.randn(3, *pictures[0].shape[:2]).repeat(2, 1, 1)[:4].permute(1, 2, 0)  # not contiguous either
    assert not weight.is_contiguous()
    found, wanted = (gradients(x, y, weight) for x, y in zip((leaves, scene), pictures, strict=True))
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", Scene._fields[:7])
def test_gradients_of_one_tensor_alone(name: str, backend: str) -> None:
    scene = random_scene(0).to(torch.float32)
    wanted = gradients(scene, render(scene, backend)[0], torch.ones(1))[name]
    alone = Scene(*(x.detach() for x in scene.tensors), scene.size)
    leaf = getattr(alone, name).clone().requires_grad_()
    render(alone._replace(**{name: leaf}), backend)[0].sum().backward()
    torch.testing.assert_close(leaf.grad, wanted, rtol=1e-6, atol=1e-6)


@needs_kernel
def test_a_second_derivative_is_refused() -> None:
    scene = random_scene(0).to(torch.float32)
    (grad,) = torch.autograd.grad(render(scene, "compiled")[0].square().sum(), scene.means, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_gradients(backend: str) -> None:
    scene = random_scene(0).to(torch.float32)
    wanted = [x.detach() for x in render(scene, backend)]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            found = render(scene, backend)
        assert not any(x.requires_grad for x in found)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not render(scene, backend)[1].requires_grad  # the mean depth has none


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_for_the_reference(dtype: torch.dtype) -> None:
    scene = line_up(3, SIZE).to(dtype)
    image, mean_depth = render(scene, "auto")
    assert (image.dtype, mean_depth.dtype) == (dtype, dtype)
    wanted = render(line_up(3, SIZE), "auto")[0]
    assert (image.float() - wanted).abs().max() < 20 * torch.finfo(dtype).eps + 1e-5
    assert all(grad.isfinite().all() for grad in gradients(scene, image, torch.ones_like(image)).values())
    name = str(dtype)
    with pytest.raises(OperatorError, match=rf"project_gaussians: backend 'compiled' takes torch.float32, got {name}"):
        render(scene, "compiled")
    with pytest.raises(OperatorError, match=rf"composite_gaussians: backend 'compiled' takes .*, got {name}"):
        composite_gaussians(torch.zeros(2, 8, dtype=dtype), torch.zeros(2, 1, dtype=dtype), SIZE, backend="compiled")


TEN_MILLION = """
import resource, torch
from npcr.ops import composite_gaussians, project_gaussians
count, size = 10_000_000, (400, 300)
generator = torch.Generator().manual_seed(0)
means = torch.rand(count, 3, generator=generator).mul_(2).sub_(torch.tensor([1.0, 1.0, -2.0])).requires_grad_()
strands = torch.full((count, 3), 1e-3)
widths, opacities, values = torch.full((count,), 1e-3), torch.full((count,), 0.9), torch.ones(count, 3)
pose, intrinsics = torch.eye(4), torch.tensor([[500.0, 0, 200], [0, 500.0, 150], [0, 0, 1]])
small = [x[:1000] for x in (means, strands, widths, opacities)]
composite_gaussians(project_gaussians(*small, pose, intrinsics, size), values[:1000], size)[0].sum().backward()
means.grad = None
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / count
before = peak()
ellipses = project_gaussians(means, strands, widths, opacities, pose, intrinsics, size)
image = composite_gaussians(ellipses, values, size)[0]
forward = peak()
image.sum().backward()
print(float(image[..., -1].detach().mean()), bool(means.grad.isfinite().all()), forward - before, peak() - before)
"""


@needs_kernel
@pytest.mark.slow
def test_ten_million_stay_in_bounds() -> None:
    """Bytes a Gaussian, in one tile each: ellipse, order and pair are 52; gradients and their parts 114 more."""
    done = subprocess.run([sys.executable, "-c", TEN_MILLION], capture_output=True, text=True, check=True)
    coverage, finite, forward, backward = done.stdout.split()
    assert float(coverage) > 0.99
    assert finite == "True"
    assert float(forward) < 70, done.stdout
    assert float(backward) < 200, done.stdout
