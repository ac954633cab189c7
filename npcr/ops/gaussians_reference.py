# SPDX-License-Identifier: Apache-2.0
"""Projection and compositing of Gaussians in torch, with its gradients: what the kernels compute, to read and to run.

Compositing lists all fragments (an ellipse in a pixel), sorted by pixel and depth, and takes cumulative products along
each pixel's: so it needs no loop over ellipses and is of use where there are no kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FILTER_VARIANCE = 0.2  # square pixels: less flickers where thin splats cross rows of pixels, more blurs
MIN_SHARE = 1 / 255  # of a pixel: less cannot be seen
MAX_SHARE = 0.999  # that one ellipse covers, so that light, and gradients, still reach those behind
PASSING_STOP = 1e-4  # less light than this from behind ends a pixel
MIN_COVERED = 1e-3  # from which on a pixel has a depth
MAX_RADIUS = 12  # standard deviations up to which any ellipse is drawn
BORDER = 0.15  # of the image, beyond which a projection's slope is no longer followed
FRAGMENTS_AT_ONCE = 2**22  # a band of rows has fewer, or is one row: so much memory one takes at a time


def project(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor, intrinsics: Tensor,
            size: tuple[int, int], filter_variance: float, min_share: float) -> Tensor:
    """Project Gaussians in torch.

    Args:
        means, strands, widths, opacities, cam_to_world, intrinsics, size, filter_variance, min_share: as in
            `npcr.ops.project_gaussians`.

    Returns:
        As there.
    """
    arguments = (means, strands, widths[:, None], opacities[:, None])
    with torch.no_grad():
        ellipses, depth_extent = _ellipses(*arguments, cam_to_world, intrinsics, size, filter_variance)
        drawn = (torch.isfinite(ellipses).all(1) & (ellipses[:, 6] > depth_extent) & (widths >= 0)
                 & (ellipses[:, 5] > min_share))
    # Only what is drawn is differentiated: elsewhere a gradient might not be finite, and zero times that is not zero.
    visible = [x[drawn] for x in arguments]
    ellipses, _ = _ellipses(visible[0], visible[1], visible[2], visible[3], cam_to_world, intrinsics, size,
                            filter_variance)
    radius = torch.sqrt(2 * torch.log(ellipses[:, 5:6].detach() / min_share)).clamp(max=MAX_RADIUS)
    everything = means.new_zeros(len(means), 8)
    return everything.index_put((drawn.nonzero()[:, 0],), torch.cat([ellipses, radius], dim=1))


def _ellipses(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor,
              intrinsics: Tensor, size: tuple[int, int], filter_variance: float) -> tuple[Tensor, Tensor]:
    """(M, 7) ellipses without their radius; and (M,) how far each Gaussian reaches in depth."""
    rotation, position = cam_to_world[:3, :3], cam_to_world[:3, 3]
    at, strand = (means - position) @ rotation, strands @ rotation
    homogeneous = at @ intrinsics.T
    pixels = homogeneous[:, :2] / homogeneous[:, 2:]
    sides = pixels.new_tensor(size)
    slope_at = torch.minimum(torch.maximum(pixels, -BORDER * sides - 0.5), (1 + BORDER) * sides - 0.5)
    slopes = (intrinsics[:2] - slope_at[:, :, None] * intrinsics[2]) / homogeneous[:, 2:, None]  # (M, 2, 3)
    du, dv = slopes.unbind(1)
    tu, tv = (slopes @ strand[:, :, None])[:, :, 0].unbind(1)
    variance = widths[:, 0].square()
    uu, uv, vv = (du * du).sum(1), (du * dv).sum(1), (dv * dv).sum(1)
    # The determinant of variance [uu uv; uv vv] + t tᵀ as a sum of squares, which loses no digits.
    area = torch.linalg.cross(du, dv).square().sum(1)
    across = (tu[:, None] * dv - tv[:, None] * du).square().sum(1)
    sharp = variance * (variance * area + across)
    trace = variance * (uu + vv) + tu.square() + tv.square()
    det = sharp + filter_variance * trace + filter_variance ** 2
    cov_uv, cov_vv = variance * uv + tu * tv, variance * vv + tv.square() + filter_variance
    ellipses = torch.stack([pixels[:, 0], pixels[:, 1], torch.sqrt(cov_vv / det), -cov_uv / torch.sqrt(cov_vv * det),
                            1 / torch.sqrt(cov_vv), opacities[:, 0] * torch.sqrt(sharp / det), at[:, 2]], dim=1)
    return ellipses, widths[:, 0] + strand[:, 2].abs()


def composite(ellipses: Tensor, values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Composite ellipses in torch.

    Args:
        ellipses, values, size: as in `npcr.ops.composite_gaussians`.

    Returns:
        As there.
    """
    width, height = size
    order = torch.sort(torch.where(ellipses[:, 7] > 0, ellipses[:, 6], torch.inf).detach(), stable=True).indices
    ellipses, values = ellipses[order], values[order]
    bands, top = [], 0
    while top < height:
        rows = height - top
        while rows > 1 and _count(ellipses.detach(), top, top + rows) > FRAGMENTS_AT_ONCE:
            rows = (rows + 1) // 2
        bands.append(_composite_band(ellipses, values, width, top, top + rows))
        top += rows
    image, moment = (torch.cat(parts).reshape(height, width, -1) for parts in zip(*bands, strict=True))
    with torch.no_grad():
        coverage = image[..., -1]
        mean_depth = torch.where(coverage > MIN_COVERED, moment[..., 0] / coverage, 0)
    return image, mean_depth


