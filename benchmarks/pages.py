# SPDX-License-Identifier: Apache-2.0
"""Insert results into a documentation page, between markers, so that none of its numbers is typed by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from npcr.errors import ConfigError
from npcr.io.files import atomic_write


def fill_page(page: Path, filled: Mapping[str, str]) -> None:
    """Replace the sections of a page, each between its markers `<!-- NAME -->` and `<!-- /NAME -->`.

    Args:
        page: the markdown file.
        filled: new text by section name.

    Raises:
        ConfigError: a marker is missing or occurs twice; the page is then unchanged.
    """
    text = page.read_text(encoding="utf-8")
    for name, section in filled.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        pattern = re.compile(f"{re.escape(begin)}\\n.*?{re.escape(end)}", re.DOTALL)
        found = len(pattern.findall(text))
        if found != 1:
            raise ConfigError(f"{page}: has {found} sections between {begin} and {end}; it needs one, each marker on a "
                              "line of its own")
        text = pattern.sub(lambda _, body=f"{begin}\n{section}{end}": body, text)  # type: ignore[misc]
    with atomic_write(page, "w") as file:
        file.write(text)
