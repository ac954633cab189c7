# SPDX-License-Identifier: Apache-2.0
"""What autograd keeps of pictures for the gradients, in half precision (SOLVER.HALF_ACTIVATIONS)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from npcr.ops.memory import POOL

_SMALL = 1 << 14  # values; fewer are kept as they are
_KERNEL = 3  # pixels of a convolution's side: what has no more is weights
_LARGEST = torch.finfo(torch.float16).max

_half: ContextVar[bool] = ContextVar("npcr_half_activations", default=False)


@contextlib.contextmanager
def half_activations(switch: bool = True) -> Iterator[_Packing | None]:
    """What operations in this context save of pictures is kept as float16, beyond its range as its largest value.

    They still compute in float32, so only gradients change. Pictures are tensors of four dimensions, float32, of some
    size; what two operations save is kept once. `switch` False changes nothing.
    """
    if not switch:
        yield None
        return
    token = _half.set(True)
    packing = _Packing()
    try:
        with torch.autograd.graph.saved_tensors_hooks(packing.pack, _unpack):
            yield packing
    finally:
        packing.forget()
        _half.reset(token)


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """In this context all is saved as it is, whatever `half_activations` is around."""
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        yield


def halved() -> bool:
    """Whether a `half_activations` is around."""
    return _half.get()


class _Packed(NamedTuple):
    half: Tensor


class _Packing:
    """The hook that autograd calls with what it is to save, and what it has packed so far."""

    def __init__(self) -> None:
        # The weak reference keeps the storage's identity from being given to another while the entry is here.
        self._packed: dict[tuple[Any, ...], tuple[StorageWeakRef, _Packed]] = {}
        self.bytes_before = self.bytes_after = 0  # of all pictures packed, each once

    def pack(self, x: Tensor) -> Tensor | _Packed:
        if not _is_picture(x):
            return x
        storage = StorageWeakRef(x.untyped_storage())
        key = (storage.cdata, x.storage_offset(), x.shape, x.stride(), x._version)
        if key not in self._packed:
            half = _empty_half(x).copy_(x.detach()).clamp_(-_LARGEST, _LARGEST)
            self._packed[key] = storage, _Packed(half)
            self.bytes_before += x.numel() * x.element_size()
            self.bytes_after += half.numel() * half.element_size()
        return self._packed[key][1]

    def forget(self) -> None:
        self._packed.clear()


def _empty_half(x: Tensor) -> Tensor:
    if x.device.type == "cpu" and x.is_contiguous():
        return POOL.empty(*x.shape, dtype=torch.float16)
    return torch.empty_like(x, dtype=torch.float16)


def _is_picture(x: Tensor) -> bool:
    return (x.dtype == torch.float32 and x.ndim == 4 and x.numel() >= _SMALL and max(x.shape[-2:]) > _KERNEL
            and not isinstance(x, torch.nn.Parameter))


def _unpack(saved: Tensor | _Packed) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    if saved.half.device.type == "cpu" and saved.half.is_contiguous():
        return POOL.empty(*saved.half.shape).copy_(saved.half)
    return saved.half.float()
