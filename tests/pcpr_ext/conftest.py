# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' logic without a GPU: their sources built for the host."""

from __future__ import annotations

import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import pcpr_ext
from pcpr_ext.build import SOURCES, cpu_compiler

HEADER = Path(__file__).with_name("cuda_on_host.h")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> pcpr_ext.Library:
    """The CUDA library, with a host in place of the device."""
    compiler = cpu_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here")
    folder = tmp_path_factory.mktemp("cuda_on_host")
    command = [*shlex.split(compiler), "-std=c++17", "-O1", "-fPIC", "-ffp-contract=off", "-include", str(HEADER)]

    def run(*arguments: str) -> None:
        built = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr

    def compiled(source: Path) -> str:
        target = folder / f"{source.stem}.o"
        run(f"-I{SOURCES}", "-c", "-x", "c++", str(source), "-o", str(target))
        return str(target)

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, sorted(SOURCES.glob("*.cu"))))
    run("-shared", *objects, "-o", str(folder / "library.so"))
    return pcpr_ext.Library(folder / "library.so")
