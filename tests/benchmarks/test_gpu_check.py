# SPDX-License-Identifier: Apache-2.0
"""The check of a GPU: limits of time, failures, Ctrl-C, missing packages, and on a CPU the whole of it, shortened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu_check import packages, steps
from benchmarks.gpu_check.runner import Runner, Step
from npcr.renderers import FORMS

ROOT = Path(__file__).resolve().parents[2]
CHECK = ROOT / "benchmarks" / "gpu_check" / "check.py"


def step(name: str, code: str, **options: Any) -> Step:
    return Step(name, [sys.executable, "-S", "-c", code], **{"limit": 20, "least": 0} | options)


def run(folder: Path, *stages: list[Step], seconds: float = 60) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The rows by step, and the lines of progress."""
    said: list[str] = []
    runner = Runner(folder, seconds, folder, said.append)
    for stage in stages:
        runner.run(stage)
    return {row["step"]: row for row in runner.rows}, said


# Steps --------------------------------------------------------------------------------------------------------


def test_a_failing_step_does_not_end_the_rest(tmp_path: Path) -> None:
    result = tmp_path / "good.json"
    good = step("good", f"open({str(result)!r}, 'w').write('7'); print('done')", result=result,
                figures=lambda output: {"said": output.strip()})
    rows, said = run(tmp_path, [step("bad", "print('why'); raise SystemExit(3)")], [good],
                     [step("forgetful", "", result=tmp_path / "none.json")])
    assert [row["status"] for row in rows.values()] == ["failed", "passed", "failed"]
    assert (rows["bad"]["reason"], rows["bad"]["tail"]) == ("status 3", "why\n")
    assert (rows["good"]["result"], rows["good"]["figures"]) == ("good.json", {"said": "done"})
    assert rows["forgetful"]["reason"] == "it did not write none.json"
    assert str(tmp_path) not in rows["good"]["command"]
    assert any("bad: failed" in line and "bad.log" in line for line in said)


def test_a_step_has_a_limit_and_what_it_started_ends_with_it(tmp_path: Path) -> None:
    child = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']);"
    rows, _ = run(tmp_path, [step("slow", child + "print(p.pid, flush=True); p.wait()", limit=1)])
    assert (rows["slow"]["status"], rows["slow"]["reason"]) == ("timed out", "it had 1 s")
    number = int(rows["slow"]["tail"])
    deadline = time.monotonic() + 5
    while _lives(number) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(number)


def _lives(process: int) -> bool:
    """Whether it runs; a child that nobody waited for is gone, too."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_steps_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    never = step("never", "raise SystemExit(1)", least=100)
    rows, _ = run(tmp_path, [never, step("short", "")], [step("no gpu", "", left_out="it needs a GPU")], seconds=30)
    assert [(name, row["status"]) for name, row in rows.items()] == [
        ("never", "left out"), ("short", "passed"), ("no gpu", "left out")]
    assert rows["never"]["reason"] == "30 of 30 s are left, it needs some 100"
    assert rows["no gpu"]["reason"] == "it needs a GPU"


def test_a_limit_is_no_longer_than_the_time_that_is_left(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, [step("slow", "import time; time.sleep(20)")], seconds=0.5)
    assert rows["slow"]["status"] == "timed out"
    assert rows["slow"]["limit_s"] <= 0.5


def test_steps_of_a_stage_run_side_by_side(tmp_path: Path) -> None:
    """Each waits for the other's file."""
    code = ("import pathlib, time\npathlib.Path('{}').touch()\n"
            "while not pathlib.Path('{}').exists(): time.sleep(0.01)")
    rows, _ = run(tmp_path, [step("a", code.format("a", "b")), step("b", code.format("b", "a"))])
    assert [row["status"] for row in rows.values()] == ["passed", "passed"]


def test_tests_that_are_all_skipped_did_not_pass(tmp_path: Path) -> None:
    rows, _ = run(tmp_path, [step("tests", "", figures=lambda _: {"passed": 0, "failed": 0, "skipped": 9})])
    assert (rows["tests"]["status"], rows["tests"]["reason"]) == ("failed", "no test ran")


# The plan -----------------------------------------------------------------------------------------------------


def test_the_plan_has_all_that_uses_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NPCR_SHARED", str(tmp_path))
    monkeypatch.setattr(steps, "_sanitizer_path", lambda: "/cuda/bin/compute-sanitizer")
    stages = steps.plan("cuda", False, tmp_path, list(FORMS), "90")
    every = {each.name: each for stage in stages for each in stage}
    assert {"build_cuda", "tests", "parity", "memcheck", "racecheck", *(f"training_{form}" for form in FORMS)} <= (
        every.keys())
    assert every["build_cuda"].environment == {"NPCR_CUDA_ARCHS": "90"}
    assert not any(each.left_out for each in every.values())
    by_clock = [stage for stage in stages if stage[0].result is not None]
    assert all(len(stage) == 1 for stage in by_clock)  # nothing beside it that takes its time
    measured = {part for each in every.values() for part in each.command if part.startswith("benchmarks/")}
    offering = {f"benchmarks/{file.name}" for file in (ROOT / "benchmarks").glob("*.py")
                if '"--device"' in file.read_text(encoding="utf-8")}
    hours, elsewhere = ("beads", "steadiness", "zoom"), ("scaling_out", "sizes")  # of several processes, of memory
    assert offering - measured == {f"benchmarks/{name}.py" for name in (*hours, *elsewhere)}


