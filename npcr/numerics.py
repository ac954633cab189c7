# SPDX-License-Identifier: Apache-2.0
"""How exactly, and how repeatably, torch computes: TF32, half types, deterministic algorithms (docs/performance.md).

torch keeps these settings for the whole process. Each function here is a context, which sets them back at its end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch

from npcr.errors import ConfigError

logger = logging.getLogger("npcr")

# What RENDER.PRECISION and SOLVER.PRECISION name, with the type that autocast takes for it. float16x2, the sum of two
# float16, is what npcr.renderers.gpu computes in; all else is float32 with it.
PRECISIONS = {"float32": None, "tf32": None, "bfloat16": torch.bfloat16, "float16": torch.float16, "float16x2": None}
_TENSOR_CORES = {"tf32": (8, 0), "bfloat16": (8, 0), "float16": (7, 0), "float16x2": (8, 0)}  # compute capability
_IN_FLOAT32_ELSEWHERE = ("tf32", "float16x2")

_precision: ContextVar[str] = ContextVar("npcr_precision", default="float32")


class _Switch(NamedTuple):
    get: Callable[[], Any]
    set: Callable[[Any], None]
    off: Any
    on: Any


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let a GPU round the inputs of products in float32 to TF32 (10 bits of mantissa), or forbid it.

    torch's own default allows it for convolutions and forbids it for matrix products.

    Args:
        allowed: for both.

    Yields:
        Nothing.
    """
    switches = _tf32_switches()
    before = [switch.get() for switch in switches]
    try:
        for switch in switches:
            switch.set(switch.on if allowed else switch.off)
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.set(value)


def _tf32_switches() -> list[_Switch]:
    """Choose the interface in which the process has spoken to torch so far: torch refuses to read a mix of both.

    Where it used neither it is the older one, for torch.compile of torch 2.9 to 2.13 reads that alone.
    """
    backends: Any = torch.backends
    old = [_Switch(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest", "high"),
           _attribute(backends.cudnn, "allow_tf32", off=False, on=True)]
    try:
        for switch in old:
            switch.get()
    except RuntimeError:
        parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
        return [_attribute(part, "fp32_precision", off="ieee", on="tf32") for part in parts]
    return old


def _attribute(owner: Any, name: str, off: Any, on: Any) -> _Switch:
    return _Switch(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), off, on)


@contextlib.contextmanager
def autocast(precision: str, device: torch.device, *, cache: bool = True) -> Iterator[None]:
    """Compute convolutions and matrix products in the half type that a precision names.

    Args:
        precision: a key of `PRECISIONS`; those without a half type change nothing.
        device: where the operations run.
        cache: keep converted weights to the end of the context; they are then as they were when first converted.

    Yields:
        Nothing.
    """
    dtype = PRECISIONS[precision]
    half = contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype, cache_enabled=cache)
    token = _precision.set(precision)
    try:
        with half:
            yield
    finally:
        _precision.reset(token)


def current_precision() -> str:
    """Return the precision of the innermost `autocast` that this runs in.

    Returns:
        A key of `PRECISIONS`; "float32" outside.
    """
    return _precision.get()


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return the half type that operations on a device now compute in.

    Args:
        device: any.

    Returns:
        None outside of autocast.
    """
    # What torch.compile of torch 2.11 and older cannot trace is not asked: where it compiles, there is autocast.
    available = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device.type)
    if available and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return None


def warn_without_tensor_cores(key: str, precision: str, device: torch.device) -> None:
    """Warn where a device has no fast arithmetic of a precision.

    Args:
        key: that names the precision, for the message.
        precision: a key of `PRECISIONS`.
        device: where the operations will run.
    """
    if precision == "float32":
        return
    effect = "it computes in float32" if precision in _IN_FLOAT32_ELSEWHERE else "that is slower than float32"
    if device.type != "cuda":
        logger.warning("%s is %s, which is for GPUs; on the %s %s", key, precision, device.type, effect)
    elif torch.cuda.get_device_capability(device) < _TENSOR_CORES[precision]:
        logger.warning("%s is %s, for which %s has no tensor cores; %s. float16 needs a V100 or newer, bfloat16 and "
                       "tf32 an A100", key, precision, torch.cuda.get_device_name(device), effect)


@contextlib.contextmanager
def deterministic(switch: bool) -> Iterator[None]:
    """Compute the same bits each time, also on a GPU, in algorithms that may be slower.

    cuBLAS needs CUBLAS_WORKSPACE_CONFIG for that before CUDA starts; `npcr.entry_point` sets it.

    Args:
        switch: False changes nothing.

    Yields:
        Nothing.

    Raises:
        ConfigError: an operation within has no such algorithm in this torch.
    """
    if not switch:
        yield
        return
    filling: Any = torch.utils.deterministic  # of uninitialized memory, which costs time; nothing here reads it
    cudnn: Any = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled(),
              filling.fill_uninitialized_memory, cudnn.benchmark)
    try:
        torch.use_deterministic_algorithms(True)
        filling.fill_uninitialized_memory = cudnn.benchmark = False
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise ConfigError(f"SOLVER.DETERMINISTIC True fails with torch {torch.__version__}: {reason}") from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory, cudnn.benchmark = before[2:]
