# SPDX-License-Identifier: Apache-2.0
"""The steps of the check, in the order of their worth: where time runs out, the last ones are left out."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu_check.runner import Step

# Arguments of each benchmark, and with --quick; seconds that it may take, and at least needs, on an H200.
# Results are named after the benchmark's file, so that benchmarks/gpu_check/page.py knows their tables.
_Arguments = tuple[str, str, float, float]
_BENCHMARKS: dict[str, _Arguments] = {
    "agreement": ("--minutes 0.1", "--minutes 0.001 --forms blended --precisions float32", 90, 30),
    "projection": ("--points 1e6 1e7 1e8 --layers 1 6 --methods kernel copy --repeats 7",
                   "--points 1e3 --layers 2 --size 32 24 --methods kernel copy --repeats 3", 40, 12),
    "frame": ("--points 1e6 --layers 6 --size 600 600 --repeats 9",
              "--points 500 --layers 2 --size 32 28 --repeats 1 --plain-repeats 1", 40, 15),
    "blended_200": ("--points 90000 --size 200 200 --layers 1 32 64 --repeats 9",
                    "--points 500 --size 32 28 --layers 2 --repeats 1", 40, 12),
    "strands_200": ("--points 90000 --size 200 200 --reference --repeats 9",
                    "--points 500 --size 32 28 --layers 2 --repeats 1", 40, 15),
    "strands_800": ("--points 1e6 --size 800 800 --repeats 7", "", 40, 15),
    "blending": ("--points 90000 --size 200 200 --repeats 9", "--points 500 --size 32 28 --repeats 1", 30, 10),
    "options_layered": ("--forms layered --variants plain tf32 bfloat16 float16 float16x2 graphs "
                        "--points 1e6 --layers 6 --size 600 600 --repeats 9",
                        "--forms layered --variants plain --points 500 --size 32 28 --repeats 1", 60, 20),
    "network_profile": ("--precisions tf32 float16 float16x2 --points 1000000 --layers 6 --size 600 600",
                        "--precisions float32 --whats frame --points 500 --layers 1 --size 32 28", 90, 30),
    "options_blended": ("--forms blended --variants plain tf32 bfloat16 float16 graphs graphs+float16 compiled --steps "
                        "--points 1e6 --layers 64 --size 600 600 --repeats 9",
                        "--forms blended --variants plain --points 500 --size 32 28 --repeats 1", 60, 25),
    "training_step": ("--points 1e6 --layers 6 --size 600 600 --repeats 5 --variants plain ours recompute",
                      "--points 500 --layers 2 --size 32 28 --repeats 1 --variants ours", 70, 40),
    "render_script": ("--form blended --frames 40 --rounds 3", "--frames 3 --rounds 1 --size 32 24", 60, 20),
    "blended_800": ("--points 1e6 --size 800 800 --layers 64 --repeats 7", "", 40, 15),
    "scaling": ("--repeats 3", "--vary layers --layers 1 2 --repeats 1", 60, 20),
    "scaling_blended": ("--form blended --layers 1 8 32 --repeats 3", "", 60, 20),
    "scaling_strands": ("--form strands --repeats 3", "", 60, 20),
}
_MEMCHECK_ERROR = "86"  # an exit status that neither pytest nor a signal gives


def plan(device: str, quick: bool, folder: Path, forms: Sequence[str], arch: str) -> list[list[Step]]:
    """Make all steps.

    Args:
        device: "cuda", or "cpu" to see that the check itself works.
        quick: sizes and times that say nothing about speed.
        folder: for the results.
        forms: of the renderer; each is trained.
        arch: the GPU's architecture, such as "90"; empty on a CPU.

    Returns:
        Stages: the steps of one may run side by side. None of these is timed against a clock.
    """
    correct = [_tests(folder), _parity(folder), *(_sanitizer(tool) for tool in ("memcheck", "racecheck"))]
    training = [[_training(form, device, quick, folder)] for form in forms]
    measured = [[_benchmark(name, device, quick, folder)] for name, each in _BENCHMARKS.items() if each[1] or not quick]
    stages = [[_build("cpu"), _build("cuda", arch)], correct, *training, *measured]
    return stages if arch else [[_on_cpu(step) for step in stage] for stage in stages]


def _build(kind: str, arch: str = "") -> Step:
    """Each library in a process of its own, where `python -m pcpr_ext.build` builds one after the other."""
    code = f"from pcpr_ext import build, library_path; print(build.build_{kind}(library_path('{kind}')))"
    return Step(f"build_{kind}", _python("-c", code), 200, 20, {"NPCR_CUDA_ARCHS": arch} if arch else {})


def _tests(folder: Path) -> Step:
    report = folder / "tests.xml"
    return Step("tests", _python("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"),
                150, 30, figures=lambda output: _counts(report))


def _parity(folder: Path) -> Step:
    """The tests against the published implementation; on a CPU, too, whose result they compare with the GPU's."""
    report = folder / "parity.xml"
    left_out = "" if os.environ.get("NPCR_SHARED") else (
        "the environment variable NPCR_SHARED does not name the folder with the published implementation's data")
    return Step("parity", _python("-m", "pytest", "tests/parity", "-q", "-p", "no:cacheprovider",
                                  f"--junitxml={report}"),
                120, 20, figures=lambda output: _counts(report), left_out=left_out)


