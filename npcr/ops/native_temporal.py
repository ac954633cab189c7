# SPDX-License-Identifier: Apache-2.0
"""The calls of the CPU's kernels for camera paths: one function for each, tensors in and out, no autograd.

What each computes stands in pcpr_ext/csrc/interface.h. The readable references are `surface_depth_reference` of
`npcr.temporal.reprojection` and `DefaultBlender` of `npcr.temporal.blending`, in torch.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import pcpr_ext
from npcr.ops.memory import POOL
from npcr.ops.native_network import library

Box = tuple[int, int, int, int]  # left, top, columns, rows


def surface_depth(depth: Tensor, box: Box, surface: Tensor) -> None:
    """Estimate the surface that the nearest points of a frame make up.

    Args:
        depth: (H, W) float32, contiguous, 0 where empty.
        box: the pixels to fill, which has all that are not empty, and a margin of one.
        surface: (H, W) to be filled there.
    """
    task = pcpr_ext.SurfaceDepth(depth=depth.data_ptr(), surface=surface.data_ptr())
    _set_box(task, depth.shape, box)
    nearest = POOL.empty(box[2] * box[3])
    task.nearest = nearest.data_ptr()
    library().run(task)


def blend(image: Tensor, surface: Tensor, images: Sequence[Tensor], surfaces: Sequence[Tensor], *, mappings: Tensor,
          turns: Tensor, shares: Tensor, box: Box, depth_tolerance: float, color_factor: float,
          blended: Tensor) -> None:
    """Average the detail of a frame over its neighbors. All tensors are float32 and contiguous.

    Args:
        image: (H, W, 4) premultiplied.
        surface: (H, W), of `surface_depth`.
        images, surfaces: those of the N neighbors.
        mappings: (N, 3, 4), from (x z, y z, z, 1) of a pixel (x, y) with depth z to a neighbor's (u z', v z', z').
        turns: (N,) squared angles to their cameras, 1 at a confidence of 1/e.
        shares: (N,) the most that each counts, beside the frame's 1.
        box: the pixels to blend.
        depth_tolerance: relative, above 0.
        color_factor: of the squared distance of colors, in the exponent of the confidence.
        blended: (4, H, W), the frame itself, to which the change is added.
    """
    pointers = ctypes.c_void_p * len(images)
    of_images = pointers(*(one.data_ptr() for one in images))
    of_surfaces = pointers(*(one.data_ptr() for one in surfaces))
    task = pcpr_ext.Blend(
        image=image.data_ptr(), surface=surface.data_ptr(), mappings=mappings.data_ptr(), turns=turns.data_ptr(),
        shares=shares.data_ptr(), neighbors=len(images), depth_tolerance=depth_tolerance, color_factor=color_factor,
        blended=blended.data_ptr(), images=ctypes.addressof(of_images), surfaces=ctypes.addressof(of_surfaces))
    _set_box(task, surface.shape, box)
    scratch = POOL.empty(library().scratch_bytes(task) // 4)
    task.scratch, task.scratch_bytes = scratch.data_ptr(), scratch.numel() * 4
    library().run(task)


def _set_box(task: Any, shape: torch.Size, box: Box) -> None:
    task.height, task.width = shape
    task.left, task.top, task.columns, task.rows = box
    task.threads = torch.get_num_threads()
