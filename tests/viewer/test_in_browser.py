# SPDX-License-Identifier: Apache-2.0
"""The viewer in a browser: see conftest.py for where these tests are skipped."""

from __future__ import annotations

import gc
import io
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from npcr.camera_paths import look_at
from npcr.cameras import project
from npcr.config import changed, default_config
from npcr.data.samples import SceneDataset
from npcr.data.scene import load_scene
from npcr.io.camera_files import read_cam_poses
from npcr.io.camera_path_files import make_cameras, read_camera_path
from npcr.viewer.app import Settings, ViewerApp
from npcr.viewer.browser import Browser
from npcr.viewer.film import Film
from npcr.viewer.landmarks import CLOUD_COLOR
from npcr.viewer.photographs import PhotographedViews
from npcr.viewer.pictures import Engine
from tests.scenes import write_tiny_scene
from tests.viewer.models import POSE, small_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WINDOW = {"width": 900, "height": 500}
FREE = (330, 0, 560, 420)  # of the window: what neither controls nor notes cover


@pytest.fixture
def app(tmp_path: Path, viser: None) -> Iterator[ViewerApp]:
    folder = write_tiny_scene(tmp_path / "scene", cameras=3, size=(48, 36))
    scene = load_scene(folder, size_raw=(48, 36), frame_num=1, mask=True, center=[])
    engine = Engine(small_model())
    settings = Settings(np.zeros(3), POSE, 30.0, (40, 30), (48, 36), 5.0, 90.0, tmp_path / "out", 900)
    cfg = changed(default_config(), RENDER__VIDEO=[], TEMPORAL__BLEND="off")
    views = PhotographedViews(SceneDataset(scene, size=(48, 36)), held_out=[2])
    made = ViewerApp(engine, settings, Film(engine, cfg), views, port=8470)
    yield made
    made.stop()


@pytest.fixture
def pages(chromium: Any) -> Iterator[Any]:
    """A browser whose pages are closed after the test, so that none meets the next test's server."""
    context = chromium.new_context(viewport=WINDOW)
    yield context
    context.close()


def open_page(app: ViewerApp, pages: Any) -> Any:
    page = pages.new_page()
    page.goto(app.address)
    return page


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 120
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


def test_what_is_seen_is_what_is_rendered(app: ViewerApp, pages: Any) -> None:
    page = open_page(app, pages)
    browser = rested(app)
    assert browser.view().size == (900, 500)
    np.testing.assert_allclose(browser.view().cam_to_world, POSE, atol=1e-5)
    rendered = app.engine.show(browser.view()).picture
    wait_for(lambda: psnr(free(screenshot(page)), free(rendered)) > 30)
    color = screenshot(page)
    browser._mode.value = "matte"
    matte = app.engine.show(browser.view()).picture
    assert psnr(free(matte), free(color)) < 25
    wait_for(lambda: psnr(free(screenshot(page)), free(matte)) > 30)
    page.reload()
    wait_for(lambda: list(app._browsers.values()) not in ([], [browser]))
    again = rested(app)
    assert again._mode.value == "color"
    wait_for(lambda: psnr(free(screenshot(page)), free(rendered)) > 30)


def test_a_path_is_set_saved_played_and_filmed(app: ViewerApp, pages: Any, tmp_path: Path) -> None:
    page = open_page(app, pages)
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


def test_mistakes_are_said_and_nothing_stays_stuck(app: ViewerApp, pages: Any) -> None:
    page = open_page(app, pages)
    browser = rested(app)
    icons = [page.locator(f".tabler-icon-{name}").count() for name in ("adjustments", "share")]
    assert icons == [1, 0]  # the second would open a public address

    def said(label: str, message: str) -> None:
        page.get_by_role("button", name=label).first.click()
        page.get_by_text(message).wait_for(timeout=20_000)

    said("Play or stop", "needs at least one keyframe")
    said("Cancel rendering", "no path is being rendered")
    browser._put(None)
    said("Play or stop", "a path of one keyframe stands still")
    for _ in range(2):
        browser._put(None)
    page.get_by_role("button", name="Play or stop").first.click()
    wait_for(browser._playing.is_set)
    browser._editor.keyframes.clear()
    wait_for(lambda: not browser._playing.is_set())  # else no frame would be rendered any more
    with page.expect_file_chooser() as chosen:
        page.get_by_role("button", name="Load path").first.click()
    chosen.value.set_files([{"name": "mine.json", "mimeType": "application/json", "buffer": b"{}"}])
    page.get_by_text("mine.json: needs 'camera_path'").wait_for(timeout=20_000)


def test_browsers_come_and_vanish(app: ViewerApp, pages: Any) -> None:
    opened = []
    for count in (1, 2):  # one after the other: a page in the background does not draw, and connects when it draws
        opened.append(open_page(app, pages))
        wait_for(lambda count=count: len(app._browsers) == len(app.scheduler) == count)
    playing = app._browsers[max(app._browsers)]
    for _ in range(2):
        playing._put(None)
    opened[1].get_by_role("button", name="Play or stop").click()
    wait_for(playing._playing.is_set)
    for page in opened:
        page.close()
    wait_for(lambda: not app._browsers and not app._scales and len(app.scheduler) == 0)
    assert not playing._playing.is_set()
    open_page(app, pages)
    rested(app)


