# SPDX-License-Identifier: Apache-2.0
"""The blocks on the CPU's kernels, with gradients: the same numbers as their torch form, faster.

Convolutions are Winograd's (pcpr_ext/csrc/winograd.h); conv, gate, norm and ReLU are one pass; several inputs count
as concatenated without being copied together. `serves` says when the blocks come here. Tensors outside are
(B, C, H, W) in channels_last memory, inside (B, H, W, C). How far gates are open is kept for the gradients as 16 bits,
which changes those by up to some 2e-4 of their largest value.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from npcr.ops import native_network as compiled
from npcr.ops.memory import POOL
from npcr.renderers.cpu.rematerialize import Origin, channels_inside, origin_of, remember, save, saved
from npcr.renderers.half_activations import halved
from npcr.renderers.norms import ImageNorm, fixed_affine, own_statistics
from npcr.renderers.receptive_field import Window

_enabled: ContextVar[bool] = ContextVar("npcr_fast_network", default=True)


@contextlib.contextmanager
def torch_only(switch: bool = True) -> Iterator[None]:
    """Within this context the blocks run in plain torch, as they do on a GPU; `switch` False changes nothing."""
    token = _enabled.set(_enabled.get() and not switch)
    try:
        yield
    finally:
        _enabled.reset(token)


def enabled() -> bool:
    """Whether no `torch_only` is around."""
    return _enabled.get()


def serves(*sources: Tensor) -> bool:
    """Whether these kernels take such pictures: float32 on a CPU, not while torch.compile traces."""
    return (_enabled.get() and all(x.device.type == "cpu" and x.dtype == torch.float32 for x in sources)
            and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling() and compiled.available())


def supports_regions(network: nn.Module, x: Tensor) -> bool:
    """Whether the network can compute a part of its pixels: on these kernels, without gradients, and with no norm
    that looks at the whole picture."""
    return (serves(x) and not torch.is_grad_enabled()
            and not any(own_statistics(module) for module in network.modules()
                        if isinstance(module, (ImageNorm, nn.BatchNorm2d))))


def gated_layer(sources: Sequence[Tensor], conv: nn.Conv2d, gate: nn.Conv2d, norm: nn.Module,
                window: Window | None = None) -> Tensor:
    """`ReLU(norm(sigmoid(gate(x)) * conv(x)))` for x = the sources, concatenated; `window` only without gradients."""
    if not torch.is_grad_enabled():
        return _infer_gated_layer(sources, conv, gate, norm, window)
    bias = torch.cat([_bias(conv), _bias(gate)])
    statistics = _statistics_of(norm)
    affine = (norm.weight, norm.bias) if statistics else fixed_affine(norm, conv.out_channels)
    origins = [origin_of(x) for x in sources]
    out, values, scale, shift = _GatedLayer.apply(statistics, origins, conv.weight, gate.weight, bias, *affine,
                                                  *sources)
    return remember(out, Origin(values, scale, shift, origins[0].size))


def _infer_gated_layer(sources: Sequence[Tensor], conv: nn.Conv2d, gate: nn.Conv2d, norm: Any,
                       window: Window | None) -> Tensor:
    """Without gradients; the weights' packed form is kept from call to call."""
    pictures = [channels_inside(x) for x in sources]
    batch, height, width = pictures[0].shape[:3]
    packed, bias = _kept_pack(conv, gate)
    out = POOL.empty(batch, height, width, conv.out_channels)
    statistics = _statistics_of(norm)
    if statistics:
        _normalized(statistics, pictures, packed, bias, norm.weight, norm.bias, out, None, out)
    else:
        scale, shift = fixed_affine(norm, conv.out_channels)
        compiled.convolve(pictures, packed, bias, [out], gated=True, scale=scale, shift=shift,
                          window=window and window.box)
    return out.movedim(-1, 1)


