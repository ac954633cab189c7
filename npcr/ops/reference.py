# SPDX-License-Identifier: Apache-2.0
"""The readable reference of the kernels that rasterize and gather: same numbers, any device, plain torch.

`pcpr_ext/csrc/camera.h` is the other place that holds this arithmetic. Sums are written out, element by
element, because a matrix product may fuse or reorder them; every scalar is a float32 tensor on the points'
device, because torch may turn a division by a plain number into a product.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

FRAGMENTS_AT_A_TIME = 1 << 18  # bounds the memory; small enough for the allocator to keep it
EMPTY = torch.iinfo(torch.int64).max
_INDEX_BITS = 32


class Footprints(NamedTuple):
    """The points that cover pixels, and the pixels x0..x1 by y0..y1 of each, in the order of their indices."""

    key: Tensor  # (M,) int64: depth bits above, point index below; the smaller is nearer, or lower
    x0: Tensor  # (M,) int64, like the other three
    x1: Tensor
    y0: Tensor
    y1: Tensor

    def select(self, rows: Tensor) -> Footprints:
        """Those at `rows`, a mask or indices."""
        return Footprints(*(values[rows] for values in self))


def index_dtype(points: int) -> torch.dtype:
    """Choose the dtype of indices.

    Args:
        points: how many there are.

    Returns:
        torch.int32, or torch.int64 from 2**31 points on.
    """
    return torch.int32 if points < 2**31 else torch.int64


def rasterize(
    points: Tensor,
    cam_to_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
    max_size: float,
    layers: int,
    peeling: str,
) -> tuple[Tensor, Tensor]:
    """Rasterize as `npcr.ops.rasterize`.

    Args:
        points, cam_to_world, intrinsics, near, far, max_size, layers, peeling: as there.
        width, height: of the image in pixels.

    Returns:
        Index and depth, (B, K, H, W) each.
    """
    shape = (cam_to_world.shape[0], layers, height, width)
    index = torch.full(shape, -1, dtype=index_dtype(points.shape[0]), device=points.device)
    depth = torch.zeros(shape, dtype=torch.float32, device=points.device)
    for camera in range(shape[0]):
        splats = project(points, cam_to_world[camera], intrinsics[camera], width, height, near, far, max_size)
        peel = peel_points if peeling == "point" else peel_pixels
        for layer, keys in enumerate(peel(splats, width, height, layers)):
            filled = keys != EMPTY
            plane = keys.reshape(height, width)
            index[camera, layer][filled.reshape(height, width)] = _key_index(keys[filled]).to(index.dtype)
            depth[camera, layer] = torch.where(plane != EMPTY, _key_depth(plane), 0.0)
    return index, depth


def peel_points(splats: Footprints, width: int, height: int, layers: int) -> Iterator[Tensor]:
    """Peel layers by points: a point that is visible anywhere is removed before the next layer.

    Args:
        splats: of one camera.
        width, height: of the image in pixels.
        layers: K.

    Yields:
        The keys of the visible points, (H * W,) for each layer.
    """
    index = _key_index(splats.key)
    gone = torch.zeros(int(index[-1]) + 1 if len(index) else 0, dtype=torch.bool, device=index.device)
    for _ in range(layers):
        keys = nearest(splats, width, height)
        yield keys
        gone[_key_index(keys[keys != EMPTY])] = True
        splats = splats.select(~gone[_key_index(splats.key)])


def peel_pixels(splats: Footprints, width: int, height: int, layers: int) -> Iterator[Tensor]:
    """Peel layers by pixels: each pixel's nearest point, second nearest, and so on.

    Args:
        splats: of one camera.
        width, height: of the image in pixels.
        layers: K.

    Yields:
        The keys of the visible points, (H * W,) for each layer.
    """
    keys = None
    for _ in range(layers):
        keys = nearest(splats, width, height, beyond=keys)
        yield keys


def nearest(splats: Footprints, width: int, height: int, beyond: Tensor | None = None) -> Tensor:
    """Find the nearest point in each pixel.

    Args:
        splats: of one camera.
        width, height: of the image in pixels.
        beyond: (H * W,) keys; only points behind those of the same pixel count. None: all do.

    Returns:
        (H * W,) keys, the smallest of those that cover the pixel; `EMPTY` where there is none.
    """
    keys = torch.full((height * width,), EMPTY, dtype=torch.int64, device=splats.key.device)
    for rows, pixels in fragments(splats, width):
        candidates = splats.key[rows]
        if beyond is not None:
            candidates = torch.where(candidates > beyond[pixels], candidates, EMPTY)
        keys.scatter_reduce_(0, pixels, candidates, "amin")
    return keys


def fragments(splats: Footprints, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """List every pixel of every splat, a bounded number at a time.

    Args:
        splats: of one camera.
        width: of the image in pixels.

    Yields:
        Rows of `splats`, and as many pixels (y * width + x).
    """
    columns = splats.x1 - splats.x0 + 1
    areas = columns * (splats.y1 - splats.y0 + 1)
    ends = torch.cumsum(areas, 0)
    starts = ends - areas
    total = int(ends[-1]) if len(ends) else 0
    pieces = torch.arange(0, total, FRAGMENTS_AT_A_TIME, device=ends.device)
    limits = [*torch.searchsorted(starts, pieces).tolist(), len(ends)]
    for first, last in itertools.pairwise(limits):
        rows = torch.arange(first, last, device=ends.device).repeat_interleave(areas[first:last])
        within = torch.arange(len(rows), device=ends.device) + starts[first:last][:1] - starts[rows]
        x = splats.x0[rows] + within % columns[rows]
        y = splats.y0[rows] + within // columns[rows]
        yield rows, y * width + x


def project(
    points: Tensor,
    cam_to_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    near: float,
    far: float,
    max_size: float,
) -> Footprints:
    """Project points to the pixels that each covers, for one camera: `project` and `make_camera` of camera.h.

    Args:
        points: (N, 3) float32, world coordinates.
        cam_to_world: (4, 4) float32.
        intrinsics: (3, 3) float32.
        width, height: of the image in pixels.
        near, far, max_size: as in `npcr.ops.rasterize`.

    Returns:
        The points that cover at least one pixel.
    """
    near_depth, far_depth, largest = points.new_tensor([near, far, max_size]).unbind()
    world_to_cam = cam_to_world[:3, :3].T
    translation = [-_dot(row, *cam_to_world[:3, 3]) for row in world_to_cam]
    x, y, z = (_dot(row, *points.unbind(1)) + t for row, t in zip(world_to_cam, translation, strict=True))
    a, b, c = (_dot(row, x, y, z) for row in intrinsics)
    u, v = a / c, b / c
    radius = largest * (1 - (z - near_depth) / (far_depth - near_depth)).clamp(0, 1)
    usable = (z > 0) & torch.isfinite(z) & torch.isfinite(u) & torch.isfinite(v)
    rows = usable.nonzero()[:, 0]
    u, v, radius = u[rows], v[rows], radius[rows]
    # Clamping to one pixel outside the image first keeps huge values castable and changes no visible pixel.
    x0 = _round_half_away((u - radius).clamp(-1, width)).clamp_min(0)
    x1 = _round_half_away((u + radius).clamp(-1, width)).clamp_max(width - 1)
    y0 = _round_half_away((v - radius).clamp(-1, height)).clamp_min(0)
    y1 = _round_half_away((v + radius).clamp(-1, height)).clamp_max(height - 1)
    # Depths are positive, so their bits sort as the numbers do.
    key = (z[rows].view(torch.int32).long() << _INDEX_BITS) | rows
    return Footprints(key, x0, x1, y0, y1).select((x0 <= x1) & (y0 <= y1))


def gather(features: Tensor, default_feature: Tensor, index: Tensor) -> Tensor:
    """Gather as `npcr.ops.gather_features`.

    Args:
        features: (N, C).
        default_feature: (C,).
        index: (B, K, H, W).

    Returns:
        (B, K, H, W, C): rows of features, default_feature where index is negative.
    """
    if features.shape[0] == 0:
        return default_feature.expand(*index.shape, -1).contiguous()
    rows = features[index.clamp_min(0).long()]
    return torch.where(index.unsqueeze(-1) >= 0, rows, default_feature)


def scatter(grad: Tensor, index: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Compute the gradient of `gather`.

    Sums run in the order of the fragments on any device, in float32 at least (the default's in float64: it
    may be the sum over millions of pixels).

    Args:
        grad: (B, K, H, W, C), of the result of `gather`.
        index: (B, K, H, W).
        points: N, the rows of the features.

    Returns:
        (N, C) for the features and (C,) for the default feature.
    """
    channels = grad.shape[-1]
    grad_rows, flat = grad.reshape(-1, channels), index.reshape(-1).long()
    filled = flat >= 0
    grad_default = torch.where(filled[:, None], 0, grad_rows).sum(0, dtype=torch.float64)
    exact = torch.promote_types(grad.dtype, torch.float32)
    grad_features = torch.zeros(points, channels, dtype=exact, device=grad.device)
    added = grad_rows[filled].to(exact)
    if grad.device.type == "cuda":
        # index_add_ would use atomics on a GPU; this sorts.
        grad_features.index_put_((flat[filled],), added, accumulate=True)
    else:
        grad_features.index_add_(0, flat[filled], added)
    return grad_features.to(grad.dtype), grad_default.to(grad.dtype)


def _dot(row: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return (row[0] * x + row[1] * y) + row[2] * z


def _round_half_away(values: Tensor) -> Tensor:
    # torch.round takes halves to the even neighbor.
    whole = values.trunc()
    rest = values - whole
    return whole.long() + (rest >= 0.5).long() - (rest <= -0.5).long()


def _key_index(key: Tensor) -> Tensor:
    return key & ((1 << _INDEX_BITS) - 1)


def _key_depth(key: Tensor) -> Tensor:
    return (key >> _INDEX_BITS).to(torch.int32).view(torch.float32)
