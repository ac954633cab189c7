# SPDX-License-Identifier: Apache-2.0
"""What every file is held to: its length, and docstrings that say what goes in and what comes out."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 400  # lines
SOURCES = {".py", ".c", ".cpp", ".cu", ".h"}
Documented = ast.FunctionDef | ast.ClassDef


def _source_files() -> list[Path]:
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, text=True,
                                stdout=subprocess.PIPE).stdout.splitlines()
        files = [ROOT / name for name in listed]
    else:  # an unpacked archive
        files = [file for folder in ("npcr", "pcpr_ext", "tools", "ExParamGen", "tests", "benchmarks")
                 for file in (ROOT / folder).rglob("*")]
    return sorted(file for file in files if file.suffix in SOURCES and file.is_file())


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines())
               for file in _source_files()}
    assert lengths
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def _public(file: Path) -> Iterator[Documented]:
    """Public functions and classes at the top of a module."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield node


def _parameters(node: Documented) -> list[str]:
    """Names of what the caller gives; none for a class without an `__init__` of its own."""
    function: ast.FunctionDef | None
    if isinstance(node, ast.ClassDef):
        function = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"),
                        None)
    else:
        function = node
    if function is None:
        return []
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name != "self"]


def _gives_something(node: Documented) -> bool:
    if isinstance(node, ast.ClassDef) or node.returns is None:
        return False
    return ast.unparse(node.returns) not in ("None", "NoReturn")


def _is_of_every_command(file: Path, node: Documented) -> bool:
    """`parse` and `main` of a command are what the docstring of npcr/commands says."""
    return file.parent == ROOT / "npcr" / "commands" and node.name in ("parse", "main")


def _described_elsewhere(node: Documented) -> bool:
    """Fake implementations that torch asks for have their types written out; Triton's kernels have a reference."""
    return any(name in ast.unparse(decorator) for decorator in node.decorator_list
               for name in ("register_fake", "triton.jit"))


@pytest.mark.parametrize("file", sorted((ROOT / "npcr").rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_public_docstrings_name_arguments_and_results(file: Path) -> None:
    lacking = []
    for node in _public(file):
        if _described_elsewhere(node) or _is_of_every_command(file, node):
            continue
        text = ast.get_docstring(node) or ""
        if not text:
            lacking.append(f"{node.name}: no docstring")
        section = text.partition("Args:")[2]
        missing = [name for name in _parameters(node) if f"{name}:" not in section and f"{name}," not in section]
        if missing:
            lacking.append(f"{node.name}: Args lacks {', '.join(missing)}")
        if _gives_something(node) and not any(f"{word}:" in text for word in ("Returns", "Yields")):
            lacking.append(f"{node.name}: no Returns")
    assert lacking == []


def test_only_the_marker_asks_for_a_gpu() -> None:
    """`pytest -m gpu` must find every test that needs one (tests/conftest.py skips them elsewhere)."""
    asking = [str(file.relative_to(ROOT)) for file in sorted((ROOT / "tests").rglob("*.py"))
              if re.search(r"torch\.cuda\.(is_available|device_count)\(\)", file.read_text(encoding="utf-8"))]
    assert asking == ["tests/conftest.py"]
