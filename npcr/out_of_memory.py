# SPDX-License-Identifier: Apache-2.0
"""Running out of GPU or host memory: what was asked for, at which size of image, and which keys need less."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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


def refuse_beyond_memory(needed: int, device: torch.device, what: str, points: int, of_points: int) -> None:
    """Refuse what cannot fit in the memory that is free, before it is begun.

    Args:
        needed: bytes.
        device: whose memory.
        what: what needs them, the beginning of a sentence.
        points: of all clouds together.
        of_points: bytes of `needed` that are for points and shrink with them.

    Raises:
        OutOfMemoryError: it does not fit; the message says how many points would.
    """
    free = free_memory(device)
    if free is None or needed <= free:
        return
    fitting = int(max(0, free - (needed - of_points)) * points // max(1, of_points))
    where = "GPU" if device.type == "cuda" else "host"
    raise OutOfMemoryError(
        f"{what} of {points} points need {_readable(f'{needed} bytes')} of {where} memory, "
        f"{of_points // max(1, points)} bytes a point; {_readable(f'{free} bytes')} are free. At most {fitting} points "
        "fit: thin the cloud, or in the strands form set MODEL.MAX_SPLATS; a smaller MODEL.HARMONICS and, with a "
        "network, MODEL.FEATURE_DIM take fewer bytes a point (docs/sizes.md)")


def free_memory(device: torch.device) -> int | None:
    """Return how much memory new tensors can have.

    Args:
        device: the CPU or a GPU.

    Returns:
        Bytes; on a GPU with those that torch keeps unused; None where the system does not tell.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # not Linux
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


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