def convolution(sources: Sequence[Tensor], weight: Tensor, bias: Tensor, window: Window | None = None) -> Tensor:
    """3x3 convolution, padding 1, of the sources, concatenated; `window` only without gradients."""
    return _Convolution.apply(window, [origin_of(x) for x in sources], weight, bias, *sources)


def halve(x: Tensor) -> Tensor:
    """Max-pool 2 at stride 1 and the anti-aliased halving (`npcr.renderers.gated_blocks.blur_halve`)."""
    return _resized(x, (x.shape[2] // 2, x.shape[3] // 2))


def double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear doubling, aligned corners, zeros around up to `size` (H, W), the smaller half first."""
    return _resized(x, size)


def _resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    origin = origin_of(x)
    result: Tensor = _Resize.apply(size, origin, x)
    # What is resized twice is made of the first result, which is then kept.
    return result if origin.resized else remember(result, origin._replace(size=size))


# Statistics ----------------------------------------------------------------------------------------------


class _Statistics(NamedTuple):
    """A norm whose mean and variance come from the pictures themselves."""

    eps: float
    pooled: bool  # over all pictures of the batch, else over each
    running: nn.BatchNorm2d | None  # whose running statistics to keep


def _statistics_of(norm: nn.Module) -> _Statistics | None:
    """None where the norm has none of its own."""
    if not own_statistics(norm):
        return None
    pooled = isinstance(norm, nn.BatchNorm2d)
    return _Statistics(float(norm.eps), pooled, norm if pooled else None)  # type: ignore[arg-type]


def _normalized(statistics: _Statistics, pictures: Sequence[Tensor], packed: Tensor, bias: Tensor, weight: Tensor,
                norm_bias: Tensor, values: Tensor, opening: Tensor | None,
                out: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill `values` (B, H, W, C), before norm and ReLU, and `out`, behind them, which may be the same, and how far the
    gates are open; returns scale, shift (B, C) float32 and mean, rstd (B, C) float64."""
    batch, height, width, channels = out.shape
    sums = torch.empty(batch, 2, channels, dtype=torch.float64)
    compiled.convolve(pictures, packed, bias, [values], gated=True, opening=opening, sums=sums)
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
    compiled.normalize(values, scale, shift, out)
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
    def forward(ctx: Any, statistics: _Statistics | None, origins: Sequence[Origin],  # type: ignore[override]
                weight: Tensor, gate_weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor,
                *sources: Tensor) -> tuple[Tensor, ...]:
        """The result, and what it is made of: the values before the norm, and what the norm multiplies by and adds.

        scale, shift: the norm's weight and bias where it has statistics, else what is applied as it is.
        """
        pictures = [channels_inside(x) for x in sources]
        batch, height, width = pictures[0].shape[:3]
        packed = compiled.pack(weight, gate_weight)
        shape = (batch, height, width, len(weight))
        values, opening, out = POOL.empty(*shape), POOL.empty(*shape, dtype=torch.int16), POOL.empty(*shape)
        if statistics is None:
            applied = [t.detach().expand(batch, -1).contiguous() for t in (scale, shift)]
            compiled.convolve(pictures, packed, bias, [values], gated=True, opening=opening)
            compiled.normalize(values, applied[0], applied[1], out)
            moments = []
        else:
            *applied, mean, rstd = _normalized(statistics, pictures, packed, bias, scale, shift, values, opening, out)
            moments = [mean, rstd]  # float64
        made_of = [values, *applied]
        ctx.centered = statistics is not None and halved()
        if ctx.centered:
            # Half precision is relative: of almost even pictures, as those of nearly empty layers, only what differs
            # from the mean counts.
            mean = moments[0].float()
            values.sub_(mean[:, None, None])
            made_of[2] = (applied[1] + mean.double() * applied[0]).float()
        ctx.statistics = statistics
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*made_of)
        save(ctx, [weight, gate_weight, values, opening, *applied, *moments], origins)
        return out.movedim(-1, 1), *made_of

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *none: None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight, gate_weight, values, opening, scale, shift, *moments), origins = saved(ctx)
        if grad is None:
            return (None,) * (7 + len(origins))
        if ctx.centered:
            values = torch.add(values, moments[0].float()[:, None, None], out=POOL.empty(*values.shape))
        grad = channels_inside(grad)
        batch, _, _, channels = grad.shape
        sums = compiled.gate_sums(values, grad, scale, shift)
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
        bias_sums = compiled.gate_grad(values, opening, grad, scale, shift, of_grad=scale, of_value=of_value,
                                       constant=constant, grad_raw=grad_raw).sum(0)
        del values, opening, grad
        grad_weights, grad_sources = _convolution_grads([weight, gate_weight], origins, grad_raw,
                                                        ctx.needs_input_grad[7:])
        return None, None, *grad_weights, bias_sums.float(), grad_scale, grad_shift, *grad_sources


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, window: Window | None, origins: Sequence[Origin], weight: Tensor,  # type: ignore[override]
                bias: Tensor, *sources: Tensor) -> Tensor:
        pictures = [channels_inside(x) for x in sources]
        packed = compiled.pack(weight)
        out = POOL.empty(*pictures[0].shape[:3], weight.shape[0])
        compiled.convolve(pictures, packed, bias.contiguous(), [out], window=window and window.box)
        save(ctx, [weight], origins)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (weight,), origins = saved(ctx)
        grad = channels_inside(grad)
        grad_weights, grad_sources = _convolution_grads([weight], origins, grad, ctx.needs_input_grad[4:])
        return None, None, *grad_weights, grad.sum((0, 1, 2)), *grad_sources


