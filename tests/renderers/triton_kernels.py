# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels against their reference: `test_gpu.py` runs this on a CPU, in Triton's interpreter, and on a GPU.

    TRITON_INTERPRET=1 python -m pytest tests/renderers/triton_kernels.py
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.gpu import launch, reference
from npcr.renderers.gpu.feature_map import KEPT, UNIT, FeatureMap, empty_map
from npcr.renderers.gpu.runner import runner_of

DEVICE = torch.device("cpu" if launch.INTERPRETED else "cuda")
SLOW = pytest.mark.slow
EXACT = {"rtol": 0.0, "atol": 0.0}
SUMMED = {"rtol": 1e-4, "atol": 1e-4}  # float32, added up in another order
ROUNDED = {"rtol": 2e-3, "atol": 1e-4}  # of float16: the last digit may differ
KEPT_ROUNDED = {"rtol": 1e-2, "atol": 1e-3}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def feature_map(channels: int, height: int, width: int, is_split: bool = True, seed: int = 0) -> FeatureMap:
    return reference.split(random(2, channels, height, width, seed=seed), is_split, keep=True)


def same(found: FeatureMap, wanted: FeatureMap, **tolerance: float) -> None:
    assert found.channels == wanted.channels
    for mine, theirs in zip(found[:4], wanted[:4], strict=True):
        assert (mine is None) == (theirs is None)
    assert found.high.stride() == wanted.high.stride()
    torch.testing.assert_close(reference.whole(found), reference.whole(wanted), **tolerance)
    torch.testing.assert_close(found.high, wanted.high, **ROUNDED)
    if found.kept is not None:
        torch.testing.assert_close(found.kept, wanted.kept, **KEPT_ROUNDED)


@pytest.mark.parametrize(("is_split", "keep"), [(True, True), pytest.param(False, False, marks=SLOW)])
def test_split(is_split: bool, keep: bool) -> None:
    for x in (random(2, 35, 5, 6), random(2, 5, 6, 35).permute(0, 3, 1, 2), random(2, 8, 5, 6)[:, :3]):
        same(launch.split(x, is_split, keep), reference.split(x, is_split, keep), **EXACT)


@pytest.mark.parametrize(("gated", "is_split"), [(True, True), pytest.param(False, False, marks=SLOW)])
def test_pack_weights(gated: bool, is_split: bool) -> None:
    weight = random(12, 14, 3, 3).to(memory_format=torch.channels_last) / 10
    for part in (weight, weight.contiguous()):
        found = launch.pack_weights(part, [11, 3], gated, is_split)
        wanted = reference.pack_weights(part, [11, 3], gated, is_split)
        assert found.high.shape == wanted.high.shape == (9 * (16 + 8), 16)
        torch.testing.assert_close(reference.whole(found), reference.whole(wanted), **EXACT)
        assert (reference.whole(found).sum() / UNIT - part.sum()).abs() < (1e-4 if is_split else 1e-1)


@pytest.mark.parametrize(("channels", "keep", "is_split"), [
    ([8, 3], True, True), pytest.param([11], True, False, marks=SLOW),
    pytest.param([8, 16, 8], False, True, marks=SLOW)])
def test_convolve_gated(channels: list[int], keep: bool, is_split: bool) -> None:
    sources = [feature_map(count, 9, 10, is_split, seed) for seed, count in enumerate(channels)]
    packed = reference.pack_weights(random(16, sum(channels), 3, 3) / 8, channels, True, is_split)
    bias = random(16, seed=5)
    found = launch.convolve_gated(sources, packed, bias, keep)
    wanted = reference.convolve_gated(sources, packed, bias, keep)
    assert found.gated.dtype == wanted.gated.dtype
    torch.testing.assert_close(found.gated, wanted.gated, **(SUMMED if is_split else ROUNDED))
    weight, shift = random(8, seed=6), random(8, seed=7)
    torch.testing.assert_close(launch.join_moments(found, weight, shift, 1e-5),
                               reference.join_moments(wanted, weight, shift, 1e-5), **SUMMED)
    torch.testing.assert_close(launch.join_moments(found, weight[:6], shift[:6], 1e-5),
                               reference.join_moments(found, weight[:6], shift[:6], 1e-5), **SUMMED)
    assert (found.share is None) == (wanted.share is None) == (not keep)
    if found.share is not None and wanted.share is not None:
        assert (found.share.int() - wanted.share.int()).abs().max() <= 1


