# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npcr.errors import NpcrError
from npcr.io.frame_source import open_frames
from npcr.rendering import frame_writer
from npcr.rendering.frame_writer import PathVideos


def frame(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture over gray, and its straight RGBA, of 64x48: the right half is hidden."""
    rgba = np.zeros((48, 64, 4), np.uint8)
    rgba[:, :32] = (20 * number, 120, 220, 255)
    picture = rgba[..., :3].copy()
    picture[:, 32:] = 128
    return picture, rgba


def test_each_format_gets_what_it_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_writer, "PREVIEW_SIDE", 32)
    videos = PathVideos(tmp_path, 24, ["h264", "prores", "gif"])
    for number in range(3):
        videos.write(*frame(number))
    assert videos.close() == []
    assert [path.name for path in videos.paths] == ["video.mp4", "video.mov", "video.gif"]
    opaque, matte, preview = (open_frames(path) for path in videos.paths)
    assert (opaque.alpha, matte.alpha, preview.alpha) == (False, True, False)
    assert (opaque.size, matte.size, preview.size) == ((64, 48), (64, 48), (32, 24))
    assert abs(int(list(opaque)[2][20, 50, 0]) - 128) < 4
    assert list(matte)[2][20, [10, 50], 3].tolist() == [255, 0]
    assert abs(int(list(preview)[2][10, 25, 0]) - 128) < 4


def test_h264_and_h265_have_names_of_their_own(tmp_path: Path) -> None:
    assert [path.name for path in PathVideos(tmp_path, 24, ["h264", "h265"]).paths] == ["video.mp4", "video_h265.mp4"]


def test_one_that_fails_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "video.mov").mkdir()
    videos = PathVideos(tmp_path, 24, ["prores", "h264"])
    videos.write(*frame(1))
    reasons = videos.close()
    assert [str(reason) for reason in reasons] == [f"{tmp_path}/video.mov: cannot be written: Is a directory"]
    assert isinstance(reasons[0], NpcrError)
    assert len(open_frames(tmp_path / "video.mp4")) == 1


def test_no_videos(tmp_path: Path) -> None:
    videos = PathVideos(tmp_path, 24, [])
    videos.write(*frame(1))
    assert videos.close() == []
    assert list(tmp_path.iterdir()) == []
