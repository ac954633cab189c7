# SPDX-License-Identifier: Apache-2.0
"""The blocks on the CPU's kernels, with gradients: the same numbers as their torch form, faster.

Convolutions are Winograd's (pcpr_ext/csrc/winograd.h); conv, gate, norm and ReLU are one pass; several inputs count
as concatenated without being copied together. `serves` says when the blocks come here. Tensors outside are
(B, C, H, W) in channels_last memory, inside (B, H, W, C).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from npcr.memory import POOL
from npcr.networks import compiled
from npcr.networks.norms import ImageNorm, fixed_affine, own_statistics
from npcr.networks.windows import Window

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


def takes_windows(network: nn.Module, x: Tensor) -> bool:
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
    weight = torch.cat([conv.weight, gate.weight])
    bias = torch.cat([_bias(conv), _bias(gate)])
    statistics = _statistics_of(norm)
    affine = (norm.weight, norm.bias) if statistics else fixed_affine(norm, conv.out_channels)
    return _GatedLayer.apply(statistics, weight, bias, *affine, *sources)


def _infer_gated_layer(sources: Sequence[Tensor], conv: nn.Conv2d, gate: nn.Conv2d, norm: Any,
                       window: Window | None) -> Tensor:
    """Without gradients; the weights' packed form is kept from call to call."""
    pictures = [_channels_inside(x) for x in sources]
    batch, height, width = pictures[0].shape[:3]
    packed, bias = _kept_pack(conv, gate)
    out = POOL.empty(batch, height, width, conv.out_channels)
    statistics = _statistics_of(norm)
    if statistics:
        _normalised(statistics, pictures, packed, bias, norm.weight, norm.bias, out, None)
    else:
        scale, shift = fixed_affine(norm, conv.out_channels)
        for i in range(batch):
            compiled.convolve([x[i] for x in pictures], packed, bias, out[i], gated=True, scale=scale, shift=shift,
                              window=window and window.box)
    return out.movedim(-1, 1)


def convolution(sources: Sequence[Tensor], weight: Tensor, bias: Tensor, window: Window | None = None) -> Tensor:
    """3x3 convolution, padding 1, of the sources, concatenated; `window` only without gradients."""
    return _Convolution.apply(weight, bias, window, *sources)


def halve(x: Tensor) -> Tensor:
    """Max-pool 2 at stride 1 and the anti-aliased halving (`npcr.networks.blocks.blur_halve`)."""
    return _Halve.apply(x)


