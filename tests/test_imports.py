# SPDX-License-Identifier: Apache-2.0
"""Imports run one way, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each part may import itself and what stands in its list; anyone may import errors.
MAY_IMPORT = {
    "errors": set(),
    "config_keys": set(),
    "config": {"config_keys"},
    "cameras": set(),
    "memory": set(),
    "orbits": {"cameras"},
    "metrics": set(),
    "video_metrics": {"cameras"},
    "cli": {"config"},
    "projection": {"memory", "pcpr_ext"},
    "io": {"cameras"},
    "data": {"cameras", "config", "config_keys", "io", "orbits", "projection"},
    "networks": {"cameras", "memory", "pcpr_ext", "projection"},
    "losses": {"metrics"},
    "temporal": {"cameras"},
    "engine": {"cli", "config", "cameras", "io", "data", "networks", "losses", "metrics", "orbits",
               "temporal", "video_metrics"},
}


def _imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "npcr" else node.module
                     for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "npcr" and len(parts) > 1:
                found.add(parts[1])
            elif parts[0] in ("pcpr_ext", "tools"):
                found.add(parts[0])
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "npcr").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_run_one_way(file: Path) -> None:
    part = file.relative_to(ROOT / "npcr").parts[0].removesuffix(".py")
    if part == "__init__":
        assert _imports(file) == set()
        return
    allowed = MAY_IMPORT[part] | {part, "errors", "__version__"}
    assert _imports(file) <= allowed, f"{file.name} imports {_imports(file) - allowed}"


def test_importing_npcr_needs_no_optional_package() -> None:
    code = ("import sys\nfor name in ('mitsuba', 'pycolmap', 'av', 'viser', 'trimesh', 'apex', 'torchmetrics', "
            "'laspy', 'pymatting', 'pycvvdp'):\n    sys.modules[name] = None\n"
            "import npcr, npcr.engine.trainer, npcr.engine.frames")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


SCRIPTS = [file for folder in ("tools", "benchmarks", "ExParamGen") for file in sorted((ROOT / folder).rglob("*.py"))
           if "__main__" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda f: str(f.relative_to(ROOT)))
def test_scripts_set_how_torchs_threads_wait_before_torch_is_loaded(script: Path) -> None:
    code = f"""
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("spin:", os.environ.get("GOMP_SPINCOUNT"))
            raise SystemExit(0)

sys.meta_path.insert(0, Watch())
runpy.run_path({str(script)!r}, run_name="imported")
print("spin: 10000")  # no torch here
"""
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines() == ["spin: 10000"]