def _convolution_grads(weights: Sequence[Tensor], origins: Sequence[Origin], grad: Tensor,
                       wanted: Sequence[bool]) -> tuple[list[Tensor], list[Tensor | None]]:
    """The gradients of a convolution's weights, and its gates', and of its sources, from that of its result (B, H, W,
    outputs)."""
    grad_weights = [POOL.empty(*weight.shape) for weight in weights]
    compiled.convolve_grad([origin.in_size()[:3] for origin in origins], grad, *grad_weights)
    if not any(wanted):
        return grad_weights, [None for _ in wanted]
    grads = [POOL.empty(*origin.shape) if want else None for origin, want in zip(origins, wanted, strict=True)]
    targets = [origin.shape[3] if of_source is None else of_source
               for origin, of_source in zip(origins, grads, strict=True)]
    compiled.convolve([grad], compiled.pack(*weights, transposed=True), None, targets)
    return grad_weights, [None if of_source is None else of_source.movedim(-1, 1) for of_source in grads]


class _Resize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, size: tuple[int, int], origin: Origin, x: Tensor) -> Tensor:  # type: ignore[override]
        pictures = channels_inside(x)
        out = POOL.empty(len(pictures), *size, pictures.shape[3])
        compiled.resize(pictures, out)
        ctx.shape = pictures.shape
        save(ctx, [], [origin] if size < pictures.shape[1:3] else [])
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        _, origins = saved(ctx)
        pictures = origins[0].picture() if origins else None
        result = POOL.empty(*ctx.shape)
        compiled.resize_grad(pictures, channels_inside(grad), result)
        return None, None, result.movedim(-1, 1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # nn.Conv2d's type allows None; ours always have one
    return conv.bias


def _kept_pack(conv: nn.Conv2d, gate: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Packed weights and biases of both, made anew where the weights have changed since."""
    parameters = (conv.weight, gate.weight, _bias(conv), _bias(gate))
    now = [(p.data_ptr(), p._version) for p in parameters]
    kept: tuple[list[tuple[int, int]], Tensor, Tensor] | None = conv.__dict__.get("_packed")
    if kept is None or kept[0] != now:
        kept = (now, compiled.pack(conv.weight, gate.weight), torch.cat(parameters[2:]).detach())
        conv.__dict__["_packed"] = kept
    return kept[1], kept[2]
