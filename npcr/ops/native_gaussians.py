# SPDX-License-Identifier: Apache-2.0
"""The calls of the Gaussians' kernels: torch allocates, `pcpr_ext` computes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import pcpr_ext
from npcr.ops.checks import OperatorError
from npcr.ops.native import empty, run

TILE = 16  # pixels of a tile's side, as kTile in ellipse.h
MAX_PAIRS = 2**31 - 1


class TilePairs(NamedTuple):
    """Which ellipses lie in which tile (`NpcrTilePairs` in interface.h)."""

    order: Tensor  # (N,) int32
    offsets: Tensor  # (N + 1,) int64
    starts: Tensor  # (tiles + 1,) int64
    members: Tensor  # (pairs,) int32
    slots: Tensor  # (pairs,) int32


class Visibility(NamedTuple):
    """What the gradient of compositing needs to know of the way there (`NpcrCompositeGaussians`)."""

    pairs: TilePairs
    passing: Tensor  # (H, W)
    ends: Tensor  # (H, W) int32
    blocks: Tensor | None  # (pairs,) int32, on a CPU


def project(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor, intrinsics: Tensor,
            size: tuple[int, int], filter_variance: float, min_share: float) -> Tensor:
    """Run the kernel of `npcr.ops.project_gaussians`.

    Args:
        means, strands, widths, opacities, cam_to_world, intrinsics, size, filter_variance, min_share: as there, tensors
            contiguous and float32.

    Returns:
        (N, 8).
    """
    ellipses = empty((len(means), 8), means.device)
    tensors = (means, strands, widths, opacities, cam_to_world, intrinsics)
    run(pcpr_ext.ProjectGaussians(**_projection(*tensors, size, filter_variance, min_share),
                                  ellipses=ellipses.data_ptr()), means.device)
    return ellipses


def project_grad(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor,
                 intrinsics: Tensor, ellipses: Tensor, grad: Tensor, size: tuple[int, int], filter_variance: float,
                 min_share: float, *, with_camera: bool) -> tuple[Tensor | None, ...]:
    """Compute the gradient of `project`.

    Args:
        means, strands, widths, opacities, cam_to_world, intrinsics, size, filter_variance, min_share: as given to it.
        ellipses: its result.
        grad: (N, 8), of that.
        with_camera: whether the camera's gradients are wanted.

    Returns:
        The gradients of the six tensors, in order; None for the camera's where they are not wanted.
    """
    tensors = (means, strands, widths, opacities, cam_to_world, intrinsics)
    grads = [empty(tensor.shape, tensor.device) for tensor in tensors[:4]]
    camera = empty((21,), means.device) if with_camera else None
    task = pcpr_ext.ProjectGaussiansGrad(
        **_projection(*tensors, size, filter_variance, min_share), ellipses=ellipses.data_ptr(),
        grad_ellipses=grad.data_ptr(), grad_means=grads[0].data_ptr(), grad_strands=grads[1].data_ptr(),
        grad_widths=grads[2].data_ptr(), grad_opacities=grads[3].data_ptr(),
        grad_camera=None if camera is None else camera.data_ptr())
    run(task, means.device)
    if camera is None:
        return (*grads, None, None)
    return (*grads, torch.cat([camera[:12].view(3, 4), camera.new_zeros(1, 4)]), camera[12:].view(3, 3))


def composite(ellipses: Tensor, values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Visibility]:
    """Run the kernels of `npcr.ops.composite_gaussians`.

    Args:
        ellipses, values, size: as there, tensors contiguous and float32.

    Returns:
        Image and mean depth as there, and what `composite_grad` needs.
    """
    device, (width, height) = ellipses.device, size
    image, mean_depth = empty((height, width, values.shape[1] + 1), device), empty((height, width), device)
    pairs = tile_pairs(ellipses, size)
    blocks = empty(pairs.members.shape, device, torch.int32) if device.type == "cpu" else None
    visibility = Visibility(pairs, empty((height, width), device), empty((height, width), device, torch.int32), blocks)
    run(pcpr_ext.CompositeGaussians(**_compositing(ellipses, values, visibility), image=image.data_ptr(),
                                    mean_depth=mean_depth.data_ptr()), device)
    return image, mean_depth, visibility


def composite_grad(ellipses: Tensor, values: Tensor, visibility: Visibility,
                   grad_image: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradient of `composite`.

    Args:
        ellipses, values: as given to it.
        visibility: as it gave it.
        grad_image: (H, W, C + 1), of the image.

    Returns:
        The gradients of ellipses and values.
    """
    grads = empty(ellipses.shape, ellipses.device), empty(values.shape, values.device)
    pairs = visibility.pairs
    run(pcpr_ext.CompositeGaussiansGrad(
        **_compositing(ellipses, values, visibility), order=pairs.order.data_ptr(), offsets=pairs.offsets.data_ptr(),
        slots=pairs.slots.data_ptr(), grad_image=grad_image.data_ptr(), grad_ellipses=grads[0].data_ptr(),
        grad_values=grads[1].data_ptr()), ellipses.device)
    return grads


