# SPDX-License-Identifier: Apache-2.0
"""The operators npcr::rasterize and npcr::gather_features, registered with torch for autograd and torch.compile.

Each runs a compiled kernel or the reference. Schemas are written out: torch then infers nothing.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from npcr.ops import checks, native, reference
from npcr.ops.dispatch import GATHER, RASTERIZE, Operator, use_compiled


def _implementation(operator: Operator, backend: str, tensor: Tensor) -> ModuleType:
    return native if use_compiled(operator, backend, tensor) else reference


@torch.library.custom_op(
    "npcr::rasterize",
    mutates_args=(),
    schema="(Tensor points, Tensor cam_to_world, Tensor intrinsics, int width, int height, float near, "
    "float far, float max_size, int layers, str peeling, str backend) -> (Tensor, Tensor)",
)
def rasterize(
    points: Tensor,
    cam_to_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
    max_size: float,
    layers: int,
    peeling: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Run `npcr.ops.rasterize` without its checks of shapes.

    Args:
        points, cam_to_world, intrinsics, near, far, max_size, layers, peeling, backend: as there.
        width, height: of the image in pixels.

    Returns:
        Index and depth, (B, K, H, W) each.
    """
    checks.float32_range(near, far, max_size)
    module = _implementation(RASTERIZE, backend, points)
    result: tuple[Tensor, Tensor] = module.rasterize(
        points, cam_to_world, intrinsics, width, height, near, far, max_size, layers, peeling
    )
    return result


@rasterize.register_fake
def _(
    points: Tensor,
    cam_to_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
    max_size: float,
    layers: int,
    peeling: str,
    backend: str,
) -> tuple[Tensor, Tensor]:
    shape = (cam_to_world.shape[0], layers, height, width)
    dtype = reference.index_dtype(points.shape[0])
    return points.new_empty(shape, dtype=dtype), points.new_empty(shape)


@torch.library.custom_op(
    "npcr::gather_features",
    mutates_args=(),
    schema="(Tensor features, Tensor default_feature, Tensor index, str backend) -> Tensor",
)
def gather(features: Tensor, default_feature: Tensor, index: Tensor, backend: str) -> Tensor:
    """Run `npcr.ops.gather_features` without its checks of shapes.

    Args:
        features: (N, C).
        default_feature: (C,).
        index: (B, K, H, W).
        backend: as there.

    Returns:
        (B, K, H, W, C).
    """
    module = _implementation(GATHER, backend, features)
    result: Tensor = module.gather(features, default_feature, index)
    return result


@gather.register_fake
def _(features: Tensor, default_feature: Tensor, index: Tensor, backend: str) -> Tensor:
    return features.new_empty(*index.shape, features.shape[1])


@torch.library.custom_op(
    "npcr::scatter_features",
    mutates_args=(),
    schema="(Tensor grad, Tensor index, int points, str backend) -> (Tensor, Tensor)",
)
def scatter(grad: Tensor, index: Tensor, points: int, backend: str) -> tuple[Tensor, Tensor]:
    """Compute the gradient of `gather`, adding up in a fixed order.

    Args:
        grad: (B, K, H, W, C), of the result of `gather`.
        index: (B, K, H, W).
        points: N.
        backend: as in `gather`.

    Returns:
        (N, C) and (C,).
    """
    module = _implementation(GATHER, backend, grad)
    result: tuple[Tensor, Tensor] = module.scatter(grad, index, points)
    return result


@scatter.register_fake
def _(grad: Tensor, index: Tensor, points: int, backend: str) -> tuple[Tensor, Tensor]:
    return grad.new_empty(points, grad.shape[-1]), grad.new_empty(grad.shape[-1])


def _gather_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, _, index, backend = inputs
    ctx.save_for_backward(index)
    ctx.points, ctx.backend = features.shape[0], backend


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
    (index,) = ctx.saved_tensors
    grad_features, grad_default = scatter(grad, index, ctx.points, ctx.backend)
    return grad_features, grad_default, None, None


gather.register_autograd(_gather_backward, setup_context=_gather_setup)