def _sanitizer(tool: str) -> Step:
    """The kernels under compute-sanitizer, without torch's cache of memory, which would hide what lies outside."""
    found = _sanitizer_path()
    command = [found or "compute-sanitizer", "--tool", tool, "--error-exitcode", _MEMCHECK_ERROR,
               *_python("-m", "pytest", "-m", "gpu", "tests/ops", "-q", "-p", "no:cacheprovider", "-k",
                        "not torch and not graph")]
    return Step(tool, command, 150, 40, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, figures=_summary,
                left_out="" if found else "compute-sanitizer was not found on PATH, nor in CUDA_HOME/bin or "
                                          "/usr/local/cuda/bin; it is a part of the CUDA toolkit")


def _training(form: str, device: str, quick: bool, folder: Path) -> Step:
    result = folder / f"training_minute_{form}.json"
    minutes = 0.02 if quick else 1
    return Step(f"training_{form}", _python("benchmarks/training_minute.py", "--forms", form, "--minutes", f"{minutes}",
                                            "--device", device, "--output", str(result)),
                minutes * 60 + 60, minutes * 60 + 12, result=result)


def _benchmark(name: str, device: str, quick: bool, folder: Path) -> Step:
    full, short, limit, least = _BENCHMARKS[name]
    result = folder / f"{name}.json"
    return Step(name, _python(f"benchmarks/{script_of(name)}.py", *(short if quick else full).split(),
                              "--device", device, "--output", str(result)), limit, 5 if quick else least, result=result)


def script_of(name: str) -> str:
    """Name the benchmark that wrote a result.

    Args:
        name: of the result, the benchmark's with something after it: options_layered_h200.

    Returns:
        The benchmark's file in benchmarks/, without its suffix; empty where there is none of such a name.
    """
    parts = name.split("_")
    known = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((each for each in known if (Path(__file__).resolve().parents[1] / f"{each}.py").is_file()), "")


def _on_cpu(step: Step) -> Step:
    """Leave out what a CPU cannot show; `make setup` has built its kernels."""
    needs_gpu = step.name in ("build_cpu", "build_cuda", "tests", "memcheck", "racecheck")
    return replace(step, left_out="it needs a GPU") if needs_gpu else step


def _python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def _sanitizer_path() -> str | None:
    places = [str(Path(home) / "bin") for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def _counts(report: Path) -> dict[str, Any]:
    """How many tests passed, failed and were skipped, from pytest's own report."""
    if not report.is_file():
        return {}
    suite = ElementTree.parse(report).getroot()
    suite = suite if suite.tag == "testsuite" else suite[0]
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {"passed": count["tests"] - count["failures"] - count["errors"] - count["skipped"],
            "failed": count["failures"] + count["errors"], "skipped": count["skipped"]}


def _summary(output: str) -> dict[str, Any]:
    """compute-sanitizer's last line: "ERROR SUMMARY: 0 errors", or "RACECHECK SUMMARY: 0 hazards displayed (…)"."""
    found = re.findall(r"^=+ (?:ERROR|RACECHECK) SUMMARY: (.+)$", output, re.MULTILINE)
    return {"summary": found[-1]} if found else {}
