# SPDX-License-Identifier: Apache-2.0
"""The fused and rearranged blocks against plain torch ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from npcr.renderers.gated_blocks import GatedConv, Up, blur_halve
from npcr.renderers.norms import ImageNorm, make_norm


def plain_gated(block: GatedConv, x: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(block.gate(x)) * block.conv(x)


def plain_blur(x: torch.Tensor) -> torch.Tensor:
    """Reflect, filter at every pixel by sums of shifted images, keep every second one."""
    padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    rows = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    both = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    return both[:, :, ::2, ::2] / 16


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_gated_conv_equals_two_convolutions(memory: torch.memory_format) -> None:
    torch.manual_seed(0)
    block = GatedConv(5, 7)
    x = torch.randn(2, 5, 9, 11).to(memory_format=memory).requires_grad_()
    cotangent = torch.randn(2, 7, 9, 11)
    parameters = [x, *block.parameters()]
    fused, plain = block(x), plain_gated(block, x)
    torch.testing.assert_close(fused, plain)
    for a, b in zip(torch.autograd.grad(fused, parameters, cotangent),
                    torch.autograd.grad(plain, parameters, cotangent), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_image_norm_equals_instance_norm_and_batch_norm_of_one() -> None:
    torch.manual_seed(0)
    ours, instance, batch = ImageNorm(6), nn.InstanceNorm2d(6, affine=True), nn.BatchNorm2d(6)
    weight, bias = torch.rand(6), torch.randn(6)
    for norm in (ours, instance, batch):
        norm.weight.data.copy_(weight)
        norm.bias.data.copy_(bias)
    x = (torch.randn(1, 6, 13, 10) * 3 + 50).to(memory_format=torch.channels_last).requires_grad_()
    cotangent = torch.randn(1, 6, 13, 10)
    (expected_x,) = torch.autograd.grad(instance(x), x, cotangent)
    torch.testing.assert_close(ours(x), instance(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(x), batch(x), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(torch.autograd.grad(ours(x), x, cotangent)[0], expected_x, rtol=1e-3, atol=1e-4)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(2, 2), (3, 5), (8, 7), (11, 16)])
def test_blur_halve_equals_the_plain_filter(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(blur_halve(x), plain_blur(x))
    assert blur_halve(x).shape[2:] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    torch.testing.assert_close(blur_halve(torch.ones(1, 3, *size)), torch.ones_like(blur_halve(x))[:1])


def test_up_pads_the_smaller_half_first() -> None:
    up = Up(2, 1, "none")
    seen = []
    up.conv.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    up(torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 5, 7))
    rows, columns = seen[0][0, 0].amax(1), seen[0][0, 0].amax(0)
    assert rows.tolist() == [1, 1, 1, 1, 0]
    assert columns.tolist() == [0, 1, 1, 1, 1, 0, 0]


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: instance, batch, none"):
        make_norm("layer", 3)
