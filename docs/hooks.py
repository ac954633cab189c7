# SPDX-License-Identifier: Apache-2.0
"""Take into the site what lies outside docs: README.md as its first page, CHANGELOG.md, and every file that is linked.

Links on pages are those of the repository, so that they work there. Here they are turned into the site's; a link to a
folder becomes plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
NAMED = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
ELSEWHERE = "repository"  # the site's folder for all else
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+://|#)([^)#\s]+)(#[^)\s]+)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages link to, and those that the added pages link to."""
    pages = [ROOT / file.abs_src_path for file in files if file.src_uri.endswith(".md") and file.abs_src_path]
    pages += [ROOT / name for name in NAMED]
    seen = set(pages)
    for name, page in NAMED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    while pages:
        page = pages.pop()
        for found in LINK.finditer(_without_code(page.read_text(encoding="utf-8"))):
            target = _target(page, found[3])
            if target in seen or not target.is_file() or target.is_relative_to(ROOT / "docs"):
                continue
            seen.add(target)
            files.append(File.generated(config, _in_site(target), abs_src_path=str(target)))
            if target.suffix == ".md":
                pages.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn the repository's links into the site's, but for those in code."""
    source = Path(page.file.abs_src_path)
    here = PurePosixPath(page.file.src_uri).parent

    def rewrite(found: re.Match[str]) -> str:
        target = _target(source, found[3])
        if target.is_dir():
            return found[2]
        link = os.path.relpath(_in_site(target), here).replace(os.sep, "/")
        return f"{found[1]}[{found[2]}]({link}{found[4] or ''})"

    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(rewrite, part) for part in parts)


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _target(page: Path, link: str) -> Path:
    return Path(os.path.normpath(page.parent / link))


def _in_site(target: Path) -> str:
    if target.is_relative_to(ROOT / "docs"):
        return target.relative_to(ROOT / "docs").as_posix()
    if not target.is_relative_to(ROOT):
        return str(target)  # not found, which the build says
    name = target.relative_to(ROOT).as_posix()
    return NAMED.get(name, f"{ELSEWHERE}/{name}")
