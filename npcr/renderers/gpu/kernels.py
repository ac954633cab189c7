# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the gated U-Net without gradients; `reference.py` says in torch what each computes.

Feature maps are (B, C, H, W) in channels_last memory without gaps, C a multiple of 8. A number is `high`, a float16,
or, where SPLIT, the sum of `high` and `low`, two float16: then a product is three, and its error that of float32.
All add up in float32, each sum in an order of its own that never changes.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _add_products(value, gate, high, low, weight_high, weight_low, first, image, p, n, height, width,
                  CIN: tl.constexpr, COUT: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
                  GATED: tl.constexpr):
    """Add to `value` (pixels p, channels n) and `gate` the 3x3 convolution of one source."""
    columns: tl.constexpr = 2 * COUT if GATED else COUT
    row, column = p // width, p % width
    high += image * height * width * CIN
    low += image * height * width * CIN
    for start in range(0, 9 * CIN, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        tap, channel = k // CIN, k % CIN
        dr, dc = tap // 3 - 1, tap % 3 - 1
        r, c = row[:, None] + dr[None, :], column[:, None] + dc[None, :]
        inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) & (k < 9 * CIN)[None, :]
        offset = p[:, None] * CIN + ((dr * width + dc) * CIN + channel)[None, :]
        x = tl.load(high + offset, inside, 0.0)
        known = (k < 9 * CIN)[:, None] & (n < COUT)[None, :]
        at = (first + k)[:, None] * columns + n[None, :]
        w = tl.load(weight_high + at, known, 0.0)
        if SPLIT:  # tensor cores cut off what they add up, so that long sums are added here
            rest = tl.load(low + offset, inside, 0.0)
            value += tl.dot(x, w, tl.dot(rest, w, tl.dot(x, tl.load(weight_low + at, known, 0.0))))
        else:
            value = tl.dot(x, w, value)
        if GATED:
            at += COUT
            w = tl.load(weight_high + at, known, 0.0)
            if SPLIT:
                gate += tl.dot(x, w, tl.dot(rest, w, tl.dot(x, tl.load(weight_low + at, known, 0.0))))
            else:
                gate = tl.dot(x, w, gate)
    return value, gate


@triton.jit
def convolve(high0, low0, high1, low1, high2, low2, weight_high, weight_low, bias, out, share, means, squares,
             height, width, unit, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr, COUT: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr,
             GATED: tl.constexpr, KEEP: tl.constexpr):
    """3x3 convolution of up to three sources, gate, and the moments of each tile of pixels."""
    image = tl.program_id(2).to(tl.int64)
    tile = tl.program_id(0)
    p = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    pixels = height * width
    value = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    gate = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    value, gate = _add_products(value, gate, high0, low0, weight_high, weight_low, 0, image, p, n, height, width,
                                C0, COUT, BLOCK_K, SPLIT, GATED)
    if C1 > 0:
        value, gate = _add_products(value, gate, high1, low1, weight_high, weight_low, 9 * C0, image, p, n, height,
                                    width, C1, COUT, BLOCK_K, SPLIT, GATED)
    if C2 > 0:
        value, gate = _add_products(value, gate, high2, low2, weight_high, weight_low, 9 * (C0 + C1), image, p, n,
                                    height, width, C2, COUT, BLOCK_K, SPLIT, GATED)
    value = value * unit + tl.load(bias + n, n < COUT, 0.0)[None, :]
    mask = (p < pixels)[:, None] & (n < COUT)[None, :]
    if GATED:
        gate = gate * unit + tl.load(bias + COUT + n, n < COUT, 0.0)[None, :]
        gate = tl.sigmoid(gate)
        if KEEP:
            at = share + image * pixels * COUT + (p[:, None] * COUT + n[None, :])
            tl.store(at, (gate * 255 + 0.5).to(tl.int32).to(tl.uint8), mask)
        value = tl.where(mask, value * gate, 0.0)
        count = tl.minimum(pixels - tile * BLOCK_M, BLOCK_M).to(tl.float32)
        mean = tl.sum(value, 0) / count
        deviation = tl.where(mask, value - mean[None, :], 0.0)
        at = (image * tl.num_programs(0) + tile) * COUT + n
        tl.store(means + at, mean, n < COUT)
        tl.store(squares + at, tl.sum(deviation * deviation, 0), n < COUT)
    tl.store(out + image * pixels * COUT + (p[:, None] * COUT + n[None, :]), value.to(out.dtype.element_ty), mask)


