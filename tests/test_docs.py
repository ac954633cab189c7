# SPDX-License-Identifier: Apache-2.0
"""The documentation: links between its pages, and the modules and scripts that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import npcr

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ExParamGen", "benchmarks", "datasets", "models", "output")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / name / "README.md" for name in FOLDERS)])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```", re.DOTALL)
# Paths of this repository, up to a placeholder such as * or {epoch}; docs/extending.md names files to be written.
PATH = re.compile(r"(?<![\w/.-])(?:npcr|pcpr_ext|tests|tools|benchmarks|configs|docs|ExParamGen)/[\w./-]*\w(?![\w*{…])")
EXAMPLES = {"npcr/renderers/colored_points.py", "npcr/importers/pose_list.py"}


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_anchors_are_those_of_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Speed and memory\n```sh\n# a comment\n```\n## `MODEL.COMPILE`, on a CPU\n")
    assert _anchors(page) == {"speed-and-memory", "modelcompile-on-a-cpu"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(PATH.findall(text))
    assert sorted(name for name in named - EXAMPLES if not (ROOT / name).exists()) == []
    assert "design.md" not in text


def test_the_sites_navigation_names_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w-]+\.md", text.partition("\nnav:\n")[2])
    assert sorted(named) == sorted(["index.md", "changelog.md", *(page.name for page in (ROOT / "docs").glob("*.md"))])


def test_the_changelog_begins_with_the_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[0] == npcr.__version__
