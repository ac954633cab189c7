# SPDX-License-Identifier: Apache-2.0
"""Calls of the Triton kernels: tensors in and out, no autograd. `reference.py` says what each does.

Where the tensors are not on a GPU, and Triton does not interpret its kernels, the reference runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from npcr.renderers.gpu import reference
from npcr.renderers.gpu.feature_map import KEPT, UNIT, Convolved, FeatureMap, Packed, empty_map, padded

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_BLOCK = 1024  # values of a program of the kernels that take one after the other
_SUM_BLOCK = 4096  # values of a step of those that sum over pixels
_PROGRAMS = 1024  # of those, at most

P = ParamSpec("P")
R = TypeVar("R")


def _device_of(x: Any) -> torch.device:
    """Of what the calls take first: a tensor, or several of them."""
    return x.device if isinstance(x, Tensor) else _device_of(x[0])


def _or(reference: Callable[P, R], kernels: Callable[P, R]) -> Callable[P, R]:
    """The kernels, or elsewhere than on a GPU the reference."""
    @wraps(reference)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = _device_of(args[0])
        if device.type == "cuda":
            with torch.cuda.device(device):  # Triton launches on the current one
                return kernels(*args, **kwargs)
        return (kernels if INTERPRETED else reference)(*args, **kwargs)

    return run


def _kernels() -> Any:
    from npcr.renderers.gpu import kernels

    return kernels


def _grad_kernels() -> Any:
    from npcr.renderers.gpu import grad_kernels

    return grad_kernels


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _empty_feature_map(batch: int, channels: int, size: tuple[int, int], device: torch.device, is_split: bool,
                       keep: bool, dtype: torch.dtype = torch.float16) -> FeatureMap:
    shape = batch, padded(channels), *size
    return FeatureMap(empty_map(*shape, dtype, device), empty_map(*shape, dtype, device) if is_split else None,
                      empty_map(*shape, KEPT, device) if keep else None, None, channels)


# For kernels, which do not touch what they are told is not there.


def _halves(x: FeatureMap | Packed) -> tuple[Tensor, Tensor]:
    return x.high, x.high if x.low is None else x.low


def _outputs(x: FeatureMap) -> tuple[Tensor, Tensor, Tensor]:
    return *_halves(x), x.high if x.kept is None else x.kept


def _split(x: Tensor, is_split: bool, keep: bool) -> FeatureMap:
    batch, channels, height, width = x.shape
    out = _empty_feature_map(batch, channels, (height, width), x.device, is_split, keep)
    values = height * width * padded(channels)
    _kernels().split[(_ceil_div(values, _BLOCK), batch)](
        x, *_outputs(out), height, width, *x.stride(), channels, C=padded(channels), BLOCK=_BLOCK, SPLIT=is_split,
        KEEP=keep)
    return out


def _pack_weights(weight: Tensor, sources: Sequence[int], gated: bool, is_split: bool) -> Packed:
    halves = 2 if gated else 1
    cout = weight.shape[0] // halves
    columns, rows = halves * padded(cout), 9 * sum(padded(channels) for channels in sources)
    high = torch.empty(rows, columns, dtype=torch.float16, device=weight.device)
    low = torch.empty_like(high) if is_split else high
    first = row = 0
    for channels in sources:
        size = 9 * padded(channels) * columns
        _kernels().pack_weights[(_ceil_div(size, _BLOCK),)](
            weight, high[row:], low[row:], *weight.stride(), first, channels, cout, UNIT, CIN=padded(channels),
            COUT=padded(cout), HALVES=halves, BLOCK=_BLOCK, SPLIT=is_split)
        first, row = first + channels, row + 9 * padded(channels)
    return Packed(high, low if is_split else None)


def _tile(cout: int, is_split: bool) -> tuple[int, int, dict[str, int]]:
    """Pixels and channels of a program of `convolve`, and how it runs."""
    if INTERPRETED:
        return 64, max(_power_of_2(cout), 16), {"BLOCK_K": 32}
    # The fastest of those tried on an H200 for some of the layers.
    block_n = min(max(_power_of_2(cout), 16), 64)
    if is_split:
        return 128, block_n, {"BLOCK_K": 32, "num_warps": 8 if block_n == 64 else 4, "num_stages": 3}
    if cout % 128 == 0:
        return 128, 128, {"BLOCK_K": 64, "num_warps": 8, "num_stages": 3}
    return 128, block_n, {"BLOCK_K": 64 if block_n == 64 else 32, "num_warps": 4, "num_stages": 3}


def _convolve_gated(sources: Sequence[FeatureMap], weight: Packed, bias: Tensor, keep: bool) -> Convolved:
    batch, _, height, width = sources[0].shape
    cout = weight.high.shape[1] // 2
    is_split = weight.low is not None
    device = bias.device
    block_m, block_n, options = _tile(cout, is_split)
    tiles = _ceil_div(height * width, block_m)
    gated = empty_map(batch, cout, height, width, torch.float32 if is_split else torch.float16, device)
    share = empty_map(batch, cout, height, width, torch.uint8, device) if keep else None
    moments = torch.empty(2, batch, tiles, cout, device=device)
    _launch_convolve(sources, weight, bias, gated, share, moments, (tiles, _ceil_div(cout, block_n), batch), cout,
                     BLOCK_M=block_m, BLOCK_N=block_n, GATED=True, **options)
    return Convolved(gated, moments[0], moments[1], block_m, share)


def _convolve(source: FeatureMap, weight: Packed, bias: Tensor) -> Tensor:
    batch, _, height, width = source.shape
    cout = weight.high.shape[1]
    block_m, block_n, options = _tile(cout, weight.low is not None)
    out = empty_map(batch, cout, height, width, torch.float32, bias.device)
    _launch_convolve([source], weight, bias, out, None, None,
                     (_ceil_div(height * width, block_m), _ceil_div(cout, block_n), batch), cout,
                     BLOCK_M=block_m, BLOCK_N=block_n, GATED=False, **options)
    return out


def _launch_convolve(sources: Sequence[FeatureMap], weight: Packed, bias: Tensor, out: Tensor, share: Tensor | None,
                     moments: Tensor | None, grid: tuple[int, int, int], cout: int, **options: Any) -> None:
    is_split = weight.low is not None
    three = [*sources, *[sources[0]] * (3 - len(sources))]
    channels = [source.shape[1] for source in sources] + [0] * (3 - len(sources))
    pointers = [tensor for source in three for tensor in _halves(source)]
    _kernels().convolve[grid](
        *pointers, *_halves(weight), bias, out, out if share is None else share,
        *((bias, bias) if moments is None else (moments[0], moments[1])), out.shape[2], out.shape[3], 1 / UNIT,
        C0=channels[0], C1=channels[1], C2=channels[2], COUT=cout, SPLIT=is_split, KEEP=share is not None, **options)


def _join_moments(convolved: Convolved, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    batch, cout, height, width = convolved.gated.shape
    affine = torch.empty(4, batch, cout, device=weight.device)
    block_c = 16
    _kernels().join_moments[(batch, _ceil_div(cout, block_c))](
        convolved.means, convolved.squares, weight, bias, affine, batch, height * width, convolved.means.shape[1],
        convolved.tile_pixels, len(weight), eps, COUT=cout, BLOCK_T=256, BLOCK_C=block_c, num_warps=8)
    return affine


def _normalize(gated: Tensor, affine: Tensor, channels: int, is_split: bool, keep: bool) -> FeatureMap:
    batch, columns, height, width = gated.shape
    out = _empty_feature_map(batch, channels, (height, width), gated.device, is_split, keep)
    values = columns * height * width
    _kernels().normalize[(_ceil_div(values, _BLOCK), batch)](
        gated, affine, *_outputs(out), batch, values, C=columns, BLOCK=_BLOCK, SPLIT=is_split, KEEP=keep)
    return out._replace(affine=affine if keep else None)


def _restore(kept: Tensor, affine: Tensor) -> Tensor:
    batch, channels, height, width = kept.shape
    out = torch.empty_like(kept)
    values = channels * height * width
    _kernels().restore[(_ceil_div(values, _BLOCK), batch)](kept, affine, out, batch, values, C=channels, BLOCK=_BLOCK)
    return out


def _halve(x: FeatureMap, is_split: bool, keep: bool) -> tuple[FeatureMap, Tensor | None]:
    batch, channels, height, width = x.shape
    h, w = height // 2, width // 2
    out = _empty_feature_map(batch, x.channels, (h, w), x.high.device, is_split, keep)
    codes = empty_map(batch, channels, h, w, torch.uint8, x.high.device) if keep else None
    _kernels().halve[(_ceil_div(h * w * channels, _BLOCK), batch)](
        *_halves(x), *_outputs(out), x.high if codes is None else codes, height, width, h, w, C=channels,
        BLOCK=_BLOCK, SPLIT=is_split, KEEP=keep)
    return out, codes


def _double(x: FeatureMap, size: tuple[int, int], is_split: bool, keep: bool) -> FeatureMap:
    batch, channels, h, w = x.shape
    out = _empty_feature_map(batch, x.channels, size, x.high.device, is_split, keep, x.high.dtype)
    _kernels().double[(_ceil_div(size[0] * size[1] * channels, _BLOCK), batch)](
        *_halves(x), *_outputs(out), h, w, *size, (size[0] - 2 * h) // 2, (size[1] - 2 * w) // 2, C=channels,
        BLOCK=_BLOCK, SPLIT=is_split, KEEP=keep)
    return out


# Gradients --------------------------------------------------------------------------------------------------


def _summing(batch: int, channels: int, pixels: int) -> tuple[tuple[int, int, int], int, dict[str, int]]:
    """The grid, the pixels of a program, and the block of kernels that sum over pixels."""
    whole = channels & -channels  # the largest power of 2 that divides it
    block_c = min(whole if whole >= 32 else _power_of_2(channels), 128)
    block_p = _SUM_BLOCK // block_c
    blocks = _ceil_div(channels, block_c)
    parts = max(1, min(_ceil_div(pixels, block_p), _PROGRAMS // (batch * blocks)))
    per_program = _ceil_div(_ceil_div(pixels, parts), block_p) * block_p
    return (_ceil_div(pixels, per_program), blocks, batch), per_program, {"BLOCK_P": block_p, "BLOCK_C": block_c}


def _gated_grad(normal: Tensor, share: Tensor, grad: Tensor, affine: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, channels, height, width = normal.shape
    grid, per_program, options = _summing(batch, channels, height * width)
    sums = torch.empty(batch, grid[0], 2, channels, device=grad.device)
    _grad_kernels().norm_sums[grid](normal, grad, affine, sums, batch, height * width, per_program, COUT=channels,
                                    **options)
    sums = sums.sum(1)
    out = empty_map(batch, 2 * channels, height, width, KEPT, grad.device)
    bias_sums = torch.empty(batch, grid[0], 2 * channels, device=grad.device)
    _grad_kernels().gate_grad[grid](normal, share, grad, affine, sums, out, bias_sums, batch, height * width,
                                    per_program, COUT=channels, **options)
    of_norm = sums.sum(0)
    return out, bias_sums.sum((0, 1)), of_norm[1], of_norm[0]


def _halve_grad(grad: Tensor, codes: Tensor, size: tuple[int, int]) -> Tensor:
    batch, channels, h, w = grad.shape
    out = empty_map(batch, channels, *size, KEPT, grad.device)
    _grad_kernels().halve_grad[(_ceil_div(size[0] * size[1] * channels, _BLOCK), batch)](
        grad, codes, out, *size, h, w, C=channels, BLOCK=_BLOCK)
    return out


def _double_grad(grad: Tensor, size: tuple[int, int]) -> Tensor:
    batch, channels, height, width = grad.shape
    h, w = size
    out = empty_map(batch, channels, h, w, KEPT, grad.device)
    _grad_kernels().double_grad[(_ceil_div(h * w * channels, _BLOCK), batch)](
        grad, out, h, w, height, width, (height - 2 * h) // 2, (width - 2 * w) // 2, C=channels, BLOCK=_BLOCK)
    return out


split = _or(reference.split, _split)
pack_weights = _or(reference.pack_weights, _pack_weights)
convolve_gated = _or(reference.convolve_gated, _convolve_gated)
convolve = _or(reference.convolve, _convolve)
join_moments = _or(reference.join_moments, _join_moments)
normalize = _or(reference.normalize, _normalize)
restore = _or(reference.restore, _restore)
halve = _or(reference.halve, _halve)
double = _or(reference.double, _double)
gated_grad = _or(reference.gated_grad, _gated_grad)
halve_grad = _or(reference.halve_grad, _halve_grad)
double_grad = _or(reference.double_grad, _double_grad)