def test_a_click_on_a_camera_leads_there(app: ViewerApp, pages: Any) -> None:
    page = open_page(app, pages)
    browser = rested(app)
    browser._move_to(look_at((0, -14, 5), (0, 0, 0)), 40.0)  # from where cameras are seen
    rested(app)
    plain = screenshot(page)
    page.get_by_label("Show cameras").click()
    wait_for(lambda: np.abs(free(screenshot(page)) - free(plain)).max() > 60)
    assert app.views is not None
    pixels, depth = place_of_cameras(app, browser)
    camera = next(i for i in range(3) if depth[i] > 0 and FREE[0] < pixels[i, 0] < FREE[2]
                  and FREE[1] < pixels[i, 1] < FREE[3])
    page.mouse.move(*map(float, pixels[camera]))
    time.sleep(1)  # until it is found below the mouse
    page.mouse.click(*map(float, pixels[camera]))
    wait_for(lambda: np.allclose(browser.view().cam_to_world, app.views.poses[camera], atol=1e-4))  # type: ignore[union-attr]
    assert browser._camera.value == camera + 1
    page.get_by_label("Show cameras").click()
    page.get_by_label("Show cloud").click()
    rested(app)
    wait_for(lambda: np.abs(free(screenshot(page)) - CLOUD_COLOR).sum(axis=2).min() < 60)


def place_of_cameras(app: ViewerApp, browser: Browser) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 2) and depths (N,) of points a little in front of the cameras, as the browser sees them."""
    view, poses = browser.view(), app.views.poses  # type: ignore[union-attr]
    points = torch.from_numpy(poses[:, :3, 3] + 0.05 * poses[:, :3, 2]).float()
    pixels, depth = project(points[None], make_cameras([view.cam_to_world], [view.fov], view.size))
    return pixels[0].numpy(), depth[0].numpy()


def test_twenty_connects_leave_no_memory_behind(app: ViewerApp, pages: Any) -> None:
    def connect(times: int) -> None:
        for _ in range(times):
            page = pages.new_page()
            page.set_viewport_size({"width": 500, "height": 400})
            page.goto(app.address)
            wait_for(lambda: any(browser._times[True] for browser in list(app._browsers.values())))
            page.close()
            wait_for(lambda: not app._browsers)

    connect(3)  # what is allocated once
    tracemalloc.start()
    try:
        connect(20)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert not app._scales
    assert len(app.scheduler) == 0
    assert sum(type(one) is Browser for one in gc.get_objects()) <= 1  # the last may be in a thread's hands
    assert grown < 2 << 20, f"{grown / 2**20:.1f} MiB"  # a picture a browser would be 12


def test_a_training_is_watched_paused_resumed_and_stopped(pages: Any, tmp_path: Path) -> None:
    write_tiny_scene(tmp_path / "scene", cameras=3, size=(48, 36))
    (tmp_path / "config.yml").write_text(
        "MODEL: {FORM: strands, DEVICE: cpu, FEATURE_DIM: 4, WIDTH: 8}\n"
        "INPUT: {SIZE_RAW: [48, 36], SIZE_TRAIN: [24, 24], SIZE_TEST: [48, 36]}\n"
        "DATASETS: {TRAIN: scene, HOLDOUT_EVERY: 3}\nLOSS: {PERCEPTUAL: 0}\nTEST: {PERIOD: 1}\n"
        "SOLVER: {MAX_EPOCHS: 100000, CHECKPOINT_PERIOD: 100000}\nOUTPUT_DIR: output\n")
    told = tmp_path / "told.txt"
    with told.open("w") as file:
        training = subprocess.Popen([sys.executable, "-m", "npcr", "train", "--config-file", "config.yml", "--view",
                                     "--port", "8480"], cwd=tmp_path, stderr=file, stdout=file,
                                    env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        wait_for(lambda: "the training in the browser: " in told.read_text() or training.poll() is not None)
        page = pages.new_page()
        page.goto(told.read_text().partition("the training in the browser: ")[2].split()[0])
        page.get_by_text("held out, epoch").wait_for(timeout=60_000)
        page.get_by_role("button", name="Pause training").click()
        page.get_by_text(re.compile("paused · epoch")).wait_for(timeout=60_000)
        step = page.get_by_text(re.compile("paused · epoch")).inner_text()
        wait_for(lambda: free(screenshot(page)).std(axis=(0, 1)).max() > 3)  # the object is seen
        assert page.get_by_text(re.compile("paused · epoch")).inner_text() == step
        page.get_by_role("button", name="Resume training").click()
        page.get_by_text(re.compile("training · epoch|at the end of an epoch")).wait_for(timeout=60_000)
        page.get_by_role("button", name="Pause training").wait_for(timeout=60_000)
        training.send_signal(signal.SIGINT)
        assert training.wait(60) == 130, told.read_text()
        assert len(list((tmp_path / "output").glob("nr_optimizer_*.pth"))) == 1
    finally:
        training.kill()
        training.wait(10)