def tile_pairs(ellipses: Tensor, size: tuple[int, int]) -> TilePairs:
    """List the ellipses of each tile, near ones first; waits for the device once, to learn how long the lists are.

    Args:
        ellipses: (N, 8) float32, contiguous.
        size: (width, height).

    Returns:
        The lists.

    Raises:
        OperatorError: there are too many pairs of a tile and an ellipse.
    """
    device, count = ellipses.device, len(ellipses)
    tiles = -(-size[0] // TILE) * -(-size[1] // TILE)
    order = empty((count,), device, torch.int32)
    offsets, starts = empty((count + 1,), device, torch.int64), empty((tiles + 1,), device, torch.int64)
    kept = empty((count,), device, torch.int32) if device.type == "cpu" else None
    task = pcpr_ext.TilePairs(ellipses=ellipses.data_ptr(), count=count, width=size[0], height=size[1],
                              order=order.data_ptr(), offsets=offsets.data_ptr(), starts=starts.data_ptr(),
                              tiles=None if kept is None else kept.data_ptr())
    run(task, device, "npcr_count_pairs")
    total = int(offsets[-1])
    if total > MAX_PAIRS:
        raise OperatorError(f"composite_gaussians: {count} ellipses reach {total} tiles of {TILE} x {TILE} pixels, "
                            f"more than {MAX_PAIRS}; render a smaller image, or fewer or smaller Gaussians")
    members, slots = empty((total,), device, torch.int32), empty((total,), device, torch.int32)
    task.pairs, task.members, task.slots = total, members.data_ptr(), slots.data_ptr()
    run(task, device, "npcr_list_pairs")
    return TilePairs(order, offsets, starts, members, slots)


def _projection(means: Tensor, strands: Tensor, widths: Tensor, opacities: Tensor, cam_to_world: Tensor,
                intrinsics: Tensor, size: tuple[int, int], filter_variance: float,
                min_share: float) -> dict[str, float]:
    return {"means": means.data_ptr(), "strands": strands.data_ptr(), "widths": widths.data_ptr(),
            "opacities": opacities.data_ptr(), "cam_to_world": cam_to_world.data_ptr(),
            "intrinsics": intrinsics.data_ptr(), "count": len(means), "width": size[0], "height": size[1],
            "filter_variance": filter_variance, "min_share": min_share}


def _compositing(ellipses: Tensor, values: Tensor, visibility: Visibility) -> dict[str, int | None]:
    pairs, (height, width) = visibility.pairs, visibility.ends.shape
    return {"ellipses": ellipses.data_ptr(), "values": values.data_ptr(), "starts": pairs.starts.data_ptr(),
            "members": pairs.members.data_ptr(), "passing": visibility.passing.data_ptr(),
            "ends": visibility.ends.data_ptr(),
            "blocks": None if visibility.blocks is None else visibility.blocks.data_ptr(),
            "count": len(ellipses), "channels": values.shape[1], "width": width,
            "height": height, "pairs": len(pairs.members)}
