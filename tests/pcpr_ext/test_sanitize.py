# SPDX-License-Identifier: Apache-2.0
"""The CPU kernels under the compilers' sanitizers, over random shapes and hostile values (fuzz.cpp)."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from pcpr_ext.build import CPU_FLAGS, SOURCES, build_cpu, cpu_compiler

FUZZ = Path(__file__).with_name("fuzz.cpp")
KERNELS = sorted(SOURCES.glob("*.cpp"))
ARM_COMPILER = "aarch64-linux-gnu-g++"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizers", "rounds"),
    # float-cast-overflow is not part of "undefined". Indirect functions run before the sanitizers' start-up,
    # so these builds go without the copies for newer processors.
    [("address,undefined,float-cast-overflow", 60), ("thread", 12)],
)
def test_kernels_under_sanitizers(sanitizers: str, rounds: int, tmp_path: Path) -> None:
    _fuzz(["-g", f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-DNPCR_NO_TARGET_CLONES"], rounds, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("lanes", [8, 4])
def test_the_networks_kernels_as_older_processors_run_them(lanes: int, tmp_path: Path) -> None:
    _fuzz([f"-DNPCR_MOST_LANES={lanes}"], 40, tmp_path)


@pytest.mark.slow
def test_kernels_by_clang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Mac's compiler is one: no warning, and the same results."""
    if not shutil.which("clang++"):
        pytest.skip("no clang++ here")
    monkeypatch.setenv("CXX", "clang++")
    _fuzz(["-Werror"], 40, tmp_path)


@pytest.mark.slow
def test_kernels_on_arm64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library as the wheel for arm64 has it, emulated."""
    if not shutil.which(ARM_COMPILER) or not shutil.which("qemu-aarch64"):
        pytest.skip("no compiler for arm64 or no emulator; Debian's are in g++-aarch64-linux-gnu and qemu-user")
    monkeypatch.setenv("CXX", ARM_COMPILER)
    library = build_cpu(tmp_path / "_pcpr_cpu.so", ["-Werror"])
    _fuzz(["-Werror"], 10, tmp_path, ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"), kernels=[library])


def test_every_kernel_is_driven() -> None:
    interface = (SOURCES / "interface.h").read_text(encoding="utf-8")
    kernels = re.findall(r"^NPCR_API \w+ (npcr_\w+)\(const Npcr", interface, re.MULTILINE)
    driver = "".join(path.read_text(encoding="utf-8") for path in FUZZ.parent.glob("fuzz*"))
    assert "npcr_composite_gaussians_grad" in kernels
    assert [name for name in kernels if not re.search(rf"\b{name}\b", driver)] == []


def _fuzz(flags: list[str], rounds: int, folder: Path, emulator: Sequence[str] = (),
          kernels: Sequence[Path] = KERNELS) -> None:
    compiler = cpu_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler here")
    kept = [flag for flag in CPU_FLAGS if flag not in ("-shared", "-O3", "-fPIC")]
    sources = [str(path) for path in (FUZZ, *kernels)]
    program = folder / "fuzz"
    built = subprocess.run(
        [*shlex.split(compiler), *kept, "-O1", *flags, f"-I{SOURCES}", *sources, "-o", str(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode != 0 and "cannot find -l" in built.stderr + built.stdout:
        pytest.skip(f"the compiler comes without the libraries for {' '.join(flags)}")
    assert built.returncode == 0, built.stderr
    done = subprocess.run(
        [*emulator, str(program), str(rounds)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"},  # leak checks need ptrace, which containers lack
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{rounds} rounds passed" in done.stdout
