# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from npcr.errors import NpcrError
from npcr.io.frame_source import open_frames
from npcr.io.images import read_image
from npcr.rendering import frame_writer
from npcr.rendering.frame_writer import FrameWriter, PathVideos
from npcr.rendering.frames import FramePixels, render_path
from tests.path_stub import SIZE, PlaneRenderer, orbit


def render(count: int, alpha: float = 0.5) -> list[FramePixels]:
    return list(render_path(PlaneRenderer(alpha=alpha), orbit(count), gray=0.25, blender=None, raw=True))


def played(video: Path) -> int:
    """The number of frames that a player finds in a video."""
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def video_frame(number: int) -> tuple[np.ndarray, np.ndarray]:
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
        videos.write(*video_frame(number))
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
    videos.write(*video_frame(1))
    reasons = videos.close()
    assert [str(reason) for reason in reasons] == [f"{tmp_path}/video.mov: cannot be written: Is a directory"]
    assert isinstance(reasons[0], NpcrError)
    assert len(open_frames(tmp_path / "video.mp4")) == 1


def test_no_videos(tmp_path: Path) -> None:
    videos = PathVideos(tmp_path, 24, [])
    videos.write(*video_frame(1))
    assert videos.close() == []
    assert list(tmp_path.iterdir()) == []


def test_what_is_written(tmp_path: Path) -> None:
    shown = render(6, alpha=0.7)
    with FrameWriter(tmp_path / "new" / "out", fps=25, raw=True) as writer:
        for frame in shown:
            writer.write(frame)
    out = tmp_path / "new" / "out"
    for number, frame in enumerate(shown, 1):
        picture = read_image(out / f"img_{number:04d}.jpg")
        assert np.abs(picture.astype(float) - frame.picture).mean() < 2
        assert np.array_equal(read_image(out / "rgba" / f"img_{number:04d}.png"), frame.rgba)
        with np.load(out / "raw" / f"img_{number:04d}.npz") as raw:
            assert frame.raw is not None
            assert np.array_equal(raw["rgb"], frame.raw.rgb)
            assert np.array_equal(raw["alpha"], frame.raw.alpha)
            assert np.array_equal(raw["depth"], frame.raw.depth)
    assert played(out / "video.mp4") == 6
    assert cv2.VideoCapture(str(out / "video.mp4")).get(cv2.CAP_PROP_FPS) == 25


def test_no_raw_folder_unless_asked(tmp_path: Path) -> None:
    with FrameWriter(tmp_path, fps=30, raw=False) as writer:
        writer.write(render(1)[0]._replace(raw=None))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["img_0001.jpg", "rgba", "video.mp4"]


def test_ctrl_c_leaves_what_was_handed_over_and_a_video_that_plays(tmp_path: Path) -> None:
    def interrupted() -> None:
        with FrameWriter(tmp_path, fps=30, raw=False) as writer:
            for number, frame in enumerate(render(8)):
                if number == 6:
                    raise KeyboardInterrupt
                writer.write(frame)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(list(tmp_path.glob("img_*.jpg"))) == 6
    assert played(tmp_path / "video.mp4") == 6


def write_with_limit(folder: Path, limit: int, count: int) -> None:
    """Write frames while no file may grow beyond `limit` bytes, which fails as a full disk does."""
    resource = pytest.importorskip("resource")  # not on Windows
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    shown = render(count)
    writer = FrameWriter(folder, fps=30, raw=True)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        with writer:
            for frame in shown:
                writer.write(frame)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_told_with_the_files_name(tmp_path: Path) -> None:
    with pytest.raises(NpcrError, match=r"raw/img_0001\.npz: cannot be written: File too large"):
        write_with_limit(tmp_path, 5000, 12)  # pictures are below, the raw numbers of 24x18 pixels above
    assert (tmp_path / "img_0001.jpg").exists()
    assert not list((tmp_path / "raw").iterdir())
    assert not list(tmp_path.glob(".*"))


