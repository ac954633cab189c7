# SPDX-License-Identifier: Apache-2.0
"""The CPU's network kernels against the blocks in plain torch: values and gradients from one random cotangent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.plain_network import plain_copy
from npcr.ops import OperatorError, compiled_available, native_network
from npcr.ops.dispatch import GATED_UNET, use_compiled
from npcr.ops.memory import MemoryPool
from npcr.renderers import LayeredRenderer
from npcr.renderers.cpu import PackedWeights, block_runner
from npcr.renderers.cpu.rematerialize import FeatureMap
from npcr.renderers.cpu.runner import run_block, supports_regions
from npcr.renderers.gated_blocks import DoubleConv, Down, GatedConv, Out, Up
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.receptive_field import PixelRegion, block_regions, bounding_region
from tests.scenes import orbit_cameras

pytestmark = pytest.mark.skipif(not compiled_available(), reason="the CPU kernels were not built")

# Every remainder of tiles of 4, of vectors of 4, 8 and 16, and feature maps smaller than a tile's patch.
SIZES = [(3, 3), (4, 7), (9, 16), (21, 34)]
NORMS = ["instance", "batch", "none"]


def on_kernels(block: nn.Module, *inputs: Tensor) -> Tensor:
    """A block's result on the kernels."""
    result = run_block(block, inputs, PackedWeights().get)
    return result.tensor if isinstance(result, FeatureMap) else result


def both_ways(block: nn.Module, *inputs: Tensor) -> list[tuple[Tensor, ...]]:
    """(output, gradients of inputs, gradients of parameters) on the kernels, and in torch."""
    results = []
    for reference in (False, True):
        leaves = [x.clone().contiguous(memory_format=torch.channels_last).requires_grad_() for x in inputs]
        out = block(*leaves) if reference else on_kernels(block, *leaves)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        results.append((out.detach(), *torch.autograd.grad(out, [*leaves, *block.parameters()], cotangent)))
    return results


def assert_equal(ours: tuple[Tensor, ...], reference: tuple[Tensor, ...]) -> None:
    for number, (a, b) in enumerate(zip(ours, reference, strict=True)):
        assert a.shape == b.shape
        scale = b.abs().max().clamp_min(1e-3)
        limit = 3e-5 if number == 0 else 3e-4  # gradients see gates of 16 bits
        assert ((a - b).abs().max() / scale).item() < limit, f"result {number}: {(a - b).abs().max()} of {scale}"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("sources", "channels"), [([5], 8), ([8, 3], 30), ([17, 2, 16], 7)])
def test_double_conv(norm: str, size: tuple[int, int], sources: list[int], channels: int) -> None:
    torch.manual_seed(0)
    block = DoubleConv(sum(sources), channels, norm)
    assert_equal(*both_ways(block, *(torch.randn(2, count, *size) for count in sources)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("make", "channels"), [(lambda: Out(30, 3), 30), (lambda: Out(8, 1), 8)])
def test_out(size: tuple[int, int], make: Callable[[], nn.Module], channels: int) -> None:
    torch.manual_seed(0)
    assert_equal(*both_ways(make(), torch.randn(2, channels, *size)))


@pytest.mark.parametrize("size", SIZES)
def test_down_routes_gradients_to_the_first_largest(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    # Few distinct values: ties everywhere.
    assert_equal(*both_ways(Down(5, 8, "none"), torch.randint(0, 3, (2, 5, *size)).float()))


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (10, 17)])
@pytest.mark.parametrize("extra", [(0, 0), (1, 1), (1, 3)])
def test_up(size: tuple[int, int], extra: tuple[int, int]) -> None:
    torch.manual_seed(0)
    skip = (2 * size[0] + extra[0], 2 * size[1] + extra[1])
    assert_equal(*both_ways(Up(8 + 3, 8, "none"), torch.randn(2, 8, *size), torch.randn(2, 3, *skip)))