def test_what_a_cpu_cannot_show_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NPCR_SHARED", raising=False)
    stages = steps.plan("cpu", True, tmp_path, list(FORMS), "")
    reasons = {each.name: each.left_out for stage in stages for each in stage if each.left_out}
    assert {name for name, reason in reasons.items() if reason == "it needs a GPU"} == {
        "build_cpu", "build_cuda", "tests", "memcheck", "racecheck"}
    assert "NPCR_SHARED" in reasons.pop("parity")


def test_counts_are_pytests_own(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n@pytest.mark.skip\ndef test_c(): pass\n")
    report = tmp_path / "report.xml"
    pytest.main(["-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--junitxml={report}", str(tmp_path)])
    assert steps._counts(report) == {"passed": 1, "failed": 1, "skipped": 1}
    assert steps._counts(tmp_path / "none.xml") == {}


@pytest.mark.parametrize(("line", "summary"), [
    ("ERROR SUMMARY: 0 errors", "0 errors"),
    ("RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)", "1 hazard displayed (0 errors, 1 warning)"),
])
def test_the_sanitizers_summary(line: str, summary: str) -> None:
    assert steps._summary(f"========= COMPUTE-SANITIZER\n.. [100%]\n========= {line}\n") == {"summary": summary}
    assert steps._summary("Target application returned an error") == {}


# Packages -----------------------------------------------------------------------------------------------------


def test_all_missing_packages_are_named_at_once(tmp_path: Path) -> None:
    wanted = packages.requirements(ROOT / "pyproject.toml")
    assert {"torch", "pyyaml", "pytest"} <= {each.name for each in wanted}
    packages.provide(wanted, None, tmp_path)  # nothing is missing here
    more = [*wanted, packages.Requirement("nosuchpackage", "1"), packages.Requirement("nobodys", "2.1")]
    with pytest.raises(packages.PackagesError) as error:
        packages.provide(more, None, tmp_path)
    message = str(error.value)
    assert f"2 of {len(more)} packages are missing for" in message
    assert f"{sys.executable} -m pip install 'nosuchpackage>=1' 'nobodys>=2.1'" in message


def test_old_packages_and_those_that_can_be_spared_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [packages.Requirement("numpy", "99.1"), packages.Requirement("isal", "1"),
              packages.Requirement("scipy", "1")]
    monkeypatch.setitem(packages._MODULES, "isal", "no_such_module")
    packages.provide(wanted, None, tmp_path)
    spared, old = packages.doubtful(wanted)
    assert spared == "isal is missing; the check runs without"
    assert old.startswith("numpy ")
    assert "is older than 99.1, the least that npcr is tested with" in old


def test_missing_packages_come_from_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "before")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wanted = [packages.Requirement("nosuchpackage", "1")]
    with pytest.raises(packages.PackagesError, match=r"--wheels .*wheels: pip could not install nosuchpackage>=1:\n"):
        packages.provide(wanted, wheels, tmp_path / "site")
    _write_wheel(wheels, "nosuchpackage", "1.2")
    packages.provide(wanted, wheels, tmp_path / "site")
    assert packages.missing(wanted) == []
    assert os.environ["PYTHONPATH"] == f"{tmp_path / 'site'}{os.pathsep}before"
    assert len(packages.doubtful([packages.Requirement("nosuchpackage", "1.10")])) == 1


def _write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


# The whole ----------------------------------------------------------------------------------------------------


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(CHECK), *map(str, arguments)], capture_output=True, text=True,
                          check=False, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})


@pytest.mark.slow
def test_the_check_on_a_cpu(tmp_path: Path) -> None:
    names = ["memcheck", "projection", "options_layered"]
    done = check("--device", "cpu", "--quick", "--only", *names, "--output", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder, = (path for path in tmp_path.iterdir() if path.is_dir())
    found = json.loads((folder / "check.json").read_text())
    assert [(row["step"], row["status"]) for row in found["rows"]] == [
        ("memcheck", "left out"), ("projection", "passed"), ("options_layered", "passed")]
    assert {"processor", "torch", "commit", "quick"} <= found["environment"].keys()
    assert json.loads((folder / "projection.json").read_text())["rows"]
    text = (folder / "tables.md").read_text()
    assert "| memcheck | left out |  | it needs a GPU |" in text
    assert "`python benchmarks/projection.py --points 1000" in text
    with tarfile.open(folder.with_name(f"{folder.name}.tar.gz")) as archive:
        archived = {Path(name).name for name in archive.getnames()}
    assert {"check.json", "projection.json", "projection.log", "options_layered.json", "tables.md"} <= archived
    assert "1 left out: memcheck" in done.stdout


@pytest.mark.slow
def test_ctrl_c_keeps_what_there_is(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, str(CHECK), "--device", "cpu", "--quick", "--only", "memcheck",
                                "training_blended", "--output", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "training_blended: at most" in line:
            process.send_signal(signal.SIGINT)
            break
    assert "training_blended: interrupted" in process.stdout.read()
    assert process.wait() == 130
    archive, = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        found = json.load(file.extractfile(f"{archive.name.removesuffix('.tar.gz')}/check.json"))  # type: ignore[arg-type]
    assert [(row["step"], row["status"]) for row in found["rows"]] == [
        ("memcheck", "left out"), ("training_blended", "interrupted")]


@pytest.mark.slow
def test_what_it_refuses(tmp_path: Path) -> None:
    assert check("--device", "cpu").returncode == 2
    wrong = check("--device", "cpu", "--quick", "--only", "nothing", "--output", tmp_path)
    assert (wrong.returncode, wrong.stderr[:34]) == (2, "error: --only nothing: no such ste")
    assert "memcheck" in wrong.stderr
    without = check("--output", tmp_path)
    assert without.returncode == 2
    assert "finds no CUDA device here" in without.stderr
    assert list(tmp_path.iterdir()) == []
