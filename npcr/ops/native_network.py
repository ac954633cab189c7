# SPDX-License-Identifier: Apache-2.0
"""The calls of the CPU's network kernels: one function for each, tensors in and out, no autograd.

Feature maps are (B, H, W, C) float32 and contiguous. What each kernel computes stands in pcpr_ext/csrc/interface.h; the
readable reference are the blocks of `npcr.renderers.gated_blocks`.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import pcpr_ext
from npcr.ops.memory import POOL

_local = threading.local()


def pack(weight: Tensor, gate_weight: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """Bring weights into the form that `convolve` takes.

    Args:
        weight: (outputs, inputs, 3, 3).
        gate_weight: as many weights of the gates, packed with them; None where there are no gates.
        transposed: pack for the gradient of the input; its channels are those of the outputs, then those of the gates.

    Returns:
        The packed weights, one dimension.
    """
    weight = weight.detach().contiguous()
    gate_weight = None if gate_weight is None else gate_weight.detach().contiguous()
    task = pcpr_ext.Pack(weights=weight.data_ptr(), gate_weights=_pointer(gate_weight), outputs=weight.shape[0],
                         inputs=weight.shape[1], transposed=transposed, threads=torch.get_num_threads())
    packed = POOL.empty(library().call("npcr_pack_floats", task))
    task.packed, task.packed_floats = packed.data_ptr(), packed.numel()
    library().run(task)
    return packed


def convolve(sources: Sequence[Tensor], packed: Tensor, bias: Tensor | None, targets: Sequence[Tensor | int], *,
             gated: bool = False, scale: Tensor | None = None, shift: Tensor | None = None,
             gates: Tensor | None = None, sums: Tensor | None = None,
             region: tuple[int, int, int, int] | None = None) -> None:
    """Convolve up to three feature maps, concatenated along the channels, with 3x3 kernels and padding 1.

    Args:
        sources: (B, H, W, inputs_i) each.
        packed: weights, as `pack` gives them.
        bias: (outputs,), or (2 outputs,) where gated; None for none, where not gated.
        targets: up to three (B, H, W, outputs_i) to be filled, whose channels together are the result's; where one is
            not wanted, its number of channels.
        gated: compute y = conv * sigmoid(gate), for one target.
        scale, shift: (outputs,) each; with them the target is ReLU(scale y + shift). Gated only.
        gates: (B, H, W, outputs) int16 to be filled with the sigmoids as unsigned 16-bit numbers. Gated only.
        sums: (B, 2, outputs) float64 to be filled with the sums of y and of its squares. Gated only.
        region: (left, top, right, bottom), the pixels to compute; None: all.
    """
    images, height, width, _ = sources[0].shape
    task = pcpr_ext.Convolve(packed=packed.data_ptr(), bias=_pointer(bias), scale=_pointer(scale),
                             shift=_pointer(shift), images=images, height=height, width=width,
                             region=(ctypes.c_int64 * 4)(*(region or (0, 0, width, height))), gated=gated,
                             gates=_pointer(gates), sums=_pointer(sums))
    _set_sources(task, sources)
    for i, target in enumerate(targets):
        if isinstance(target, int):
            task.outputs[i] = target
        else:
            task.targets[i], task.outputs[i] = target.data_ptr(), target.shape[3]
    _run(task, scratch=True)


def convolve_grad(sources: Sequence[tuple[Tensor, Tensor | None, Tensor | None]], grad_output: Tensor,
                  grad_weight: Tensor, grad_gate_weight: Tensor | None = None) -> None:
    """Compute the gradient of `convolve` in the weights, summed over the images.

    Args:
        sources: feature maps (B, H, W, inputs_i), each with scale and shift (B, inputs_i) where what was convolved is
            ReLU(scale map + shift), else None.
        grad_output: (B, H, W, outputs), or (B, H, W, 2 outputs) where gated, gates last.
        grad_weight: (outputs, inputs, 3, 3) to be filled.
        grad_gate_weight: likewise, where gated.
    """
    images, height, width, _ = grad_output.shape
    task = pcpr_ext.ConvolveGrad(grad_output=grad_output.data_ptr(), images=images, height=height, width=width,
                                 outputs=len(grad_weight), grad_weights=grad_weight.data_ptr(),
                                 grad_gate_weights=_pointer(grad_gate_weight))
    _set_sources(task, [values for values, *_ in sources])
    for i, (_, scale, shift) in enumerate(sources):
        task.scale[i], task.shift[i] = _pointer(scale), _pointer(shift)
    _run(task, scratch=True)


def gate_sums(values: Tensor, grad: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Sum what the gradient of a gated layer's norm needs (`struct NpcrGate`).

    Args:
        values: (B, H, W, C), y of `convolve`.
        grad: (B, H, W, C), of z = ReLU(scale y + shift).
        scale, shift: (B, C).

    Returns:
        (B, 2, C) float64: each image's sums of du and of du y, where du is grad where z > 0, else 0.
    """
    sums = torch.empty(len(grad), 2, grad.shape[3], dtype=torch.float64)
    _run(_gate(values, grad, scale, shift, sums), "npcr_gate_sums")
    return sums