def test_a_video_that_cannot_be_written_is_told_after_the_pictures(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def write(folder: Path) -> None:
        with FrameWriter(folder, fps=30, raw=False) as writer:
            for frame in render(7):
                writer.write(frame)

    (tmp_path / "one" / "video.mp4").mkdir(parents=True)  # shows on closing
    with pytest.raises(NpcrError, match=r"one/video\.mp4: cannot be written: Is a directory"):
        write(tmp_path / "one")

    def full(self: object, rgb: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(frame_writer.VideoWriter, "write", full)
    with pytest.raises(NpcrError, match=r"two/video\.mp4: cannot be written: Broken pipe"):
        write(tmp_path / "two")
    for folder in ("one", "two"):
        assert len(list((tmp_path / folder).glob("img_*.jpg"))) == 7


def test_images_of_several_frames_are_compressed_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, real = threading.Barrier(2, timeout=10), frame_writer.write_image

    def write(path: Path, pixels: np.ndarray) -> None:
        if path.suffix == ".png":
            meeting.wait()  # breaks where a frame's images wait for those of another
        real(path, pixels)

    monkeypatch.setattr(frame_writer, "write_image", write)
    with FrameWriter(tmp_path, fps=30, raw=False, videos=[]) as writer:
        for frame in render(4):
            writer.write(frame)
    assert len(list(tmp_path.glob("rgba/*.png"))) == 4


def test_the_videos_frames_keep_their_order_whatever_image_is_written_first(tmp_path: Path,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    last_is_written, real = threading.Event(), frame_writer.write_image

    def write(path: Path, pixels: np.ndarray) -> None:
        if path.name == "img_0001.jpg":
            assert last_is_written.wait(10)
        real(path, pixels)
        if path.name == "img_0004.jpg":
            last_is_written.set()

    monkeypatch.setattr(frame_writer, "write_image", write)
    with FrameWriter(tmp_path, fps=30, raw=False, videos=["h264", "prores"]) as writer:
        for number in range(1, 5):
            writer.write(FramePixels(*video_frame(number)))
    for video in ("video.mp4", "video.mov"):
        reds = [int(frame[20, 10, 0]) for frame in open_frames(tmp_path / video)]
        assert reds == pytest.approx([20, 40, 60, 80], abs=6)


def test_a_video_waits_for_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting, real = threading.Barrier(2, timeout=10), frame_writer.VideoWriter.write

    def write(self: Any, pixels: np.ndarray) -> None:
        meeting.wait()
        real(self, pixels)

    monkeypatch.setattr(frame_writer.VideoWriter, "write", write)
    videos = PathVideos(tmp_path, 24, ["h264", "prores"])
    for future in videos.write(*video_frame(1)):
        future.result()
    assert videos.close() == []


def test_frames_that_wait_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, real = threading.Event(), frame_writer.write_image

    def write(path: Path, pixels: np.ndarray) -> None:
        assert disk.wait(10)
        real(path, pixels)

    monkeypatch.setattr(frame_writer, "write_image", write)
    with FrameWriter(tmp_path, fps=30, raw=False, videos=[]) as writer:
        shown = render(frame_writer.WRITE_AHEAD + 1)
        for frame in shown[:-1]:
            writer.write(frame)
        one_more = threading.Thread(target=writer.write, args=(shown[-1],))
        one_more.start()
        one_more.join(0.2)
        assert one_more.is_alive()
        assert writer.count == frame_writer.WRITE_AHEAD
        disk.set()
        one_more.join(10)
        assert not one_more.is_alive()
    assert len(list(tmp_path.glob("img_*.jpg"))) == frame_writer.WRITE_AHEAD + 1


def test_the_first_of_several_failures_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                               caplog: pytest.LogCaptureFixture) -> None:
    second_has_failed = threading.Event()

    def write(path: Path, pixels: np.ndarray) -> None:
        if path.name == "img_0001.jpg":
            assert second_has_failed.wait(10)
        elif path.name == "img_0002.jpg":
            second_has_failed.set()
        raise OSError(errno.ENOSPC, "No space left on device")

    def write_all() -> None:
        with FrameWriter(tmp_path, fps=30, raw=False, videos=[]) as writer:
            for frame in render(frame_writer.WRITE_AHEAD + 2):
                writer.write(frame)

    monkeypatch.setattr(frame_writer, "write_image", write)
    with pytest.raises(NpcrError, match=r"img_0001\.jpg: cannot be written: No space left"):
        write_all()
    assert "img_0002.jpg" in caplog.messages[0]


def test_sizes_may_be_odd(tmp_path: Path) -> None:
    frame = render(1)[0]
    odd = FramePixels(*(np.ascontiguousarray(part[:15, :21]) for part in frame[:2]))
    with FrameWriter(tmp_path, fps=30, raw=False) as writer:
        writer.write(odd)
    assert read_image(tmp_path / "img_0001.jpg").shape == (15, 21, 3)
    assert played(tmp_path / "video.mp4") == 1
    assert SIZE == (24, 18)
    assert torch.is_inference_mode_enabled() is False
