# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from npcr.io.frame_source import open_frames
from npcr.io.images import read_image, write_image
from npcr.visualization.captions import CAPTION_HEIGHT, GAP
from tests.models_folder import call_script

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "compare.py"
Script = Callable[..., tuple[int, str, str]]
WIDTH, HEIGHT, COUNT = 64, 48, 5


@pytest.fixture
def compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs the script beside a rendering (over gray 60, 12 frames a second) and a true path (RGBA)."""
    monkeypatch.chdir(tmp_path)
    for number in range(1, COUNT + 1):
        write_image(f"res/img_{number:04d}.jpg", np.full((HEIGHT, WIDTH, 3), 60, np.uint8))
        truth = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        truth[:, :WIDTH // 2] = (200, 200, 200, 255)
        write_image(f"scene/path/img_{number:04d}.png", truth)
    Path("res/config.yml").write_text("BACKGROUND_GRAY: 60\nRENDER: {FPS: 12}\n")
    return lambda *arguments: call_script(SCRIPT, arguments, monkeypatch, capsys)


def test_a_rendering_and_the_truth(compare: Script) -> None:
    status, out, _ = compare("res", "scene/path", "--labels", "rendered", "ray traced")
    assert status == 0
    assert "video: comparison.mp4" in out
    video = open_frames("comparison.mp4")
    assert (len(video), video.size, video.fps) == (COUNT, (2 * WIDTH + GAP, HEIGHT + CAPTION_HEIGHT), 12)
    frame = list(video)[2]
    samples = frame[CAPTION_HEIGHT + 20, [10, WIDTH + GAP + 10, WIDTH + GAP + 50], 0].astype(int)
    assert np.abs(samples - [60, 200, 60]).max() < 6


def test_views_sheet_and_other_formats(compare: Script) -> None:
    status, out, _ = compare("res", "scene/path", "--view", "wipe,difference", "--layout", "column", "--gain", "1",
                             "--zoom", "28", "20", "8", "6", "--background", "60", "--start", "2", "--step", "2",
                             "--fps", "5", "--output", "new/c.gif", "--still", "sheet.png", "--still-frames", "9")
    assert status == 0
    assert "video: new/c.gif" in out
    assert "sheet: sheet.png" in out
    video = open_frames("new/c.gif")
    assert (len(video), video.size, video.fps) == (2, (WIDTH, 2 * (HEIGHT + CAPTION_HEIGHT) + GAP), 5)
    sheet = read_image("sheet.png")
    assert sheet.shape == (2 * (HEIGHT + CAPTION_HEIGHT) + GAP, 2 * WIDTH + GAP, 3)
    assert abs(int(sheet[CAPTION_HEIGHT + 2, WIDTH + GAP + 2, 0]) - 140) < 4


def test_a_sheet_alone(compare: Script) -> None:
    status, out, _ = compare("res", "scene/path", "--still", "sheet.jpg")
    assert status == 0
    assert "video" not in out
    assert not Path("comparison.mp4").exists()
    assert read_image("sheet.jpg").shape[0] == 4 * (HEIGHT + CAPTION_HEIGHT) + 3 * GAP


def test_opaque_images_over_a_background_give_a_warning(compare: Script, caplog: pytest.LogCaptureFixture) -> None:
    assert compare("res", "scene/path", "--background", "checker", "--still", "sheet.png")[0] == 0
    assert caplog.messages == ["no alpha, so that --background does not show: res"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["res"], "at least two inputs"),
    (["res", "nowhere"], r"nowhere: no such folder"),
    (["res", "scene/path", "--labels", "one"], r"--labels has 1 texts for 2 inputs"),
    (["res", "scene/path", "--view", "blink"], r"blink is none of inputs, wipe, difference"),
    (["res", "scene/path", "--end", "9"], r"res: has frames 1 to 5; frames 1 to 9"),
    (["res", "scene/path", "--output", "c.avi"], r"c\.avi: the name must end in a video's suffix"),
    (["res", "scene/path", "--output", "c.mp4", "--codec", "gif"], r"c\.mp4: gif goes into a file .*\.gif"),
    (["res", "scene/path", "--zoom", "60", "0", "9", "9"], r"magnify is 9x9 at \(60, 0\); .* 64x48"),
    (["res", "scene/path", "--background", "300"], r"300 is not from 0 to 255"),
])
def test_wrong_arguments_are_reported(compare: Script, arguments: list[str], message: str) -> None:
    status, _, err = compare(*arguments)
    assert status == 2
    assert re.search(message, err)
    assert not list(Path().glob("c*.*"))


def test_help_has_examples(compare: Script) -> None:
    status, out, _ = compare("--help")
    assert status == 0
    assert 'python tools/compare.py output/res_12 datasets/bob/path --labels rendered "ray traced"' in out
