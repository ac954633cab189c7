# SPDX-License-Identifier: Apache-2.0
"""Calls the CPU's network kernels: one function for each, tensors in and out, no autograd.

Pictures are (B, H, W, C) float32 and contiguous. What each kernel computes stands in pcpr_ext/csrc/interface.h; the
readable references are the blocks in `npcr.renderers.gated_blocks` themselves.
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


def available() -> bool:
    """Whether the CPU library is there."""
    return pcpr_ext.library("cpu") is not None


def pack(weight: Tensor, gates: Tensor | None = None, *, transposed: bool = False) -> Tensor:
    """Weights (outputs, inputs, 3, 3) as `convolve` wants them, those of as many gates with them.

    transposed: for the gradient of the input; its channels are those of the outputs, then those of the gates.
    """
    weight = weight.detach().contiguous()
    gates = None if gates is None else gates.detach().contiguous()
    task = pcpr_ext.Pack(weights=weight.data_ptr(), gate_weights=_pointer(gates), outputs=weight.shape[0],
                         inputs=weight.shape[1], transposed=transposed, threads=torch.get_num_threads())
    packed = POOL.empty(_library().call("npcr_pack_floats", task))
    task.packed, task.packed_floats = packed.data_ptr(), packed.numel()
    _library().run(task)
    return packed


def convolve(sources: Sequence[Tensor], packed: Tensor, bias: Tensor | None, targets: Sequence[Tensor | int], *,
             gated: bool = False, scale: Tensor | None = None, shift: Tensor | None = None,
             opening: Tensor | None = None, sums: Tensor | None = None,
             window: tuple[int, int, int, int] | None = None) -> None:
    """3x3 convolution of up to three pictures, concatenated along the channels.

    targets: up to three (B, H, W, outputs_i), whose channels together are the result's; where one is not wanted, how
    many channels it would have. gated: conv * sigmoid(gate), for one target, into `opening` (B, H, W, outputs) the
    sigmoids as 16 bits (int16 here, unsigned in there), into `sums` (B, 2, outputs) float64 the sums of the result and
    of its squares; with scale and shift (outputs), ReLU(scale y + shift) is written. window: (left, top, right,
    bottom), the pixels to compute.
    """
    images, height, width, _ = sources[0].shape
    task = pcpr_ext.Convolve(packed=packed.data_ptr(), bias=_pointer(bias), scale=_pointer(scale),
                             shift=_pointer(shift), images=images, height=height, width=width,
                             region=(ctypes.c_int64 * 4)(*(window or (0, 0, width, height))), gated=gated,
                             gates=_pointer(opening), sums=_pointer(sums))
    _set_sources(task, sources)
    for i, target in enumerate(targets):
        if isinstance(target, int):
            task.outputs[i] = target
        else:
            task.targets[i], task.outputs[i] = target.data_ptr(), target.shape[3]
    _run(task, scratch=True)


def convolve_grad(sources: Sequence[tuple[Tensor, Tensor | None, Tensor | None]], grad_output: Tensor,
                  grad_weight: Tensor, grad_gates: Tensor | None = None) -> None:
    """The gradient of `convolve`'s weights into grad_weight (outputs, inputs, 3, 3), summed over the pictures, and of
    as many gates.

    sources: pictures (B, H, W, C_i) each, and scale and shift (B, C_i) where what was convolved is
    ReLU(scale picture + shift); grad_output: (B, H, W, outputs), gates behind the others.
    """
    images, height, width, _ = grad_output.shape
    task = pcpr_ext.ConvolveGrad(grad_output=grad_output.data_ptr(), images=images, height=height, width=width,
                                 outputs=len(grad_weight), grad_weights=grad_weight.data_ptr(),
                                 grad_gate_weights=_pointer(grad_gates))
    _set_sources(task, [pictures for pictures, *_ in sources])
    for i, (_, scale, shift) in enumerate(sources):
        task.scale[i], task.shift[i] = _pointer(scale), _pointer(shift)
    _run(task, scratch=True)


def gate_sums(values: Tensor, grad: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(B, 2, C) float64: each picture's sums of du and of du y, see `struct NpcrGate`."""
    sums = torch.empty(len(grad), 2, grad.shape[3], dtype=torch.float64)
    _run(_gate(values, grad, scale, shift, sums), "npcr_gate_sums")
    return sums


