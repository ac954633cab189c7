# SPDX-License-Identifier: Apache-2.0
"""Photographs, mattes and written pictures."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from npcr.errors import SceneError
from npcr.io.images import inspect_image, read_image, read_matte, write_image
from tests.scenes import photograph


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_written_then_read_is_equal(tmp_path: Path, channels: int) -> None:
    pixels = photograph(0)[..., :channels] if channels > 1 else photograph(0)[..., 0]
    write_image(tmp_path / "a.png", pixels)
    back = read_image(tmp_path / "a.png")
    assert back.shape == (16, 24, max(channels, 3))
    np.testing.assert_array_equal(back, pixels if channels > 1 else np.dstack([pixels] * 3))


def test_floats_are_clipped_and_rounded(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.array([[-1, 0, 0.5, 1, 2, np.nan, 1 / 255]], np.float32))
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 1]


def test_jpeg_is_close(tmp_path: Path) -> None:
    pixels = photograph(1)[..., :3]
    write_image(tmp_path / "a.jpg", pixels)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - pixels).mean() < 3


@pytest.mark.parametrize("quality", [75, 100])
def test_jpeg_has_the_quality_that_pillow_means_and_full_chroma(tmp_path: Path, quality: int) -> None:
    pixels = np.kron(photograph(1)[..., :3], np.ones((5, 5, 1), np.uint8))[:-1, :-2]
    write_image(tmp_path / "a.jpg", pixels, quality)
    Image.fromarray(pixels).save(tmp_path / "b.jpg", quality=quality, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as ours, Image.open(tmp_path / "b.jpg") as reference:
        assert isinstance(ours, JpegImageFile)
        assert isinstance(reference, JpegImageFile)
        assert ours.quantization == reference.quantization
        assert get_sampling(ours) == get_sampling(reference) == 0
    difference = read_image(tmp_path / "a.jpg").astype(int) - read_image(tmp_path / "b.jpg")
    assert np.abs(difference).max() <= 1  # 0 where both have the same libjpeg


def test_png_is_compressed(tmp_path: Path) -> None:
    pixels = np.asarray(Image.fromarray(photograph(0)).resize((200, 150)))
    write_image(tmp_path / "a.png", pixels)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size < 1.3 * (tmp_path / "b.png").stat().st_size


def test_a_jpeg_that_is_too_large_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"65501x1 pixels cannot be encoded"):
        write_image(tmp_path / "a.jpg", np.zeros((1, 65501, 3), np.uint8))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "shape"), [("a.jpg", (4, 4, 4)), ("a.png", (4, 4, 2)), ("a.png", (4,)),
                                             ("a.tif", (4, 4, 3)), ("a.png", (0, 4))])
def test_what_a_format_cannot_hold_is_refused(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"write_image"):
        write_image(tmp_path / name, np.zeros(shape, np.uint8))
    assert not list(tmp_path.iterdir())


def test_mattes_of_every_kind(tmp_path: Path) -> None:
    alpha = photograph(0)[..., 3]
    gray = Image.fromarray(alpha)
    gray.save(tmp_path / "gray.png")
    gray.convert("RGB").save(tmp_path / "rgb.png")
    Image.merge("LA", [Image.new("L", gray.size, 255), gray]).save(tmp_path / "la.png")
    Image.merge("RGBA", [*[gray] * 3, Image.new("L", gray.size, 255)]).save(tmp_path / "opaque.png")
    Image.fromarray(alpha.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    for name in ("gray", "rgb", "la", "opaque", "sixteen"):
        np.testing.assert_array_equal(read_matte(tmp_path / f"{name}.png"), alpha, err_msg=name)


def test_a_mask_of_0_and_1_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "m.png")
    with caplog.at_level(logging.WARNING, "npcr"):
        read_matte(tmp_path / "m.png")
    assert "largest value is 1" in caplog.text


def test_transparency_of_a_palette_is_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("P")
    image.save(tmp_path / "p.png", transparency=0)
    assert inspect_image(tmp_path / "p.png") == ((4, 4), True)
    assert read_image(tmp_path / "p.png")[..., 3].tolist() == [[0] * 4] * 4


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees"
    Image.fromarray(photograph(0)[..., :3].copy()).save(tmp_path / "a.jpg", exif=exif)
    assert inspect_image(tmp_path / "a.jpg")[0] == (24, 16)
    assert read_image(tmp_path / "a.jpg").shape == (16, 24, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_cut_short_is_noticed_from_its_end(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:-2000])
    assert inspect_image(whole) == ((64, 64), False)
    with pytest.raises(SceneError, match=rf"cut\{suffix}: cannot be decoded, it may be cut short"):
        inspect_image(cut)


def test_bytes_after_the_end_do_no_harm(tmp_path: Path) -> None:
    Image.fromarray(photograph(0)[..., :3].copy()).save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(b"\0" * 10_000)
    assert inspect_image(tmp_path / "a.jpg")[0] == (24, 16)