@pytest.mark.parametrize("is_split", [True, pytest.param(False, marks=SLOW)])
def test_convolve(is_split: bool) -> None:
    source = feature_map(11, 9, 10, is_split)
    packed = reference.pack_weights(random(3, 11, 3, 3) / 8, [11], False, is_split)
    bias = random(8, seed=5)
    torch.testing.assert_close(launch.convolve(source, packed, bias), reference.convolve(source, packed, bias),
                               **SUMMED)


@pytest.mark.slow
def test_moments_of_a_mean_much_larger_than_the_deviations() -> None:
    source = feature_map(8, 20, 20)
    packed = reference.pack_weights(torch.zeros(16, 8, 3, 3, device=DEVICE), [8], True, True)
    packed.high[:8, :8] = UNIT * torch.eye(8, device=DEVICE)
    bias = torch.cat([torch.full((8,), 1000.0), torch.full((8,), 50.0)]).to(DEVICE)
    found = launch.join_moments(launch.convolve_gated([source], packed, bias, False), bias[8:], bias[8:], 1e-5)
    wanted = reference.convolve_gated([source], packed, bias, False).gated.double()
    torch.testing.assert_close(found[0].double(), wanted.mean((2, 3)), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[1].double(), torch.rsqrt(wanted.var((2, 3), correction=0)), rtol=1e-3, atol=0)


@pytest.mark.parametrize(("is_split", "keep"), [(True, True), pytest.param(False, False, marks=SLOW)])
def test_normalize(is_split: bool, keep: bool) -> None:
    gated = feature_map(8, 9, 10).high
    if is_split:
        gated = gated.float()
    affine = random(4, 2, 8)
    affine[1] = 0.5 + affine[1].abs()
    affine[2:, :, 6:] = 0
    affine[3, :, 0] = -affine[2, :, 0] * gated[:, 0, 3, 4]  # 0 is no positive number
    found = launch.normalize(gated, affine, 6, is_split, keep)
    same(found, reference.normalize(gated, affine, 6, is_split, keep), rtol=1e-3 if not is_split else 1e-5, atol=1e-6)
    if found.kept is None:
        return
    number = launch.restore(found.kept, affine)
    torch.testing.assert_close(number, reference.restore(found.kept, affine), **KEPT_ROUNDED)
    torch.testing.assert_close(number.float(), reference.whole(found), rtol=0.02, atol=0.02)
    assert torch.equal(number > 0, reference.whole(found) > 0)  # not so if all were rounded to the nearest


def test_what_is_kept_is_on_the_side_that_the_relu_saw() -> None:
    gated = random(2, 8, 24, 24).to(memory_format=torch.channels_last)
    affine = torch.stack([torch.zeros(2, 8), torch.ones(2, 8), torch.ones(2, 8), -random(2, 8).cpu()]).to(DEVICE)
    affine[3] = -gated[:, :, 5, 6].to(KEPT).float()  # where rounding crosses it
    gated = torch.where(random(2, 8, 24, 24, seed=1) > 0, gated, (1 + 1e-3 * random(2, 8, 24, 24, seed=2))
                        * -affine[3, :, :, None, None]).to(memory_format=torch.channels_last)
    for module in (launch, reference):
        kept = module.normalize(gated, affine, 8, True, True).kept
        right = gated + affine[3, :, :, None, None] > 0
        assert torch.equal(kept.float() + affine[3, :, :, None, None] > 0, right)
    assert not torch.equal(gated.to(KEPT).float() + affine[3, :, :, None, None] > 0, right)


