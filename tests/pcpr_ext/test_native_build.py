# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

import pcpr_ext
from pcpr_ext import build, structures

EXPORTS = ("npcr_abi_version", "npcr_ready", "npcr_message", *(name for name, *_ in structures.FUNCTIONS))
needs_nvcc = pytest.mark.skipif(build.cuda_compiler() is None, reason="no CUDA compiler here")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh CPU library in a folder of its own."""
    if build.cpu_compiler() is None:
        pytest.skip("no C++ compiler here")
    return build.build_cpu(pcpr_ext.library_path("cpu", tmp_path_factory.mktemp("built") / "deep"), ["-Werror"])


@pytest.mark.slow
def test_cpu_library_builds_without_a_warning(built: Path) -> None:
    assert pcpr_ext.Library(built).why_not_ready() == ""
    assert list(built.parent.iterdir()) == [built]  # nothing left behind


@needs_nvcc
@pytest.mark.slow
def test_cuda_library_builds_and_exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One architecture here; the full list takes longer and is built by the installation.
    nvcc = build.cuda_compiler()
    assert nvcc is not None
    newest = max(build.cuda_archs(nvcc))
    monkeypatch.setenv("NPCR_CUDA_ARCHS", str(newest))
    path = build.build_cuda(tmp_path / "library.so")
    native = ctypes.CDLL(str(path))  # loads without a driver: the runtime is static
    for name in EXPORTS:
        assert getattr(native, name)
    assert pcpr_ext.Library(path).path == path
    code = path.read_bytes()
    assert f"sm_{newest}".encode() in code


def _nvcc_for_volta() -> str | None:
    """A compiler that still knows sm_70: that of the build, of Debian's package, or of an older toolkit beside."""
    beside = [*Path("/usr/local").glob("cuda-1[12]*/bin/nvcc"), Path("/usr/lib/nvidia-cuda-toolkit/bin/nvcc")]
    found = [nvcc for nvcc in (build.cuda_compiler(), *map(str, beside)) if nvcc is not None and Path(nvcc).is_file()]
    return next((nvcc for nvcc in found if build.OLDEST_CUDA_ARCH in build.known_cuda_archs(nvcc)), None)


@pytest.mark.slow
def test_all_cuda_sources_compile_for_a_v100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = _nvcc_for_volta()
    if nvcc is None:
        pytest.skip("no CUDA compiler here knows sm_70: CUDA 12.9 and older do (docs/versions.md)")
    monkeypatch.setattr(build, "cuda_compiler", lambda: nvcc)
    # Debian's nvcc looks for its assembler along PATH, where another toolkit's may come first.
    monkeypatch.setenv("PATH", f"/usr/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("NPCR_CUDA_ARCHS", str(build.OLDEST_CUDA_ARCH))
    path = build.build_cuda(tmp_path / "library.so")
    assert pcpr_ext.Library(path).path == path  # has all functions
    assert b"sm_70" in path.read_bytes()


@needs_nvcc
def test_cuda_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = build.cuda_compiler()
    assert nvcc is not None
    monkeypatch.delenv("NPCR_CUDA_ARCHS", raising=False)
    archs = build.cuda_archs(nvcc)
    assert archs == sorted(archs)
    assert archs[0] >= build.OLDEST_CUDA_ARCH
    assert {80, 90} <= set(archs)


def test_architecture_flags() -> None:
    flags = build.arch_flags([75, 80, 90])
    assert flags[:3] == [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in (75, 80, 90)]
    assert flags[3:] == [f"-gencode=arch=compute_{arch},code=compute_{arch}" for arch in (75, 90)]


def test_chosen_architectures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\nprintf 'compute_%s\\n' 60 75 80 90\n")  # as CUDA 13 has it, but for the 60
    nvcc.chmod(0o755)
    for chosen, archs in (("90, 75;80", [75, 80, 90]), ("60", [60]), (" ", [75, 80, 90])):
        monkeypatch.setenv("NPCR_CUDA_ARCHS", chosen)
        assert build.cuda_archs(str(nvcc)) == archs
    monkeypatch.setenv("NPCR_CUDA_ARCHS", "70 80")
    with pytest.raises(build.BuildError, match=r"nvcc does not know sm_70, only sm_60, sm_75, .* CUDA_HOME"):
        build.cuda_archs(str(nvcc))
    monkeypatch.setenv("NPCR_CUDA_ARCHS", "hopper")
    with pytest.raises(build.BuildError, match=r"NPCR_CUDA_ARCHS: expected numbers .* got 'hopper'"):
        build.cuda_archs(str(nvcc))


def test_without_compilers_nothing_is_built_and_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "no-such-compiler"))
    monkeypatch.setattr(build, "cuda_compiler", lambda: None)
    monkeypatch.delenv("NPCR_BUILD_CUDA", raising=False)
    assert build.build_all(tmp_path) == [
        "cpu: left out, no compiler found",
        "cuda: left out, no compiler found",
    ]
    monkeypatch.setenv("NPCR_BUILD_CUDA", "1")
    with pytest.raises(build.BuildError, match="no CUDA compiler found"):
        build.build_all(tmp_path)
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler found"):
        build.build_cpu(tmp_path / "library.so")
    monkeypatch.setenv("NPCR_BUILD_CPU", "1")
    with pytest.raises(build.BuildError, match=r"no C\+\+ compiler found"):
        build.build_all(tmp_path)