def double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear doubling, aligned corners, zeros around up to `size` (H, W), the smaller half first."""
    return _Double.apply(x, size)


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


def _normalised(statistics: _Statistics, pictures: Sequence[Tensor], packed: Tensor, bias: Tensor, weight: Tensor,
                norm_bias: Tensor, out: Tensor, raw: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fill `out` (B, H, W, C); returns scale, shift (B, C) float32 and mean, rstd (B, C) float64."""
    batch, height, width, channels = out.shape
    sums = torch.empty(batch, 2, channels, dtype=torch.float64)
    for i in range(batch):
        compiled.convolve([x[i] for x in pictures], packed, bias, out[i], gated=True,
                          raw=None if raw is None else raw[i], sums=sums[i])
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
    for i in range(batch):
        compiled.normalise(out[i], scale[i], shift[i])
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
    def forward(ctx: Any, statistics: _Statistics | None, weight: Tensor, bias: Tensor, scale: Tensor,  # type: ignore[override]
                shift: Tensor, *sources: Tensor) -> Tensor:
        """scale, shift: the norm's weight and bias where it has statistics, else what is applied as it is."""
        pictures = [_channels_inside(x) for x in sources]
        batch, height, width = pictures[0].shape[:3]
        channels = weight.shape[0] // 2
        packed = compiled.pack(weight, gated=True)
        out, raw = POOL.empty(batch, height, width, channels), POOL.empty(batch, height, width, 2 * channels)
        if statistics is None:
            applied = [t.expand(batch, -1).contiguous() for t in (scale, shift)]
            for i in range(batch):
                compiled.convolve([x[i] for x in pictures], packed, bias, out[i], gated=True, scale=applied[0][i],
                                  shift=applied[1][i], raw=raw[i])
            moments = []
        else:
            *applied, mean, rstd = _normalised(statistics, pictures, packed, bias, scale, shift, out, raw)
            moments = [mean, rstd]
        ctx.statistics = statistics
        ctx.save_for_backward(weight, raw, *applied, *moments, *pictures)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, raw, scale, shift, *rest = ctx.saved_tensors
        grad = _channels_inside(grad)
        batch, _, _, channels = grad.shape
        sums = torch.stack([compiled.gate_sums(raw[i], grad[i], scale[i], shift[i]) for i in range(batch)])
        if ctx.statistics is None:
            of_value = constant = torch.zeros_like(scale)
            grad_shift, grad_scale = sums.sum(0).float()
        else:
            mean, rstd, *rest = rest
            count = grad.shape[1] * grad.shape[2] * (batch if ctx.statistics.pooled else 1)
            if ctx.statistics.pooled:
                sums = sums.sum(0, keepdim=True).expand(batch, -1, -1)
            of_normed = rstd * (sums[:, 1] - mean * sums[:, 0])  # sum of du times the normalised value
            of_value = -scale * rstd * of_normed / count
            constant = -scale * sums[:, 0] / count - of_value * mean
            of_value, constant = of_value.float(), constant.float()
            share = batch if ctx.statistics.pooled else 1  # expanded rows are all the same sum
            grad_scale, grad_shift = (of_normed.sum(0) / share).float(), (sums[:, 0].sum(0) / share).float()
        grad_weight, bias_sums = torch.empty(weight.shape), torch.zeros(2 * channels, dtype=torch.float64)
        grad_sources = _SourceGrads(weight, rest, ctx.needs_input_grad[5:])
        grad_raw = POOL.empty(*raw.shape)
        for i in range(batch):
            bias_sums += compiled.gate_grad(raw[i], grad[i], scale[i], shift[i], of_grad=scale[i],
                                            of_value=of_value[i], constant=constant[i], grad_raw=grad_raw[i])
            grad_sources.fill(i, grad_raw[i])
        compiled.convolve_grad(rest, grad_raw, grad_weight)
        return None, grad_weight, bias_sums.float(), grad_scale, grad_shift, *grad_sources.results()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, window: Window | None,  # type: ignore[override]
                *sources: Tensor) -> Tensor:
        pictures = [_channels_inside(x) for x in sources]
        packed = compiled.pack(weight)
        out = POOL.empty(*pictures[0].shape[:3], weight.shape[0])
        for i in range(len(out)):
            compiled.convolve([x[i] for x in pictures], packed, bias.contiguous(), out[i], window=window and window.box)
        ctx.save_for_backward(weight, *pictures)
        return out.movedim(-1, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, *pictures = ctx.saved_tensors
        grad = _channels_inside(grad)
        grad_weight = torch.empty(weight.shape)
        grad_sources = _SourceGrads(weight, pictures, ctx.needs_input_grad[3:])
        compiled.convolve_grad(pictures, grad, grad_weight)
        for i in range(len(grad)):
            grad_sources.fill(i, grad[i])
        return grad_weight, grad.sum((0, 1, 2)), None, *grad_sources.results()


class _SourceGrads:
    """Gradients of a convolution's sources, picture by picture."""

    def __init__(self, weight: Tensor, pictures: Sequence[Tensor], wanted: Sequence[bool]) -> None:
        self._grads = [POOL.empty(*x.shape) if want else None for x, want in zip(pictures, wanted, strict=True)]
        self._channels = [x.shape[-1] for x in pictures]
        self._packed = compiled.pack(weight, transposed=True) if any(wanted) else None
        self._joint = None if len(pictures) == 1 else POOL.empty(*pictures[0].shape[1:3], sum(self._channels))

    def fill(self, i: int, grad_output: Tensor) -> None:
        """Picture i's part, from the gradient (H, W, outputs) of the convolution's result."""
        if self._packed is None:
            return
        if self._joint is None:
            only = self._grads[0]
            assert only is not None
            compiled.convolve([grad_output], self._packed, None, only[i])
            return
        compiled.convolve([grad_output], self._packed, None, self._joint)
        for grad, part in zip(self._grads, self._joint.split(self._channels, dim=-1), strict=True):
            if grad is not None:
                grad[i].copy_(part)

    def results(self) -> list[Tensor | None]:
        return [None if grad is None else grad.movedim(-1, 1) for grad in self._grads]


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        pictures = _channels_inside(x)
        ctx.save_for_backward(pictures)
        return _joined([compiled.halve(picture) for picture in pictures])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (pictures,) = ctx.saved_tensors
        return _joined([compiled.halve_grad(*pair) for pair in zip(pictures, _channels_inside(grad), strict=True)])


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:  # type: ignore[override]
        pictures = _channels_inside(x)
        ctx.shape = pictures.shape[1:]
        return _joined([compiled.double(picture, size) for picture in pictures])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _joined([compiled.double_grad(ctx.shape, one) for one in _channels_inside(grad)]), None


def _joined(pictures: list[Tensor]) -> Tensor:
    """(H, W, C) pictures to (B, C, H, W) in channels_last memory."""
    batch = pictures[0][None] if len(pictures) == 1 else torch.stack(pictures)
    return batch.movedim(-1, 1)


def _channels_inside(x: Tensor) -> Tensor:
    """(B, C, H, W) to contiguous (B, H, W, C); without a copy where x is in channels_last memory."""
    return x.detach().movedim(1, -1).contiguous()


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # nn.Conv2d's type allows None; ours always have one
    return conv.bias


def _kept_pack(conv: nn.Conv2d, gate: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Packed weights and biases of both, made anew where the weights have changed since."""
    parameters = (conv.weight, gate.weight, _bias(conv), _bias(gate))
    now = [(p.data_ptr(), p._version) for p in parameters]
    kept: tuple[list[tuple[int, int]], Tensor, Tensor] | None = conv.__dict__.get("_packed")
    if kept is None or kept[0] != now:
        weight, bias = torch.cat(parameters[:2]), torch.cat(parameters[2:])
        kept = (now, compiled.pack(weight, gated=True), bias.detach())
        conv.__dict__["_packed"] = kept
    return kept[1], kept[2]
