# SPDX-License-Identifier: Apache-2.0
"""The operators npcr::rasterize and npcr::gather_features, so that autograd and torch.compile see them.

Each goes to the compiled kernels or to the reference. Schemas are written out: torch then infers nothing.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from npcr.ops import checks, reference
from npcr.ops import native as compiled


def _implementation(backend: str, device: torch.device) -> ModuleType:
    """The module that serves `backend` on `device`."""
    if backend == "torch":
        return reference
    if compiled.available(device):
        return compiled
    if backend == "compiled":
        raise checks.ProjectionError(f"backend 'compiled' on {device}: {compiled.why_missing(device)}")
    _warn_once(device.type)
    return reference


@functools.cache
def _warn_once(kind: str) -> None:
    reason = compiled.why_missing(torch.device(kind))
    warnings.warn(f"projection on {kind} runs in plain torch, slowly: {reason}", RuntimeWarning, stacklevel=2)


def _features_implementation(backend: str, features: Tensor) -> ModuleType:
    """As `_implementation`; the compiled kernels know float32 only."""
    if backend == "auto" and features.dtype != torch.float32:
        return reference
    return _implementation(backend, features.device)


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
    """(index, depth), (B, K, H, W) each: `npcr.ops.rasterize` without its checks of shapes."""
    checks.float32_range(near, far, max_size)
    module = _implementation(backend, points.device)
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
    """(B, K, H, W, C) from features (N, C), default_feature (C,) and index (B, K, H, W)."""
    module = _features_implementation(backend, features)
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
    """The gradient of `gather` for grad (B, K, H, W, C): (points, C) and (C,), added up in a fixed order."""
    module = _features_implementation(backend, grad)
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
