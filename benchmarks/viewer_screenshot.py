# SPDX-License-Identifier: Apache-2.0
"""Make docs/images/viewer.jpg and viewer_cameras.jpg (needs the extras viewer and browser, and Debian's chromium)."""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
from PIL import Image  # noqa: E402

from npcr.commands import view  # noqa: E402
from npcr.extras import import_extra  # noqa: E402


def main() -> None:
    """Serve the model, open it, and keep what is seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="of the model, as npcr view takes it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)")
    args = parser.parse_args()
    import_extra("playwright")
    from playwright.sync_api import sync_playwright

    app = view.build(view.parse(["--config-file", args.config_file, "MODEL.DEVICE", "cpu"]))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=[
            "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"])
        page = browser.new_page(viewport={"width": 1160, "height": 620})
        page.goto(app.address)
        page.get_by_role("button", name="Add keyframe here").click(timeout=60_000)
        page.get_by_role("button").and_(page.locator(".mantine-Notification-closeButton")).click()
        save(page, args.output / "viewer.jpg")
        page.get_by_label("Show cameras").click()
        page.get_by_label("Show cloud").click()
        page.mouse.move(350, 300)
        page.mouse.wheel(0, 1500)  # away, until cameras are seen
        save(page, args.output / "viewer_cameras.jpg")
        browser.close()
    app.stop()


def save(page: Any, file: Path) -> None:
    """Keep what a page shows once it has rested."""
    time.sleep(8)  # the full frame
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.save(file, quality=88)
    print(file)


if __name__ == "__main__":
    main()
