# SPDX-License-Identifier: Apache-2.0
"""Videos can be read back; a failure leaves no file."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from npcr.errors import MissingExtraError
from npcr.io.video import VideoWriter

# What a program that stands in for ffmpeg answers to the question for its encoders.
LISTING = """case "$*" in *-encoders*) printf ' V....D libx264 H.264\\n V....D gif GIF\\n'; exit;; esac"""
LEFT, RIGHT = (200, 30, 60), (10, 180, 240)


def _frame(width: int, height: int) -> np.ndarray:
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, :width // 2], frame[:, width // 2:] = LEFT, RIGHT
    return frame


def _write(path: Path, frames: list[np.ndarray], fps: float = 24, then: BaseException | None = None) -> None:
    with VideoWriter(path, fps) as video:
        for frame in frames:
            video.write(frame)
        if then is not None:
            raise then


def _read(path: Path) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        more, frame = capture.read()
        if not more:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame[..., ::-1])


@pytest.mark.parametrize("size", [(120, 96), (121, 97)])
def test_written_then_read(tmp_path: Path, size: tuple[int, int]) -> None:
    _write(tmp_path / "v.mp4", [_frame(*size)] * 7)
    frames, fps = _read(tmp_path / "v.mp4")
    assert len(frames) == 7
    assert fps == pytest.approx(24)
    assert frames[0].shape == (96 + size[1] % 2 * 2, 120 + size[0] % 2 * 2, 3)
    if tuple(map(int, cv2.__version__.split(".")[:2])) >= (4, 13):  # older ones take every video for BT.601
        for color, x in ((LEFT, 20), (RIGHT, 100)):
            assert np.abs(frames[3][40, x].astype(int) - color).max() < 8
    assert os.listdir(tmp_path) == ["v.mp4"]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "v.mp4", [_frame(32, 32)], then=KeyboardInterrupt())
    assert os.listdir(tmp_path) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first one was"):
        _write(tmp_path / "v.mp4", [_frame(32, 32), _frame(34, 32)])
    assert os.listdir(tmp_path) == []


def test_without_frames_no_file(tmp_path: Path) -> None:
    _write(tmp_path / "v.mp4", [])
    assert os.listdir(tmp_path) == []


def test_a_failing_encoder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    program = tmp_path / "broken"
    program.write_text(f"#!/bin/sh\n{LISTING}\ncat > /dev/null\necho 'disk full' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(OSError, match=r"v.mp4: ffmpeg failed: disk full"):
        _write(tmp_path / "v.mp4", [_frame(32, 32)])
    assert os.listdir(tmp_path) == ["broken"]


def test_an_encoder_that_dies_early_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import imageio_ffmpeg

    program = tmp_path / "broken"
    program.write_text(f"#!/bin/sh\n{LISTING}\necho 'no such codec' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(OSError, match=r"v.mp4: ffmpeg failed: no such codec"):
        _write(tmp_path / "v.mp4", [_frame(320, 320)] * 50)
    assert os.listdir(tmp_path) == ["broken"]


def test_opencv_serves_without_imageio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                       caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with caplog.at_level(logging.WARNING, "npcr"):
        _write(tmp_path / "v.mp4", [_frame(64, 48)] * 5)
    frames, _ = _read(tmp_path / "v.mp4")
    assert len(frames) == 5
    assert np.abs(frames[2][24, 10].astype(int) - LEFT).max() < 20
    assert len(caplog.records) == 1
    assert "pip install imageio-ffmpeg" in caplog.text


def test_without_any_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"/v.mp4: no video encoder .*pip install imageio-ffmpeg"):
        _write(tmp_path / "v.mp4", [_frame(64, 48)])
    assert os.listdir(tmp_path) == []
