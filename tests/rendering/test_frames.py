# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from npcr.config import changed, default_config
from npcr.errors import NpcrError
from npcr.factory import build_blender
from npcr.io.images import read_image
from npcr.rendering import frame_writer
from npcr.rendering.frames import FramePixels, FrameWriter, render_path
from npcr.temporal import Blender, DefaultBlender, LegacyBlender
from tests.path_stub import SIZE, PlaneRenderer, orbit

WEIGHTS = [0.25, 0.2, 0.2, 0.15, 0.1, 0.08, 0.02]


def render(renderer: PlaneRenderer, count: int = 3, blender: Blender | None = None, gray: float = 0.25,
           step: float = 0.05) -> list[FramePixels]:
    return list(render_path(renderer, orbit(count, step), gray=gray, blender=blender))


def played(video: Path) -> int:
    """The number of frames that a player finds in a video."""
    capture = cv2.VideoCapture(str(video))
    count = 0
    while capture.read()[0]:
        count += 1
    return count


def test_frames_are_rendered_one_by_one_without_gradients() -> None:
    renderer = PlaneRenderer().train()
    path = render_path(renderer, orbit(5), gray=0.0, blender=None, frame=2)
    assert renderer.calls == []
    next(path)
    assert renderer.calls == [(1, 2, False, False)]
    assert len(list(path)) == 4


def test_default_color_is_premultiplied() -> None:
    frame = render(PlaneRenderer(alpha=0.5))[1]
    assert frame.rgb.dtype == frame.alpha.dtype == frame.depth.dtype == np.float32
    assert frame.rgb.shape == (18, 24, 3)
    assert (frame.depth[:, :4] == 0).all()
    assert (frame.depth[:, 4:] == 2).all()
    over = frame.rgb + (1 - frame.alpha[..., None]) * 0.25
    assert np.abs(frame.picture - over * 255).max() < 0.51
    assert np.abs(frame.rgba[:, 4:, :3] - frame.rgb[:, 4:] / 0.5 * 255).max() < 0.51
    assert (frame.rgba[:, 4:, 3] == 128).all()
    assert (frame.rgba[:, :4] == 0).all()
    assert (frame.picture[:, :4] == 64).all()


def test_legacy_color_is_straight() -> None:
    frame = render(PlaneRenderer(legacy=True, alpha=0.5))[1]
    over = frame.rgb * frame.alpha[..., None] + (1 - frame.alpha[..., None]) * 0.25
    assert np.abs(frame.picture - over * 255).max() < 0.51
    assert np.abs(frame.rgba[:, 4:, :3] - frame.rgb[:, 4:] * 255).max() < 0.51


def test_raw_numbers_are_neither_clamped_nor_blended() -> None:
    renderer = PlaneRenderer(alpha=1.0, flicker=0.02)
    renderer.brightness.data.fill_(3.0)
    blended = render(renderer, 3, DefaultBlender(3, 1e9, 0.02, 20))
    renderer.calls.clear()
    single = render(renderer, 3)
    assert blended[2].rgb.max() > 1.5
    assert np.array_equal(blended[2].rgb, single[2].rgb)
    assert blended[2].picture.max() == 255


@pytest.mark.parametrize("legacy", [False, True])
def test_default_blending_steadies_picture_and_matte(legacy: bool) -> None:
    def unrest(blender: Blender | None) -> float:
        shown = render(PlaneRenderer(legacy, flicker=0.05), 12, blender, step=0.0)
        return float(np.abs(np.diff([f.rgba[5, 10, :3].astype(float) for f in shown], axis=0)).mean())

    assert unrest(DefaultBlender(3, 22, 0.02, 20)) < 0.6 * unrest(None)


def test_legacy_blending_leaves_the_matte_as_rendered() -> None:
    def shown(blender: Blender | None) -> list[FramePixels]:
        return render(PlaneRenderer(legacy=True, flicker=0.05), 8, blender, step=0.0)

    single, blended = shown(None), shown(LegacyBlender(WEIGHTS, 8000))
    assert all(np.array_equal(a.rgba, b.rgba) for a, b in zip(single, blended, strict=True))
    same = [np.array_equal(a.picture, b.picture) for a, b in zip(single, blended, strict=True)]
    assert same == [True] * 5 + [False] * 3


def test_build_blender() -> None:
    cfg = default_config()
    default = build_blender(cfg)
    assert isinstance(default, DefaultBlender)
    assert (default.history, default.color_tolerance, default.depth_tolerance, default.angle) == (3, 22, 0.02, 20)
    legacy = build_blender(changed(cfg, TEMPORAL__BLEND="legacy"))
    assert isinstance(legacy, LegacyBlender)
    assert (legacy.weights, legacy.color_threshold) == (WEIGHTS, 8000)
    assert build_blender(changed(cfg, TEMPORAL__BLEND="off")) is None


def test_what_is_written(tmp_path: Path) -> None:
    shown = render(PlaneRenderer(alpha=0.7), 6)
    with FrameWriter(tmp_path / "new" / "out", fps=25, raw=True) as writer:
        for frame in shown:
            writer.write(frame)
    out = tmp_path / "new" / "out"
    for number, frame in enumerate(shown, 1):
        picture = read_image(out / f"img_{number:04d}.jpg")
        assert np.abs(picture.astype(float) - frame.picture).mean() < 2
        assert np.array_equal(read_image(out / "rgba" / f"img_{number:04d}.png"), frame.rgba)
        with np.load(out / "raw" / f"img_{number:04d}.npz") as raw:
            assert np.array_equal(raw["rgb"], frame.rgb)
            assert np.array_equal(raw["alpha"], frame.alpha)
            assert np.array_equal(raw["depth"], frame.depth)
    assert played(out / "video.mp4") == 6
    assert cv2.VideoCapture(str(out / "video.mp4")).get(cv2.CAP_PROP_FPS) == 25


def test_no_raw_folder_unless_asked(tmp_path: Path) -> None:
    with FrameWriter(tmp_path, fps=30, raw=False) as writer:
        writer.write(render(PlaneRenderer(), 1)[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["img_0001.jpg", "rgba", "video.mp4"]


def test_ctrl_c_leaves_what_was_handed_over_and_a_video_that_plays(tmp_path: Path) -> None:
    def interrupted() -> None:
        with FrameWriter(tmp_path, fps=30, raw=False) as writer:
            for number, frame in enumerate(render(PlaneRenderer(), 8)):
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
    shown = render(PlaneRenderer(), count)
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
            for frame in render(PlaneRenderer(), 7):
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


def test_sizes_may_be_odd(tmp_path: Path) -> None:
    frame = render(PlaneRenderer(), 1)[0]
    odd = FramePixels(*(np.ascontiguousarray(part[:15, :21]) for part in frame))
    with FrameWriter(tmp_path, fps=30, raw=False) as writer:
        writer.write(odd)
    assert read_image(tmp_path / "img_0001.jpg").shape == (15, 21, 3)
    assert played(tmp_path / "video.mp4") == 1
    assert SIZE == (24, 18)
    assert torch.is_inference_mode_enabled() is False
