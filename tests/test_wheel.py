# SPDX-License-Identifier: Apache-2.0
"""The wheel in an environment of its own: without clone, compiler or git, and in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import npcr
from npcr.installation import commit
from pcpr_ext.build import cpu_compiler

ROOT = Path(__file__).resolve().parents[1]
BUILD = "from setuptools.build_meta import build_sdist; import sys; build_sdist(sys.argv[1])"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    if not (ROOT / ".git").exists():
        pytest.skip("an unpacked archive: it lacks what a source distribution is made of")
    folder = tmp_path_factory.mktemp("source")
    _run([sys.executable, "-c", BUILD, str(folder)], cwd=ROOT)
    (found,) = folder.iterdir()
    return found


def make_wheel(source: Path, folder: Path, cpu: str, **environment: str) -> Path:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    _run([*command, str(source)], env=os.environ | {"NPCR_BUILD_CPU": cpu, "NPCR_BUILD_CUDA": "0"} | environment)
    (found,) = folder.iterdir()
    return found


class Installed:
    """A wheel in an environment whose other packages are those of this process."""

    def __init__(self, wheel: Path, folder: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder / "environment")])
        self._bin = folder / "environment" / ("Scripts" if os.name == "nt" else "bin")
        python = str(self._bin / "python")
        site = Path(_run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())
        others = [name for name in sys.path if Path(name).name in ("site-packages", "dist-packages")]
        (site / "others.pth").write_text("\n".join(others))  # editable installations in them do not count
        _run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", str(wheel)],
             env=_outside())
        self.folder = folder / "empty"
        self.folder.mkdir()

    def npcr(self, *words: str) -> str:
        """Run a command, and give what it prints."""
        return self._run("npcr", *words)

    def python(self, code: str) -> str:
        """Run a program, and give what it prints."""
        return self._run("python", "-c", code)

    def _run(self, *command: str) -> str:
        """Run with nothing but the environment on PATH."""
        return _run([str(self._bin / command[0]), *command[1:]], cwd=self.folder,
                    env=_outside() | {"PATH": str(self._bin)})


def _outside() -> dict[str, str]:
    """The environment's variables but for compilers, and the way to the clone, which pip takes for installed."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CXX", "CUDA_HOME")}


def _run(command: list[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_source_distribution_holds_what_it_is_built_of(source: Path) -> None:
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    kernels = {f"pcpr_ext/csrc/{file.name}" for file in (ROOT / "pcpr_ext" / "csrc").iterdir()}
    assert kernels | {"LICENSE", "CHANGELOG.md", "configs/demo.yml", "tools/train.py", "npcr/shipped/COMMIT"} <= names
    assert not [name for name in names if name.startswith("tests") or name.endswith(".so")]


def test_from_nothing_to_an_orbit_by_the_wheel_alone(source: Path, tmp_path: Path) -> None:
    if cpu_compiler() is None:
        pytest.skip("no C++ compiler here")
    wheel = make_wheel(source, tmp_path / "wheel", cpu="1")
    assert re.fullmatch(rf"npcr-{re.escape(npcr.__version__)}-py3-none-(?!any)\w+\.whl", wheel.name)
    installed = Installed(wheel, tmp_path)
    version = installed.npcr("--version")
    assert f"commit   {(commit() or '').removesuffix('-dirty')}" in version
    assert re.search(rf"cpu: {re.escape(str(tmp_path))}.*_pcpr_cpu", version)
    out = installed.npcr("demo", "--quick", "--frames", "3", "MODEL.DEVICE", "cpu", "SOLVER.MAX_EPOCHS", "1",
                         "REFINE.STEPS", "1")
    steps = ["fuzzy", "train", "evaluate", "orbit", "render", "refine", "render"]
    assert re.findall(r"^\$ npcr (\w+)", out, re.MULTILINE) == steps
    assert re.findall(r"^  npcr (\w+) +\d+ s$", out, re.MULTILINE) == steps
    for name in ("evaluation/evaluation.json", "orbit/video.mp4", "orbit_refined/rgba/img_0003.png"):
        assert (installed.folder / "output" / "quick" / name).stat().st_size > 100
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert installed.python(example).count("torch.Size([1, 3, 200, 200]) torch.Size([1, 1, 200, 200])") == 8
    assert "models/CamPose.inf" in installed.npcr("orbit", "--count", "4")  # from the pose that the wheel carries
    assert sorted(path.name for path in installed.folder.iterdir()) == ["models", "output"]


def test_a_wheel_of_pure_torch(source: Path, tmp_path: Path) -> None:
    wheel = make_wheel(source, tmp_path / "wheel", cpu="0")
    assert wheel.name == f"npcr-{npcr.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
    version = Installed(wheel, tmp_path).npcr("--version")
    assert "kernels  cpu: none; the native cpu library was not built. Install a C++17 compiler" in version


def test_clang_builds_the_kernels_of_the_source_distribution(source: Path, tmp_path: Path) -> None:
    if not shutil.which("clang++"):
        pytest.skip("no clang++ here")
    wheel = make_wheel(source, tmp_path / "wheel", cpu="1", CXX="clang++")
    with zipfile.ZipFile(wheel) as archive:
        assert b"clang version" in archive.read("pcpr_ext/_pcpr_cpu.so")
    version = Installed(wheel, tmp_path).npcr("--version")
    assert re.search(rf"kernels  cpu: {re.escape(str(tmp_path))}.*_pcpr_cpu", version)
