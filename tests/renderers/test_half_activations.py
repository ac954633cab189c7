# SPDX-License-Identifier: Apache-2.0
"""What is kept for the gradients: feature maps in half precision, and those that are rematerialized from others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.ops import compiled_available
from npcr.renderers import BlendedRenderer, LayeredRenderer, Renderer
from npcr.renderers.cpu import PackedWeights
from npcr.renderers.cpu.autograd import resize
from npcr.renderers.cpu.rematerialize import FeatureMap
from npcr.renderers.cpu.runner import run_block
from npcr.renderers.gated_blocks import DoubleConv, Up, blur_halve
from npcr.renderers.half_activations import half_activations, half_activations_enabled
from tests.scenes import orbit_cameras

kernels = pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")
BACKENDS = pytest.mark.parametrize("backend", [pytest.param("compiled", marks=kernels), "torch"])


@contextlib.contextmanager
def counted() -> Iterator[dict[int, int]]:
    """Bytes of each storage that autograd saves, parameters left out, by its address."""
    storages: dict[int, int] = {}
    kept = []  # so that no address is given twice

    def pack(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter):
            kept.append(x)
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield storages


def layered(backend: str) -> LayeredRenderer:
    return LayeredRenderer([torch.rand(4000, 3) - 0.5], layers=3, feature_dim=4, splat=(3.0, 5.0, 1.0),
                           backend=backend)


def blended(backend: str) -> BlendedRenderer:
    renderer = BlendedRenderer([torch.rand(400, 3) - 0.5], layers=3, feature_dim=4, splat=(3.0, 5.0, 1.0),
                               width=16, backend=backend)
    nn.init.normal_(renderer.network.out.weight, std=0.1)  # 0 at the start: no gradient would pass
    return renderer


def step(renderer: Renderer, half: bool) -> tuple[float, Tensor, int]:
    """The loss, the gradient of all parameters, and the bytes saved by packing feature maps."""
    renderer.zero_grad(set_to_none=True)
    with half_activations(half) as packing:
        output = renderer(orbit_cameras(1, size=(60, 52)))
        loss = (output.color - 0.5).square().mean() + (output.alpha - 0.5).square().mean()
    loss.backward()
    saved = packing.bytes_before - packing.bytes_after if packing else 0
    return loss.item(), torch.cat([p.grad.flatten() for p in renderer.parameters() if p.grad is not None]), saved


@BACKENDS
@pytest.mark.parametrize("make", [layered, blended])
def test_only_gradients_change_and_little(make: Callable[[str], Renderer], backend: str) -> None:
    torch.manual_seed(0)
    renderer = make(backend).train()
    names = list(renderer.state_dict())
    loss, exact, nothing = step(renderer, False)
    half_loss, close, saved = step(renderer, True)
    assert half_loss == loss
    # The kernels find the largest pixel of a pooling window again, among rounded ones; torch has kept which it was.
    assert 0 < (close - exact).norm() < (1e-3 if backend == "torch" else 2e-2) * exact.norm()
    assert nothing == 0
    assert saved > 1e6
    assert list(renderer.state_dict()) == names
    assert all(value.dtype == torch.float32 for value in renderer.state_dict().values())


@BACKENDS
def test_recomputed_layers_are_halved_too(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    renderer = layered(backend).train()
    entered = []
    forward = renderer.network.forward
    monkeypatch.setattr(renderer.network, "forward", lambda x: entered.append(
        (torch.is_grad_enabled(), half_activations_enabled())) or forward(x))
    renderer.recompute_layers = True
    loss, exact, _ = step(renderer, False)
    entered.clear()
    half_loss, close, _ = step(renderer, True)
    assert half_loss == pytest.approx(loss, rel=1e-6)
    assert 0 < (close - exact).norm() < 2e-2 * exact.norm()
    # Once without gradients, and once for them, in half precision.
    assert [grad for grad, _ in entered] == [False] * 3 + [True] * 3
    assert all(half for grad, half in entered if grad)


def test_what_two_operations_save_is_kept_once() -> None:
    x = torch.randn(1, 16, 40, 40, requires_grad=True)
    y = x * 1
    with half_activations() as packing:
        (y.square() + y.sin() + F.relu(y)).sum().backward()
    assert packing is not None
    assert packing.bytes_before == 2 * y.numel() * 4  # y, and the ReLU's result
    assert packing.bytes_after == packing.bytes_before / 2


def test_weights_small_tensors_and_other_types_stay_as_they_are() -> None:
    with half_activations() as packing:
        weight = torch.randn(64, 64, 3, 3, requires_grad=True) * 1
        for x in (weight, torch.randn(1, 4, 8, 8, requires_grad=True), torch.randn(1000, 64, requires_grad=True),
                  torch.randn(1, 16, 40, 40, dtype=torch.float64, requires_grad=True),
                  torch.randn(1, 16, 40, 40, dtype=torch.float16, requires_grad=True)):
            (gradient,) = torch.autograd.grad(x.square().sum(), x)
            assert gradient.dtype == x.dtype
            assert torch.equal(gradient, 2 * x)
    assert packing is not None
    assert packing.bytes_before == 0


def test_values_beyond_half_precision_stay_finite() -> None:
    x = torch.full((1, 16, 40, 40), 1e6, requires_grad=True)
    with half_activations():
        x.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@kernels
def test_what_comes_out_of_a_layer_is_not_kept_beside_what_it_is_made_of() -> None:
    torch.manual_seed(0)
    first, second = DoubleConv(8, 16, "instance"), Up(16, 24, "instance")
    x = torch.randn(2, 8, 40, 36).contiguous(memory_format=torch.channels_last)
    with counted() as storages:
        level = run_block(first, [x.requires_grad_()], PackedWeights())
        assert isinstance(level, FeatureMap)
        run_block(second.conv, [resize(resize(level, (20, 18)), (40, 36))], PackedWeights())
    pixels = 2 * 40 * 36 * 4
    # The input; values and gates, these of two bytes, of two layers each; what is resized twice. Neither what comes out
    # of a layer, nor it halved.
    feature_maps = sum(size for size in storages.values() if size >= pixels)
    assert feature_maps == pytest.approx(pixels * (8 + 3 * 16 + 3 * 24 + 16), rel=0.02)


def on_kernels(first: DoubleConv, up: Up, x: Tensor) -> Tensor:
    """`first`, halved, and `up` of that and of `first`."""
    level = run_block(first, [x], PackedWeights())
    assert isinstance(level, FeatureMap)
    low = resize(level, (x.shape[2] // 2, x.shape[3] // 2))
    result = run_block(up, [low, level], PackedWeights())
    assert isinstance(result, FeatureMap)
    return result.tensor


@kernels
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_rematerialized_maps_give_the_same_gradients(norm: str) -> None:
    torch.manual_seed(0)
    first, up = DoubleConv(5, 9, norm), Up(9 + 9, 7, norm)
    x = torch.randn(2, 5, 26, 23)
    gradients = []
    for reference in (False, True):
        leaf = x.clone().contiguous(memory_format=torch.channels_last).requires_grad_()
        if reference:
            level = first(leaf)
            result = up(blur_halve(F.max_pool2d(level, 2, stride=1)), level)
        else:
            result = on_kernels(first, up, leaf)
        cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
        gradients.append(torch.autograd.grad(result, [leaf, *first.parameters(), *up.parameters()], cotangent))
    for a, b in zip(*gradients, strict=True):
        assert (a - b).abs().max() < 1.5e-4 * b.abs().max().clamp_min(1e-2)