def test_what_is_not_wanted_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in pcpr_ext.KINDS:
        monkeypatch.setenv(f"NPCR_BUILD_{kind.upper()}", "0")
    assert build.build_all(tmp_path) == ["cpu: left out, as NPCR_BUILD_CPU is 0",
                                         "cuda: left out, as NPCR_BUILD_CUDA is 0"]
    assert list(tmp_path.iterdir()) == []


def test_a_failing_compiler_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho out of flour >&2\nexit 3\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("NPCR_BUILD_CUDA", "0")
    report = build.build_all(tmp_path / "libraries")
    assert report[0].startswith("cpu: FAILED")
    assert "out of flour" in report[0]
    assert report[1] == "cuda: left out, as NPCR_BUILD_CUDA is 0"
    assert build.main(["--folder", str(tmp_path / "libraries")]) == 1


@pytest.mark.slow
def test_a_library_of_another_version_is_refused(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcpr_ext, "library_path", lambda kind: built.with_name(f"_pcpr_{kind}.so"))
    built_with = pcpr_ext.ABI_VERSION
    monkeypatch.setattr(pcpr_ext, "ABI_VERSION", 99)
    pcpr_ext._load.cache_clear()
    try:
        assert pcpr_ext.library("cpu") is None
        reason = pcpr_ext.why_missing("cpu")
        assert f"interface version {built_with}, this code needs 99" in reason
        assert "python -m pcpr_ext.build" in reason
        assert "was not built" in pcpr_ext.why_missing("cuda")
    finally:
        pcpr_ext._load.cache_clear()


def test_native_kernels_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCR_NATIVE", "0")
    pcpr_ext._load.cache_clear()
    try:
        assert pcpr_ext.library("cpu") is None
        assert "NPCR_NATIVE" in pcpr_ext.why_missing("cpu")
    finally:
        pcpr_ext._load.cache_clear()


@pytest.mark.slow
def test_kernels_report_what_they_refuse(built: Path) -> None:
    library = pcpr_ext.Library(built)
    with pytest.raises(pcpr_ext.KernelError, match="npcr_rasterize_scratch: a size is out of range"):
        library.scratch_bytes(pcpr_ext.Rasterize(width=0))
    task = pcpr_ext.Rasterize(width=1, height=1, layers=1, far_depth=1.0, index_bytes=4)
    with pytest.raises(pcpr_ext.KernelError, match="npcr_rasterize: the scratch memory is too small"):
        library.run(task)