class _Fragments(NamedTuple):
    """Ellipses in pixels, F of them, by pixel and then by depth."""

    ellipse: Tensor  # (F,) row of the ellipse
    x: Tensor  # (F,)
    y: Tensor  # (F,)


def _composite_band(ellipses: Tensor, values: Tensor, width: int, top: int, bottom: int) -> tuple[Tensor, Tensor]:
    """(P, C + 1) the image of the rows from `top` to below `bottom`, and (P, 1) the depth times the coverage."""
    fragments = _fragments(ellipses.detach(), width, top, bottom)
    pixel = (fragments.y - top) * width + fragments.x
    at = ellipses[fragments.ellipse]
    share = _share(at, fragments.x, fragments.y).clamp(max=MAX_SHARE)
    first = torch.searchsorted(pixel, pixel)  # of the fragments, the pixel's first
    before = torch.exp(_sum_before(torch.log1p(-share.double()), first)).to(share.dtype)
    weight = torch.where(before >= PASSING_STOP, share * before, 0)
    image = values.new_zeros((bottom - top) * width, values.shape[1] + 1)
    weighted = torch.cat([weight[:, None] * values[fragments.ellipse], weight[:, None]], dim=1)
    moment = values.new_zeros(len(image)).index_add(0, pixel, weight.detach() * at[:, 6].detach())
    return image.index_add(0, pixel, weighted), moment[:, None]


def _sum_before(numbers: Tensor, first: Tensor) -> Tensor:
    """(F,) the sum of all numbers from first[i] to before i."""
    zero = numbers.new_zeros(1)
    if not torch.are_deterministic_algorithms_enabled():
        sums = torch.cat([zero, torch.cumsum(numbers, 0)])
        return sums[:-1] - sums[first]
    # On a GPU, torch's running sum of floating point numbers is not the same each time. This one is, in more passes.
    place = torch.arange(len(numbers), device=numbers.device) - first
    sums = torch.where(place > 0, torch.cat([zero, numbers[:-1]]), 0)
    reach = 1
    while reach <= int(place.max() if len(place) else 0):
        sums = sums + torch.where(place >= reach, torch.cat([zero.expand(reach), sums[:-reach]]), 0)
        reach *= 2
    return sums


def _share(ellipses: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(F,) what an ellipse each covers of a pixel, not yet capped."""
    dx, dy = x - ellipses[:, 0], y - ellipses[:, 1]
    distance2 = (ellipses[:, 2] * dx + ellipses[:, 3] * dy).square() + (ellipses[:, 4] * dy).square()
    return ellipses[:, 5] * torch.exp(-0.5 * distance2)


def _rows(ellipses: Tensor, top: int, bottom: int) -> tuple[Tensor, Tensor]:
    """(M,) the first row of each ellipse between `top` and below `bottom`, and how many it has there."""
    half = torch.where(ellipses[:, 7] > 0, ellipses[:, 7] / ellipses[:, 4] + 0.01, -1)
    first = (ellipses[:, 1] - half).clamp(top, bottom).ceil().long()
    last = (ellipses[:, 1] + half).clamp(top - 1, bottom - 1).floor().long()
    return first, (last - first + 1).clamp(min=0)


def _count(ellipses: Tensor, top: int, bottom: int) -> int:
    """An estimate of the fragments between two rows, from above."""
    rows = _rows(ellipses, top, bottom)[1]
    across = 2 * ellipses[:, 7] / ellipses[:, 2].clamp(min=1e-6) + 2
    return int((rows * across.clamp(max=32767)).sum())


def _fragments(ellipses: Tensor, width: int, top: int, bottom: int) -> _Fragments:
    """All fragments between two rows; ellipses are sorted by depth."""
    first, counts = _rows(ellipses, top, bottom)
    ellipse, y = _ranges(first, counts)
    at = ellipses[ellipse]
    dy = y - at[:, 1]
    rest = (at[:, 7].square() - (at[:, 4] * dy).square()).clamp(min=0).sqrt()
    middle, half = at[:, 0] - at[:, 3] * dy / at[:, 2], rest / at[:, 2] + 0.01
    first = (middle - half).clamp(0, width).ceil().long()
    last = (middle + half).clamp(-1, width - 1).floor().long()
    of_row, x = _ranges(first, (last - first + 1).clamp(min=0))
    ellipse, y = ellipse[of_row], y[of_row]
    at = ellipses[ellipse]
    dx, dy = x - at[:, 0], y - at[:, 1]
    inside = (at[:, 2] * dx + at[:, 3] * dy).square() + (at[:, 4] * dy).square() <= at[:, 7].square()
    pixel = ((y - top) * width + x)[inside]
    order = torch.sort(pixel, stable=True).indices  # keeps the order by depth within each pixel
    return _Fragments(ellipse[inside][order], x[inside][order], y[inside][order])


def _ranges(first: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the ranges first[i] .. first[i] + counts[i] - 1: the i of each number, and the number."""
    owner = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    ends = torch.cumsum(counts, 0)
    return owner, first[owner] + torch.arange(len(owner), device=counts.device) - (ends - counts)[owner]
