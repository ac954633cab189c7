# SPDX-License-Identifier: Apache-2.0
"""The network's layers on the CPU's kernels, with gradients: the same numbers as in torch, faster.

Convolutions are Winograd's (pcpr_ext/csrc/winograd.h); conv, gate, norm and ReLU are one pass; several inputs count
as concatenated without being copied together. Tensors outside are (B, C, H, W) in channels_last memory, inside
(B, H, W, C). The sigmoids of the gates are kept for the gradients as 16 bits, which changes those by up to some 2e-4 of
their largest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from npcr.ops import native_network
from npcr.ops.memory import POOL
from npcr.renderers.cpu.packed_weights import Packing
from npcr.renderers.cpu.rematerialize import FeatureMap, Recipe, channels_last, save, saved
from npcr.renderers.gated_blocks import GatedConv
from npcr.renderers.half_activations import half_activations_enabled
from npcr.renderers.norms import fixed_affine, own_statistics
from npcr.renderers.receptive_field import PixelRegion


def gated_layer(sources: Sequence[FeatureMap], gated: GatedConv, norm: nn.Module, packing: Packing,
                region: PixelRegion | None = None) -> FeatureMap:
    """Compute `ReLU(norm(sigmoid(gate(x)) * conv(x)))`.

    Args:
        sources: up to three, which concatenated along the channels are x.
        gated: the two convolutions.
        norm: ImageNorm, BatchNorm2d or Identity.
        packing: of the network; used without gradients.
        region: the pixels to compute; without gradients only. None: all.

    Returns:
        The layer's result.
    """
    if not torch.is_grad_enabled():
        return FeatureMap.of(_infer_gated_layer(sources, gated, norm, packing, region))
    conv, gate, bias = gated.conv, gated.gate, _biases(gated)
    statistics = _statistics_of(norm)
    affine = (norm.weight, norm.bias) if statistics else fixed_affine(norm, conv.out_channels)
    recipes = [source.recipe for source in sources]
    out, values, scale, shift = _GatedLayer.apply(statistics, recipes, conv.weight, gate.weight, bias, *affine,
                                                  *(source.tensor for source in sources))
    return FeatureMap(out, Recipe(values, scale, shift, recipes[0].size)) if out.requires_grad else FeatureMap.of(out)


def _infer_gated_layer(sources: Sequence[FeatureMap], gated: GatedConv, norm: Any, packing: Packing,
                       region: PixelRegion | None) -> Tensor:
    maps = [source.recipe.rematerialize() for source in sources]
    batch, height, width = maps[0].shape[:3]
    channels = gated.conv.out_channels
    weights, bias = packing(gated), _biases(gated)
    out = POOL.empty(batch, height, width, channels)
    statistics = _statistics_of(norm)
    if statistics:
        _normalized(statistics, maps, weights, bias, norm.weight, norm.bias, out, None, out)
    else:
        scale, shift = fixed_affine(norm, channels)
        native_network.convolve(maps, weights, bias, [out], gated=True, scale=scale, shift=shift,
                                region=region and region.box)
    return out.movedim(-1, 1)


def _biases(gated: GatedConv) -> Tensor:
    assert gated.conv.bias is not None
    assert gated.gate.bias is not None
    return torch.cat([gated.conv.bias, gated.gate.bias])


def convolution(source: FeatureMap, weight: Tensor, bias: Tensor, region: PixelRegion | None = None) -> Tensor:
    """Convolve with 3x3 kernels and padding 1.

    Args:
        source: C channels.
        weight: (outputs, C, 3, 3).
        bias: (outputs,).
        region: the pixels to compute; without gradients only. None: all.

    Returns:
        (B, outputs, H, W).
    """
    result: Tensor = _Convolution.apply(region, [source.recipe], weight, bias, source.tensor)
    return result


def resize(source: FeatureMap, size: tuple[int, int]) -> FeatureMap:
    """Halve or double a feature map, as `Down` and `Up` of `npcr.renderers.gated_blocks` do before they convolve.

    Args:
        source: of H x W pixels.
        size: (H // 2, W // 2), or at least (2 H, 2 W) with zeros around the doubled map, the smaller half first.

    Returns:
        The resized map.
    """
    result: Tensor = _Resize.apply(size, source.recipe, source.tensor)
    # What is resized twice is rematerialized from the first result, which is then kept.
    if source.recipe.resizes or not result.requires_grad:
        return FeatureMap.of(result)
    return FeatureMap(result, source.recipe._replace(size=size))


# Statistics ----------------------------------------------------------------------------------------------


class _Statistics(NamedTuple):
    """A norm whose mean and variance are those of the images themselves."""

    eps: float
    pooled: bool  # over all images of the batch, else over each
    running: nn.BatchNorm2d | None  # whose running statistics to keep


def _statistics_of(norm: nn.Module) -> _Statistics | None:
    """None where the norm has none of its own."""
    if not own_statistics(norm):
        return None
    pooled = isinstance(norm, nn.BatchNorm2d)
    return _Statistics(float(norm.eps), pooled, norm if pooled else None)  # type: ignore[arg-type]


def _normalized(statistics: _Statistics, maps: Sequence[Tensor], packed: Tensor, bias: Tensor, weight: Tensor,
                norm_bias: Tensor, values: Tensor, gates: Tensor | None,
                out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill `values` (B, H, W, C), before norm and ReLU, `out`, behind them, which may be the same, and `gates`; returns
    scale, shift (B, C) float32 and mean, rstd (B, C) float64."""
    batch, height, width, channels = out.shape
    sums = torch.empty(batch, 2, channels, dtype=torch.float64)
    native_network.convolve(maps, packed, bias, [values], gated=True, gates=gates, sums=sums)
    count = height * width
    if statistics.pooled:
        sums, count = sums.sum(0, keepdim=True), count * batch
    mean = sums[:, 0] / count
    variance = (sums[:, 1] / count - mean**2).clamp_min(0)
    if statistics.running is not None:
        _update_running(statistics.running, mean[0], variance[0] * count / max(count - 1, 1))
    rstd = torch.rsqrt(variance + statistics.eps)
    scale = weight * rstd
    shift = (norm_bias - mean * scale).float().expand(batch, -1).contiguous()
    scale = scale.float().expand(batch, -1).contiguous()
    native_network.normalize(values, scale, shift, out)
    return scale, shift, mean.expand(batch, -1), rstd.expand(batch, -1)


def _update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """As nn.BatchNorm2d does in training."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    with torch.no_grad():
        norm.num_batches_tracked += 1
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean), share)
        norm.running_var.lerp_(variance.to(norm.running_var), share)


# Autograd ------------------------------------------------------------------------------------------------


class _GatedLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, statistics: _Statistics | None, recipes: Sequence[Recipe],  # type: ignore[override]
                weight: Tensor, gate_weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor,
                *sources: Tensor) -> tuple[Tensor, ...]:
        """The result, and its recipe: the values before the norm, and what the norm multiplies by and adds.

        scale, shift: the norm's weight and bias where it has statistics, else what is multiplied by and added.
        """
        maps = [channels_last(x) for x in sources]
        batch, height, width = maps[0].shape[:3]
        packed = native_network.pack(weight, gate_weight)
        shape = (batch, height, width, len(weight))
        values, gates, out = POOL.empty(*shape), POOL.empty(*shape, dtype=torch.int16), POOL.empty(*shape)
        if statistics is None:
            applied = [t.detach().expand(batch, -1).contiguous() for t in (scale, shift)]
            native_network.convolve(maps, packed, bias, [values], gated=True, gates=gates)
            native_network.normalize(values, applied[0], applied[1], out)
            moments = []
        else:
            *applied, mean, rstd = _normalized(statistics, maps, packed, bias, scale, shift, values, gates, out)
            moments = [mean, rstd]  # float64
        recipe = [values, *applied]
        ctx.centered = statistics is not None and half_activations_enabled()
        if ctx.centered:
            # Half precision is relative: of almost even maps, as those of nearly empty layers, only what differs
            # from the mean counts.
            mean = moments[0].float()
            values.sub_(mean[:, None, None])
            recipe[2] = (applied[1] + mean.double() * applied[0]).float()
        ctx.statistics = statistics
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*recipe)
        save(ctx, [weight, gate_weight, values, gates, *applied, *moments], recipes)
        return out.movedim(-1, 1), *recipe

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *none: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight, gate_weight, values, gates, scale, shift, *moments), recipes = saved(ctx)
        if grad is None:
            return (None,) * (7 + len(recipes))
        if ctx.centered:
            values = torch.add(values, moments[0].float()[:, None, None], out=POOL.empty(*values.shape))
        grad = channels_last(grad)
        batch, _, _, channels = grad.shape
        sums = native_network.gate_sums(values, grad, scale, shift)
        if ctx.statistics is None:
            of_value = constant = torch.zeros_like(scale)
            grad_shift, grad_scale = sums.sum(0).float()
        else:
            mean, rstd = moments
            count = grad.shape[1] * grad.shape[2] * (batch if ctx.statistics.pooled else 1)
            if ctx.statistics.pooled:
                sums = sums.sum(0, keepdim=True).expand(batch, -1, -1)
            of_normed = rstd * (sums[:, 1] - mean * sums[:, 0])  # sum of du times the normalized value
            of_value = -scale * rstd * of_normed / count
            constant = -scale * sums[:, 0] / count - of_value * mean
            of_value, constant = of_value.float(), constant.float()
            share = batch if ctx.statistics.pooled else 1  # expanded rows are all the same sum
            grad_scale, grad_shift = (of_normed.sum(0) / share).float(), (sums[:, 0].sum(0) / share).float()
        grad_raw = POOL.empty(*grad.shape[:3], 2 * channels)
        bias_sums = native_network.gate_grad(values, gates, grad, scale, shift, of_grad=scale, of_value=of_value,
                                       constant=constant, grad_raw=grad_raw).sum(0)
        del values, gates, grad
        grad_weights, grad_sources = _convolution_grads([weight, gate_weight], recipes, grad_raw,
                                                        ctx.needs_input_grad[7:])
        return None, None, *grad_weights, bias_sums.float(), grad_scale, grad_shift, *grad_sources


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, region: PixelRegion | None, recipes: Sequence[Recipe],  # type: ignore[override]
                weight: Tensor, bias: Tensor, *sources: Tensor) -> Tensor:
        maps = [channels_last(x) for x in sources]
        packed = native_network.pack(weight)
        out = POOL.empty(*maps[0].shape[:3], weight.shape[0])
        native_network.convolve(maps, packed, bias.contiguous(), [out], region=region and region.box)
        save(ctx, [weight], recipes)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,), recipes = saved(ctx)
        grad = channels_last(grad)
        grad_weights, grad_sources = _convolution_grads([weight], recipes, grad, ctx.needs_input_grad[4:])
        return None, None, *grad_weights, grad.sum((0, 1, 2)), *grad_sources


def _convolution_grads(weights: Sequence[Tensor], recipes: Sequence[Recipe], grad: Tensor,
                       wanted: Sequence[bool]) -> tuple[list[Tensor], list[Tensor | None]]:
    """The gradients of a convolution's weights, and its gates', and of its sources, from that of its result (B, H, W,
    outputs)."""
    grad_weights = [POOL.empty(*weight.shape) for weight in weights]
    native_network.convolve_grad([recipe.in_size()[:3] for recipe in recipes], grad, *grad_weights)
    if not any(wanted):
        return grad_weights, [None for _ in wanted]
    grads = [POOL.empty(*recipe.shape) if want else None for recipe, want in zip(recipes, wanted, strict=True)]
    targets = [recipe.shape[3] if of_source is None else of_source
               for recipe, of_source in zip(recipes, grads, strict=True)]
    native_network.convolve([grad], native_network.pack(*weights, transposed=True), None, targets)
    return grad_weights, [None if of_source is None else of_source.movedim(-1, 1) for of_source in grads]


class _Resize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: tuple[int, int], recipe: Recipe, x: Tensor) -> Tensor:  # type: ignore[override]
        values = channels_last(x)
        out = POOL.empty(len(values), *size, values.shape[3])
        native_network.resize(values, out)
        ctx.shape = values.shape
        save(ctx, [], [recipe] if size < values.shape[1:3] else [])
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        _, recipes = saved(ctx)
        values = recipes[0].rematerialize() if recipes else None
        result = POOL.empty(*ctx.shape)
        native_network.resize_grad(values, channels_last(grad), result)
        return None, None, result.movedim(-1, 1)

