# SPDX-License-Identifier: Apache-2.0
"""Soft dots of all layers composited front to back into one image: the compiled kernel, and its reference in torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from npcr.ops import checks, native, operators
from npcr.ops.dispatch import COMPOSITE, use_compiled

MAX_COVERAGE = 0.99  # of one dot, so that light, and gradients, still reach those behind
MIN_COVERAGE = 1e-3  # from which on a pixel has a depth


def composite_dots(dots: Tensor, points: Tensor, index: Tensor, depth: Tensor, background: Tensor, *,
                   backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Composite each pixel's dots front to back: `w_k = a_k prod_{j<k}(1 - a_j)`, values `sum w_k v_k`.

    A dot covers `a = min(0.99, o exp(-d² sharpness) max(0, 1 - d² fade))` of a pixel, d being the distance in pixels
    from the pixel's center to the dot and o its point's opacity. Dots of one point follow each other: dot i belongs to
    the point i // (D // N). Differentiable in dots, background and all of points but fade; the backward pass adds up
    in a fixed order.

    Args:
        dots: (D, 2) pixel coordinates, floating point, D a multiple of N.
        points: (N, 3 + C), dtype and device of dots: opacity 0 to 1, sharpness 1 / 2 s² for a standard deviation s in
            pixels, fade 1 / R² for the distance R in pixels at which a dot has faded to nothing, and C values.
        index: (K, H, W) int32 or int64, the dots of each pixel, nearest first, negative where there is none.
        depth: (K, H, W) of these dots, dtype of dots.
        background: (C,) values that show through, dtype of dots.
        backend: as in `npcr.ops.rasterize`; "auto" takes the reference for other dtypes than float32.

    Returns:
        (H, W, C + 1), the values and the coverage 0 to 1; and (H, W), the mean depth over what covers the pixel, 0
        where nothing does, without gradient.

    Raises:
        OperatorError: an argument has the wrong shape, dtype or device, or backend "compiled" cannot serve.
    """
    checks.composite_arguments(dots, points, index, depth, background, backend)
    arguments = (dots, points, index, depth, background)
    if not use_compiled(COMPOSITE, backend, dots, points, depth, background):
        return composite_reference(*arguments)
    result: tuple[Tensor, Tensor] = _CompositeDots.apply(*arguments)
    return result


def composite_reference(dots: Tensor, points: Tensor, index: Tensor, depth: Tensor,
                        background: Tensor) -> tuple[Tensor, Tensor]:
    """Composite in plain torch.

    Args:
        dots, points, index, depth, background: as in `composite_dots`.

    Returns:
        As `composite_dots`.
    """
    at = _gather(dots, index)
    point = _gather(points, torch.where(index >= 0, index // (len(dots) // len(points)), -1))
    distance2 = (at - _pixel_centers(index)).square().sum(-1)
    fading = (1 - distance2 * point[..., 2].detach()).clamp(min=0)
    coverage = point[..., 0] * torch.exp(-distance2 * point[..., 1]) * fading
    weights = front_to_back(torch.where(index >= 0, coverage, 0).clamp(max=MAX_COVERAGE))
    alpha = weights.sum(0)[..., None]
    values = torch.einsum("khw,khwc->hwc", weights, point[..., 3:]) + (1 - alpha) * background
    with torch.no_grad():
        mean_depth = torch.where(alpha[..., 0] > MIN_COVERAGE, (weights * depth).sum(0) / alpha[..., 0], 0)
    return torch.cat([values, alpha], dim=-1), mean_depth


def front_to_back(coverage: Tensor) -> Tensor:
    """Turn what each layer covers into its weight in the image.

    Args:
        coverage: (K, ...) 0 to 1, nearest layer first.

    Returns:
        (K, ...), which sums to at most 1 over K.
    """
    # Not torch.cumprod, whose gradients older versions of torch add up in any order on a GPU.
    passing, weights = torch.ones_like(coverage[0]), []
    for layer in coverage:
        weights.append(layer * passing)
        passing = passing * (1 - layer)
    return torch.stack(weights)


class _CompositeDots(torch.autograd.Function):
    """`composite_reference` on the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, dots: Tensor, points: Tensor, index: Tensor, depth: Tensor,  # type: ignore[override]
                background: Tensor) -> tuple[Tensor, Tensor]:
        kept = [tensor.detach().contiguous() for tensor in (dots, points, index, background)]
        image, mean_depth = native.composite(kept[0], kept[1], kept[2], depth.contiguous(), kept[3])
        ctx.save_for_backward(*kept)
        ctx.mark_non_differentiable(mean_depth)
        return image, mean_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_image: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        dots, points, index, background = ctx.saved_tensors
        grads = native.composite_grad(dots, points, index, background, grad_image.contiguous())
        return grads[0], grads[1], None, None, grads[2]


def _gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of `table` (N, C) at index (K, H, W), zeros where that is negative: (K, H, W, C)."""
    rows: Tensor = operators.gather(table, table.new_zeros(table.shape[1]), index[None], "torch")
    return rows[0]


def _pixel_centers(index: Tensor) -> Tensor:
    """(H, W, 2) float32 coordinates x, y of the pixels of index (K, H, W)."""
    rows, columns = (torch.arange(side, device=index.device, dtype=torch.float32) for side in index.shape[1:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x, y], dim=-1)
