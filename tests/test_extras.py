# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from npcr.errors import MissingExtraError
from npcr.extras import EXTRAS, import_extra

ROOT = Path(__file__).resolve().parents[1]


def declared(extra: str) -> str:
    """What pyproject.toml has for an extra."""
    content = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("[project.optional-dependencies]")[2]
    found = re.search(rf"^{extra} = (\[.*\])$", content, re.MULTILINE)
    assert found, f"pyproject.toml has no extra {extra}"
    return found[1]


@pytest.mark.parametrize("name", EXTRAS)
def test_the_extra_that_a_message_names_has_the_package(name: str) -> None:
    distribution = EXTRAS[name].package.split()[0].lower()
    assert re.search(rf'"{distribution}\b', declared(EXTRAS[name].extra).lower())


def test_a_missing_package_is_named_with_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pillow_heif", "playwright"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        import_extra("pillow_heif", Path("a/b.heic"))
    assert str(caught.value) == ("a/b.heic: reading HEIC needs pillow-heif: pip install 'npcr[heic]'; or convert it to "
                                 "JPEG or PNG")
    with pytest.raises(MissingExtraError, match=r"^driving a browser needs playwright: pip install 'npcr\[browser\]'$"):
        import_extra("playwright")


@pytest.mark.parametrize(("content", "reason"), [
    ("import a_package_that_it_needs", r"\(No module named 'a_package_that_it_needs'\)"),
    ("raise ImportError('libGL.so.1: cannot open shared object file')", r"\(libGL\.so\.1: cannot open shared"),
])
def test_a_package_that_is_there_and_broken_says_why(content: str, reason: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pycolmap.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pycolmap", raising=False)
    with pytest.raises(MissingExtraError, match=rf"needs pycolmap, which cannot be imported {reason}.*npcr\[colmap\]"):
        import_extra("pycolmap")
