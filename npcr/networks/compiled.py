# SPDX-License-Identifier: Apache-2.0
"""Calls the CPU's network kernels: one function for each, tensors in and out, no autograd.

Pictures are (H, W, C) float32 and contiguous. What each kernel computes stands in pcpr_ext/csrc/interface.h; the
readable twins are the blocks in `npcr.networks.blocks` themselves.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import pcpr_ext
from npcr.memory import POOL

_local = threading.local()


def available() -> bool:
    """Whether the CPU library is there."""
    return pcpr_ext.library("cpu") is not None


def pack(weight: Tensor, *, gated: bool = False, transposed: bool = False) -> Tensor:
    """Weights (outputs, inputs, 3, 3) as `convolve` wants them.

    gated: the outputs are convolutions, then as many gates. transposed: for the gradient of the input.
    """
    weight = weight.detach().contiguous()
    task = pcpr_ext.Pack(weights=weight.data_ptr(), outputs=weight.shape[0], inputs=weight.shape[1], gated=gated,
                         transposed=transposed, threads=torch.get_num_threads())
    packed = POOL.empty(_library().ask("npcr_pack_floats", task))
    task.packed, task.packed_floats = packed.data_ptr(), packed.numel()
    _library().run(task)
    return packed


def convolve(sources: Sequence[Tensor], packed: Tensor, bias: Tensor | None, output: Tensor, *,
             gated: bool = False, scale: Tensor | None = None, shift: Tensor | None = None,
             opening: Tensor | None = None, sums: Tensor | None = None,
             window: tuple[int, int, int, int] | None = None) -> None:
    """3x3 convolution of up to three pictures, concatenated along the channels, into `output` (H, W, outputs).

    gated: conv * sigmoid(gate), into `opening` (H, W, outputs) the sigmoids, into `sums` (2, outputs) float64 the sums
    of the result and of its squares; with scale and shift (outputs), ReLU(scale y + shift) is written.
    window: (left, top, right, bottom), the pixels to compute.
    """
    height, width, outputs = output.shape
    task = pcpr_ext.Convolve(packed=packed.data_ptr(), bias=_pointer(bias), scale=_pointer(scale),
                             shift=_pointer(shift), height=height, width=width, outputs=outputs,
                             window=(ctypes.c_int64 * 4)(*(window or (0, 0, width, height))), gated=gated,
                             output=output.data_ptr(), open=_pointer(opening), sums=_pointer(sums))
    _set_sources(task, sources)
    _run(task, scratch=True)


def convolve_grad(sources: Sequence[tuple[Tensor, Tensor | None, Tensor | None]], grad_output: Tensor,
                  grad_weight: Tensor) -> None:
    """The gradient of `convolve`'s weights into grad_weight (outputs, inputs, 3, 3), summed over the pictures.

    sources: pictures (B, H, W, C_i) each, and scale and shift (B, C_i) where what was convolved is
    ReLU(scale picture + shift); grad_output: (B, H, W, outputs).
    """
    images, height, width, outputs = grad_output.shape
    task = pcpr_ext.ConvolveGrad(grad_output=grad_output.data_ptr(), images=images, height=height, width=width,
                                 outputs=outputs, grad_weights=grad_weight.data_ptr())
    _set_sources(task, [pictures for pictures, *_ in sources])
    for i, (_, scale, shift) in enumerate(sources):
        task.scale[i], task.shift[i] = _pointer(scale), _pointer(shift)
    _run(task, scratch=True)


def gate_sums(values: Tensor, grad: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(2, C) float64: sums of du and of du y, see `struct NpcrGate`."""
    sums = torch.empty(2, grad.shape[-1], dtype=torch.float64)
    _run(_gate(values, grad, scale, shift, sums), "npcr_gate_sums")
    return sums


def gate_grad(values: Tensor, opening: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, *, of_grad: Tensor,
              of_value: Tensor, constant: Tensor, grad_raw: Tensor) -> Tensor:
    """Fills grad_raw (H, W, 2 C), the gradient of convolutions and gates; returns its sums, (2 C) float64."""
    sums = torch.empty(2 * grad.shape[-1], dtype=torch.float64)
    task = _gate(values, grad, scale, shift, sums)
    task.of_grad, task.of_value, task.constant = of_grad.data_ptr(), of_value.data_ptr(), constant.data_ptr()
    task.open, task.grad_raw = opening.data_ptr(), grad_raw.data_ptr()
    _run(task, "npcr_gate_grad")
    return sums


def normalise(values: Tensor, scale: Tensor, shift: Tensor, output: Tensor) -> None:
    """ReLU(scale values + shift) of values (H, W, C) into `output`, which may be the same."""
    channels = values.shape[-1]
    _run(pcpr_ext.Normalise(values=values.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
                            pixels=values.numel() // channels, channels=channels, output=output.data_ptr()))


def resize(picture: Tensor, output: Tensor) -> None:
    """Picture (H, W, C) into `output`: to (H // 2, W // 2, C) max-pool and anti-aliased stride 2, to at least twice the
    size bilinear doubling, aligned corners, zeros around it."""
    _run(_resample(picture, output, input=picture.data_ptr(), output=output.data_ptr()),
         "npcr_halve" if len(output) < len(picture) else "npcr_double")


def resize_grad(picture: Tensor | None, grad_output: Tensor, grad: Tensor) -> None:
    """The gradient of `resize` into `grad` (H, W, C); the picture itself is needed for halving only."""
    _run(_resample(grad, grad_output, input=_pointer(picture), grad_output=grad_output.data_ptr(),
                   grad_input=grad.data_ptr()),
         "npcr_halve_grad" if len(grad_output) < len(grad) else "npcr_double_grad")


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
    channels = grad.shape[-1]
    return pcpr_ext.Gate(values=values.data_ptr(), grad=grad.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
                         pixels=grad.numel() // channels, channels=channels, sums=sums.data_ptr())


def _resample(picture: Tensor, target: Tensor, **pointers: int | None) -> pcpr_ext.Resample:
    height, width, channels = picture.shape
    return pcpr_ext.Resample(height=height, width=width, channels=channels, target_height=target.shape[0],
                             target_width=target.shape[1], **pointers)


def _run(task: Any, name: str = "", *, scratch: bool = False) -> None:
    task.threads = torch.get_num_threads()
    if scratch:
        size = _library().scratch_bytes(task)
        kept: Tensor | None = getattr(_local, "scratch", None)
        if kept is None or kept.numel() * 4 < size:
            kept = _local.scratch = POOL.empty(size // 4 + 1)
        task.scratch, task.scratch_bytes = kept.data_ptr(), kept.numel() * 4
    _library().run(task, name)
