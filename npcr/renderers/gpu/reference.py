# SPDX-License-Identifier: Apache-2.0
"""What the kernels of the gated U-Net compute, in torch: slow, on any device, and easy to read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.renderers.gated_blocks import blur_halve
from npcr.renderers.gated_blocks import double as double_float
from npcr.renderers.gpu.feature_map import KEPT, UNIT, Convolved, FeatureMap, Packed, padded


def split(x: Tensor, is_split: bool, keep: bool) -> FeatureMap:
    """Make a feature map of an image.

    Args:
        x: (B, C, H, W) float32, in any memory layout.
        is_split: with `low`.
        keep: with `kept`.

    Returns:
        With channels of zeros behind, up to a multiple of 8.
    """
    channels = x.shape[1]
    x = F.pad(x, (0, 0, 0, 0, 0, padded(channels) - channels)).contiguous(memory_format=torch.channels_last)
    high = x.half()
    low = (x - high.float()).half() if is_split else None
    return FeatureMap(high, low, x.to(KEPT) if keep else None, None, channels)


def whole(x: FeatureMap | Packed) -> Tensor:
    """Return a feature map, or packed weights, as float32.

    Args:
        x: with `low` or without.

    Returns:
        `high`, and `low` where it is there, added up.
    """
    return x.high.float() if x.low is None else x.high.float() + x.low.float()


def pad_weights(weight: Tensor, first: int, channels: int, gated: bool) -> Tensor:
    """Return one source's weights with channels of zeros as feature maps have them.

    Args:
        weight: (2 b, a, 3, 3) of value and gate, or (b, a, 3, 3).
        first: the source's first channel of a.
        channels: of the source.
        gated: which of the two.

    Returns:
        (2 b', a', 3, 3) or (b', a', 3, 3), b' and a' multiples of 8.
    """
    halves = 2 if gated else 1
    part = weight[:, first:first + channels].unflatten(0, (halves, -1))
    cout = part.shape[1]
    return F.pad(part, (0, 0, 0, 0, 0, padded(channels) - channels, 0, padded(cout) - cout)).flatten(0, 1)


def pack_weights(weight: Tensor, sources: Sequence[int], gated: bool, is_split: bool) -> Packed:
    """Make the matrix by which `convolve` multiplies.

    Args:
        weight: as of `pad_weights`.
        sources: the channels of each source; a together.
        gated: whether the weights are of value and gate.
        is_split: with `low`.

    Returns:
        `high` and `low`, (rows, columns), of `UNIT` times the weights: a row for each source, place of the 3x3 and
        channel, in this order.
    """
    rows = []
    first = 0
    for channels in sources:
        part = pad_weights(weight, first, channels, gated)
        rows.append(part.permute(2, 3, 1, 0).reshape(-1, part.shape[0]))
        first += channels
    matrix = torch.cat(rows) * UNIT
    high = matrix.half()
    return Packed(high, (matrix - high.float()).half() if is_split else None)


def _product(sources: Sequence[FeatureMap], weight: Packed, bias: Tensor) -> Tensor:
    x = torch.cat([whole(source) for source in sources], dim=1)
    matrix = whole(weight) / UNIT
    kernels = []
    first = 0
    for source in sources:
        channels = source.shape[1]
        part = matrix[first:first + 9 * channels].reshape(3, 3, channels, -1)
        kernels.append(part.permute(3, 2, 0, 1))
        first += 9 * channels
    return F.conv2d(x, torch.cat(kernels, dim=1), bias, padding=1)


def convolve_gated(sources: Sequence[FeatureMap], weight: Packed, bias: Tensor, keep: bool) -> Convolved:
    """Convolve the sources, as if concatenated, and gate: sigmoid(gate(x)) * value(x).

    Args:
        sources: (B, a_i, H, W), at most three.
        weight: of `pack_weights`, of value and gate; where it is split, the sources are.
        bias: (2 b') float32.
        keep: for gradients.

    Returns:
        The result, and its moments, here of the whole image as one tile.
    """
    y = _product(sources, weight, bias)
    gated = F.glu(y, dim=1)
    means = gated.mean((2, 3))
    squares = (gated - means[:, :, None, None]).square().sum((2, 3))
    share = None
    if keep:
        share = (y.chunk(2, dim=1)[1].sigmoid() * 255).round().to(torch.uint8)
        share = share.contiguous(memory_format=torch.channels_last)
    return Convolved(gated if weight.low is not None else gated.half(), means[:, None], squares[:, None],
                     gated.shape[2] * gated.shape[3], share)


def convolve(source: FeatureMap, weight: Packed, bias: Tensor) -> Tensor:
    """Convolve without a gate.

    Args:
        source: (B, a, H, W).
        weight: of `pack_weights`.
        bias: (b') float32.

    Returns:
        (B, b', H, W) float32.
    """
    return _product([source], weight, bias)


def join_moments(convolved: Convolved, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Make of the moments of tiles what the norm of each image and channel is.

    Args:
        convolved: of `convolve_gated`.
        weight, bias: (b) of the norm; those of further channels are 0.
        eps: of the norm.

    Returns:
        (4, B, b') float32: mean, 1 / deviation, scale and shift of the norm.
    """
    _, channels, height, width = convolved.gated.shape
    pixels = height * width
    tiles = convolved.means.shape[1]
    count = torch.full((tiles,), float(convolved.tile_pixels), device=weight.device)
    count[-1] = pixels - (tiles - 1) * convolved.tile_pixels
    mean = (convolved.means * count[:, None]).sum(1) / pixels
    deviation = convolved.means - mean[:, None]
    variance = (convolved.squares + deviation.square() * count[:, None]).sum(1) / pixels
    inverse = torch.rsqrt(variance + eps)
    scale = F.pad(weight, (0, channels - len(weight))) * inverse
    return torch.stack([mean, inverse, scale, F.pad(bias, (0, channels - len(bias))) - mean * scale])


def normalize(gated: Tensor, affine: Tensor, channels: int, is_split: bool, keep: bool) -> FeatureMap:
    """Normalize, scale, shift, and take what is positive.

    Args:
        gated: (B, C, H, W).
        affine: of `join_moments`.
        channels: of the network.
        is_split: as of `split`.
        keep: with `kept`, the normalized values: rounded to the side on which the ReLU saw them.

    Returns:
        (B, C, H, W).
    """
    mean, inverse, scale, shift = affine[..., None, None]
    result = gated.float() * scale + shift
    out = split(F.relu(result)[:, :channels], is_split, keep=False)
    if not keep:
        return out
    weight, bias = scale / inverse, shift + mean * scale
    bits = ((gated.float() - mean) * inverse).view(torch.int32)
    toward = bits & -65536  # bfloat16 is the first half of float32; the other neighbor has one more
    nearest = toward + ((bits & 32768) << 1)
    other = 2 * toward + 65536 - nearest
    same = (nearest.view(torch.float32) * weight + bias > 0) == (result > 0)
    return out._replace(kept=torch.where(same, nearest, other).view(torch.float32).to(KEPT), affine=affine)


def restore(kept: Tensor, affine: Tensor) -> Tensor:
    """Give what `normalize` gave, from what it kept.

    Args:
        kept: (B, C, H, W).
        affine: of `join_moments`.

    Returns:
        (B, C, H, W) `KEPT`.
    """
    mean, inverse, scale, shift = affine[..., None, None]
    return F.relu(kept.float() * (scale / inverse) + (shift + mean * scale)).to(KEPT)


def halve(x: FeatureMap, is_split: bool, keep: bool) -> tuple[FeatureMap, Tensor | None]:
    """Max-pool 2 at stride 1, then halve with anti-aliasing (`npcr.renderers.gated_blocks.blur_halve`).

    Args:
        x: (B, C, H, W).
        is_split, keep: as of `split`; x is split where the result is.

    Returns:
        (B, C, H // 2, W // 2), and with `keep` (B, C, H // 2, W // 2) uint8: for windows (2 i, 2 j), (2 i, 2 j + 1),
        (2 i + 1, 2 j), (2 i + 1, 2 j + 1) two bits each, which of the window's pixels is the largest: the first, from
        left to right and from top to bottom.
    """
    value = whole(x) if is_split else x.high.float()
    largest, place = F.max_pool2d(value, 2, stride=1, return_indices=True)
    out = split(blur_halve(largest)[:, :x.channels], is_split, keep)
    if not keep:
        return out, None
    height, width = x.shape[2:]
    row, column = place // width, place % width
    row = row - torch.arange(height - 1, device=row.device)[:, None]
    column = column - torch.arange(width - 1, device=row.device)
    place = F.pad(2 * row + column, (0, 2 - width % 2, 0, 2 - height % 2))
    h, w = height // 2, width // 2
    codes = sum(place[:, :, dr:dr + 2 * h:2, dc:dc + 2 * w:2] << (4 * dr + 2 * dc) for dr in (0, 1) for dc in (0, 1))
    assert isinstance(codes, Tensor)
    return out, codes.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def double(x: FeatureMap, size: tuple[int, int], is_split: bool, keep: bool) -> FeatureMap:
    """Double bilinearly and pad with zeros, as `npcr.renderers.gated_blocks.double`.

    Args:
        x: (B, C, h, w).
        size: (H, W).
        is_split, keep: as of `halve`.

    Returns:
        (B, C, H, W).
    """
    value = whole(x) if is_split else x.high.float()
    out = split(double_float(value, size)[:, :x.channels], is_split, keep)
    return out if x.high.dtype == torch.float16 else out._replace(high=out.high.to(x.high.dtype))


# Gradients --------------------------------------------------------------------------------------------------


def gated_grad(normal: Tensor, share: Tensor, grad: Tensor, affine: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differentiate gate, norm and ReLU.

    Args:
        normal: (B, C, H, W), that `normalize` kept.
        share: (B, C, H, W) uint8, that `convolve_gated` gave.
        grad: (B, C, H, W) after the ReLU.
        affine: of `join_moments`.

    Returns:
        The gradients of value and gate (B, 2 C, H, W) `KEPT`, of their bias (2 C), of the norm's weight and bias (C).
    """
    mean, inverse, scale, shift = affine[..., None, None]
    x, part = normal.float(), share.float() / 255
    g = grad.float() * (x * (scale / inverse) + (shift + mean * scale) > 0)
    of_weight, of_bias = (g * x).sum((0, 2, 3)), g.sum((0, 2, 3))
    g = scale * (g - g.mean((2, 3), keepdim=True) - x * (g * x).mean((2, 3), keepdim=True))
    out = torch.cat([g * part, g * (mean + x / inverse) * (1 - part)], dim=1)
    return (out.to(KEPT).contiguous(memory_format=torch.channels_last), out.sum((0, 2, 3)), of_weight, of_bias)


def halve_grad(grad: Tensor, codes: Tensor, size: tuple[int, int]) -> Tensor:
    """Differentiate `halve`.

    Args:
        grad: (B, C, H // 2, W // 2) of its result.
        codes: that it gave.
        size: (H, W).

    Returns:
        (B, C, H, W) `KEPT`, of its input.
    """
    height, width = size
    with torch.enable_grad():
        largest = torch.zeros(*grad.shape[:2], height - 1, width - 1, device=grad.device, requires_grad=True)
        of_largest, = torch.autograd.grad(blur_halve(largest), largest, grad.float())
    out = torch.zeros(*grad.shape[:2], height, width, device=grad.device)
    for place in range(4):
        for window in range(4):
            dr, dc = divmod(window, 2)
            code = codes[:, :, :(height - dr) // 2, :(width - dc) // 2]
            chosen = (code >> (4 * dr + 2 * dc) & 3) == place
            part = of_largest[:, :, dr::2, dc::2]
            r, c = dr + place // 2, dc + place % 2
            rows, columns = part.shape[2], part.shape[3]
            out[:, :, r:r + 2 * rows:2, c:c + 2 * columns:2] += torch.where(chosen, part, 0)
    return out.to(KEPT).contiguous(memory_format=torch.channels_last)


def double_grad(grad: Tensor, size: tuple[int, int]) -> Tensor:
    """Differentiate `double`.

    Args:
        grad: (B, C, H, W) of its result.
        size: (h, w).

    Returns:
        (B, C, h, w) `KEPT`, of its input.
    """
    with torch.enable_grad():
        x = torch.zeros(*grad.shape[:2], *size, device=grad.device, requires_grad=True)
        out, = torch.autograd.grad(double_float(x, (grad.shape[2], grad.shape[3])), x, grad.float())
    return out.to(KEPT).contiguous(memory_format=torch.channels_last)


def convolve_grad(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiate a 3x3 convolution.

    Args:
        grad: (B, b, H, W) of its result.
        x: (B, a, H, W).
        weight: (b, a, 3, 3), of their type.

    Returns:
        The gradients of x and, float32, of the weight.
    """
    if not grad.is_cuda:  # whose half types are slow, and added up in those on some processors
        grad, x, weight = grad.float(), x.float(), weight.float()
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False])
    return of_x.to(KEPT).contiguous(memory_format=torch.channels_last), of_weight.float()
