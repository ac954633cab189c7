# SPDX-License-Identifier: Apache-2.0
"""Checks of the operators' arguments. Every message names the argument, the limit and the value found."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from npcr.errors import NpcrError

MAX_SIDE = 32767  # a kernel keeps a splat's rectangle in 16 bits per side
MAX_LAYERS = 65535
MAX_POINTS = 2**32 - 1  # depth and index share 64 bits
MAX_GAUSSIANS = 2**31 - 1  # their numbers are int32
MAX_VALUES = 127  # channels of composited Gaussians: a tile of them stays in a core's cache
PEELINGS = ("point", "pixel")
BACKENDS = ("auto", "torch", "compiled")


class OperatorError(NpcrError, ValueError):
    """An operator's argument is wrong, or the backend that was asked for cannot serve."""


def rasterize_arguments(
    points: Tensor,
    cam_to_world: Tensor,
    intrinsics: Tensor,
    size: Sequence[int],
    near: float,
    far: float,
    max_size: float,
    layers: int,
    peeling: str,
    backend: str,
) -> tuple[int, int]:
    """Check the arguments of `npcr.ops.rasterize`.

    Args:
        points, cam_to_world, intrinsics, size, near, far, max_size, layers, peeling, backend: as there.

    Returns:
        (width, height) as plain integers.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range.
    """
    where = "rasterize"
    _shape(where, "points", points, ("N", 3))
    _shape(where, "cam_to_world", cam_to_world, ("B", 4, 4))
    _shape(where, "intrinsics", intrinsics, (cam_to_world.shape[0], 3, 3))
    for name, tensor in (("points", points), ("cam_to_world", cam_to_world), ("intrinsics", intrinsics)):
        if tensor.dtype != torch.float32:
            raise OperatorError(f"{where}: {name} must be torch.float32, got {tensor.dtype}")
        _device(where, name, tensor, "points", points)
    if points.shape[0] > MAX_POINTS:
        raise OperatorError(f"{where}: points has {points.shape[0]} rows, the limit is {MAX_POINTS}")
    _size(where, size)
    _whole(where, "layers", layers, MAX_LAYERS)
    for name, value in (("near", near), ("far", far), ("max_size", max_size)):
        if not math.isfinite(value):
            raise OperatorError(f"{where}: {name} must be finite, got {value}")
    if far <= near:
        raise OperatorError(f"{where}: far must be greater than near, got near {near} and far {far}")
    if max_size < 0:
        raise OperatorError(f"{where}: max_size must be at least 0, got {max_size}")
    _choice(where, "peeling", peeling, PEELINGS)
    _choice(where, "backend", backend, BACKENDS)
    return int(size[0]), int(size[1])


def gather_arguments(features: Tensor, default_feature: Tensor, index: Tensor, backend: str) -> None:
    """Check the arguments of `npcr.ops.gather_features`.

    Args:
        features, default_feature, index, backend: as there.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range.
    """
    where = "gather_features"
    _shape(where, "features", features, ("N", "C"))
    if features.shape[1] < 1:
        raise OperatorError(f"{where}: features must have at least one channel, got {_describe(features)}")
    _shape(where, "default_feature", default_feature, (features.shape[1],))
    _shape(where, "index", index, ("B", "K", "H", "W"))
    if not features.dtype.is_floating_point:
        raise OperatorError(f"{where}: features must be floating point, got {features.dtype}")
    _same_dtype(where, "default_feature", default_feature, "features", features)
    _index_dtype(where, index)
    _device(where, "default_feature", default_feature, "features", features)
    _device(where, "index", index, "features", features)
    _choice(where, "backend", backend, BACKENDS)


def composite_arguments(dots: Tensor, points: Tensor, index: Tensor, depth: Tensor, background: Tensor,
                        backend: str) -> None:
    """Check the arguments of `npcr.ops.composite_dots`.

    Args:
        dots, points, index, depth, background, backend: as there.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range.
    """
    where = "composite_dots"
    _shape(where, "dots", dots, ("D", 2))
    _shape(where, "background", background, ("C",))
    _shape(where, "points", points, ("N", 3 + background.shape[0]))
    _shape(where, "index", index, ("K", "H", "W"))
    _shape(where, "depth", depth, tuple(index.shape))
    if points.shape[0] == 0 or dots.shape[0] == 0 or dots.shape[0] % points.shape[0] != 0:
        raise OperatorError(f"{where}: dots must have a multiple of the {points.shape[0]} rows of points, and at least "
                            f"one, got {_describe(dots)}")
    if not dots.dtype.is_floating_point:
        raise OperatorError(f"{where}: dots must be floating point, got {dots.dtype}")
    for name, tensor in (("points", points), ("depth", depth), ("background", background)):
        _same_dtype(where, name, tensor, "dots", dots)
    _index_dtype(where, index)
    for name, tensor in (("points", points), ("index", index), ("depth", depth), ("background", background)):
        _device(where, name, tensor, "dots", dots)
    _choice(where, "backend", backend, BACKENDS)


