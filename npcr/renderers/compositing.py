# SPDX-License-Identifier: Apache-2.0
"""Layers to one picture, front to back, and a picture over a background (docs/method.md, "Compositing")."""

from __future__ import annotations

import torch
from torch import Tensor

from npcr.ops.compositing import front_to_back


class _Clamp01(torch.autograd.Function):
    """Clamp to [0, 1] whose gradient still passes where it would bring a value back into the range.

    A plain clamp gives no gradient outside, so that a pixel whose alpha once left [0, 1] on the wrong side
    could not return.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # type: ignore[no-untyped-def, override]
        (x,) = ctx.saved_tensors
        away = ((x < 0) & (gradient > 0)) | ((x > 1) & (gradient < 0))
        return gradient.masked_fill(away, 0)


def drop_distant_layers(alpha: Tensor, depth: Tensor, threshold: float) -> Tensor:
    """Make layers transparent that lie too far behind the one before (docs/method.md, "Compositing").

    The comparison uses the previous layer's depth after it was itself zeroed, so what lies behind a dropped
    layer is dropped as well.

    Args:
        alpha: (B, K, H, W).
        depth: (B, K, H, W) camera-space z, 0 where empty.
        threshold: largest distance behind the layer before, world units; 0: no rule.

    Returns:
        (B, K, H, W), `alpha` with 0 where a layer is dropped.
    """
    if threshold <= 0:
        return alpha
    previous = depth[:, 0]
    kept = [alpha[:, 0]]
    for k in range(1, depth.shape[1]):
        far = depth[:, k] - previous > threshold
        previous = depth[:, k].masked_fill(far, 0)
        kept.append(alpha[:, k].masked_fill(far, 0))
    return torch.stack(kept, dim=1)


def composite(layer_rgba: Tensor, layer_depth: Tensor, depth_threshold: float,
              legacy: bool) -> tuple[Tensor, Tensor]:
    """Composite layers front to back: `w_k = a_k prod_{j<k}(1 - a_j)`, `C = sum w_k c_k`, `A = sum w_k`.

    Args:
        layer_rgba: (B, K, 4, H, W).
        layer_depth: (B, K, H, W) camera-space z, 0 where empty.
        depth_threshold: as of `drop_distant_layers`.
        legacy: clamp alpha without gradients outside [0, 1], and pass a single layer as it is.

    Returns:
        The color sum C (B, 3, H, W) and alpha A (B, 1, H, W). By default C is premultiplied color; a legacy network
        learns it so that `C A` is.
    """
    if legacy and layer_rgba.shape[1] == 1:
        return layer_rgba[:, 0, :3], layer_rgba[:, 0, 3:]
    alpha = drop_distant_layers(layer_rgba[:, :, 3], layer_depth, depth_threshold)
    alpha = alpha.clamp(0, 1) if legacy else _Clamp01.apply(alpha)
    weights = front_to_back(alpha.movedim(1, 0)).movedim(0, 1)[:, :, None]  # (B, K, 1, H, W)
    return (weights * layer_rgba[:, :, :3]).sum(1), weights.sum(1)


def over_background(color: Tensor, alpha: Tensor, gray: float) -> Tensor:
    """Put a picture over a background: `C + (1 - A) B`.

    Args:
        color: (..., 3, H, W), premultiplied.
        alpha: (..., 1, H, W).
        gray: the background B, in [0, 1].

    Returns:
        (..., 3, H, W), not clamped.
    """
    return color + (1 - alpha) * gray