def test_batch_norm_keeps_running_statistics_as_torch_does() -> None:
    torch.manual_seed(0)
    ours, reference = DoubleConv(5, 8, "batch"), DoubleConv(5, 8, "batch")
    reference.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 12, 13) + 2
    for gradients in (True, False, True):
        with torch.set_grad_enabled(gradients):
            on_kernels(ours, x)
            reference(x)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name], rtol=1e-5, atol=1e-6)
    ours.eval(), reference.eval()
    with torch.no_grad():
        torch.testing.assert_close(on_kernels(ours, x), reference(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_whole_network_equals_the_plain_form_with_the_same_weights(norm: str) -> None:
    torch.manual_seed(0)
    network = GatedUNet(9, norm).to(memory_format=torch.channels_last)
    network(torch.randn(2, 9, 40, 40))  # gives batch norm running statistics
    plain = plain_copy(network.eval(), 9, norm)
    x = torch.randn(2, 9, 43, 50)
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)
        network.backend = "torch"  # fused gates, and with batch norm the norm folded into them
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-4)


def test_a_copy_packs_its_own_weights() -> None:
    torch.manual_seed(0)
    network, x = GatedUNet(4, "none").eval(), torch.rand(1, 4, 24, 24)
    with torch.no_grad():
        before = network(x)
        copied = copy.deepcopy(network)
        network.enter.conv1.conv.weight.mul_(2)
        assert torch.equal(copied(x), before)
        assert not torch.equal(network(x), before)
    assert copied.packed_weights is not network.packed_weights


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    torch.manual_seed(0)
    block = DoubleConv(12, 24, "instance")
    x = torch.randn(1, 12, 70, 66)
    kept, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(both_ways(block, x)[0])
    finally:
        torch.set_num_threads(kept)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_region_holds_the_whole_images_values() -> None:
    torch.manual_seed(0)
    gated, x = GatedConv(5, 9), torch.randn(2, 19, 23, 5)
    packed, bias = native_network.pack(gated.conv.weight, gated.gate.weight), torch.zeros(18)
    whole, part = torch.zeros(2, 19, 23, 9), torch.full((2, 19, 23, 9), 7.0)
    native_network.convolve([x], packed, bias, [whole], gated=True)
    spoilt = torch.full_like(x, float("nan"))
    spoilt[:, 1:19, 2:18] = x[:, 1:19, 2:18]  # what the region depends on
    native_network.convolve([spoilt], packed, bias, [part], gated=True, region=(3, 2, 17, 18))
    torch.testing.assert_close(part[:, 2:18, 3:17], whole[:, 2:18, 3:17], rtol=1e-5, atol=1e-6)
    part[:, 2:18, 3:17] = 7
    assert (part == 7).all()


def test_other_kinds_of_tensors_go_to_torch() -> None:
    x = torch.zeros(1, 3, 24, 24)
    for backend in ("auto", "compiled"):
        assert use_compiled(GATED_UNET, backend, x)
        assert not use_compiled(GATED_UNET, backend, x.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not use_compiled(GATED_UNET, backend, x)
    assert not use_compiled(GATED_UNET, "torch", x)
    assert not use_compiled(GATED_UNET, "auto", x.double())
    with pytest.raises(OperatorError, match=r"GatedUNet: backend 'compiled' takes torch.float32, got torch.float64"):
        use_compiled(GATED_UNET, "compiled", x.double())
    assert GatedUNet(3).double()(x.double()).dtype == torch.float64


def test_recomputed_layers_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    cloud = torch.rand(400, 3) - 0.5
    renderer = LayeredRenderer([cloud], layers=3, feature_dim=4, splat=(3.0, 5.0, 1.0)).train()
    cameras = orbit_cameras(1, size=(32, 28))
    gradients = []
    for renderer.recompute_layers in (False, True):
        renderer.zero_grad(set_to_none=True)
        output = renderer(cameras)
        (output.color.square().sum() + output.alpha.sum()).backward()
        gradients.append([p.grad.clone() for p in renderer.parameters()])
    # Sums in another order move a few values across a ReLU's edge, hence the norm and not each element: in float32
    # either lies some 2% from what float64 gives.
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 5e-2 * b.norm() + 1e-6


def test_recomputing_and_batch_norm_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="norm batch does not allow"):
        LayeredRenderer([torch.zeros(1, 3)], norm="batch", recompute_layers=True)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("box", [(0, 0, 20, 15), (30, 41, 47, 52), (60, 70, 97, 83), (0, 0, 97, 83)])
