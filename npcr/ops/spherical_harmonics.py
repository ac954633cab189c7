# SPDX-License-Identifier: Apache-2.0
"""Colors that depend on the direction from which they are seen, as coefficients of spherical harmonics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

import pcpr_ext
from npcr.ops import checks
from npcr.ops.dispatch import VIEW_COLORS, use_compiled
from npcr.ops.native import empty, run

MAX_DEGREE = 3
_CONSTANT = 0.28209479  # the first spherical harmonic


def constant_coefficient(color: Tensor) -> Tensor:
    """Compute the coefficient of the constant spherical harmonic that gives a color in every direction.

    Args:
        color: (N, 3).

    Returns:
        (N, 1, 3).
    """
    return (color / _CONSTANT)[:, None]


def view_colors(points: Tensor, origin: Tensor, constant: Tensor, others: Tensor, *, backend: str = "auto") -> Tensor:
    """Evaluate the colors of points in the directions from which they are seen.

    Differentiable in all tensors. The kernel has the coefficients' gradients; where points or origin need one, as where
    poses are learned, "auto" takes the reference.

    Args:
        points: (N, 3) world coordinates.
        origin: (3,) world, the place of the camera.
        constant: (N, 1, 3), the coefficient of the constant spherical harmonic.
        others: (N, (degree + 1)² - 1, 3), those of degree 1 up to degree 3 at most.
        backend: "auto", "compiled" or "torch", as in `npcr.ops.rasterize`.

    Returns:
        (N, 3), of any range.

    Raises:
        OperatorError: an argument has the wrong shape, dtype or device, or backend "compiled" cannot serve.
    """
    checks.view_colors_arguments(points, origin, constant, others, backend)
    placed = torch.is_grad_enabled() and (points.requires_grad or origin.requires_grad)
    if placed and backend == "compiled":
        raise checks.OperatorError("view_colors: backend 'compiled' has no gradient for points and origin; "
                                   "detach them, or take backend 'auto'")
    if placed or not use_compiled(VIEW_COLORS, backend, points, origin, constant, others):
        return view_colors_reference(points, origin, constant, others)
    result: Tensor = _ViewColors.apply(points, origin, constant, others)
    return result


def view_colors_reference(points: Tensor, origin: Tensor, constant: Tensor, others: Tensor) -> Tensor:
    """Evaluate `view_colors` in torch.

    Args:
        points, origin, constant, others: as there.

    Returns:
        (N, 3).
    """
    degree = int((1 + others.shape[1]) ** 0.5) - 1
    basis = spherical_harmonics(F.normalize(points - origin, dim=-1), degree)[:, 1:, None]
    # Not an einsum: it would be a matrix product for each point.
    return _CONSTANT * constant[:, 0] + (basis * others).sum(1)


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """Evaluate the real spherical harmonics up to a degree.

    Args:
        directions: (N, 3) unit vectors.
        degree: 0 to `MAX_DEGREE`.

    Returns:
        (N, (degree + 1)²), orthonormal over the sphere.
    """
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, _CONSTANT)]
    if degree >= 1:
        values += [-0.48860251 * y, 0.48860251 * z, -0.48860251 * x]
    if degree >= 2:
        values += [1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * z * z - x * x - y * y),
                   -1.09254843 * x * z, 0.54627422 * (x * x - y * y)]
    if degree >= 3:
        values += [-0.59004359 * y * (3 * x * x - y * y), 2.89061144 * x * y * z,
                   -0.45704580 * y * (5 * z * z - 1), 0.37317633 * z * (5 * z * z - 3),
                   -0.45704580 * x * (5 * z * z - 1), 1.44530572 * z * (x * x - y * y),
                   -0.59004359 * x * (x * x - 3 * y * y)]
    return torch.stack(values, dim=-1)


class _ViewColors(torch.autograd.Function):
    """`view_colors_reference` on the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, origin: Tensor, constant: Tensor,  # type: ignore[override]
                others: Tensor) -> Tensor:
        tensors = [tensor.contiguous() for tensor in (points, origin, constant, others)]
        colors = empty((len(points), 3), points.device)
        run(pcpr_ext.Harmonics(**_seen(tensors[0], tensors[1], others), constant=tensors[2].data_ptr(),
                               others=tensors[3].data_ptr(), colors=colors.data_ptr()), points.device)
        ctx.save_for_backward(*tensors)
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        points, origin, constant, others = ctx.saved_tensors
        grad, grads = grad.contiguous(), [empty(tensor.shape, grad.device) for tensor in (constant, others)]
        run(pcpr_ext.HarmonicsGrad(**_seen(points, origin, others), grad_colors=grad.data_ptr(),
                                   grad_constant=grads[0].data_ptr(), grad_others=grads[1].data_ptr()), grad.device)
        return None, None, *grads


def _seen(points: Tensor, origin: Tensor, others: Tensor) -> dict[str, int]:
    return {"points": points.data_ptr(), "origin": origin.data_ptr(), "count": len(points),
            "degree": int((1 + others.shape[1]) ** 0.5) - 1}
