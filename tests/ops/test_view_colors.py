# SPDX-License-Identifier: Apache-2.0
"""Colors by view direction: the kernels against the reference in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from npcr.ops import OperatorError, compiled_available, view_colors
from npcr.ops.spherical_harmonics import constant_coefficient, spherical_harmonics

needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")


def case(count: int, degree: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Points, origin, coefficients and a gradient of the colors."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (count, 3), (3,), (count, 1, 3), (count, (degree + 1) ** 2 - 1, 3), (count, 3)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def results(inputs: tuple[Tensor, ...], backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """Colors, and the gradients of both coefficients."""
    points, origin, *coefficients, grad = inputs
    constant, others = (tensor.clone().requires_grad_() for tensor in coefficients)
    colors = view_colors(points, origin, constant, others, backend=backend)
    return colors.detach(), *torch.autograd.grad(colors, (constant, others), grad, allow_unused=True,
                                                 materialize_grads=True)


@needs_kernel
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_the_kernel_equals_the_reference(count: int, degree: int) -> None:
    inputs = case(count, degree)
    for ours, wanted in zip(results(inputs, "compiled"), results(inputs, "torch"), strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("backend", ["torch", pytest.param("compiled", marks=needs_kernel)])
def test_a_constant_looks_the_same_from_everywhere(backend: str) -> None:
    points, origin, _, others, _ = case(50, 3)
    color = torch.rand(50, 3)
    for at in (origin, points[7]):  # one point has no direction
        shown = view_colors(points, at, constant_coefficient(color), torch.zeros_like(others), backend=backend)
        torch.testing.assert_close(shown, color)


@pytest.mark.parametrize("backend", ["torch", pytest.param("compiled", marks=needs_kernel)])
def test_colors_are_sums_of_harmonics(backend: str) -> None:
    points, origin, constant, others, _ = case(50, 3)
    basis = spherical_harmonics(torch.nn.functional.normalize(points - origin, dim=1), 3)
    wanted = torch.einsum("nk,nkc->nc", basis, torch.cat([constant, others], dim=1))
    torch.testing.assert_close(view_colors(points, origin, constant, others, backend=backend), wanted)


@needs_kernel
def test_the_camera_gets_a_gradient_and_the_kernel_says_that_it_has_none() -> None:
    points, origin, constant, others, grad = case(50, 2)
    origin.requires_grad_()
    colors = view_colors(points, origin, constant, others)
    (found,) = torch.autograd.grad(colors, origin, grad)
    step = 1e-3 * torch.eye(3, dtype=torch.float64)
    exact = [tensor.double() for tensor in (points, origin.detach(), constant, others, grad)]

    def moved(by: Tensor) -> Tensor:
        return (view_colors(exact[0], exact[1] + by, exact[2], exact[3]) * exact[4]).sum()

    wanted = torch.stack([(moved(s) - moved(-s)) / 2e-3 for s in step])
    torch.testing.assert_close(found.double(), wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(OperatorError, match="no gradient for points and origin"):
        view_colors(points, origin, constant, others, backend="compiled")
    with torch.no_grad():
        torch.testing.assert_close(view_colors(points, origin, constant, others, backend="compiled"), colors.detach())