def test_a_regions_pixels_are_those_of_the_whole_image(norm: str, box: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    network = GatedUNet(6, norm).eval()
    x, region = torch.randn(1, 6, 83, 97), PixelRegion(*box, (83, 97))
    with torch.no_grad():
        assert supports_regions(network)
        whole, part = network(x), network(x, region)
    left, top, right, bottom = box
    inside = part[:, :, top:bottom, left:right].clone()
    torch.testing.assert_close(inside, whole[:, :, top:bottom, left:right], rtol=1e-5, atol=1e-6)
    part[:, :, top:bottom, left:right] = 0
    assert (part == 0).all()


@pytest.mark.parametrize("box", [(90, 80, 110, 100), (91, 83, 104, 100), (1, 0, 8, 199)])
def test_no_block_reads_beyond_its_region(box: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever memory holds outside a block's region, and be it NaN, does not reach the result."""
    torch.manual_seed(0)
    empty = MemoryPool.empty
    monkeypatch.setattr(MemoryPool, "empty", lambda *of, **kind: empty(*of, **kind).fill_(float("nan")))
    network = GatedUNet(6, "none").eval()
    x, region = torch.randn(1, 6, 200, 210), PixelRegion(*box, (200, 210))
    inside = (..., slice(box[1], box[3]), slice(box[0], box[2]))
    plan = block_regions(region)
    assert plan["up4"].right - plan["up4"].left < 90  # the finest levels are indeed cut

    def spoiling_runner(*arguments: Any) -> Callable[..., Tensor]:
        run = block_runner(*arguments)
        assert run is not None

        def run_and_spoil(name: str, *inputs: Tensor) -> Tensor:
            output = run(name, *inputs)
            output = output.tensor if isinstance(output, FeatureMap) else output
            spoilt = torch.full_like(output, float("nan"))
            left, top, right, bottom = plan[name].box
            spoilt[:, :, top:bottom, left:right] = output[:, :, top:bottom, left:right]
            return spoilt

        return run_and_spoil

    with torch.no_grad():
        expected = network(x)[inside]
        monkeypatch.setattr("npcr.renderers.cpu.block_runner", spoiling_runner)
        result = network(x, region)[inside]
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


def test_a_norm_over_the_image_computes_all_of_it() -> None:
    torch.manual_seed(0)
    network = GatedUNet(6, "instance").eval()
    x, region = torch.randn(1, 6, 40, 50), PixelRegion(10, 5, 30, 25, (40, 50))
    with torch.no_grad():
        assert not supports_regions(network)
        whole, part = network(x), network(x, region)
    assert torch.equal(part[:, :, 5:25, 10:30], whole[:, :, 5:25, 10:30])
    assert (part[:, :, 25:] == 0).all()


def test_rendering_with_a_margin_leaves_the_rest_transparent() -> None:
    torch.manual_seed(0)
    cloud = (torch.rand(300, 3) - 0.5) * 0.5
    renderer = LayeredRenderer([cloud], layers=3, feature_dim=4, splat=(3.0, 5.0, 1.0), norm="none").eval()
    cameras = orbit_cameras(1, size=(96, 80))
    with torch.no_grad():
        whole = renderer(cameras)
        renderer.margin = 4
        cut = renderer(cameras)
    for k in range(3):
        region = bounding_region(whole.index[0, k] >= 0, 4)
        if region is None:
            assert (cut.layer_rgba[0, k] == 0).all()
            continue
        left, top, right, bottom = region.box
        torch.testing.assert_close(cut.layer_rgba[0, k, :, top:bottom, left:right],
                                   whole.layer_rgba[0, k, :, top:bottom, left:right], rtol=1e-5, atol=1e-6)
        assert (cut.layer_rgba[0, k, :, :top] == 0).all()


def test_bounding_region_of_nothing() -> None:
    assert bounding_region(torch.zeros(5, 5, dtype=torch.bool), 2) is None
