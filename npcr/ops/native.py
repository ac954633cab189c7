# SPDX-License-Identifier: Apache-2.0
"""The calls of the native libraries' kernels: torch allocates, `pcpr_ext` computes."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import pcpr_ext
from npcr.ops.memory import POOL
from npcr.ops.reference import index_dtype

_local = threading.local()


def available(device: str | torch.device = "cpu") -> bool:
    """Return whether there are compiled kernels that run on a device.

    Args:
        device: a torch device or its name.

    Returns:
        True where there are.
    """
    return not why_missing(torch.device(device))


def why_missing(device: torch.device) -> str:
    """Explain why there are no kernels for a device, and what to do.

    Args:
        device: of the operator's arguments.

    Returns:
        A sentence; empty where there are kernels.
    """
    if device.type not in pcpr_ext.KINDS:
        return f"there are no compiled kernels for {device.type} devices"
    if device.type == "cuda" and not torch.cuda.is_available():
        return "torch finds no CUDA device"
    library = pcpr_ext.library(device.type)
    if library is None:
        return pcpr_ext.why_missing(device.type)
    return "" if device.type == "cpu" else _why_not_on_gpu(library, device)


@functools.cache
def _why_not_on_gpu(library: pcpr_ext.Library, device: torch.device) -> str:
    with torch.cuda.device(device):
        reason = library.why_not_ready()
    if not reason:
        return ""
    name, arch = torch.cuda.get_device_name(device), "{}{}".format(*torch.cuda.get_device_capability(device))
    return (f"{library.path} on {name}: {reason}. Run 'NPCR_CUDA_ARCHS={arch} python -m pcpr_ext.build' on this "
            "machine (docs/versions.md)")


def release_scratch() -> None:
    """Free the memory that this thread keeps between calls (some 16 bytes a point, on the CPU)."""
    _local.scratch = None
    POOL.release()


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
    """Run the kernel of `npcr.ops.rasterize`.

    Args:
        points, cam_to_world, intrinsics, near, far, max_size, layers, peeling: as there.
        width, height: of the image in pixels.

    Returns:
        Index and depth, (B, K, H, W) each.
    """
    points, cam_to_world, intrinsics = points.contiguous(), cam_to_world.contiguous(), intrinsics.contiguous()
    shape = (cam_to_world.shape[0], layers, height, width)
    index = empty(shape, points.device, index_dtype(points.shape[0]))
    depth = empty(shape, points.device)
    task = pcpr_ext.Rasterize(
        points=points.data_ptr(),
        cam_to_world=cam_to_world.data_ptr(),
        intrinsics=intrinsics.data_ptr(),
        point_count=points.shape[0],
        cameras=shape[0],
        width=width,
        height=height,
        layers=layers,
        near_depth=near,
        far_depth=far,
        max_size=max_size,
        peel_pixels=int(peeling == "pixel"),
        index_bytes=index.element_size(),
        index=index.data_ptr(),
        depth=depth.data_ptr(),
    )
    run(task, points.device)
    return index, depth


def gather(features: Tensor, default_feature: Tensor, index: Tensor) -> Tensor:
    """Run the kernel of `npcr.ops.gather_features`.

    Args:
        features: (N, C) float32.
        default_feature: (C,) float32.
        index: (B, K, H, W) int32 or int64.

    Returns:
        (B, K, H, W, C): rows of features, default_feature where index is negative.
    """
    features, default_feature, index = features.contiguous(), default_feature.contiguous(), index.contiguous()
    shape = (*index.shape, features.shape[1])
    output = empty(shape, features.device)
    task = pcpr_ext.Gather(
        features=features.data_ptr(),
        default_feature=default_feature.data_ptr(),
        index=index.data_ptr(),
        point_count=features.shape[0],
        channels=features.shape[1],
        fragments=index.numel(),
        index_bytes=index.element_size(),
        output=output.data_ptr(),
    )
    run(task, features.device)
    return output


def scatter(grad: Tensor, index: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Compute the gradient of `gather`.

    Args:
        grad: (B, K, H, W, C) float32, of the result of `gather`.
        index: (B, K, H, W) int32 or int64.
        points: N, the rows of the features.

    Returns:
        (N, C) for the features and (C,) for the default feature.
    """
    grad, index = grad.contiguous(), index.contiguous()
    channels = grad.shape[-1]
    grad_features = empty((points, channels), grad.device).zero_()
    grad_default = grad.new_empty(channels)
    rows, order = index, None
    if grad.device.type == "cuda":
        # Brings each point's fragments together, in their order: no atomics, so the sums are repeatable.
        rows, order = torch.sort(index.reshape(-1), stable=True)
    task = pcpr_ext.Scatter(
        grad_output=grad.data_ptr(),
        index=rows.data_ptr(),
        order=None if order is None else order.data_ptr(),
        point_count=points,
        channels=channels,
        fragments=index.numel(),
        index_bytes=index.element_size(),
        grad_features=grad_features.data_ptr(),
        grad_default=grad_default.data_ptr(),
    )
    run(task, grad.device)
    return grad_features, grad_default


