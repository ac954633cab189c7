# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels under the compilers' sanitizers, over random shapes and hostile values (fuzz.cpp)."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from pcpr_ext.build import CPU_FLAGS, SOURCES, cpu_compiler

FUZZ = Path(__file__).with_name("fuzz.cpp")


@pytest.mark.parametrize(
    ("sanitizers", "rounds"),
    # float-cast-overflow is not part of "undefined". Indirect functions run before the sanitizers' start-up,
    # so these builds go without the copies for newer processors.
    [("address,undefined,float-cast-overflow", 60), ("thread", 12)],
)
def test_kernels_under_sanitizers(sanitizers: str, rounds: int, tmp_path: Path) -> None:
    compiler = cpu_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here")
    flags = [flag for flag in CPU_FLAGS if flag not in ("-shared", "-O3", "-fPIC")]
    flags += ["-O1", "-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-DNPCR_NO_CLONES"]
    sources = [str(path) for path in (FUZZ, *sorted(SOURCES.glob("*.cpp")))]
    program = tmp_path / "fuzz"
    built = subprocess.run(
        [*shlex.split(compiler), *flags, f"-I{SOURCES}", *sources, "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0 and "cannot find -l" in built.stderr + built.stdout:
        pytest.skip(f"the compiler comes without the libraries for -fsanitize={sanitizers}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [str(program), str(rounds)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},  # leak checks need ptrace, which containers lack
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{rounds} rounds passed" in done.stdout