@pytest.mark.parametrize("size", [(5, 6), pytest.param((4, 3), marks=SLOW), pytest.param((10, 9), marks=SLOW)])
def test_halve(size: tuple[int, int]) -> None:
    x = feature_map(8, *size)
    x.high[:, :4] = x.high[:, :4].round()  # ties: the first of the largest has the gradient
    x.low[:, :4] = 0
    for is_split, keep in ((True, True), (False, True), (False, False)):
        (found, codes), (wanted, wanted_codes) = launch.halve(x, is_split, keep), reference.halve(x, is_split, keep)
        same(found, wanted, rtol=1e-3 if not is_split else 1e-6, atol=1e-6)
        assert (codes is None) == (wanted_codes is None) == (not keep)
    grad = random(2, 8, size[0] // 2, size[1] // 2).to(KEPT).contiguous(memory_format=torch.channels_last)
    assert codes is None
    codes, wanted_codes = launch.halve(x, True, True)[1], reference.halve(x, True, True)[1]
    assert codes is not None
    assert wanted_codes is not None
    of_x = launch.halve_grad(grad, codes, size)
    torch.testing.assert_close(of_x, reference.halve_grad(grad, codes, size), **KEPT_ROUNDED)
    torch.testing.assert_close(of_x, reference.halve_grad(grad, wanted_codes, size), **KEPT_ROUNDED)
    leaf = reference.whole(x).requires_grad_()
    reference.blur_halve(torch.nn.functional.max_pool2d(leaf, 2, stride=1)).backward(grad.float())
    torch.testing.assert_close(of_x.float(), leaf.grad, **KEPT_ROUNDED)


@pytest.mark.parametrize(("small", "size"), [((4, 5), (9, 10)), pytest.param((1, 2), (3, 5), marks=SLOW)])
def test_double(small: tuple[int, int], size: tuple[int, int]) -> None:
    x = feature_map(8, *small)
    for is_split, keep in ((True, True), (False, True), (False, False)):
        same(launch.double(x, size, is_split, keep), reference.double(x, size, is_split, keep),
             rtol=1e-3 if not is_split else 1e-5, atol=1e-5)
    grad = random(2, 8, *size).to(KEPT).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(launch.double_grad(grad, small), reference.double_grad(grad, small), **KEPT_ROUNDED)


@pytest.mark.parametrize("channels", [24, pytest.param(160, marks=SLOW)])
def test_gated_grad(channels: int) -> None:
    size = (9, 10)
    normal, grad = (random(2, channels, *size, seed=seed).to(KEPT).contiguous(memory_format=torch.channels_last)
                    for seed in (1, 2))
    share = (255 * random(2, channels, *size, seed=4).sigmoid()).to(torch.uint8)
    share = share.contiguous(memory_format=torch.channels_last)
    affine = random(4, 2, channels, seed=3).abs() + 0.1
    for found, wanted in zip(launch.gated_grad(normal, share, grad, affine),
                             reference.gated_grad(normal, share, grad, affine), strict=True):
        torch.testing.assert_close(found, wanted, **(KEPT_ROUNDED if found.ndim == 4 else {"rtol": 1e-3, "atol": 1e-3}))


def test_feature_maps_have_no_gaps() -> None:
    assert empty_map(2, 8, 3, 5, torch.float16, DEVICE).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_the_whole_network() -> None:
    torch.manual_seed(0)
    net = GatedUNet(5, backend="torch").to(DEVICE)
    x = random(1, 5, 25, 26)
    wanted = net(x)
    wanted.square().mean().backward()
    exact = torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])
    net.zero_grad()
    found = net._forward(runner_of(net, None), x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    found.square().mean().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])
    assert (gradient - exact).norm() < 0.1 * exact.norm()  # so few pixels: a ReLU's side weighs much
