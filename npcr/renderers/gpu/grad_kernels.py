# SPDX-License-Identifier: Apache-2.0
"""Triton kernels of the gated U-Net's gradients, but for those of the convolutions; `reference.py` has each in torch.

Gradients and what is kept for them are bfloat16, whose range is that of float32: no loss needs a scale.
"""

from __future__ import annotations

import triton
import triton.language as tl

from npcr.renderers.gpu.kernels import learned_affine


@triton.jit
def _through_relu(normal, grad, weight, bias, image, pixels, p, n, mask, COUT: tl.constexpr):
    """At pixels p and channels n the normalized value and the gradient of it times weight plus bias."""
    at = p[:, None] * COUT + n[None, :]
    start = image * pixels * COUT
    x = tl.load((normal + start) + at, mask, 0.0).to(tl.float32)
    g = tl.load((grad + start) + at, mask, 0.0).to(tl.float32)
    return x, tl.where(x * weight[None, :] + bias[None, :] > 0, g, 0.0)


@triton.jit
def norm_sums(normal, grad, affine, sums, images, pixels, per_program, COUT: tl.constexpr,
              BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Sums over a program's pixels of the gradient after the ReLU, and of it times the normalized value."""
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    n = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    _, _, _, weight, bias = learned_affine(affine, images, image, n, n < COUT, COUT)
    first = tl.zeros([BLOCK_C], tl.float32)
    second = tl.zeros([BLOCK_C], tl.float32)
    begin = part * per_program
    end = tl.minimum(begin + per_program, pixels)
    for start in range(begin, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = (p < end)[:, None] & (n < COUT)[None, :]
        x, g = _through_relu(normal, grad, weight, bias, image, pixels, p, n, mask, COUT)
        first += tl.sum(g, 0)
        second += tl.sum(g * x, 0)
    at = sums + (image * tl.num_programs(0) + part) * 2 * COUT + n
    tl.store(at, first, n < COUT)
    tl.store(at + COUT, second, n < COUT)


@triton.jit
def gate_grad(normal, share, grad, affine, sums, out, bias_sums, images, pixels, per_program, COUT: tl.constexpr,
              BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr):
    """Gradients of what the convolution gave, (value, gate), and their sums over a program's pixels."""
    part, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    n = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = n < COUT
    first = tl.load(sums + image * 2 * COUT + n, known, 0.0) / pixels
    second = tl.load(sums + image * 2 * COUT + COUT + n, known, 0.0) / pixels
    mean, inverse, scale, weight, bias = learned_affine(affine, images, image, n, known, COUT)
    of_value = tl.zeros([BLOCK_C], tl.float32)
    of_gate = tl.zeros([BLOCK_C], tl.float32)
    begin = part * per_program
    end = tl.minimum(begin + per_program, pixels)
    for start in range(begin, end, BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        mask = (p < end)[:, None] & known[None, :]
        x, g = _through_relu(normal, grad, weight, bias, image, pixels, p, n, mask, COUT)
        at = image * pixels * COUT
        opened = tl.load((share + at) + (p[:, None] * COUT + n[None, :]), mask, 0).to(tl.float32) / 255
        g = tl.where(mask, scale[None, :] * (g - first[None, :] - x * second[None, :]), 0.0)
        by_gate = g * (mean[None, :] + x / inverse[None, :]) * (1 - opened)
        g *= opened
        of_value += tl.sum(g, 0)
        of_gate += tl.sum(by_gate, 0)
        at = out + image * pixels * (2 * COUT) + (p[:, None] * (2 * COUT) + n[None, :])
        tl.store(at, g.to(out.dtype.element_ty), mask)
        tl.store(at + COUT, by_gate.to(out.dtype.element_ty), mask)
    at = bias_sums + (image * tl.num_programs(0) + part) * 2 * COUT + n
    tl.store(at, of_value, known)
    tl.store(at + COUT, of_gate, known)


@triton.jit
def _share(window, i, size, count):
    """Four times the weight that output i of `count` gives a window, of size - 1 along one side; 0 for no output."""
    # The middle one has two quarters, those beside it one, or two where the other lies beyond the border.
    lower = tl.where(i == 0, 0, tl.where(2 * i + 2 == size, 2, 1))
    upper = tl.where(2 * i + 2 == size, 0, tl.where(i == 0, 2, 1))
    weight = tl.where(window == 2 * i, 2, tl.where(window < 2 * i, lower, upper))
    return tl.where((i >= 0) & (i < count), weight, 0)


@triton.jit
def halve_grad(grad, codes, out, height, width, h, w, C: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of `halve`'s input: of each window of which it was the maximum, of each output that the window is in."""
    image = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = o < height * width * C
    n, r, c = o % C, o // C // width, o // C % width
    grad += image * h * w * C
    codes += image * h * w * C
    total = tl.zeros([BLOCK], tl.float32)
    for dr in tl.static_range(2):
        mr = r - dr
        for dc in tl.static_range(2):
            mc = c - dc
            valid = mask & (mr >= 0) & (mr < height - 1) & (mc >= 0) & (mc < width - 1)
            code = tl.load(codes + ((mr // 2 * w + mc // 2) * C + n), valid, 0).to(tl.int32)
            place = (code >> (4 * (mr % 2) + 2 * (mc % 2))) & 3
            chosen = valid & (place == 2 * dr + dc)
            for di in tl.static_range(2):
                i = (mr + 1) // 2 - di
                rows = tl.where((di == 0) | (mr % 2 == 1), _share(mr, i, height, h), 0)
                for dj in tl.static_range(2):
                    j = (mc + 1) // 2 - dj
                    columns = tl.where((dj == 0) | (mc % 2 == 1), _share(mc, j, width, w), 0)
                    share = rows * columns
                    value = tl.load(grad + ((i * w + j) * C + n), valid & (share > 0), 0.0).to(tl.float32)
                    total += tl.where(chosen, value * share.to(tl.float32), 0.0)
    tl.store((out + image * height * width * C) + o, (total / 16).to(out.dtype.element_ty), mask)


@triton.jit
def double_grad(grad, out, h, w, height, width, top, left, C: tl.constexpr, BLOCK: tl.constexpr):
    """Gradient of `double`'s input: of the at most five rows and columns that read it."""
    image = tl.program_id(1).to(tl.int64)
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = o < h * w * C
    n, i, j = o % C, o // C // w, o // C % w
    # Row r reads rows around r (h - 1) / (2 h - 1): those within 1 of i begin beyond (i - 1) (2 h - 1) / (h - 1).
    of_rows, of_columns = 2 * h - 1, 2 * w - 1
    r_first = (i - 1) * of_rows // tl.maximum(h - 1, 1) + 1
    c_first = (j - 1) * of_columns // tl.maximum(w - 1, 1) + 1
    grad += image * height * width * C
    total = tl.zeros([BLOCK], tl.float32)
    for dr in tl.static_range(5):
        r = r_first + dr
        below = r * (h - 1) - i * of_rows
        row = (r >= 0) & (r < 2 * h) & (below > -of_rows) & (below < of_rows)
        rows = 1 - tl.abs(below.to(tl.float32) / of_rows)
        for dc in tl.static_range(5):
            c = c_first + dc
            beyond = c * (w - 1) - j * of_columns
            read = mask & row & (c >= 0) & (c < 2 * w) & (beyond > -of_columns) & (beyond < of_columns)
            columns = 1 - tl.abs(beyond.to(tl.float32) / of_columns)
            value = tl.load(grad + (((r + top) * width + c + left) * C + n), read, 0.0).to(tl.float32)
            total += tl.where(read, value * rows * columns, 0.0)
    tl.store((out + image * h * w * C) + o, total.to(out.dtype.element_ty), mask)