def composite(dots: Tensor, points: Tensor, index: Tensor, depth: Tensor, background: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel of `npcr.ops.composite_dots`.

    Args:
        dots, points, index, depth, background: as there, all contiguous and, but for index, float32.

    Returns:
        (H, W, C + 1) values and coverage, and (H, W) the mean depth.
    """
    shape = (*index.shape[1:], len(background) + 1)
    image, mean_depth = empty(shape, dots.device), empty(shape[:2], dots.device)
    task = pcpr_ext.Composite(**_composite_inputs(dots, points, index, background), depth=depth.data_ptr(),
                              image=image.data_ptr(), mean_depth=mean_depth.data_ptr())
    run(task, dots.device)
    return image, mean_depth


def composite_grad(dots: Tensor, points: Tensor, index: Tensor, background: Tensor,
                   grad_image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradient of `composite`.

    Args:
        dots, points, index, background: as given to `composite`.
        grad_image: (H, W, C + 1), of the image.

    Returns:
        The gradients of dots, points and background.
    """
    grads = (empty(dots.shape, dots.device).zero_(), empty(points.shape, dots.device).zero_(),
             torch.empty_like(background))
    order = None
    if dots.device.type == "cuda":
        # As in `scatter`: each point's fragments together, in their order.
        owners = torch.div(index.reshape(-1), len(dots) // len(points), rounding_mode="floor")
        order = torch.sort(owners, stable=True).indices
    task = pcpr_ext.CompositeGrad(**_composite_inputs(dots, points, index, background),
                                  grad_image=grad_image.data_ptr(), order=None if order is None else order.data_ptr(),
                                  grad_dots=grads[0].data_ptr(), grad_points=grads[1].data_ptr(),
                                  grad_background=grads[2].data_ptr())
    run(task, dots.device)
    return grads


def _composite_inputs(dots: Tensor, points: Tensor, index: Tensor, background: Tensor) -> dict[str, int]:
    layers, height, width = index.shape
    return {"dots": dots.data_ptr(), "points": points.data_ptr(), "index": index.data_ptr(),
            "background": background.data_ptr(), "dot_count": len(dots), "point_count": len(points),
            "channels": len(background), "layers": layers, "height": height, "width": width,
            "index_bytes": index.element_size()}


def empty(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """Allocate memory for a kernel's result.

    On a CPU it comes from memory that is kept: fresh memory costs a page fault per 4 KiB.

    Args:
        shape: of the result.
        device: where it lies.
        dtype: of its elements.

    Returns:
        A contiguous tensor of any content.
    """
    if device.type == "cpu":
        return POOL.empty(*shape, dtype=dtype)
    return torch.empty(tuple(shape), dtype=dtype, device=device)


def run(task: Any, device: torch.device, name: str = "") -> None:
    """Run a kernel on torch's current stream and number of threads, with the scratch memory that it needs.

    Args:
        task: a structure of `pcpr_ext`, complete but for these.
        device: of all its memory.
        name: of the function; empty: that which the structure is named after.

    Raises:
        KernelError: the kernel refused its arguments.
    """
    library = pcpr_ext.library(device.type)
    assert library is not None, "the caller checks available() first"
    guard: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
    if device.type == "cuda":
        guard = torch.cuda.device(device)
        task.stream = torch.cuda.current_stream(device).cuda_stream
    else:
        task.threads = torch.get_num_threads()
    with guard:
        if hasattr(task, "scratch"):
            scratch = _scratch(library.scratch_bytes(task, name), device)
            task.scratch, task.scratch_bytes = scratch.data_ptr(), scratch.numel()
        library.run(task, name)


def _scratch(size: int, device: torch.device) -> Tensor:
    # On a GPU torch's allocator reuses memory, in stream order. On a CPU each thread keeps what it last needed; the
    # pool's memory comes in large pages, which matters where records are spread over all of it.
    if device.type == "cuda":
        return torch.empty(size, dtype=torch.uint8, device=device)
    kept: Tensor | None = getattr(_local, "scratch", None)
    if kept is None or kept.numel() < size:
        _local.scratch = None  # the old block goes before the new one comes
        kept = _local.scratch = POOL.empty(size, dtype=torch.uint8)
    return kept
