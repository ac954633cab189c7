# SPDX-License-Identifier: Apache-2.0
"""Gaussians stretched along strands: projected to ellipses of an image, and all of them composited front to back.

Each operator runs on a compiled kernel or in torch (`npcr.ops.gaussians_reference`), with the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from npcr.ops import checks, gaussians_reference, native_gaussians
from npcr.ops.dispatch import COMPOSITE_GAUSSIANS, PROJECT_GAUSSIANS, use_compiled
from npcr.ops.gaussians_reference import FILTER_VARIANCE, MIN_SHARE


def project_gaussians(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor,
                      intrinsics: Tensor, size: tuple[int, int], *, filter_variance: float = FILTER_VARIANCE,
                      min_share: float = MIN_SHARE, backend: str = "auto") -> Tensor:
    """Project Gaussians of the covariance w² I + s sᵀ to ellipses of one image.

    The projection is linear at each mean (EWA splatting, Zwicker et al. 2001). The image is low-pass filtered by a
    Gaussian, and the opacity multiplied by sqrt(det before / det after), so that what is thinner than a pixel covers
    as much as it should at any resolution (Mip-Splatting, Yu et al. 2024). Differentiable in all tensors. A Gaussian is
    not drawn where a number of it is not finite, where it reaches the camera's plane, or where it covers less than
    `min_share` of every pixel; its ellipse is 0 throughout and has no gradient.

    Args:
        means: (N, 3) world coordinates.
        strands: (N, 3) world, half of the strand: the standard deviation along it, from the width on.
        widths: (N,) standard deviation across the strand, world units, at least 0.
        opacities: (N,) 0 to 1.
        cam_to_world: (4, 4), a rigid pose; camera axes x right, y down, z forward.
        intrinsics: (3, 3).
        size: (width, height) in pixels, each 1 to 32767.
        filter_variance: of the low-pass filter, square pixels, above 0.
        min_share: the smallest share of a pixel that is drawn, above 0 and below 1.
        backend: as in `npcr.ops.rasterize`; "auto" takes the reference for other dtypes than float32.

    Returns:
        (N, 8), dtype of means: the ellipse's center x and y in pixels; U (xx, xy, yy), upper triangular, Uᵀ U the
        inverse of the covariance in square pixels; opacity; camera-space z; and, without gradient, the radius in
        standard deviations up to which it is drawn, at most 12, and 0 where it is not.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range, or backend "compiled" cannot serve.
    """
    tensors = (means, strands, widths, opacities, cam_to_world, intrinsics)
    checks.project_gaussians_arguments(*tensors, size, filter_variance, min_share, backend)
    if not use_compiled(PROJECT_GAUSSIANS, backend, *tensors):
        return gaussians_reference.project(*tensors, size, filter_variance, min_share)
    result: Tensor = _ProjectGaussians.apply(*tensors, size, filter_variance, min_share)
    return result


def composite_gaussians(ellipses: Tensor, values: Tensor, size: tuple[int, int], *,
                        backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Composite ellipses front to back: `w_i = a_i prod_{j nearer}(1 - a_j)`, values `sum w_i v_i`.

    An ellipse covers `a = min(0.999, o exp(-|U d|² / 2))` of a pixel at the distance d from its center, where |U d| is
    at most its radius. All ellipses count, by the depth of their centers, of equal ones in the order of their rows; a
    pixel ends once less than 1e-4 of what is behind would be seen. Differentiable in ellipses, but for depth and
    radius, and in values; the backward pass adds up in a fixed order.

    Args:
        ellipses: (N, 8) as of `project_gaussians`.
        values: (N, C), dtype and device of ellipses; C at most 127 for the kernels.
        size: (width, height) in pixels, each 1 to 32767.
        backend: as in `project_gaussians`.

    Returns:
        (H, W, C + 1), the values, premultiplied, and the coverage 0 to 1; and (H, W), the mean depth over what covers
        the pixel, 0 where nothing does, without gradient.

    Raises:
        OperatorError: an argument has the wrong shape, dtype or device, or backend "compiled" cannot serve.
    """
    checks.composite_gaussians_arguments(ellipses, values, size, backend)
    if not use_compiled(COMPOSITE_GAUSSIANS, backend, ellipses, values):
        return gaussians_reference.composite(ellipses, values, size)
    result: tuple[Tensor, Tensor] = _CompositeGaussians.apply(ellipses, values, size)
    return result


def composite_gaussians_within(ellipses: Tensor, values: Tensor, box: tuple[int, int, int, int], *,
                               backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Composite the pixels of a box alone, in memory for these: as `composite_gaussians` does in the whole image.

    Args:
        ellipses, values, backend: as there.
        box: (left, top, right, bottom) of the image's pixels left <= x < right, top <= y < bottom.

    Returns:
        As there, of (bottom - top) by (right - left) pixels; to the rounding of an ellipse's distance from the box.

    Raises:
        OperatorError: as there.
    """
    # Tiles of the kernels then are the whole image's, and so is their rounding.
    left, top = (side // native_gaussians.TILE * native_gaussians.TILE for side in box[:2])
    size = box[2] - left, box[3] - top
    with torch.no_grad():
        x, y, uxx, uxy, uyy, _, _, radius = ellipses.unbind(1)
        width = radius * torch.hypot(uxy / uyy, torch.ones_like(uxy)) / uxx + 1  # and a pixel for rounding
        height = radius / uyy + 1
        rows = ((radius > 0) & (x + width >= left) & (x - width < box[2]) & (y + height >= top)
                & (y - height < box[3])).nonzero()[:, 0]
    corner = ellipses.new_tensor([left, top, 0, 0, 0, 0, 0, 0])
    image, depth = composite_gaussians(ellipses.index_select(0, rows) - corner, values.index_select(0, rows), size,
                                       backend=backend)
    return image[box[1] - top:, box[0] - left:], depth[box[1] - top:, box[0] - left:]


class _ProjectGaussians(torch.autograd.Function):
    """`gaussians_reference.project` on the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        tensors = [tensor.contiguous() for tensor in arguments[:6]]
        ellipses = native_gaussians.project(*tensors, *arguments[6:])
        ctx.save_for_backward(*tensors, ellipses)
        ctx.settings = arguments[6:]
        return ellipses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        means, strands, widths, opacities, cam_to_world, intrinsics, ellipses = ctx.saved_tensors
        size, filter_variance, min_share = ctx.settings
        grads = native_gaussians.project_grad(
            means, strands, widths, opacities, cam_to_world, intrinsics, ellipses, grad.contiguous(), size,
            filter_variance, min_share, with_camera=any(ctx.needs_input_grad[4:6]))
        return (*grads, None, None, None)


class _CompositeGaussians(torch.autograd.Function):
    """`gaussians_reference.composite` on the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, ellipses: Tensor, values: Tensor,  # type: ignore[override]
                size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        ellipses, values = ellipses.contiguous(), values.contiguous()
        image, mean_depth, ctx.visibility = native_gaussians.composite(ellipses, values, size)
        ctx.save_for_backward(ellipses, values)
        ctx.mark_non_differentiable(mean_depth)
        return image, mean_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_image: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ellipses, values = ctx.saved_tensors
        grads = native_gaussians.composite_grad(ellipses, values, ctx.visibility, grad_image.contiguous())
        return (*grads, None)
