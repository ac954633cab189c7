# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels behind a plain C interface: find and load the built libraries.

`library("cpu")` and `library("cuda")` return the loaded library or None; `why_missing` explains why, and what to
do. The structures mirror `csrc/interface.h`. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import c_int32
from pathlib import Path

from pcpr_ext import structures
from pcpr_ext.structures import (
    Blend,
    ColorField,
    Composite,
    CompositeGaussians,
    CompositeGaussiansGrad,
    CompositeGrad,
    Convolve,
    ConvolveGrad,
    Gate,
    Gather,
    Harmonics,
    HarmonicsGrad,
    Normalize,
    Pack,
    ProjectGaussians,
    ProjectGaussiansGrad,
    Rasterize,
    Resample,
    Scatter,
    SurfaceDepth,
    TilePairs,
)

__all__ = [
    "Blend",
    "ColorField",
    "Composite",
    "CompositeGaussians",
    "CompositeGaussiansGrad",
    "CompositeGrad",
    "Convolve",
    "ConvolveGrad",
    "Gate",
    "Gather",
    "Harmonics",
    "HarmonicsGrad",
    "KernelError",
    "Library",
    "Normalize",
    "Pack",
    "ProjectGaussians",
    "ProjectGaussiansGrad",
    "Rasterize",
    "Resample",
    "Scatter",
    "SurfaceDepth",
    "TilePairs",
    "library",
    "library_path",
    "why_missing",
]

ABI_VERSION = 11
KINDS = ("cpu", "cuda")
_FOLDER = Path(__file__).resolve().parent


class KernelError(RuntimeError):
    """A kernel returned a status other than success."""


class Library:
    """One loaded native library, its functions typed. Calls release Python's global lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._native = ctypes.CDLL(str(path))
        self._native.npcr_abi_version.restype = c_int32
        version = self._native.npcr_abi_version()
        if version != ABI_VERSION:
            raise OSError(f"{path}: interface version {version}, this code needs {ABI_VERSION}")
        self._native.npcr_ready.restype = c_int32
        self._native.npcr_message.restype = ctypes.c_char_p
        self._native.npcr_message.argtypes = [c_int32]
        cpu_only = structures.CPU_FUNCTIONS if path.name == library_path("cpu").name else ()
        for name, structure, result in (*structures.FUNCTIONS, *cpu_only):
            function = getattr(self._native, name)
            function.restype = result
            function.argtypes = [ctypes.POINTER(structure)]

    def why_not_ready(self) -> str:
        """Why the kernels cannot run on the current device; empty where they can."""
        status = int(self._native.npcr_ready())
        return "" if status == 0 else str(self._native.npcr_message(status).decode())

    def scratch_bytes(self, task: ctypes.Structure, name: str = "") -> int:
        """Scratch memory in bytes that `run(task, name)` needs; reads sizes only."""
        return self.call(f"{name or _function(task)}_scratch", task)

    def run(self, task: ctypes.Structure, name: str = "") -> None:
        """Run the kernel called `name`, or the one that the structure is named after.

        Raises:
            KernelError: the kernel refused its arguments, had too little memory, or could not be launched.
        """
        self.call(name or _function(task), task)

    def call(self, name: str, task: ctypes.Structure) -> int:
        """Call the function `name` with `task` and return its result: a size, or 0 for success.

        Raises:
            KernelError: it returned an error's status.
        """
        function = getattr(self._native, name)
        result = int(function(ctypes.byref(task)))
        if result < 0 or (result > 0 and function.restype is c_int32):
            self._raise(name, result)
        return result

    def _raise(self, name: str, status: int) -> None:
        message = self._native.npcr_message(status).decode()
        raise KernelError(f"{name}: {message} (status {status})")


def _function(task: ctypes.Structure) -> str:
    """`ConvolveGrad` to `npcr_convolve_grad`."""
    return "npcr" + "".join(f"_{c.lower()}" if c.isupper() else c for c in type(task).__name__)


def library_path(kind: str, folder: Path = _FOLDER) -> Path:
    """Return the path of a library once it is built.

    Args:
        kind: "cpu" or "cuda".
        folder: that holds the libraries.

    Returns:
        The path.
    """
    return folder / f"_pcpr_{kind}.so"


@functools.cache
def _load(kind: str) -> tuple[Library | None, str]:
    if os.environ.get("NPCR_NATIVE") == "0":
        return None, "the environment variable NPCR_NATIVE is 0"
    path = library_path(kind)
    if not path.is_file():
        compiler = "a CUDA compiler (nvcc)" if kind == "cuda" else "a C++17 compiler (g++ or clang++)"
        return None, (
            f"the native {kind} library was not built. Install {compiler} and run "
            "'python -m pcpr_ext.build' to get the fast path, or install a wheel that has it (docs/install.md)"
        )
    try:
        return Library(path), ""
    except (OSError, AttributeError) as error:
        return None, f"{error}. Run 'python -m pcpr_ext.build' to build it for this machine and version"


def library(kind: str) -> Library | None:
    """Return the loaded library of a kind.

    Args:
        kind: "cpu" or "cuda".

    Returns:
        The library; None where none was built, or it does not fit this machine or version.
    """
    return _load(kind)[0]


def why_missing(kind: str) -> str:
    """Explain why there is no library of a kind, and what to do.

    Args:
        kind: "cpu" or "cuda".

    Returns:
        A sentence; empty where `library(kind)` is not None.
    """
    return _load(kind)[1]
