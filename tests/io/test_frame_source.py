# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npcr.errors import MissingExtraError, NpcrError
from npcr.io.frame_source import open_frames
from npcr.io.images import write_image
from npcr.io.video import VideoWriter


def write_pictures(folder: Path, numbers: range, channels: int = 3, name: str = "img_{:04d}.png") -> Path:
    """Flat pictures of 12x8 whose first channel is ten times their number."""
    for number in numbers:
        pixels = np.full((8, 12, channels), 77, np.uint8)
        pixels[..., 0] = 10 * number
        write_image(folder / name.format(number), pixels)
    return folder


def firsts(source: object) -> list[int]:
    return [int(pixels[0, 0, 0]) for pixels in source]  # type: ignore[attr-defined]


def test_a_folder_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(8, 13), name="img_{}.png")
    write_image(tmp_path / "contact_sheet.png", np.zeros((3, 3), np.uint8))
    write_image(tmp_path / "depth_1.png", np.zeros((3, 3), np.uint8))  # img_ goes first
    (tmp_path / ".img_0.png.tmp.png").write_bytes(b"")
    source = open_frames(tmp_path)
    assert firsts(source) == [80, 90, 100, 110, 120]
    assert (source.size, len(source), source.alpha, source.fps) == ((12, 8), 5, False, None)
    assert firsts(source.select(2, 5, 2)) == [90, 110]
    assert firsts(source.select(2, None, 1).select(2, 3, 1)) == [100, 110]


def test_alpha_of_a_picture_and_of_a_matte_beside_it(tmp_path: Path) -> None:
    own = open_frames(write_pictures(tmp_path / "own", range(2), channels=4))
    assert own.alpha
    assert next(iter(own)).shape == (8, 12, 4)
    write_pictures(tmp_path / "beside", range(2), name="img_{:04d}.jpg")
    for number in range(2):
        write_image(tmp_path / "beside" / f"img_{number:04d}_alpha.png", np.full((8, 12), 99, np.uint8))
    beside = open_frames(tmp_path / "beside")
    assert (len(beside), beside.alpha) == (2, True)
    assert (next(iter(beside))[..., 3] == 99).all()


def test_a_video_is_read_frame_by_frame(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 12.5) as video:
        for number in range(6):
            video.write(np.full((16, 24, 3), 40 * number, np.uint8))
    source = open_frames(tmp_path / "v.mp4")
    assert (source.size, len(source), source.alpha, source.fps) == ((24, 16), 6, False, 12.5)
    assert np.abs(np.array(firsts(source)) - 40 * np.arange(6)).max() <= 3
    part = source.select(2, 6, 2)
    assert part.fps == 6.25
    assert np.abs(np.array(firsts(part)) - [40, 120, 200]).max() <= 3
    with pytest.raises(NpcrError, match=r"v\.mp4: ends before frame 7; it may be cut short"):
        list(replace(source, frames=range(9)))


def test_a_video_that_is_cut_short_is_told(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mov", 25) as video:
        for number in range(4):
            video.write(np.random.default_rng(number).integers(0, 255, (32, 32, 3)).astype(np.uint8))
    whole = (tmp_path / "v.mov").read_bytes()
    (tmp_path / "cut.mov").write_bytes(whole[:len(whole) // 2])  # its index was at the end
    with pytest.raises(NpcrError, match=r"cut\.mov: "):
        list(open_frames(tmp_path / "cut.mov"))


def test_pictures_of_another_size_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, range(3))
    write_image(tmp_path / "img_0003.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(NpcrError, match=r"frame 4 is 4x4, the first is 12x8"):
        list(open_frames(tmp_path))


@pytest.mark.parametrize(("start", "end", "step", "message"), [
    (0, None, 1, "has frames 1 to 3; frames 0 to 3 were asked for"),
    (2, 4, 1, "has frames 1 to 3; frames 2 to 4 were asked for"),
    (3, 2, 1, "frames 3 to 2 were asked for"),
    (1, 2, 0, "step must be at least 1"),
])
def test_frames_that_are_not_there(start: int, end: int | None, step: int, message: str, tmp_path: Path) -> None:
    source = open_frames(write_pictures(tmp_path, range(3)))
    with pytest.raises(NpcrError, match=message):
        source.select(start, end, step)


def test_what_is_no_source_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "text.gif").write_text("no animation")
    (tmp_path / "empty").mkdir()
    write_pictures(tmp_path / "two", range(2), name="a_{}.png")
    write_pictures(tmp_path / "two", range(2), name="b_{}.png")
    for name, message in (("nowhere", "no such folder of pictures or video"),
                          ("text.mp4", r"text\.mp4: is no video that can be read: .*Invalid data"),
                          ("text.gif", r"text\.gif: cannot be read"),
                          ("empty", r"needs one series of numbered pictures .*found none"),
                          ("two", r"found several series of them: a_\*\.png, b_\*\.png")):
        with pytest.raises(NpcrError, match=message):
            open_frames(tmp_path / name)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match=r"text\.mp4: reading videos needs ffmpeg .*pip install imageio-ffmpeg"):
        open_frames(tmp_path / "text.mp4")