def project_gaussians_arguments(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor,
                                cam_to_world: Tensor, intrinsics: Tensor, size: Sequence[int], filter_variance: float,
                                min_share: float, backend: str) -> None:
    """Check the arguments of `npcr.ops.project_gaussians`.

    Args:
        means, strands, widths, opacities, cam_to_world, intrinsics, size, filter_variance, min_share, backend: as
            there.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range.
    """
    where = "project_gaussians"
    _shape(where, "means", means, ("N", 3))
    if not means.dtype.is_floating_point:
        raise OperatorError(f"{where}: means must be floating point, got {means.dtype}")
    count = means.shape[0]
    for name, tensor, shape in (("strands", strands, (count, 3)), ("widths", widths, (count,)),
                                ("opacities", opacities, (count,)), ("cam_to_world", cam_to_world, (4, 4)),
                                ("intrinsics", intrinsics, (3, 3))):
        _shape(where, name, tensor, shape)
        _same_dtype(where, name, tensor, "means", means)
        _device(where, name, tensor, "means", means)
    _gaussians(where, "means", means)
    _size(where, size)
    if not (math.isfinite(filter_variance) and filter_variance > 0):
        raise OperatorError(f"{where}: filter_variance must be finite and above 0, got {filter_variance}")
    if not 0 < min_share < 1:
        raise OperatorError(f"{where}: min_share must be above 0 and below 1, got {min_share}")
    _choice(where, "backend", backend, BACKENDS)


def composite_gaussians_arguments(ellipses: Tensor, values: Tensor, size: Sequence[int], backend: str) -> None:
    """Check the arguments of `npcr.ops.composite_gaussians`.

    Args:
        ellipses, values, size, backend: as there.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range.
    """
    where = "composite_gaussians"
    _shape(where, "ellipses", ellipses, ("N", 8))
    _shape(where, "values", values, (ellipses.shape[0], "C"))
    if not ellipses.dtype.is_floating_point:
        raise OperatorError(f"{where}: ellipses must be floating point, got {ellipses.dtype}")
    if values.shape[1] > MAX_VALUES:
        raise OperatorError(f"{where}: values must have at most {MAX_VALUES} channels, got {_describe(values)}")
    _same_dtype(where, "values", values, "ellipses", ellipses)
    _device(where, "values", values, "ellipses", ellipses)
    _gaussians(where, "ellipses", ellipses)
    _size(where, size)
    _choice(where, "backend", backend, BACKENDS)


def view_colors_arguments(points: Tensor, origin: Tensor, constant: Tensor, others: Tensor, backend: str) -> None:
    """Check the arguments of `npcr.ops.view_colors`.

    Args:
        points, origin, constant, others, backend: as there.

    Raises:
        OperatorError: an argument has the wrong shape, dtype or device.
    """
    where, count = "view_colors", points.shape[0]
    _shape(where, "points", points, ("N", 3))
    for name, tensor, wanted in (("origin", origin, (3,)), ("constant", constant, (count, 1, 3)),
                                 ("others", others, (count, "K", 3))):
        _shape(where, name, tensor, wanted)
        _same_dtype(where, name, tensor, "points", points)
        _device(where, name, tensor, "points", points)
    if others.shape[1] not in (0, 3, 8, 15):
        raise OperatorError(f"{where}: others must have 0, 3, 8 or 15 coefficients (degree 0 to 3), got "
                            f"{_describe(others)}")
    _choice(where, "backend", backend, BACKENDS)


def float32_range(near: float, far: float, max_size: float) -> None:
    """Refuse a depth range or radius that collapses or overflows once rounded to float32.

    Args:
        near, far, max_size: as in `npcr.ops.rasterize`.

    Raises:
        OperatorError: it does.
    """
    near32, far32, size32 = torch.tensor([near, far, max_size], dtype=torch.float32).tolist()
    if not (far32 > near32 and math.isfinite(far32 - near32) and math.isfinite(size32)):
        raise OperatorError(
            f"rasterize: near {near}, far {far}, max_size {max_size} must stay apart and finite in float32"
        )


def _describe(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}"


def _shape(where: str, name: str, tensor: Tensor, wanted: tuple[str | int, ...]) -> None:
    fits = tensor.ndim == len(wanted) and all(
        isinstance(size, str) or found == size for size, found in zip(wanted, tensor.shape, strict=True)
    )
    if not fits:
        listed = ", ".join(map(str, wanted)) + ("," if len(wanted) == 1 else "")
        raise OperatorError(f"{where}: {name} must have shape ({listed}), got {_describe(tensor)}")


def _size(where: str, size: Sequence[int]) -> None:
    if len(size) != 2:
        raise OperatorError(f"{where}: size must be (width, height), got {tuple(size)}")
    for name, side in zip(("width", "height"), size, strict=True):
        _whole(where, f"size's {name}", side, MAX_SIDE)


def _gaussians(where: str, name: str, tensor: Tensor) -> None:
    if tensor.shape[0] > MAX_GAUSSIANS:
        raise OperatorError(f"{where}: {name} has {tensor.shape[0]} rows, the limit is {MAX_GAUSSIANS}")


def _device(where: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise OperatorError(
            f"{where}: {name} (on {tensor.device}) must be on the device of {other_name} ({other.device})"
        )


def _same_dtype(where: str, name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.dtype != other.dtype:
        raise OperatorError(f"{where}: {name} must be {other.dtype} like {other_name}, got {tensor.dtype}")


def _index_dtype(where: str, index: Tensor) -> None:
    if index.dtype not in (torch.int32, torch.int64):
        raise OperatorError(f"{where}: index must be torch.int32 or torch.int64, got {index.dtype}")


def _whole(where: str, name: str, value: int, limit: int) -> None:
    # A tuple of types: torch.compile of torch 2.4 does not know their union.
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)) or not 1 <= value <= limit:
        raise OperatorError(f"{where}: {name} must be a whole number from 1 to {limit}, got {value!r}")


def _choice(where: str, name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise OperatorError(f"{where}: {name} must be one of {', '.join(allowed)}, got {value!r}")