def gate_grad(values: Tensor, opening: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, *, of_grad: Tensor,
              of_value: Tensor, constant: Tensor, grad_raw: Tensor) -> Tensor:
    """Fills grad_raw (B, H, W, 2 C), the gradient of convolutions and gates; returns its sums, (B, 2 C) float64."""
    sums = torch.empty(len(grad), 2 * grad.shape[3], dtype=torch.float64)
    task = _gate(values, grad, scale, shift, sums)
    task.of_grad, task.of_value, task.constant = of_grad.data_ptr(), of_value.data_ptr(), constant.data_ptr()
    task.gates, task.grad_raw = opening.data_ptr(), grad_raw.data_ptr()
    _run(task, "npcr_gate_grad")
    return sums


def normalize(values: Tensor, scale: Tensor, shift: Tensor, output: Tensor) -> None:
    """ReLU(scale values + shift) of values (B, H, W, C) into `output`, which may be the same; scale, shift: (B, C)."""
    images, height, width, channels = values.shape
    _run(pcpr_ext.Normalize(values=values.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(), images=images,
                            pixels=height * width, channels=channels, output=output.data_ptr()))


def resize(pictures: Tensor, output: Tensor) -> None:
    """Pictures (B, H, W, C) into `output`: to (B, H // 2, W // 2, C) max-pool and anti-aliased stride 2, to at least
    twice the size bilinear doubling, aligned corners, zeros around it."""
    _run(_resample(pictures, output, input=pictures.data_ptr(), output=output.data_ptr()),
         "npcr_halve" if output.shape[1] < pictures.shape[1] else "npcr_double")


def resize_grad(pictures: Tensor | None, grad_output: Tensor, grad: Tensor) -> None:
    """The gradient of `resize` into `grad` (B, H, W, C); the pictures themselves are needed for halving only."""
    _run(_resample(grad, grad_output, input=_pointer(pictures), grad_output=grad_output.data_ptr(),
                   grad_input=grad.data_ptr()),
         "npcr_halve_grad" if grad_output.shape[1] < grad.shape[1] else "npcr_double_grad")


def _library() -> pcpr_ext.Library:
    library = pcpr_ext.library("cpu")
    assert library is not None, "the caller asks available() first"
    return library


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _set_sources(task: Any, sources: Sequence[Tensor]) -> None:
    for i, source in enumerate(sources):
        task.sources[i], task.channels[i] = source.data_ptr(), source.shape[-1]


def _gate(values: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, sums: Tensor) -> pcpr_ext.Gate:
    images, height, width, channels = grad.shape
    return pcpr_ext.Gate(values=values.data_ptr(), grad=grad.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
                         images=images, pixels=height * width, channels=channels, sums=sums.data_ptr())


def _resample(pictures: Tensor, target: Tensor, **pointers: int | None) -> pcpr_ext.Resample:
    images, height, width, channels = pictures.shape
    return pcpr_ext.Resample(images=images, height=height, width=width, channels=channels,
                             target_height=target.shape[1], target_width=target.shape[2], **pointers)


def _run(task: Any, name: str = "", *, scratch: bool = False) -> None:
    task.threads = torch.get_num_threads()
    if scratch:
        size = _library().scratch_bytes(task)
        kept: Tensor | None = getattr(_local, "scratch", None)
        if kept is None or kept.numel() * 4 < size:
            kept = _local.scratch = POOL.empty(size // 4 + 1)
        task.scratch, task.scratch_bytes = kept.data_ptr(), kept.numel() * 4
    _library().run(task, name)
