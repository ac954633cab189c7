# SPDX-License-Identifier: Apache-2.0
"""The calls of the CPU's kernel for shared colors; `npcr.renderers.color_field` has their reference in torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import pcpr_ext
from npcr.ops.native import empty, run
from npcr.ops.native_network import library


def interpolate(values: Tensor, places: Tensor, strands: Tensor, box: Tensor) -> Tensor:
    """Evaluate the shared colors of splats. All tensors are float32, contiguous and on a CPU.

    Args:
        values: (nodes³, 18), x fastest: a color for each of the six functions of a strand's direction.
        places: (N, 3) world coordinates.
        strands: (N, 3) directions, of a length of 0 to 1.
        box: (2, 3) lowest and highest corner of the grid.

    Returns:
        (N, 3).
    """
    colors = empty(places.shape, places.device)
    task = _task(values, places, strands, box, colors)
    task.threads = torch.get_num_threads()
    library().run(task)
    return colors


def interpolate_grad(shape: torch.Size, places: Tensor, strands: Tensor, box: Tensor, grad: Tensor) -> Tensor:
    """Compute the gradient of `interpolate` with respect to the values; it is added up in a fixed order.

    Args:
        shape: of the values.
        places, strands, box: as given to it.
        grad: (N, 3), of its result.

    Returns:
        (nodes³, 18).
    """
    grad_values = empty(shape, places.device)
    run(_task(grad_values, places, strands, box, grad), places.device, "npcr_color_field_grad")
    return grad_values


def _task(values: Tensor, places: Tensor, strands: Tensor, box: Tensor, colors: Tensor) -> Any:
    return pcpr_ext.ColorField(places=places.data_ptr(), strands=strands.data_ptr(), box=box.data_ptr(),
                               count=len(places), nodes=round(len(values) ** (1 / 3)), values=values.data_ptr(),
                               colors=colors.data_ptr())