@triton.jit
def join_moments(means, squares, weight, bias, affine, images, pixels, tiles, tile_pixels, channels, eps,
                 COUT: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr):
    """From each tile's mean and sum of squared deviations an image's mean, 1 / deviation, scale and shift."""
    image = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = n < COUT
    # Around the first tile's mean, so that a mean much larger than the deviations does not swallow them.
    center = tl.load(means + image * tiles * COUT + n, known, 0.0)
    first = tl.zeros([BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, tiles, BLOCK_T):
        tile = start + tl.arange(0, BLOCK_T)
        mask = (tile < tiles)[:, None] & known[None, :]
        count = tl.minimum(pixels - tile * tile_pixels, tile_pixels).to(tl.float32)[:, None]
        at = (image * tiles + tile)[:, None] * COUT + n[None, :]
        d = tl.where(mask, tl.load(means + at, mask, 0.0) - center[None, :], 0.0)
        first += tl.sum(d * count, 0)
        second += tl.sum(tl.load(squares + at, mask, 0.0) + d * d * count, 0)
    mean = first / pixels
    variance = tl.maximum(second / pixels - mean * mean, 0.0)
    mean += center
    inverse = tl.rsqrt(variance + eps)
    learned = n < channels
    scale = tl.load(weight + n, learned, 0.0) * inverse
    at = affine + image * COUT + n
    step = images * COUT
    tl.store(at, mean, known)
    tl.store(at + step, inverse, known)
    tl.store(at + 2 * step, scale, known)
    tl.store(at + 3 * step, tl.load(bias + n, learned, 0.0) - mean * scale, known)


@triton.jit
def _store_split(at, value, high, low, kept, mask, SPLIT: tl.constexpr, KEEP: tl.constexpr):
    rounded = value.to(high.dtype.element_ty)
    tl.store(high + at, rounded, mask)
    if SPLIT:
        tl.store(low + at, (value - rounded.to(tl.float32)).to(low.dtype.element_ty), mask)
    if KEEP:
        tl.store(kept + at, value.to(kept.dtype.element_ty), mask)


@triton.jit
def _load_split(at, high, low, mask, SPLIT: tl.constexpr):
    value = tl.load(high + at, mask, 0.0).to(tl.float32)
    if SPLIT:
        value += tl.load(low + at, mask, 0.0).to(tl.float32)
    return value


@triton.jit
def learned_affine(affine, images, image, n, mask, C: tl.constexpr):
    """What the norm multiplies normalized values by, and adds."""
    at = affine + image * C + n
    step = images * C
    mean = tl.load(at, mask, 0.0)
    inverse = tl.load(at + step, mask, 1.0)
    scale = tl.load(at + 2 * step, mask, 0.0)
    return mean, inverse, scale, scale / inverse, tl.load(at + 3 * step, mask, 0.0) + mean * scale


@triton.jit
def normalize(gated, affine, high, low, kept, images, values, C: tl.constexpr, BLOCK: tl.constexpr,
              SPLIT: tl.constexpr, KEEP: tl.constexpr):
    """relu(scale * gated + shift) of an image's values; `kept` are the normalized ones."""
    image = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < values
    n = i % C
    scale = tl.load(affine + (2 * images + image) * C + n, mask, 0.0)
    shift = tl.load(affine + (3 * images + image) * C + n, mask, 0.0)
    start = image.to(tl.int64) * values
    x = tl.load((gated + start) + i, mask, 0.0).to(tl.float32)
    result = x * scale + shift
    _store_split(i, tl.maximum(result, 0.0), high + start, low + start, kept + start, mask, SPLIT, False)
    if KEEP:
        mean, inverse, _, weight, bias = learned_affine(affine, images, image, n, mask, C)
        bits = ((x - mean) * inverse).to(tl.int32, bitcast=True)
        toward = bits & -65536
        nearest = toward + ((bits & 32768) << 1)
        other = (2 * toward + 65536 - nearest).to(tl.float32, bitcast=True)
        normal = nearest.to(tl.float32, bitcast=True)
        same = (normal * weight + bias > 0) == (result > 0)
        tl.store((kept + start) + i, tl.where(same, normal, other).to(kept.dtype.element_ty), mask)


@triton.jit
def restore(kept, affine, out, images, values, C: tl.constexpr, BLOCK: tl.constexpr):
    """What `normalize` gave, from what it kept."""
    image = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < values
    _, _, _, weight, bias = learned_affine(affine, images, image, i % C, mask, C)
    start = image.to(tl.int64) * values
    x = tl.load((kept + start) + i, mask, 0.0).to(tl.float32)
    tl.store((out + start) + i, tl.maximum(x * weight + bias, 0.0).to(out.dtype.element_ty), mask)


@triton.jit
def split(x, high, low, kept, height, width, s_image, s_channel, s_row, s_column, channels, C: tl.constexpr,
          BLOCK: tl.constexpr, SPLIT: tl.constexpr, KEEP: tl.constexpr):
    """A float32 image of any strides and `channels` channels as a feature map of C, zeros behind."""
    image = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = height * width * C
    mask = i < values
    p, n = i // C, i % C
    x += image * s_image
    # 64 bits, for x may lie in a larger tensor.
    row, column, channel = (p // width).to(tl.int64), (p % width).to(tl.int64), n.to(tl.int64)
    value = tl.load(x + (row * s_row + column * s_column + channel * s_channel), mask & (n < channels), 0.0)
    start = image * values
    _store_split(i, value, high + start, low + start, kept + start, mask, SPLIT, KEEP)


@triton.jit
def pack_weights(weight, high, low, s_out, s_in, s_row, s_column, first, cin, cout, unit, CIN: tl.constexpr,
                 COUT: tl.constexpr, HALVES: tl.constexpr, BLOCK: tl.constexpr, SPLIT: tl.constexpr):
    """One source's weights (HALVES cout, cin, 3, 3), times `unit`, as rows (tap, channel) of (HALVES COUT)."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    columns: tl.constexpr = HALVES * COUT
    mask = i < 9 * CIN * columns
    k, n = i // columns, i % columns
    tap, c = k // CIN, k % CIN
    half, m = n // COUT, n % COUT
    at = weight + (half * cout + m) * s_out + (first + c) * s_in + (tap // 3) * s_row + (tap % 3) * s_column
    value = tl.load(at, mask & (c < cin) & (m < cout), 0.0) * unit
    _store_split(i, value, high, low, high, mask, SPLIT, False)


@triton.jit
def _row_maxima(high, low, row, j, height, width, n, mask, C: tl.constexpr, SPLIT: tl.constexpr):
    """The larger of columns 2 j - 1 + (0, 1), (1, 2), (2, 3) of a row, and which it is."""
    mask = mask & (row >= 0) & (row < height)
    at = (row * width + 2 * j - 1) * C + n
    x0 = _load_split(at, high, low, mask & (j > 0), SPLIT)
    x1 = _load_split(at + C, high, low, mask, SPLIT)
    x2 = _load_split(at + 2 * C, high, low, mask, SPLIT)
    x3 = _load_split(at + 3 * C, high, low, mask & (2 * j + 2 < width), SPLIT)
    return (tl.maximum(x0, x1), tl.maximum(x1, x2), tl.maximum(x2, x3), (x2 > x1).to(tl.int32),
            (x3 > x2).to(tl.int32))


@triton.jit
def halve(high, low, out_high, out_low, kept, codes, height, width, h, w, C: tl.constexpr, BLOCK: tl.constexpr,
          SPLIT: tl.constexpr, KEEP: tl.constexpr):
    """Max-pool 2 at stride 1, then [1 2 1]² / 16 at stride 2, reflected; where KEEP the maxima's places, too.

    A code has two bits for each of windows (2i, 2j), (2i, 2j + 1), (2i + 1, 2j), (2i + 1, 2j + 1): its maximum's place.
    """
    image = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = o < h * w * C
    n, i, j = o % C, o // C // w, o // C % w
    high += image * height * width * C
    low += image * height * width * C
    # A window beyond the border is, reflected, the one on the other side of the middle one.
    left = tl.where(j == 0, 0.0, tl.where(2 * j + 2 == width, 2.0, 1.0))
    total = tl.zeros([BLOCK], tl.float32)
    code = tl.zeros([BLOCK], tl.int32)
    u0, u1, u2, p1, p2 = _row_maxima(high, low, 2 * i - 1, j, height, width, n, mask, C, SPLIT)
    for dr in tl.static_range(3):
        v0, v1, v2, q1, q2 = _row_maxima(high, low, 2 * i + dr, j, height, width, n, mask, C, SPLIT)
        if dr == 0:
            weight = tl.where(i == 0, 0.0, tl.where(2 * i + 2 == height, 2.0, 1.0))
        elif dr == 1:
            weight = tl.full([BLOCK], 2.0, tl.float32)
        else:
            weight = tl.where(2 * i + 2 == height, 0.0, tl.where(i == 0, 2.0, 1.0))
        row = tl.maximum(u0, v0) * left + tl.maximum(u1, v1) * 2 + tl.maximum(u2, v2) * (2 - left)
        total += row * weight
        if KEEP and dr > 0:
            code += tl.where(v1 > u1, 2 + q1, p1) << (4 * (dr - 1))
            code += tl.where(v2 > u2, 2 + q2, p2) << (4 * (dr - 1) + 2)
        u0, u1, u2, p1, p2 = v0, v1, v2, q1, q2
    begin = image * h * w * C
    _store_split(o, total / 16, out_high + begin, out_low + begin, kept + begin, mask, SPLIT, KEEP)
    if KEEP:
        tl.store((codes + begin) + o, code.to(tl.uint8), mask)


@triton.jit
def double(high, low, out_high, out_low, kept, h, w, height, width, top, left, C: tl.constexpr, BLOCK: tl.constexpr,
           SPLIT: tl.constexpr, KEEP: tl.constexpr):
    """Bilinear doubling with aligned corners, `top` rows and `left` columns of zeros before it, and zeros behind."""
    image = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = o < height * width * C
    n, r, c = o % C, o // C // width - top, o // C % width - left
    read = mask & (r >= 0) & (r < 2 * h) & (c >= 0) & (c < 2 * w)
    # Source rows are r (h - 1) / (2 h - 1), in whole numbers and the rest.
    r0, c0 = r * (h - 1) // (2 * h - 1), c * (w - 1) // (2 * w - 1)
    v = (r * (h - 1) - r0 * (2 * h - 1)).to(tl.float32) / (2 * h - 1)
    u = (c * (w - 1) - c0 * (2 * w - 1)).to(tl.float32) / (2 * w - 1)
    r1, c1 = tl.minimum(r0 + 1, h - 1), tl.minimum(c0 + 1, w - 1)
    high += image * h * w * C
    low += image * h * w * C
    x00 = _load_split((r0 * w + c0) * C + n, high, low, read, SPLIT)
    x01 = _load_split((r0 * w + c1) * C + n, high, low, read, SPLIT)
    x10 = _load_split((r1 * w + c0) * C + n, high, low, read, SPLIT)
    x11 = _load_split((r1 * w + c1) * C + n, high, low, read, SPLIT)
    upper, lower = x00 + (x01 - x00) * u, x10 + (x11 - x10) * u
    begin = image * height * width * C
    _store_split(o, upper + (lower - upper) * v, out_high + begin, out_low + begin, kept + begin, mask, SPLIT, KEEP)