def gate_grad(values: Tensor, gates: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, *, of_grad: Tensor,
              of_value: Tensor, constant: Tensor, grad_raw: Tensor) -> Tensor:
    """Compute the gradient of convolutions and gates for dy = of_grad du + of_value y + constant (`struct NpcrGate`).

    Args:
        values, grad, scale, shift: as in `gate_sums`.
        gates: (B, H, W, C) int16, as `convolve` filled them.
        of_grad, of_value, constant: (B, C).
        grad_raw: (B, H, W, 2 C) to be filled, gates last.

    Returns:
        (B, 2 C) float64, the sums of grad_raw.
    """
    sums = torch.empty(len(grad), 2 * grad.shape[3], dtype=torch.float64)
    task = _gate(values, grad, scale, shift, sums)
    task.of_grad, task.of_value, task.constant = of_grad.data_ptr(), of_value.data_ptr(), constant.data_ptr()
    task.gates, task.grad_raw = gates.data_ptr(), grad_raw.data_ptr()
    _run(task, "npcr_gate_grad")
    return sums


def normalize(values: Tensor, scale: Tensor, shift: Tensor, output: Tensor) -> None:
    """Compute ReLU(scale values + shift).

    Args:
        values: (B, H, W, C).
        scale, shift: (B, C).
        output: (B, H, W, C) to be filled; may be values.
    """
    images, height, width, channels = values.shape
    _run(pcpr_ext.Normalize(values=values.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(), images=images,
                            pixels=height * width, channels=channels, output=output.data_ptr()))


def resize(values: Tensor, output: Tensor) -> None:
    """Halve or double a feature map.

    Args:
        values: (B, H, W, C).
        output: to be filled. (B, H // 2, W // 2, C): max-pool and anti-aliased stride 2. At least twice the size:
            bilinear doubling, aligned corners, zeros around it.
    """
    _run(_resample(values, output, input=values.data_ptr(), output=output.data_ptr()),
         "npcr_halve" if output.shape[1] < values.shape[1] else "npcr_double")


def resize_grad(values: Tensor | None, grad_output: Tensor, grad: Tensor) -> None:
    """Compute the gradient of `resize`.

    Args:
        values: (B, H, W, C), as given to `resize`; needed for halving only.
        grad_output: of the result.
        grad: (B, H, W, C) to be filled.
    """
    _run(_resample(grad, grad_output, input=_pointer(values), grad_output=grad_output.data_ptr(),
                   grad_input=grad.data_ptr()),
         "npcr_halve_grad" if grad_output.shape[1] < grad.shape[1] else "npcr_double_grad")


def library() -> pcpr_ext.Library:
    """Return the CPU's library.

    Returns:
        The library, which is there: the caller checks `npcr.ops.dispatch.use_compiled` first.
    """
    found = pcpr_ext.library("cpu")
    assert found is not None
    return found


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _set_sources(task: Any, sources: Sequence[Tensor]) -> None:
    for i, source in enumerate(sources):
        task.sources[i], task.channels[i] = source.data_ptr(), source.shape[-1]


def _gate(values: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, sums: Tensor) -> pcpr_ext.Gate:
    images, height, width, channels = grad.shape
    return pcpr_ext.Gate(values=values.data_ptr(), grad=grad.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
                         images=images, pixels=height * width, channels=channels, sums=sums.data_ptr())


def _resample(values: Tensor, target: Tensor, **pointers: int | None) -> pcpr_ext.Resample:
    images, height, width, channels = values.shape
    return pcpr_ext.Resample(images=images, height=height, width=width, channels=channels,
                             target_height=target.shape[1], target_width=target.shape[2], **pointers)


def _run(task: Any, name: str = "", *, scratch: bool = False) -> None:
    task.threads = torch.get_num_threads()
    if scratch:
        size = library().scratch_bytes(task)
        kept: Tensor | None = getattr(_local, "scratch", None)
        if kept is None or kept.numel() * 4 < size:
            kept = _local.scratch = POOL.empty(size // 4 + 1)
        task.scratch, task.scratch_bytes = kept.data_ptr(), kept.numel() * 4
    library().run(task, name)
