# SPDX-License-Identifier: Apache-2.0
"""Builds the native libraries: `python -m pcpr_ext.build`, and on behalf of setup.py.

Nothing here needs torch. Environment:
    CXX                 the C++ compiler (default: c++, g++ or clang++, whichever is found first)
    CUDA_HOME           the CUDA toolkit (default: that of the nvcc on PATH, else /usr/local/cuda)
    NPCR_BUILD_CPU      0: no CPU library; 1: it is an error where it cannot be built
    NPCR_BUILD_CUDA     the same for the CUDA library
    NPCR_CUDA_ARCHS     GPU architectures, for example "80 90" (default: all that nvcc knows, from 70 on)
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "csrc"
# No -march: a wheel runs on any processor of its kind; the sources choose instructions when loaded.
# The last three change no result: they allow comparisons and divisions to be vectorized. How vectors are passed (psabi)
# differs from processor to processor; functions that take any are inlined. clang takes
# conditions joined by & for a slip, though they are vectorized, and does not know gcc's hint "ivdep".
CPU_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-pthread",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-bitwise-instead-of-logical",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
]
CUDA_FLAGS = [
    "-std=c++17",
    "-O3",
    "-shared",
    "--fmad=false",
    "--cudart",
    "static",
    "-Xcompiler",
    "-fPIC,-fvisibility=hidden,-ffp-contract=off",
]
OLDEST_CUDA_ARCH = 70


class BuildError(RuntimeError):
    """A compiler is missing or failed; the message holds its output."""


def cpu_compiler() -> str | None:
    """Find a C++ compiler.

    Returns:
        Its command line; None where none is found.
    """
    chosen = os.environ.get("CXX")
    if chosen:
        return chosen if shutil.which(shlex.split(chosen)[0]) else None
    return next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def cuda_compiler() -> str | None:
    """Find nvcc, which alone knows where its toolkit lies.

    Returns:
        Its path; None where none is found.
    """
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")):
        if home and (Path(home) / "bin" / "nvcc").is_file():
            return str(Path(home) / "bin" / "nvcc")
    return shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")


def cuda_archs(nvcc: str) -> list[int]:
    """List the GPU architectures to compile for: NPCR_CUDA_ARCHS, or all that nvcc knows from 70 on.

    Args:
        nvcc: its path.

    Returns:
        For example [80, 90], ascending.

    Raises:
        BuildError: NPCR_CUDA_ARCHS is malformed or names one that nvcc does not know, or nvcc knows none.
    """
    known = known_cuda_archs(nvcc)
    chosen = os.environ.get("NPCR_CUDA_ARCHS", "")
    if chosen.strip():
        try:
            archs = sorted({int(arch) for arch in re.split(r"[\s,;]+", chosen.strip())})
        except ValueError:
            raise BuildError(f"NPCR_CUDA_ARCHS: expected numbers such as '80 90', got '{chosen}'") from None
        unknown = [arch for arch in archs if arch not in known]
        if unknown:
            raise BuildError(f"NPCR_CUDA_ARCHS: {nvcc} does not know {_named(unknown)}, only {_named(known)}. "
                             "CUDA_HOME chooses another toolkit (docs/versions.md)")
        return archs
    archs = [arch for arch in known if arch >= OLDEST_CUDA_ARCH]
    if not archs:
        raise BuildError(f"{nvcc} --list-gpu-arch names no architecture from sm_{OLDEST_CUDA_ARCH} on")
    return archs


def known_cuda_archs(nvcc: str) -> list[int]:
    """List the GPU architectures that a compiler knows.

    Args:
        nvcc: its path.

    Returns:
        For example [75, 80, 90], ascending.

    Raises:
        BuildError: nvcc failed.
    """
    return sorted({int(arch) for arch in re.findall(r"compute_(\d+)\b", _run([nvcc, "--list-gpu-arch"]))})


def _named(archs: Sequence[int]) -> str:
    return ", ".join(f"sm_{arch}" for arch in archs)


def arch_flags(archs: Sequence[int]) -> list[str]:
    """Request machine code for each architecture, and PTX of the newest (for GPUs to come) and of the oldest.

    Args:
        archs: ascending.

    Returns:
        Arguments of nvcc.
    """
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    ptx = [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in sorted({archs[0], archs[-1]})]
    return flags + ptx


def build_cpu(target: Path, extra: Sequence[str] = ()) -> Path:
    """Build the CPU library.

    Args:
        target: the library's path.
        extra: further arguments of the compiler.

    Returns:
        The target.

    Raises:
        BuildError: no compiler, or it failed.
    """
    compiler = cpu_compiler()
    if compiler is None:
        raise BuildError("no C++ compiler found (tried $CXX, c++, g++, clang++)")
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    _build(target, [*shlex.split(compiler), *CPU_FLAGS, *extra, *sources])
    return target


def build_cuda(target: Path, extra: Sequence[str] = ()) -> Path:
    """Build the CUDA library, linked against the static runtime.

    Args:
        target: the library's path.
        extra: further arguments of nvcc.

    Returns:
        The target.

    Raises:
        BuildError: no nvcc, or it failed.
    """
    nvcc = cuda_compiler()
    if nvcc is None:
        raise BuildError("no CUDA compiler found (tried $CUDA_HOME/bin/nvcc, nvcc on PATH, /usr/local/cuda)")
    sources = [str(path) for path in sorted(SOURCES.glob("*.cu"))]
    # Threads: as many architectures at a time as there are processors.
    _build(target, [nvcc, *CUDA_FLAGS, "--threads", "0", *arch_flags(cuda_archs(nvcc)), *extra, *sources])
    return target


def build_all(folder: Path) -> list[str]:
    """Build the libraries that this machine can build.

    Args:
        folder: where to put them.

    Returns:
        For each library, a line on the outcome.

    Raises:
        BuildError: NPCR_BUILD_CPU or NPCR_BUILD_CUDA is 1 and that library cannot be built.
    """
    from pcpr_ext import library_path

    report = []
    for kind, build, found in (("cpu", build_cpu, cpu_compiler), ("cuda", build_cuda, cuda_compiler)):
        target, variable = library_path(kind, folder), f"NPCR_BUILD_{kind.upper()}"
        wanted = os.environ.get(variable, "")
        if wanted == "0":
            report.append(f"{kind}: left out, as {variable} is 0")
            continue
        if found() is None and wanted != "1":
            report.append(f"{kind}: left out, no compiler found")
            continue
        try:
            report.append(f"{kind}: built {build(target)}")
        except BuildError as error:
            if wanted == "1":
                raise
            report.append(f"{kind}: FAILED, {error}")
    return report


def _build(target: Path, command: list[str]) -> None:
    # Compiled beside the target and moved over it: a process that has the old one loaded keeps it.
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as folder:
        built = Path(folder) / target.name
        _run([*command, "-o", str(built)])
        built.replace(target)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{done.stdout}{done.stderr}".strip())
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Build in place, and print a line for each library.

    Args:
        arguments: of the command line; None: the process's.

    Returns:
        The exit status: 1 where the CPU library could not be built.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pcpr_ext.build",
        description="Build the native kernels in place.",
        epilog="example: NPCR_CUDA_ARCHS='80 90' python -m pcpr_ext.build",
    )
    parser.add_argument("--folder", type=Path, default=SOURCES.parent, help="where to put the libraries")
    options = parser.parse_args(arguments)
    try:
        report = build_all(options.folder)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(report))
    return 0 if report[0].startswith("cpu: built") else 1


if __name__ == "__main__":
    sys.exit(main())
