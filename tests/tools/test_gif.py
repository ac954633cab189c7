# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from npcr.io.frame_source import open_frames
from npcr.io.images import write_image
from tests.models_folder import call_script

SCRIPT = Path(__file__).resolve().parents[2] / "ExParamGen" / "gif.py"
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs the script beside res/rgba: 5 pictures of 80x60, ever brighter on the left, hidden in the right's middle."""
    monkeypatch.chdir(tmp_path)
    for number in range(1, 6):
        pixels = np.full((60, 80, 4), 255, np.uint8)
        pixels[..., :3] = 40 * number
        pixels[10:50, 45:75] = 0
        write_image(f"res/rgba/img_{number:04d}.png", pixels)
    Path("res/config.yml").write_text("BACKGROUND_GRAY: 90\nRENDER: {FPS: 20}\n")
    return lambda *arguments: call_script(SCRIPT, arguments, monkeypatch, capsys)


def left(path: str) -> list[int]:
    return [round(int(pixels[5, 5, 0]) / 40) for pixels in open_frames(path)]


def test_a_folder_of_renderings(gif: Script) -> None:
    status, out, _ = gif("res/rgba", "--size", "40")
    assert status == 0
    assert re.search(r"5 frames at 20 a second: .*res/rgba\.gif \(0\.0 MiB\)", out)
    source = open_frames("res/rgba.gif")
    assert (source.size, source.fps, source.alpha) == ((40, 30), 20, False)
    assert left("res/rgba.gif") == [1, 2, 3, 4, 5]
    assert abs(int(next(iter(source))[15, 30, 0]) - 90) < 4  # over the rendering's BACKGROUND_GRAY


def test_there_and_back_of_some_frames(gif: Script) -> None:
    assert gif("res/rgba", "--start", "2", "--end", "5", "--boomerang", "--fps", "10", "--output", "b.gif")[0] == 0
    assert left("b.gif") == [2, 3, 4, 5, 4, 3]
    assert gif("res/rgba", "--step", "2", "--output", "s.gif")[0] == 0
    assert left("s.gif") == [1, 3, 5]
    assert open_frames("s.gif").fps == 10  # as fast as before


def test_alpha_is_kept_unless_a_background_is_asked_for(gif: Script) -> None:
    assert gif("res/rgba", "--output", "a.webp")[0] == 0
    assert next(iter(open_frames("a.webp")))[30, [5, 60], 3].tolist() == [255, 0]
    assert gif("res/rgba", "--output", "a.webp", "--background", "0")[0] == 0
    assert next(iter(open_frames("a.webp")))[30, 60].tolist()[:3] == [0, 0, 0]


def test_a_video_becomes_a_gif(gif: Script) -> None:
    assert gif("res/rgba", "--output", "v.mp4", "--size", "0")[0] == 0
    assert open_frames("v.mp4").size == (80, 60)
    assert gif("v.mp4")[0] == 0
    assert left("v.gif") == [1, 2, 3, 4, 5]
    status, _, err = gif("v.gif")
    assert status == 2
    assert "v.gif: is the input itself" in err


def test_help_has_examples(gif: Script) -> None:
    status, out, _ = gif("--help")
    assert status == 0
    assert "python ExParamGen/gif.py output/res_12" in out
