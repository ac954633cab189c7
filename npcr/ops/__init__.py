# SPDX-License-Identifier: Apache-2.0
"""The operators that have compiled kernels: points to layers, layers to feature images, soft dots to one image.

The whole public interface is this page. `rasterize` finds the point that is visible in each pixel of each layer,
`gather_features` puts these points' feature vectors there, `composite_dots` blends the layers of soft dots. Each exists
twice: as compiled kernels (`pcpr_ext`) and as a readable reference in torch (`npcr.ops.reference`,
`npcr.ops.compositing`), which gives the same numbers anywhere; `npcr.ops.dispatch` chooses. Arithmetic, rounding and
ties are those of docs/conventions.md: pixel centers lie at integer coordinates, the nearest point wins, of two at one
depth the one with the lower index.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from npcr.ops import checks, operators
from npcr.ops.checks import OperatorError
from npcr.ops.compositing import composite_dots
from npcr.ops.gaussians import composite_gaussians, composite_gaussians_within, project_gaussians
from npcr.ops.native import available as compiled_available
from npcr.ops.native import release_scratch
from npcr.ops.spherical_harmonics import view_colors

__all__ = [
    "Fragments",
    "OperatorError",
    "compiled_available",
    "composite_dots",
    "composite_gaussians",
    "composite_gaussians_within",
    "gather_features",
    "project_gaussians",
    "rasterize",
    "release_scratch",
    "view_colors",
]


class Fragments(NamedTuple):
    """The visible point of each pixel in each layer."""

    # (B, K, H, W) int32, int64 from 2**31 points on; row of the point, -1 where empty
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody wants of a pair of tensors
    # (B, K, H, W) float32, camera-space z of that point, 0 where empty
    depth: Tensor


def rasterize(
    points: Tensor,
    cam_to_world: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    *,
    near: float,
    far: float,
    max_size: float,
    layers: int,
    peeling: str = "point",
    backend: str = "auto",
) -> Fragments:
    """Project a point cloud into depth-peeled layers (docs/conventions.md, "Projection").

    A point covers the pixels round(u - r)..round(u + r) by round(v - r)..round(v + r), clipped to the image,
    with r = max_size * clamp(1 - (z - near) / (far - near), 0, 1). Points at z <= 0 and points whose
    coordinates are not finite, before or after projection, are skipped. Nothing is differentiable here.

    Args:
        points: (N, 3) float32, world coordinates.
        cam_to_world: (B, 4, 4) float32, poses; camera axes x right, y down, z forward.
        intrinsics: (B, 3, 3) float32, any 3x3 matrices K.
        size: (width, height) in pixels, each 1 to 32767.
        near: depth at which a splat has the radius max_size; does not clip.
        far: depth at which a splat is down to one pixel, greater than near; does not clip.
        max_size: largest radius in pixels, >= 0.
        layers: K >= 1.
        peeling: "point" removes every point that is visible in a pixel before the next layer, "pixel" gives each
            pixel its K nearest points.
        backend: "compiled", "torch" (the reference), or "auto": compiled where there is a library for the device, else
            the reference, with a warning.

    Returns:
        Index and depth, (B, K, H, W) each; index -1 and depth 0 where empty.

    Raises:
        OperatorError: an argument has the wrong shape, dtype, device or range, or backend "compiled" was
            asked for and is missing.
    """
    width, height = checks.rasterize_arguments(
        points, cam_to_world, intrinsics, size, near, far, max_size, layers, peeling, backend
    )
    index, depth = operators.rasterize(
        points.detach(),
        cam_to_world.detach(),
        intrinsics.detach(),
        width,
        height,
        float(near),
        float(far),
        float(max_size),
        layers,
        peeling,
        backend,
    )
    return Fragments(index, depth)


def gather_features(features: Tensor, default_feature: Tensor, index: Tensor, *, backend: str = "auto") -> Tensor:
    """Gather the feature vectors of the visible points, as images.

    Differentiable in features and default_feature; the backward pass adds up in a fixed order.

    Args:
        features: (N, C) floating point, one row per point.
        default_feature: (C,), for empty pixels; dtype and device of features.
        index: (B, K, H, W) int32 or int64, as from `rasterize`: below N, negative where empty.
        backend: as in `rasterize`; the compiled one knows float32 only, "auto" takes the reference for the rest.

    Returns:
        (B, K, C, H, W), a view of memory laid out (B, K, H, W, C): channels_last once B and K are flattened.

    Raises:
        OperatorError: an argument has the wrong shape, dtype or device, or backend "compiled" cannot serve.
    """
    checks.gather_arguments(features, default_feature, index, backend)
    pixels: Tensor = operators.gather(features, default_feature, index, backend)
    return torch.movedim(pixels, -1, 2)
