# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npcr.errors import MissingExtraError
from npcr.io.exr import FAR, ExrFormat, to_scene_linear, write_exr
from npcr.rendering.frame_writer import FrameWriter
from npcr.rendering.frames import render_path
from tests.path_stub import PlaneRenderer, orbit


def picture(height: int = 9, width: int = 14) -> tuple[np.ndarray, np.ndarray]:
    """Premultiplied RGBA with a transparent corner, and depth."""
    rng = np.random.default_rng(0)
    alpha = rng.uniform(0, 1, (height, width, 1)).astype(np.float32)
    alpha[:3, :3] = 0
    rgba = np.concatenate([rng.uniform(0, 1, (height, width, 3)).astype(np.float32) * alpha, alpha], axis=-1)
    return rgba, np.where(alpha[..., 0] > 0, 2 + rng.uniform(0, 1, (height, width)), 0).astype(np.float32)


def read_by_ffmpeg(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 4) RGBA as ffmpeg's own EXR decoder sees it."""
    ffmpeg = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    done = subprocess.run([ffmpeg, "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "gbrapf32le", "-"],
                          check=True, capture_output=True)
    green, blue, red, alpha = np.frombuffer(done.stdout, np.float32).reshape(4, *shape)
    return np.stack([red, green, blue, alpha], axis=-1)


@pytest.mark.parametrize(("form", "tolerance"), [
    (ExrFormat(half=True, linear=False), 5e-4), (ExrFormat(half=False, linear=False), 1e-7),
    (ExrFormat(half=True, linear=True), 5e-4), (ExrFormat(half=False, linear=True), 1e-7)])
def test_channels_types_and_header(form: ExrFormat, tolerance: float, tmp_path: Path) -> None:
    library = pytest.importorskip("OpenEXR", reason="needs the extra exr")
    rgba, depth = picture()
    write_exr(tmp_path / "a.exr", rgba, depth, form)
    file = library.File(str(tmp_path / "a.exr"), separate_channels=True)
    channels = {name: channel.pixels for name, channel in file.channels().items()}
    assert sorted(channels) == ["A", "B", "G", "R", "Z"]
    expected = to_scene_linear(rgba) if form.linear else rgba
    for name, plane in zip("RGBA", np.moveaxis(expected, -1, 0), strict=True):
        assert channels[name].dtype == (np.float16 if form.half else np.float32)
        np.testing.assert_allclose(channels[name], plane, atol=tolerance)
    np.testing.assert_array_equal(channels["Z"], np.where(depth > 0, depth, np.float32(FAR)))
    header = file.header()
    assert header["npcrColor"].startswith("scene-linear" if form.linear else "as rendered")
    assert "premultiplied" in header["comments"]
    np.testing.assert_allclose(header["chromaticities"][:2], (0.64, 0.33), atol=1e-6)
    np.testing.assert_allclose(read_by_ffmpeg(tmp_path / "a.exr", depth.shape), expected, atol=1e-3)


def test_another_library_reads_every_channel(tmp_path: Path) -> None:
    pytest.importorskip("OpenEXR", reason="needs the extra exr")
    exrio = pytest.importorskip("exrio", reason="a reader that shares no code with OpenEXR; pip install exrio")
    rgba, depth = picture()
    write_exr(tmp_path / "a.exr", rgba, depth, ExrFormat(half=False, linear=False))
    channels = {one.name: one.pixels for one in exrio.load(tmp_path / "a.exr").layers[0].channels}
    for name, plane in zip("RGBA", np.moveaxis(rgba, -1, 0), strict=True):
        np.testing.assert_array_equal(channels[name], plane)
    np.testing.assert_array_equal(channels["Z"], np.where(depth > 0, depth, np.float32(FAR)))


def test_scene_linear_color_is_decoded_before_it_is_multiplied() -> None:
    half_gray = np.array([[[0.25, 0.25, 0.25, 0.5], [0.5, 0.5, 0.5, 1.0], [3.0, -1.0, 0.0, 1.5], [0.1, 0.1, 0, 0]]],
                         np.float32)
    linear = to_scene_linear(half_gray)[0]
    gray = ((0.5 + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(linear[0], [gray / 2] * 3 + [0.5], rtol=1e-6)
    np.testing.assert_allclose(linear[1], [gray] * 3 + [1], rtol=1e-6)
    np.testing.assert_allclose(linear[2:], [[1, 0, 0, 1], [0, 0, 0, 0]])


def test_a_paths_frames(tmp_path: Path) -> None:
    library = pytest.importorskip("OpenEXR", reason="needs the extra exr")
    frames = list(render_path(PlaneRenderer(alpha=0.5), orbit(3), gray=0.25, blender=None, floats=True))
    with FrameWriter(tmp_path, fps=30, raw=False, videos=[], exr=ExrFormat(linear=False)) as writer:
        for frame in frames:
            writer.write(frame)
    for number, frame in enumerate(frames, 1):
        channels = library.File(str(tmp_path / "exr" / f"img_{number:04d}.exr"), separate_channels=True).channels()
        alpha = channels["A"].pixels.astype(np.float64)
        np.testing.assert_allclose(alpha * 255, frame.rgba[..., 3], atol=0.6)
        red = channels["R"].pixels / np.maximum(alpha, 1e-9)
        np.testing.assert_allclose(red.clip(0, 1) * 255, frame.rgba[..., 0], atol=0.9)
        assert set(np.unique(channels["Z"].pixels)) == {np.float32(2), np.float32(FAR)}


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(MissingExtraError, match=r"RENDER\.EXR: writing \.exr files needs OpenEXR: .*npcr\[exr\]'"):
        FrameWriter(tmp_path / "new", fps=30, raw=False, exr=ExrFormat())
    assert not (tmp_path / "new").exists()
    with pytest.raises(MissingExtraError, match=r"a\.exr: writing"):
        write_exr(tmp_path / "a.exr", *picture(), ExrFormat())
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    library = pytest.importorskip("OpenEXR", reason="needs the extra exr")
    path = tmp_path / "a.exr"
    path.write_bytes(b"old")

    class Broken(library.File):  # type: ignore[misc, name-defined]
        def write(self, name: str) -> None:
            raise RuntimeError("disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "File", Broken)
        with pytest.raises(OSError, match="disk is full"):
            write_exr(path, *picture(), ExrFormat())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
