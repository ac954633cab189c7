# SPDX-License-Identifier: Apache-2.0
"""Feature maps that autograd keeps for the gradients, kept in half precision (SOLVER.HALF_ACTIVATIONS).

Torch's hooks for saved tensors hold for a thread while a context is open. A context variable stands beside them,
because torch does not tell an autograd function or a recomputed layer whether they are in place.
"""

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
    """Keep as float16 what operations in this context save of feature maps; beyond its range as its largest value.

    They still compute in float32, so only gradients change. Feature maps are tensors of four dimensions, float32, of
    some size; what two operations save is kept once.

    Args:
        switch: False changes nothing.

    Yields:
        The bytes before and after packing, as attributes; None where `switch` is False.
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
def full_activations() -> Iterator[None]:
    """Keep all as it is that operations in this context save, even within `half_activations`.

    Yields:
        Nothing.
    """
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        yield


def half_activations_enabled() -> bool:
    """Return whether this runs within `half_activations`.

    Returns:
        True within it.
    """
    return _half.get()


class _Packed(NamedTuple):
    half: Tensor


class _Packing:
    """The hook that autograd calls with what it is to save, and what it has packed so far."""

    def __init__(self) -> None:
        # The weak reference keeps the storage's identity from being given to another while the entry is here.
        self._packed: dict[tuple[Any, ...], tuple[StorageWeakRef, _Packed]] = {}
        self.bytes_before = self.bytes_after = 0  # of all feature maps packed, each once

    def pack(self, x: Tensor) -> Tensor | _Packed:
        if not _is_feature_map(x):
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


def _is_feature_map(x: Tensor) -> bool:
    return (x.dtype == torch.float32 and x.ndim == 4 and x.numel() >= _SMALL and max(x.shape[-2:]) > _KERNEL
            and not isinstance(x, torch.nn.Parameter))


def _unpack(saved: Tensor | _Packed) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    if saved.half.device.type == "cpu" and saved.half.is_contiguous():
        return POOL.empty(*saved.half.shape).copy_(saved.half)
    return saved.half.float()
