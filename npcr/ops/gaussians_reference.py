# SPDX-License-Identifier: Apache-2.0
"""Projection and compositing of Gaussians in torch, with its gradients: what the kernels compute, to read and to run.

Compositing cuts the image into blocks, lists all fragments of a block (an ellipse in a pixel), sorted by pixel and
depth, and takes cumulative products along each pixel's: so it needs no loop over ellipses or pixels and is of use where
there are no kernels. Beside what goes in and out it needs the memory of one block, and in training 200 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FILTER_VARIANCE = 0.2  # square pixels: less flickers where thin splats cross rows of pixels, more blurs
MIN_SHARE = 1 / 255  # of a pixel: less cannot be seen
MAX_SHARE = 0.999  # that one ellipse covers, so that light, and gradients, still reach those behind
PASSING_STOP = 1e-4  # less light than this from behind ends a pixel
MIN_COVERED = 1e-3  # from which on a pixel has a depth
MAX_RADIUS = 12  # standard deviations up to which any ellipse is drawn
BORDER = 0.15  # of the image, beyond which a projection's slope is no longer followed
ROOM = 0.01  # pixels around an ellipse, so that rounding leaves nothing out: the distance to its center decides
# A block has fewer, or is one pixel: of 100 bytes each, and 8 bytes a channel on the way back. Few stay in the cache.
FRAGMENTS_AT_ONCE = {"cpu": 2**18, "cuda": 2**22}
FRAGMENTS_KEPT = 2**22  # for the way back, of 50 bytes each


def project(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor, intrinsics: Tensor,
            size: tuple[int, int], filter_variance: float, min_share: float) -> Tensor:
    """Project Gaussians in torch.

    Args:
        means, strands, widths, opacities, cam_to_world, intrinsics, size, filter_variance, min_share: as in
            `npcr.ops.project_gaussians`.

    Returns:
        As there.
    """
    arguments = (means, strands, widths, opacities)
    with torch.no_grad():
        ellipses, depth_extent = _ellipses(*arguments, cam_to_world, intrinsics, size, filter_variance)
        drawn = (torch.isfinite(ellipses).all(0) & (ellipses[6] > depth_extent) & (widths >= 0)
                 & (ellipses[5] > min_share))
        radius = torch.sqrt(2 * torch.log(ellipses[5] / min_share)).clamp(max=MAX_RADIUS)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*arguments, cam_to_world, intrinsics)):
        # Only what is drawn is differentiated: elsewhere a gradient might not be finite, and zero times it is not zero.
        rows = drawn.nonzero()[:, 0]
        visible = [x.index_select(0, rows) for x in arguments]
        ellipses, _ = _ellipses(visible[0], visible[1], visible[2], visible[3], cam_to_world, intrinsics, size,
                                filter_variance)
        ellipses = ellipses.new_zeros(7, len(means)).index_copy(1, rows, ellipses)
    return torch.where(drawn, torch.cat([ellipses, radius[None]]), 0).T.contiguous()


def _ellipses(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor,
              intrinsics: Tensor, size: tuple[int, int], filter_variance: float) -> tuple[Tensor, Tensor]:
    """(7, M) ellipses without their radius; and (M,) how far each Gaussian reaches in depth."""
    to_camera, position = cam_to_world[:3, :3].T, cam_to_world[:3, 3]
    at, strand = _product(to_camera, (means - position).T), _product(to_camera, strands.T)
    homogeneous = _product(intrinsics, at)
    u, v = homogeneous[:2] / homogeneous[2]
    du, dv = ((intrinsics[i, :, None] - _slope_at(place, size[i]) * intrinsics[2, :, None]) / homogeneous[2]
              for i, place in enumerate((u, v)))  # (3, M) the slopes of u and v
    tu, tv = (du * strand).sum(0), (dv * strand).sum(0)
    variance = widths.square()
    uu, uv, vv = du.square().sum(0), (du * dv).sum(0), dv.square().sum(0)
    # The determinant of variance [uu uv; uv vv] + t tᵀ as a sum of squares, which loses no digits.
    area = torch.linalg.cross(du, dv, dim=0).square().sum(0)
    across = (tu * dv - tv * du).square().sum(0)
    sharp = variance * (variance * area + across)
    trace = variance * (uu + vv) + tu.square() + tv.square()
    det = sharp + filter_variance * trace + filter_variance ** 2
    cov_uv, cov_vv = variance * uv + tu * tv, variance * vv + tv.square() + filter_variance
    ellipses = torch.stack([u, v, torch.sqrt(cov_vv / det), -cov_uv / torch.sqrt(cov_vv * det), 1 / torch.sqrt(cov_vv),
                            opacities * torch.sqrt(sharp / det), at[2]])
    return ellipses, widths + strand[2].abs()


def _product(matrix: Tensor, vectors: Tensor) -> Tensor:
    """(3, M) of a (3, 3) matrix and (3, M) vectors, each rounded the same wherever it stands."""
    return (matrix[:, :, None] * vectors).sum(1)


def _slope_at(place: Tensor, side: int) -> Tensor:
    return place.clamp(-BORDER * side - 0.5, (1 + BORDER) * side - 0.5)


def composite(ellipses: Tensor, values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Composite ellipses in torch.

    Args:
        ellipses, values, size: as in `npcr.ops.composite_gaussians`.

    Returns:
        As there.
    """
    dtype = torch.promote_types(ellipses.dtype, torch.float32)  # half types are too coarse for sums along a pixel
    image, moment = _Composite.apply(ellipses.to(dtype), values.to(dtype), size)
    with torch.no_grad():
        coverage = image[..., -1]
        mean_depth = torch.where(coverage > MIN_COVERED, moment / coverage, 0)
    return image.to(ellipses.dtype), mean_depth.to(ellipses.dtype)


