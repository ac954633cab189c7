# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from npcr.config import KEYS
from npcr.config.keys import SECTIONS

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    command = [sys.executable, "-m", "npcr.config"]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert printed.stdout == page, "python -m npcr.config > docs/configuration.md"
    assert all(f"| `{name}` |" in page for name in KEYS)


def test_every_key_has_a_section_and_a_sentence() -> None:
    for name, key in KEYS.items():
        assert name.rpartition(".")[0] in SECTIONS
        assert key.help[0].isupper() or key.help[0] == "["
        assert key.help.endswith(".")
