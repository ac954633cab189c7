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
             raw: Tensor | None = None, sums: Tensor | None = None,
             window: tuple[int, int, int, int] | None = None) -> None:
    """3x3 convolution of up to three pictures, concatenated along the channels, into `output` (H, W, outputs).

    gated: conv * sigmoid(gate), into `raw` (H, W, 2 outputs) what both were, into `sums` (2, outputs) float64 the
    sums of the result and of its squares; with scale and shift (outputs), ReLU(scale y + shift) is written.
    window: (left, top, right, bottom), the pixels to compute.
    """
    height, width, outputs = output.shape
    task = pcpr_ext.Convolve(packed=packed.data_ptr(), bias=_pointer(bias), scale=_pointer(scale),
                             shift=_pointer(shift), height=height, width=width, outputs=outputs,
                             window=(ctypes.c_int64 * 4)(*(window or (0, 0, width, height))), gated=gated,
                             output=output.data_ptr(), raw=_pointer(raw), sums=_pointer(sums))
    _set_sources(task, sources)
    _run(task, scratch=True)


def convolve_grad(sources: Sequence[Tensor], grad_output: Tensor, grad_weight: Tensor) -> None:
    """The gradient of `convolve`'s weights into grad_weight (outputs, inputs, 3, 3), summed over the pictures.

    sources: (B, H, W, C_i) each, grad_output: (B, H, W, outputs).
    """
    images, height, width, outputs = grad_output.shape
    task = pcpr_ext.ConvolveGrad(grad_output=grad_output.data_ptr(), images=images, height=height, width=width,
                                 outputs=outputs, grad_weights=grad_weight.data_ptr())
    _set_sources(task, sources)
    _run(task, scratch=True)


def gate_sums(raw: Tensor, grad: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """(2, C) float64: sums of du and of du y, see `struct NpcrGate`."""
    sums = torch.empty(2, grad.shape[-1], dtype=torch.float64)
    _run(_gate(raw, grad, scale, shift, sums), "npcr_gate_sums")
    return sums


def gate_grad(raw: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, *, of_grad: Tensor, of_value: Tensor,
              constant: Tensor, grad_raw: Tensor) -> Tensor:
    """Fills grad_raw (H, W, 2 C), the gradient of convolutions and gates; returns its sums, (2 C) float64."""
    sums = torch.empty(2 * grad.shape[-1], dtype=torch.float64)
    task = _gate(raw, grad, scale, shift, sums)
    task.of_grad, task.of_value, task.constant = of_grad.data_ptr(), of_value.data_ptr(), constant.data_ptr()
    task.grad_raw = grad_raw.data_ptr()
    _run(task, "npcr_gate_grad")
    return sums


def normalise(values: Tensor, scale: Tensor, shift: Tensor) -> None:
    """values (H, W, C) become ReLU(scale values + shift)."""
    channels = values.shape[-1]
    _run(pcpr_ext.Normalise(values=values.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
                            pixels=values.numel() // channels, channels=channels))


def halve(picture: Tensor) -> Tensor:
    """Max-pool and anti-aliased stride 2: (H, W, C) to (H // 2, W // 2, C)."""
    height, width, channels = picture.shape
    output = POOL.empty(height // 2, width // 2, channels)
    _run(_resample(picture, output.shape, input=picture.data_ptr(), output=output.data_ptr()), "npcr_halve")
    return output


def halve_grad(picture: Tensor, grad_output: Tensor) -> Tensor:
    """The gradient of `halve` in the picture."""
    grad = POOL.empty(*picture.shape)
    _run(_resample(picture, grad_output.shape, input=picture.data_ptr(), grad_output=grad_output.data_ptr(),
                   grad_input=grad.data_ptr()), "npcr_halve_grad")
    return grad


def double(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear doubling, aligned corners, zeros around up to `size` (H, W)."""
    output = POOL.empty(*size, picture.shape[2])
    _run(_resample(picture, output.shape, input=picture.data_ptr(), output=output.data_ptr()), "npcr_double")
    return output


def double_grad(shape: torch.Size, grad_output: Tensor) -> Tensor:
    """The gradient of `double` in a picture of `shape`."""
    grad = POOL.empty(*shape)
    _run(_resample(grad, grad_output.shape, grad_output=grad_output.data_ptr(), grad_input=grad.data_ptr()),
         "npcr_double_grad")
    return grad


def _library() -> pcpr_ext.Library:
    library = pcpr_ext.library("cpu")
    assert library is not None, "the caller asks available() first"
    return library


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _set_sources(task: Any, sources: Sequence[Tensor]) -> None:
    for i, source in enumerate(sources):
        task.sources[i], task.channels[i] = source.data_ptr(), source.shape[-1]


def _gate(raw: Tensor, grad: Tensor, scale: Tensor, shift: Tensor, sums: Tensor) -> pcpr_ext.Gate:
    channels = grad.shape[-1]
    return pcpr_ext.Gate(raw=raw.data_ptr(), grad=grad.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
                         pixels=grad.numel() // channels, channels=channels, sums=sums.data_ptr())


def _resample(picture: Tensor, target: torch.Size, **pointers: int) -> pcpr_ext.Resample:
    height, width, channels = picture.shape
    return pcpr_ext.Resample(height=height, width=width, channels=channels, target_height=target[0],
                             target_width=target[1], **pointers)


def _run(task: Any, name: str = "", *, scratch: bool = False) -> None:
    task.threads = torch.get_num_threads()
    if scratch:
        size = _library().scratch_bytes(task)
        kept: Tensor | None = getattr(_local, "scratch", None)
        if kept is None or kept.numel() * 4 < size:
            kept = _local.scratch = POOL.empty(size // 4 + 1)
        task.scratch, task.scratch_bytes = kept.data_ptr(), kept.numel() * 4
    _library().run(task, name)