class _Composite(torch.autograd.Function):
    """The image, and its depth times its coverage.

    The way back finds the fragments of the first blocks kept, and lists those of the others anew: so memory is bounded.
    """

    @staticmethod
    def forward(ctx: Any, ellipses: Tensor, values: Tensor,  # type: ignore[override]
                size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        ellipses, values = ellipses.detach(), values.detach()
        ctx.save_for_backward(ellipses, values)
        ctx.blocks, ctx.kept, room = list(_blocks(ellipses, size)), [], FRAGMENTS_KEPT
        table = torch.cat([values, torch.ones_like(ellipses[:, :1]), ellipses[:, 6:7]], dim=1)
        image = table.new_zeros(size[1], size[0], table.shape[1])
        for block in ctx.blocks:
            fragments = _Fragments(ellipses.index_select(0, block.members), block)
            room -= len(fragments.share)
            if room >= 0 and any(ctx.needs_input_grad):
                ctx.kept.append(fragments)
            weight = fragments.share * fragments.passing
            picture = _sums(table.index_select(0, block.members), fragments.sorted_ellipse, fragments.starts, weight)
            block.of(image).copy_(picture.view(block.height, block.width, -1))
        moment = image[..., -1].clone()
        ctx.mark_non_differentiable(moment)
        return image[..., :-1].contiguous(), moment

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_image: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        ellipses, values = ctx.saved_tensors
        table = torch.cat([values, torch.ones_like(ellipses[:, :1])], dim=1)
        grad_ellipses, grad_table = torch.zeros_like(ellipses), torch.zeros_like(table)
        for number, block in enumerate(ctx.blocks):
            kept = number < len(ctx.kept)
            fragments = ctx.kept[number] if kept else _Fragments(ellipses.index_select(0, block.members), block)
            of_picture = block.of(grad_image).reshape(block.height * block.width, -1)
            of_ellipses, of_table = fragments.grads(of_picture, table.index_select(0, block.members))
            grad_ellipses.index_add_(0, block.members, of_ellipses)
            grad_table.index_add_(0, block.members, of_table)
        return grad_ellipses, grad_table[:, :-1], None


class _Block(NamedTuple):
    """A rectangle of the image, and the ellipses that may reach it."""

    left: int
    top: int
    width: int
    height: int
    members: Tensor  # (M,) their rows, near ones first

    def of(self, image: Tensor) -> Tensor:
        """Its part of an (H, W, ...) image, a view."""
        return image[self.top:self.top + self.height, self.left:self.left + self.width]


def _blocks(ellipses: Tensor, size: tuple[int, int]) -> Iterator[_Block]:
    """Cut the image in halves until a block has few fragments; blocks without any are left out."""
    x, y, uxx, uxy, uyy, _, depth, radius = ellipses.unbind(1)
    order = torch.sort(torch.where(radius > 0, depth, torch.inf), stable=True).indices
    half_width = radius * torch.hypot(uxy / uyy, torch.ones_like(uxy)) / uxx + ROOM
    half_height = radius / uyy + ROOM
    bounds = torch.stack([x - half_width, x + half_width, y - half_height, y + half_height, 2 * radius / uxx], 1)
    most = FRAGMENTS_AT_ONCE["cpu" if ellipses.device.type == "cpu" else "cuda"]
    drawn = order[:int((radius > 0).sum())]
    waiting = [(_Block(0, 0, *size, drawn), bounds.index_select(0, drawn))]
    while waiting:
        block, bounds = waiting.pop()
        right, bottom = block.left + block.width - 1, block.top + block.height - 1
        reaching = ((bounds[:, 0] <= right) & (bounds[:, 1] >= block.left) & (bounds[:, 2] <= bottom)
                    & (bounds[:, 3] >= block.top)).nonzero()[:, 0]
        block, bounds = block._replace(members=block.members[reaching]), bounds.index_select(0, reaching)
        columns = torch.minimum(bounds[:, 1].clamp(max=right) - bounds[:, 0].clamp(min=block.left), bounds[:, 4]) + 1
        rows = bounds[:, 3].clamp(max=bottom) - bounds[:, 2].clamp(min=block.top) + 1
        if block.width == block.height == 1 or float((columns * rows).sum()) <= most:
            if len(reaching):
                yield block
        else:
            waiting += [(half, bounds) for half in _halves(block)]


def _halves(block: _Block) -> tuple[_Block, _Block]:
    if block.width > block.height:
        half = block.width // 2
        return block._replace(width=half), block._replace(left=block.left + half, width=block.width - half)
    half = block.height // 2
    return block._replace(height=half), block._replace(top=block.top + half, height=block.height - half)


class _Fragments:
    """The ellipses in the pixels of a block, F of them: listed by ellipse, row and column, then sorted by pixel.

    |U d|² is the sum of the squares of `z`, which is linear along an ellipse's row, and of `b`, constant there.
    """

    def __init__(self, ellipses: Tensor, block: _Block) -> None:
        self.ellipses = ellipses
        x, y, uxx, uxy, uyy, opacity, _, radius = ellipses.T.contiguous()
        half = radius / uyy
        top, self.rows = _whole_numbers(y - half, y + half, block.top, block.height)
        of_ellipse, place = _ranges(self.rows)

        def along(of_each: Tensor) -> Tensor:
            return of_each.index_select(0, of_ellipse)

        row, x, uxx, reach2 = along(top) + place, along(x), along(uxx), along(radius).square()
        self.dy = row - along(y)
        shift, self.b = self.dy * along(uxy), self.dy * along(uyy)
        b2 = self.b.square()
        middle, half = x - shift / uxx, (reach2 - b2).clamp(min=0).sqrt() / uxx
        left, self.columns = _whole_numbers(middle - half, middle + half, block.left, block.width)
        first = (row - block.top) * block.width - block.left
        of_row, place = _ranges(self.columns)

        def across(of_each: Tensor) -> Tensor:
            return of_each.index_select(0, of_row)

        column = across(left) + place
        self.pixel = across(first) + column
        self.z = (column - across(x)) * across(uxx) + across(shift)
        distance2 = self.z.square() + across(b2)
        share = across(along(opacity)) * torch.exp(-0.5 * distance2)
        self.whole_share = torch.where(distance2 <= across(reach2), share, 0)

        pixels = block.width * block.height
        key = self.pixel.to(torch.int16 if pixels < 2**15 else torch.int32)  # fewer bits sort faster
        key, self.order = torch.sort(key, stable=True)  # keeps the order by depth within each pixel
        self.sorted_ellipse = across(of_ellipse).index_select(0, self.order)
        self.starts = torch.searchsorted(key, torch.arange(pixels + 1, device=key.device, dtype=key.dtype))
        self.share = self.whole_share.index_select(0, self.order).clamp(max=MAX_SHARE)
        passing = torch.exp(_sums_before(torch.log1p(-self.share), self.starts))
        self.passing = torch.where(passing >= PASSING_STOP, passing, 0)  # of the light from behind, to the fragment

    def grads(self, of_picture: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of ellipses and table, from that of the block's picture, (P, C + 1)."""
        counts = self.starts.diff()
        weight = self.share * self.passing
        products = torch.repeat_interleave(of_picture, counts, 0) * table.index_select(0, self.sorted_ellipse)
        of_weight = products @ products.new_ones(products.shape[1])  # their sums, faster
        shown = weight * of_weight
        total = _totals(shown, counts)
        behind = torch.repeat_interleave(total, counts) - _sums_before(shown, self.starts) - shown
        of_share = self.passing * of_weight - behind / (1 - self.share)
        # From here on as listed: by ellipse.
        weight, of_share = (torch.empty_like(x).index_copy_(0, self.order, x) for x in (weight, of_share))
        ends = torch.cat([self.rows.new_zeros(1), torch.cumsum(self.columns, 0)])
        rows_ends = torch.cat([self.rows.new_zeros(1), torch.cumsum(self.rows, 0)])
        of_table = _sums(of_picture, self.pixel, ends[rows_ends], weight)
        of_log = torch.where(self.whole_share <= MAX_SHARE, of_share * self.whole_share, 0)
        return self._of_ellipses(of_log), of_table

    def _of_ellipses(self, of_log: Tensor) -> Tensor:
        """(M, 8) the gradients of the ellipses, from those of the logarithms of their shares."""
        # Of each row of an ellipse, then of each ellipse: the sums of the gradients, and of those times z and so on.
        one, z, zz = (_totals(x, self.columns) for x in (of_log, of_log * self.z, of_log * self.z.square()))
        parts = (one, z, z * self.dy, zz, one * self.b, one * self.b * self.dy)
        one, z, z_dy, zz, b, b_dy = (_totals(x, self.rows) for x in parts)
        _, _, uxx, uxy, uyy, opacity, _, _ = self.ellipses.unbind(1)
        nothing = torch.zeros_like(one)
        return torch.stack([uxx * z, uxy * z + uyy * b, (uxy * z_dy - zz) / uxx, -z_dy, -b_dy, one / opacity, nothing,
                            nothing], 1)


def _sums(rows: Tensor, which: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows[which], from each of `starts` to before the next."""
    return F.embedding_bag(which, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _totals(numbers: Tensor, counts: Tensor) -> Tensor:
    """(R,) the sums of consecutive ranges of so many numbers."""
    return torch.segment_reduce(numbers, "sum", lengths=counts, unsafe=True, initial=0)


def _sums_before(numbers: Tensor, starts: Tensor) -> Tensor:
    """(F,) the sum of all numbers from the start of a pixel's to before each."""
    counts = starts.diff()
    if not torch.are_deterministic_algorithms_enabled():
        sums = torch.cat([numbers.new_zeros(1, dtype=torch.float64), torch.cumsum(numbers, 0, dtype=torch.float64)])
        return (sums[:-1] - torch.repeat_interleave(sums[starts[:-1]], counts)).to(numbers.dtype)
    # On a GPU, torch's running sum of floating point numbers is not the same each time. This one is, in more passes.
    place = torch.arange(len(numbers), device=numbers.device) - torch.repeat_interleave(starts[:-1], counts)
    zero = numbers.new_zeros(1)
    sums = torch.where(place > 0, torch.cat([zero, numbers[:-1]]), 0)
    reach = 1
    while reach <= int(place.max() if len(place) else 0):
        sums = sums + torch.where(place >= reach, torch.cat([zero.expand(reach), sums[:-reach]]), 0)
        reach *= 2
    return sums


def _whole_numbers(low: Tensor, high: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
    """The whole numbers from `low` to `high`, with some room, of `count` from `start` on: the first, and how many."""
    first = (low - ROOM).clamp(start, start + count).ceil().long()
    last = (high + ROOM).clamp(start - 1, start + count - 1).floor().long()
    return first, (last - first + 1).clamp(min=0)


def _ranges(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the ranges 0 .. counts[i] - 1: the i of each number, and the number."""
    owner = torch.repeat_interleave(counts)
    starts = torch.cumsum(counts, 0) - counts
    return owner, torch.arange(len(owner), device=counts.device) - starts.index_select(0, owner)
