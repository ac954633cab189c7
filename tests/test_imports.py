# SPDX-License-Identifier: Apache-2.0
"""Imports run one way, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from npcr.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[1]

# Each room may import itself, what stands in its list, and what anyone may import.
ANYONE = {"errors", "extras", "progress", "out_of_memory", "transfers", "numerics", "installation", "command_names",
          "distributed", "__version__"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "extras": set(),
    "progress": set(),
    "out_of_memory": set(),
    "transfers": set(),
    "numerics": set(),
    "distributed": set(),
    "installation": set(),
    "command_names": set(),
    "config": set(),
    "cameras": set(),
    "camera_paths": set(),
    "camera_spline": {"camera_paths"},
    "io": {"cameras", "camera_paths", "camera_spline"},
    "ops": {"pcpr_ext"},
    "metrics": {"cameras"},
    "temporal": {"cameras", "ops"},
    "visualization": {"camera_paths", "io"},
    "renderers": {"cameras", "data", "io", "metrics", "ops"},
    "data": {"cameras", "config", "io", "ops"},
    "reconstruction": {"cameras", "data", "io", "ops"},
    "importers": {"camera_paths", "cameras", "data", "io", "reconstruction"},
    "scene_check": {"cameras", "data", "io", "reconstruction", "visualization"},
    "synthetic": {"camera_paths", "cameras", "data", "io", "ops", "visualization"},
    "cli": {"config"},
}
MAY_IMPORT["checkpoints"] = {"io", "renderers"}
MAY_IMPORT["factory"] = {"checkpoints", "config", "data", "io", "renderers", "temporal"}
MAY_IMPORT["rendering"] = MAY_IMPORT["factory"] | {"cameras", "factory"}
MAY_IMPORT["evaluation"] = MAY_IMPORT["rendering"] | {"camera_paths", "camera_spline", "metrics", "rendering",
                                                       "visualization"}
MAY_IMPORT["training"] = MAY_IMPORT["evaluation"] | {"evaluation", "ops"}
MAY_IMPORT["refine"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["viewer"] = MAY_IMPORT["training"] | {"training"}
MAY_IMPORT["commands"] = MAY_IMPORT["refine"] | {"cli", "importers", "reconstruction", "refine", "scene_check",
                                                 "synthetic", "viewer"}
MAY_IMPORT["command_line"] = {"cli", "commands", "entry_point", "pcpr_ext"}
MAY_IMPORT["__main__"] = {"command_line"}


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
    if part in ("__init__", "entry_point"):
        assert _imports(file) == set()
        return
    allowed = MAY_IMPORT[part] | {part} | ANYONE
    assert _imports(file) <= allowed, f"{file.name} imports {_imports(file) - allowed}"


OPTIONAL = (*EXTRAS, "av", "apex", "torchmetrics")


def test_importing_npcr_needs_no_optional_package_and_leaves_the_environment_alone() -> None:
    code = f"""
import importlib, os, pkgutil, sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None
import npcr

before = {{name: value for name, value in os.environ.items() if "OMP" in name}}
for module in pkgutil.walk_packages(npcr.__path__, "npcr."):
    if module.name not in ("npcr.entry_point", "npcr.config.__main__"):
        importlib.import_module(module.name)
after = {{name: value for name, value in os.environ.items() if "OMP" in name}}
assert after == before, (before, after)
"""
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=environment)


SCRIPTS = [file for folder in ("tools", "benchmarks", "ExParamGen") for file in sorted((ROOT / folder).rglob("*.py"))
           if "__main__" in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda f: str(f.relative_to(ROOT)))
def test_scripts_set_how_torchs_threads_wait_before_torch_is_loaded(script: Path) -> None:
    is_command = script.parent.name != "benchmarks" and script.parent.parent.name != "benchmarks"
    name = "__main__" if is_command else "imported"  # commands load torch when they are run
    code = f"""
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("spin:", os.environ.get("GOMP_SPINCOUNT"))
            raise SystemExit(0)

sys.meta_path.insert(0, Watch())
sys.argv[1:] = ["--help"]
runpy.run_path({str(script)!r}, run_name={name!r})
print("spin: 10000")  # no torch here
"""
    own = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run([sys.executable, "-c", code], check=True, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines() == ["spin: 10000"]
