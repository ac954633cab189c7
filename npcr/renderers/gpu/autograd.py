# SPDX-License-Identifier: Apache-2.0
"""The layers of the gated U-Net on a GPU, with gradients: each is kernels forward and kernels backward.

A layer computes with `high` and `low` and passes gradients by `kept`; without gradients there is no `kept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.renderers.gpu import launch, reference
from npcr.renderers.gpu.feature_map import KEPT, FeatureMap


def split(x: Tensor, is_split: bool) -> FeatureMap:
    """As `reference.split`, with gradients.

    Args:
        x: (B, C, H, W) float32.
        is_split: with `low`.

    Returns:
        The feature map.
    """
    if not torch.is_grad_enabled():
        return launch.split(x, is_split, keep=False)
    return _feature_map(_Split.apply(x, is_split), x.shape[1])


def gated_layer(sources: Sequence[FeatureMap], weight: Tensor, bias: Tensor, norm: tuple[Tensor, Tensor, float],
                is_split: bool, doubled: bool = False) -> FeatureMap:
    """Gated convolution, norm of each image, ReLU.

    Args:
        sources: (B, a_i, H, W); all split where `is_split`.
        weight: (2 b, a, 3, 3) of value and gate.
        bias: (2 b).
        norm: weight (b), bias (b) and eps.
        is_split: compute with, and give, `low`.
        doubled: the last source is (B, a, h, w), to be doubled to the others' size.

    Returns:
        (B, b, H, W).
    """
    if not torch.is_grad_enabled():
        return _gated_layer(sources, doubled, weight, bias, norm, is_split, keep=False)[0]
    high, low, kept, affine = _GatedLayer.apply(_without_kept(sources), doubled, is_split, norm[2], weight, bias,
                                                *norm[:2], *(source.kept for source in sources))
    return FeatureMap(high, low, kept, affine, len(bias) // 2)


def halve(x: FeatureMap, is_split: bool) -> FeatureMap:
    """As `reference.halve`, with gradients.

    Args:
        x: (B, C, H, W).
        is_split: with `low`.

    Returns:
        (B, C, H // 2, W // 2).
    """
    if not torch.is_grad_enabled():
        return launch.halve(x, is_split, keep=False)[0]
    return _feature_map(_Halve.apply(*_without_kept([x]), is_split, x.kept), x.channels)


def convolve(source: FeatureMap, weight: Tensor, bias: Tensor, is_split: bool) -> Tensor:
    """3x3 convolution without gate or norm.

    Args:
        source: (B, a, H, W).
        weight: (b, a, 3, 3).
        bias: (b).
        is_split: compute with `low`.

    Returns:
        (B, b, H, W) float32.
    """
    if not torch.is_grad_enabled():
        out = _convolve(source, weight, bias, is_split)
    else:
        out = _Convolve.apply(*_without_kept([source]), is_split, weight, bias, source.kept)
    return out[:, :len(bias)]


def _feature_map(outputs: tuple[Tensor, Tensor | None, Tensor | None], channels: int) -> FeatureMap:
    high, low, kept = outputs
    return FeatureMap(high, low, kept, None, channels)


def _without_kept(maps: Sequence[FeatureMap]) -> list[FeatureMap]:
    """What a function is given beside `kept`, which it must see as an argument of its own."""
    return [x._replace(kept=None) for x in maps]


def _outputs(ctx: Any, out: FeatureMap) -> tuple[Tensor, Tensor | None, Tensor | None]:
    ctx.mark_non_differentiable(*(part for part in (out.high, out.low) if part is not None))
    ctx.set_materialize_grads(False)
    return out.high, out.low, out.kept


def _pad_halves(x: Tensor, channels: int) -> Tensor:
    """(2 b) as (2 b'), zeros behind either half."""
    return F.pad(x.unflatten(0, (2, -1)), (0, channels - len(x) // 2)).flatten()


def _gated_layer(sources: Sequence[FeatureMap], doubled: bool, weight: Tensor, bias: Tensor,
                 norm: tuple[Tensor, Tensor, float], is_split: bool, keep: bool) -> tuple[FeatureMap, Tensor | None]:
    """The layer, and for gradients what the convolution gave."""
    if doubled:
        *skips, x = sources
        sources = [*skips, launch.double(x, (skips[0].shape[2], skips[0].shape[3]), is_split, keep=False)]
    packed = launch.pack_weights(weight, [source.channels for source in sources], gated=True, is_split=is_split)
    convolved = launch.convolve_gated(sources, packed, _pad_halves(bias, packed.high.shape[1] // 2), keep)
    affine = launch.join_moments(convolved, *norm)
    return launch.normalize(convolved.gated, affine, len(bias) // 2, is_split, keep), convolved.share


def _convolve(source: FeatureMap, weight: Tensor, bias: Tensor, is_split: bool) -> Tensor:
    packed = launch.pack_weights(weight, [source.channels], gated=False, is_split=is_split)
    return launch.convolve(source, packed, F.pad(bias, (0, packed.high.shape[1] - len(bias))))


def _restored(kept: Tensor, affine: Tensor | None) -> Tensor:
    """The number that a feature map stands for."""
    return kept if affine is None else launch.restore(kept, affine)


def _convolution_grads(grad: Tensor, weight: Tensor, sources: Iterable[tuple[Tensor, int]], gated: bool
                       ) -> tuple[Tensor, list[Tensor]]:
    """The gradients of a convolution's weight and of each of its sources, which come with their channels."""
    of_weight, of_sources = [], []
    first = 0
    for x, channels in sources:
        part = reference.pad_weights(weight, first, channels, gated)
        of_x, of_part = reference.convolve_grad(grad, x, part.to(KEPT).contiguous(memory_format=torch.channels_last))
        halves = of_part.unflatten(0, (2 if gated else 1, -1))
        of_weight.append(halves[:, :len(weight) // len(halves), :channels].flatten(0, 1))
        of_sources.append(of_x)
        first += channels
    return torch.cat(of_weight, dim=1), of_sources


# Each `forward` but that of `_Convolve` gives (high, low, kept); gradients come to `kept` alone.


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, is_split: bool) -> tuple[Tensor | None, ...]:
        ctx.channels = x.shape[1]
        return _outputs(ctx, launch.split(x, is_split, keep=True))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        return grads[-1][:, :ctx.channels].float(), None


class _GatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sources: Sequence[FeatureMap], doubled: bool, is_split: bool, eps: float, weight: Tensor,
                bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, *kept: Tensor) -> tuple[Tensor | None, ...]:
        out, share = _gated_layer(sources, doubled, weight, bias, (norm_weight, norm_bias, eps), is_split, keep=True)
        ctx.channels = [source.channels for source in sources]
        ctx.doubled = doubled
        ctx.save_for_backward(weight, share, out.kept, out.affine, *kept, *(source.affine for source in sources))
        ctx.mark_non_differentiable(out.affine)
        return *_outputs(ctx, out), out.affine

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        weight, share, normal, affine, *sources = ctx.saved_tensors
        grad = grads[2].contiguous(memory_format=torch.channels_last)
        of_convolved, of_bias, of_norm_weight, of_norm_bias = launch.gated_grad(normal, share, grad, affine)
        count = len(sources) // 2
        of_weight, of_kept = _convolution_grads(of_convolved, weight, _GatedLayer._numbers(
            ctx, sources[:count], sources[count:], (grad.shape[2], grad.shape[3])), gated=True)
        if ctx.doubled:
            last = sources[count - 1]
            of_kept[-1] = launch.double_grad(of_kept[-1], (last.shape[2], last.shape[3]))
        channels = len(weight) // 2
        return (None, None, None, None, of_weight, of_bias.unflatten(0, (2, -1))[:, :channels].flatten(),
                of_norm_weight[:channels], of_norm_bias[:channels], *of_kept)

    @staticmethod
    def _numbers(ctx: Any, kept: Sequence[Tensor], affines: Sequence[Tensor | None], size: tuple[int, int]
                 ) -> Iterator[tuple[Tensor, int]]:
        """What was convolved, one source after the other, so that one alone is in memory."""
        for x, affine, channels in zip(kept, affines, ctx.channels, strict=True):
            number = _restored(x, affine)
            if x.shape[2:] != size:
                number = launch.double(FeatureMap(number, None, None, None, channels), size, False, False).high
            yield number, channels


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, source: FeatureMap, is_split: bool, weight: Tensor, bias: Tensor, kept: Tensor) -> Tensor:
        ctx.channels = source.channels
        ctx.save_for_backward(weight, kept, source.affine)
        return _convolve(source, weight, bias, is_split)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        weight, kept, affine = ctx.saved_tensors
        of_bias = grad.sum((0, 2, 3))[:len(weight)]
        grad = grad.to(KEPT).contiguous(memory_format=torch.channels_last)
        of_weight, of_kept = _convolution_grads(grad, weight, [(_restored(kept, affine), ctx.channels)], gated=False)
        return None, None, of_weight, of_bias, *of_kept


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: FeatureMap, is_split: bool, kept: Tensor) -> tuple[Tensor | None, ...]:
        out, codes = launch.halve(x, is_split, keep=True)
        ctx.size = tuple(kept.shape[2:])
        ctx.save_for_backward(codes)
        return _outputs(ctx, out)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        codes, = ctx.saved_tensors
        return None, None, launch.halve_grad(grads[-1].contiguous(memory_format=torch.channels_last), codes, ctx.size)
