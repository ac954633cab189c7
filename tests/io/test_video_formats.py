# SPDX-License-Identifier: Apache-2.0
"""Every format can be read back; the matte comes back straight; failures leave nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from npcr.config import KEYS
from npcr.errors import NpcrError
from npcr.io import ffmpeg
from npcr.io.frame_source import open_frames
from npcr.io.pixels import over
from npcr.io.video import VideoWriter
from npcr.io.video_formats import FORMATS

ALPHA = [name for name, each in FORMATS.items() if each.alpha]
# Largest mean error of a decoded picture, 0-255. GIF has 256 colors, the others fine ones.
TOLERANCE = {"gif": 3.0}
# Largest error of a decoded matte, 0-255.
MATTE_TOLERANCE = {"vp9": 32, "prores": 1, "webp": 0}


@pytest.fixture(autouse=True)
def _encoder_present(request: pytest.FixtureRequest) -> None:
    """Skip a format's test where this ffmpeg was built without its encoder."""
    if "name" in request.fixturenames:
        name = request.getfixturevalue("name")
        try:
            VideoWriter(f"x{FORMATS[name].suffix}", 24, name)
        except NpcrError as error:
            pytest.skip(str(error))


def ramp(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """(H, W, 4) a soft-edged disc that moves to the right, with bright colors; hidden pixels are black."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - width / 3 - 2 * index, y - height / 2)
    alpha = np.clip((height / 2.4 - distance) / 8, 0, 1)
    color = np.stack([x * 2 + 90, y * 3 + 80, np.full_like(x, 200)], axis=2)
    pixels = np.dstack([color, alpha[..., None] * 255]).round().astype(np.uint8)
    pixels[alpha == 0] = 0
    return pixels


def written(path: Path, name: str, frames: list[np.ndarray], fps: float = 25, plays: int = 0) -> list[np.ndarray]:
    with VideoWriter(path, fps, name, plays) as video:
        for frame in frames:
            video.write(frame)
    return list(open_frames(path))


def test_the_configuration_offers_exactly_the_formats() -> None:
    assert KEYS["RENDER.VIDEO"].choices == tuple(FORMATS)


@pytest.mark.parametrize("name", tuple(FORMATS))
def test_opaque_frames_come_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"v{FORMATS[name].suffix}"
    frames = [over(ramp(index), 128) for index in range(4)]
    read = written(path, name, frames)
    source = open_frames(path)
    assert (len(source), source.size) == (4, (64, 48))
    assert source.fps == pytest.approx(25, rel=0.01)
    for frame, back in zip(frames, read, strict=True):
        assert np.abs(over(back, 0).astype(float) - frame).mean() < TOLERANCE.get(name, 2.0)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("name", ALPHA)
def test_alpha_comes_back_straight(name: str, tmp_path: Path) -> None:
    """Not premultiplied: colors of the half-transparent rim are as bright as within, over any background."""
    frames = [ramp(index) for index in range(3)]
    read = written(tmp_path / f"v{FORMATS[name].suffix}", name, frames)
    for frame, back in zip(frames, read, strict=True):
        assert back.shape == frame.shape
        error = np.abs(back[..., 3].astype(float) - frame[..., 3])
        assert error.mean() < 1
        assert error.max() <= MATTE_TOLERANCE[name]
        rim = (frame[..., 3] > 40) & (frame[..., 3] < 160)
        assert np.abs(back[rim].astype(float) - frame[rim])[:, :3].mean() < 8  # premultiplied: about 80
        for background in (0, 255):
            assert np.abs(over(back, background).astype(float) - over(frame, background)).mean() < 2


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if not each.alpha])
def test_alpha_is_refused_where_there_is_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frame must be \(H, W, 3\) uint8"):
        written(tmp_path / f"v{FORMATS[name].suffix}", name, [ramp(0)])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["vp9", "prores", "gif", "webp"])
def test_odd_sizes(name: str, tmp_path: Path) -> None:
    frames = [over(ramp(index, (33, 21)), 0) for index in range(2)]
    back = written(tmp_path / f"v{FORMATS[name].suffix}", name, frames)[1]
    grown = 1 if FORMATS[name].subsamples_chroma else 0
    assert back.shape[:2] == (21 + grown, 33 + grown)


@pytest.mark.parametrize("name", ["gif", "webp"])
@pytest.mark.parametrize(("plays", "loop"), [(0, {0}), (1, {None, 1}), (3, {2, 3})])
def test_how_often_an_animation_plays(name: str, plays: int, loop: set[int | None], tmp_path: Path) -> None:
    """GIF counts what follows the first showing (and says nothing for once), WebP all showings."""
    from PIL import Image

    path = tmp_path / f"v{FORMATS[name].suffix}"
    written(path, name, [over(ramp(index), 0) for index in range(2)], plays=plays)
    with Image.open(path) as image:
        found = image.info.get("loop")
    assert found in loop
    assert found == plays or name == "gif"


def test_a_fast_gif_is_thinned(tmp_path: Path) -> None:
    """Browsers slow down a GIF of more than 50 frames a second."""
    written(tmp_path / "v.gif", "gif", [over(ramp(index), 0) for index in range(10)], fps=100)
    source = open_frames(tmp_path / "v.gif")
    assert len(source) == 5
    assert source.fps == pytest.approx(50)


@pytest.mark.parametrize("name", tuple(FORMATS))
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / f"v{FORMATS[name].suffix}"
    path.write_bytes(b"old")
    noise = np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3)).astype(np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
        with pytest.raises(OSError, match=f"v{FORMATS[name].suffix}: ffmpeg failed"):
            written(path, name, list(noise))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [path.name]


def test_ctrl_c_leaves_no_part_of_a_gif(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(tmp_path / "v.gif", 25) as video:
            video.write(over(ramp(0), 0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_a_missing_encoder_is_named_with_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nprintf ' V....D libx264 H.264\\n V....D gif GIF\\n'\n")
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "find_ffmpeg", lambda: str(program))
    VideoWriter(tmp_path / "v.mp4", 24)
    with pytest.raises(NpcrError, match=r"v\.webm: vp9 needs the encoder libvpx-vp9, which .*ffmpeg was built "
                                        r"without; formats that it can write: h264, gif$"):
        VideoWriter(tmp_path / "v.webm", 24)


@pytest.mark.parametrize(("file", "video_format", "message"), [
    ("v.avi", None, r"v\.avi: the name must end in a video's suffix: \.mp4 \(h264\), \.webm \(vp9\)"),
    ("v.mp4", "vp9", r"v\.mp4: vp9 goes into a file whose name ends in \.webm"),
])
def test_suffixes(file: str, video_format: str | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(NpcrError, match=message):
        VideoWriter(tmp_path / file, 24, video_format)
