# SPDX-License-Identifier: Apache-2.0
"""Large tensors for the CPU whose memory is kept when they are gone.

The C library gives large blocks back to the system at once, and the next tensor pays a page fault for every
4 KiB, which is a good part of a frame's time. Here a block goes to a list of free ones instead, for the next
tensor of about that size. `POOL` is the one that all share.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SMALL = 1 << 16  # bytes; below, torch's own allocator is as good
_SPARE = 1.2  # mapped memory stays below this times the most that was in use at once


class _BlockInUse:
    """A block in use, which numpy holds as the base of an array over its first bytes; torch holds the array."""

    def __init__(self, pool: MemoryPool, block: NDArray[np.uint8], size: int) -> None:
        self._pool, self._block = pool, block
        self.__array_interface__: dict[str, Any] = {
            "data": (block.ctypes.data, False), "shape": (size,), "typestr": "|u1", "version": 3}

    def __del__(self) -> None:
        self._pool._take_back(self._block)


class MemoryPool:
    """An allocator of tensors that keeps their memory when they are gone; threads may share it."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []  # longest unused first
        self._lock = threading.RLock()  # a tensor may be freed while its own thread is in here
        self.bytes_in_use = self.bytes_free = self._most = 0

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Allocate an uninitialized contiguous tensor of that shape."""
        count = math.prod(shape)
        needed = count * dtype.itemsize
        if needed < _SMALL:
            return torch.empty(shape, dtype=dtype)
        size = _rounded(needed)
        with self._lock:
            block = self._take(size)
            self.bytes_in_use += len(block)
            self._most = max(self._most, self.bytes_in_use)
        return torch.from_numpy(np.asarray(_BlockInUse(self, block, needed))).view(dtype).view(shape)

    def release(self) -> None:
        """Return all free blocks to the system."""
        with self._lock:
            self._free.clear()
            self.bytes_free = 0

    def _take(self, size: int) -> NDArray[np.uint8]:
        fitting = [block for block in self._free if size <= len(block) <= 2 * size]
        if fitting:
            block = min(fitting, key=len)
            # By identity: == on arrays compares their contents.
            del self._free[next(i for i, free in enumerate(self._free) if free is block)]
            self.bytes_free -= len(block)
            return block
        limit = _SPARE * max(self._most, self.bytes_in_use + size)
        while self._free and self.bytes_in_use + self.bytes_free + size > limit:
            self.bytes_free -= len(self._free.pop(0))
        return np.frombuffer(_map(size), np.uint8)

    def _take_back(self, block: NDArray[np.uint8]) -> None:
        with self._lock:
            self.bytes_in_use -= len(block)
            self.bytes_free += len(block)
            self._free.append(block)


def _rounded(size: int) -> int:
    """Up to a sixteenth more, so that tensors of almost one size share blocks; whole pages."""
    step = max(mmap.PAGESIZE, 1 << max(0, size.bit_length() - 5))
    return (size + step - 1) // step * step


def _map(size: int) -> mmap.mmap:
    # Python's default is memory that a forked process shares: both would write their pictures into it.
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    try:
        memory = mmap.mmap(-1, size, **private)
    except OSError as error:
        raise MemoryError(f"unable to allocate {size} bytes: {error.strerror}") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)  # one fault for 2 MiB instead of 512
    return memory


POOL = MemoryPool()
