# SPDX-License-Identifier: Apache-2.0
"""The viewer in Debian's chromium, driven by playwright; skipped where one of these, or viser, is missing."""

from __future__ import annotations

import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from npcr.config import changed, default_config
from npcr.data.samples import SceneDataset
from npcr.data.scene import load_scene
from npcr.io.camera_files import read_cam_poses
from npcr.io.camera_path_files import read_camera_path
from npcr.viewer.app import Settings, ViewerApp
from npcr.viewer.film import Film
from npcr.viewer.photographs import PhotographedViews
from npcr.viewer.pictures import Engine
from tests.scenes import write_tiny_scene
from tests.viewer.models import POSE, small_model

pytestmark = pytest.mark.slow
CHROMIUM = shutil.which("chromium")
WINDOW = {"width": 900, "height": 500}
FREE = (330, 0, 560, 420)  # of the window: what neither controls nor notes cover


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    pytest.importorskip("viser", reason="needs the extra viewer")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Debian's chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[
            "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"])
        yield browser
        browser.close()


@pytest.fixture
def app(tmp_path: Path) -> Iterator[ViewerApp]:
    pytest.importorskip("viser", reason="needs the extra viewer")
    folder = write_tiny_scene(tmp_path / "scene", cameras=3, size=(48, 36))
    scene = load_scene(folder, size_raw=(48, 36), frame_num=1, mask=True, center=[])
    engine = Engine(small_model())
    settings = Settings(np.zeros(3), POSE, 30.0, (40, 30), (48, 36), 5.0, 90.0, tmp_path / "out", 900)
    cfg = changed(default_config(), RENDER__VIDEO=[], TEMPORAL__BLEND="off")
    views = PhotographedViews(SceneDataset(scene, size=(48, 36)))
    made = ViewerApp(engine, settings, Film(engine, cfg), views, port=8470)
    yield made
    made.stop()


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def rested(app: ViewerApp) -> Any:
    """The one browser, once its full frame was sent."""
    wait_for(lambda: len(app._browsers) == 1)
    browser = next(iter(app._browsers.values()))
    wait_for(lambda: "moving" not in browser._status.content.split("·")[0] and "full 0 " not in browser._status.content
             and "×" in browser._status.content and len(app.scheduler) == 1)
    time.sleep(1.5)  # until it is drawn
    return browser


def screenshot(page: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(float)


def free(picture: np.ndarray) -> np.ndarray:
    left, top, right, bottom = FREE
    return picture[top:bottom, left:right]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 1e-9)))


def test_what_is_seen_is_what_is_rendered(app: ViewerApp, chromium: Any) -> None:
    page = chromium.new_page(viewport=WINDOW)
    page.goto(app.address)
    browser = rested(app)
    assert browser.view().size == (900, 500)
    np.testing.assert_allclose(browser.view().cam_to_world, POSE, atol=1e-5)
    color = screenshot(page)
    assert psnr(free(color), free(app.engine.show(browser.view()).picture)) > 30
    browser._mode.value = "matte"
    rested(app)
    matte = screenshot(page)
    assert psnr(free(matte), free(app.engine.show(browser.view()).picture)) > 30
    assert psnr(free(matte), free(color)) < 25
    page.reload()
    wait_for(lambda: list(app._browsers.values()) not in ([], [browser]))
    again = rested(app)
    assert psnr(free(screenshot(page)), free(app.engine.show(again.view()).picture)) > 30
    page.close()


def test_a_path_is_set_saved_played_and_filmed(app: ViewerApp, chromium: Any, tmp_path: Path) -> None:
    page = chromium.new_page(viewport=WINDOW)
    page.goto(app.address)
    browser = rested(app)

    def click(label: str) -> None:
        page.get_by_role("button", name=label).first.click()

    click("Add keyframe here")
    wait_for(lambda: len(browser._editor.keyframes) == 1)
    page.mouse.move(450, 250)
    page.mouse.down()
    page.mouse.move(520, 250, steps=5)
    page.mouse.up()
    rested(app)
    click("Add keyframe here")
    wait_for(lambda: len(browser._editor.keyframes) == 2)
    with page.expect_download() as download:
        click("Save path")
        page.get_by_text("path.json").last.click(timeout=20000)
    folder = tmp_path / "out" / "path"
    wait_for((folder / "Intrinsic.inf").exists)
    path = read_camera_path(folder / "path.json")
    assert read_camera_path(download.value.path()).keyframes[0].fov == pytest.approx(30, abs=0.01)
    assert len(path.cameras) == len(read_cam_poses(folder / "CamPose.inf")) == 11  # 2 seconds at 5 fps
    np.testing.assert_allclose(path.cameras.cam_to_world[0], POSE, atol=1e-5)
    assert np.linalg.norm(path.cameras.cam_to_world[-1, :3, 3].numpy() - POSE[:3, 3]) > 0.1  # it was turned
    click("Render this path")
    wait_for(lambda: (folder / "img_0011.jpg").exists() and not app.film._busy.locked())
    click("Compare")
    wait_for(lambda: browser._compared.visible)
    assert browser._compared.image.shape == (36, 144, 3)
    page.close()


def test_browsers_come_and_vanish(app: ViewerApp, chromium: Any) -> None:
    pages = [chromium.new_page(viewport=WINDOW) for _ in range(2)]
    for page in pages:
        page.goto(app.address)
    wait_for(lambda: len(app._browsers) == 2 and len(app.scheduler) == 2)
    for page in pages:
        page.close()
    wait_for(lambda: not app._browsers and not app._scales and len(app.scheduler) == 0)
    page = chromium.new_page(viewport=WINDOW)
    page.goto(app.address)
    rested(app)
    page.close()
