# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels behind a plain C interface: finds and loads what was built.

`library("cpu")` and `library("cuda")` give the loaded library or None; `why_missing` says why, and what to
do. The structures mirror `csrc/interface.h`. Nothing here needs torch.
"""

from __future__ import annotations

import ctypes
import functools
import os
from ctypes import c_float, c_int32, c_int64, c_void_p
from pathlib import Path

ABI_VERSION = 1
KINDS = ("cpu", "cuda")
_FOLDER = Path(__file__).resolve().parent


class Rasterise(ctypes.Structure):
    """`struct NpcrRasterise`."""

    _fields_ = (
        ("points", c_void_p),
        ("cam_to_world", c_void_p),
        ("intrinsics", c_void_p),
        ("point_count", c_int64),
        ("cameras", c_int64),
        ("width", c_int64),
        ("height", c_int64),
        ("layers", c_int64),
        ("near_depth", c_float),
        ("far_depth", c_float),
        ("max_size", c_float),
        ("peel_pixels", c_int32),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        ("index", c_void_p),
        ("depth", c_void_p),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


class Gather(ctypes.Structure):
    """`struct NpcrGather`."""

    _fields_ = (
        ("features", c_void_p),
        ("default_feature", c_void_p),
        ("index", c_void_p),
        ("point_count", c_int64),
        ("channels", c_int64),
        ("fragments", c_int64),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        ("output", c_void_p),
        ("stream", c_void_p),
    )


class Scatter(ctypes.Structure):
    """`struct NpcrScatter`."""

    _fields_ = (
        ("grad_output", c_void_p),
        ("index", c_void_p),
        ("order", c_void_p),
        ("point_count", c_int64),
        ("channels", c_int64),
        ("fragments", c_int64),
        ("index_bytes", c_int32),
        ("threads", c_int32),
        ("grad_features", c_void_p),
        ("grad_default", c_void_p),
        ("scratch", c_void_p),
        ("scratch_bytes", c_int64),
        ("stream", c_void_p),
    )


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
        for name, structure, result in (
            ("npcr_rasterise_scratch", Rasterise, c_int64),
            ("npcr_rasterise", Rasterise, c_int32),
            ("npcr_gather", Gather, c_int32),
            ("npcr_scatter_scratch", Scatter, c_int64),
            ("npcr_scatter", Scatter, c_int32),
        ):
            function = getattr(self._native, name)
            function.restype = result
            function.argtypes = [ctypes.POINTER(structure)]

    def why_not_ready(self) -> str:
        """Why the kernels cannot run on the current device; empty where they can."""
        status = int(self._native.npcr_ready())
        return "" if status == 0 else str(self._native.npcr_message(status).decode())

    def scratch_bytes(self, task: Rasterise | Scatter) -> int:
        """Scratch memory in bytes that `run(task)` needs; reads sizes only."""
        name = f"npcr_{type(task).__name__.lower()}_scratch"
        needed = int(getattr(self._native, name)(ctypes.byref(task)))
        if needed < 0:
            self._raise(name, needed)
        return needed

    def run(self, task: Rasterise | Gather | Scatter) -> None:
        """Run the kernel that the structure is named after.

        Raises:
            KernelError: the kernel refused its arguments, had too little memory, or could not be launched.
        """
        name = f"npcr_{type(task).__name__.lower()}"
        status = int(getattr(self._native, name)(ctypes.byref(task)))
        if status != 0:
            self._raise(name, status)

    def _raise(self, name: str, status: int) -> None:
        message = self._native.npcr_message(status).decode()
        raise KernelError(f"{name}: {message} (status {status})")


def library_path(kind: str, folder: Path = _FOLDER) -> Path:
    """Where the library of that kind ("cpu" or "cuda") lies once it is built."""
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
            "'python -m pcpr_ext.build' to get the fast path"
        )
    try:
        return Library(path), ""
    except (OSError, AttributeError) as error:
        return None, f"{error}. Run 'python -m pcpr_ext.build' to build it for this machine and version"


def library(kind: str) -> Library | None:
    """The loaded library of that kind ("cpu" or "cuda"), or None where there is none that fits."""
    return _load(kind)[0]


def why_missing(kind: str) -> str:
    """One sentence on why `library(kind)` is None and what to do; empty where it is not."""
    return _load(kind)[1]
