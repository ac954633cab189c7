# SPDX-License-Identifier: Apache-2.0
"""Running out of GPU or host memory: what was asked for, at which size of image, and which keys need less."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from npcr.errors import OutOfMemoryError

# torch's two allocators, numpy's, the kernels' and the libraries' below torch.
_SIGNS = re.compile(r"out of memory|can't allocate memory|unable to allocate|ALLOC_FAILED", re.IGNORECASE)
_AMOUNT = re.compile(r"allocate ([\d.]+ ?(?:bytes|[KMGTP]iB|[KMGTP]?B)\b)")
_ROOM = re.compile(r"GPU \d+ has a total capacity of ([\d.]+ \w+)\b[^.]*?of which ([\d.]+ \w+) is free")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


@contextmanager
def explain_out_of_memory(task: str, size: Sequence[int], advice: str) -> Iterator[None]:
    """Turn the errors of all allocators within the block into one that says what helps.

    Args:
        task: what runs, such as "training".
        size: (width, height) of its images, pixels.
        advice: which configuration keys need less memory, a sentence.

    Yields:
        None.

    Raises:
        OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{describe(error)} in {task} at {size[0]}x{size[1]} pixels. {advice}") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that GPU or host memory ran out.

    Args:
        error: of any kind.

    Returns:
        True for those of torch, numpy, the operating system and the compiled kernels.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and bool(_SIGNS.search(str(error))))


def describe(error: BaseException) -> str:
    """Say which memory ran out, and how much was asked for, where the allocator tells.

    Args:
        error: for which `is_out_of_memory` is true.

    Returns:
        The beginning of a sentence, such as "GPU memory ran out (20.00 MiB asked for, 1.5 MiB of 15.8 GiB free)".
    """
    text = str(error)
    on_gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in text or "CUBLAS" in text
    details = []
    if amount := _AMOUNT.search(text):
        details.append(f"{_readable(amount[1])} asked for")
    if room := _ROOM.search(text):
        details.append(f"{room[2]} of {room[1]} free")
    return f"{'GPU' if on_gpu else 'host'} memory ran out" + (f" ({', '.join(details)})" if details else "")


def _readable(amount: str) -> str:
    """"123456 bytes" in a unit that one can read; an amount with a unit as it is."""
    if not amount.endswith(" bytes"):
        return amount
    value, unit = float(amount.removesuffix(" bytes")), 0
    while value >= 1024 and unit + 1 < len(_UNITS):
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {_UNITS[unit]}"
