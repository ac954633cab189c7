# SPDX-License-Identifier: Apache-2.0
"""The browser of the viewer's tests: Debian's chromium, driven by playwright.

Where chromium, playwright or viser is missing, tests that need them are skipped; with NPCR_BROWSER=required, which CI
sets where it could install chromium, they fail instead.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest


def _lack(what: str) -> NoReturn:
    if os.environ.get("NPCR_BROWSER") == "required":
        pytest.fail(f"NPCR_BROWSER=required, but this {what}")
    pytest.skip(what)


@pytest.fixture(scope="session")
def viser() -> None:
    """The extra viewer."""
    if importlib.util.find_spec("viser") is None:
        _lack("needs viser: pip install 'npcr[viewer]'")


@pytest.fixture(scope="module")  # playwright runs a loop in this thread: not longer than needed
def chromium(viser: None) -> Iterator[Any]:
    """A browser, whose `new_page` opens pages."""
    if importlib.util.find_spec("playwright") is None:
        _lack("needs playwright: pip install 'npcr[browser]'")
    found = shutil.which("chromium")
    if found is None:
        _lack("needs Debian's chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=[
            "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"])
        yield browser
        browser.close()
