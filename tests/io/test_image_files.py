# SPDX-License-Identifier: Apache-2.0
"""Headers of photographs, and files that other programs turn, color or cannot read."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from npcr.errors import MissingExtraError, SceneError
from npcr.io.image_files import copy_stored, inverse_turn, read_header, turned
from npcr.io.images import inspect_image, read_image
from tests.scenes import photograph

ORIENTATION = 0x0112


def smooth() -> np.ndarray:
    """(16, 24, 3), another in each corner."""
    y, x = np.mgrid[:16, :24]
    return np.stack([10 * x, 15 * y, 5 * (x + y)], -1).astype(np.uint8)


def with_orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


@pytest.mark.parametrize("number", range(1, 9))
def test_turning_is_what_viewers_do(tmp_path: Path, number: int) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png", exif=with_orientation(number))
    with Image.open(tmp_path / "a.png") as image:
        shown = np.array(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(turned(smooth(), number), shown)
    np.testing.assert_array_equal(turned(turned(smooth(), number), inverse_turn(number)), smooth())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("number", [1, 3, 6, 8])
def test_pixels_are_read_as_stored(tmp_path: Path, suffix: str, number: int) -> None:
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100} if suffix == ".jpg" else {}
    Image.fromarray(smooth()).save(path, exif=with_orientation(number), **options)
    header = read_header(path)
    assert (header.size, header.orientation) == ((24, 16), number)
    assert inspect_image(path)[0] == (24, 16)
    assert np.abs(read_image(path).astype(int) - smooth()).max() < (30 if suffix == ".jpg" else 1)


def test_a_copied_jpeg_loses_its_orientation_and_nothing_else(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=with_orientation(6), icc_profile=profile, comment=b"mine")
    copy_stored(tmp_path / "a.jpg", tmp_path / "b.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "b.jpg"), read_image(tmp_path / "a.jpg"))
    with Image.open(tmp_path / "b.jpg") as image:
        assert ORIENTATION not in image.getexif()
        assert (image.info["icc_profile"], image.info["comment"]) == (profile, b"mine")


def _matrix_profile(gamma: float) -> bytes:
    """sRGB's own profile, with tone curves of a plain gamma."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for entry in range(132, 132 + 12 * count, 12):
        if data[entry:entry + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            at = int.from_bytes(data[entry + 4:entry + 8], "big")
            assert data[at:at + 4] == b"para"
            data[at + 8:at + 16] = bytes([0, 0, 0, 0]) + round(gamma * 65536).to_bytes(4, "big")  # type 0: x^gamma
    return bytes(data)


def test_color_profiles_that_are_not_srgb_are_named(tmp_path: Path) -> None:
    for name, profile in (("srgb", ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()),
                          ("linear", _matrix_profile(1.0)), ("broken", b"no profile"), ("none", None)):
        Image.fromarray(smooth()).save(tmp_path / f"{name}.jpg", icc_profile=profile)
    assert read_header(tmp_path / "linear.jpg").profile.startswith("sRGB built-in")  # by its colors, not by its name
    for name in ("srgb", "broken", "none"):
        assert read_header(tmp_path / f"{name}.jpg").profile == ""


def test_what_else_a_header_says(tmp_path: Path) -> None:
    frames = [Image.fromarray(smooth()), Image.fromarray(255 - smooth())]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].convert("CMYK").save(tmp_path / "print.jpg")
    Image.fromarray(smooth()[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(photograph(0)).save(tmp_path / "alpha.png")
    assert read_header(tmp_path / "moving.webp").frames == 2
    np.testing.assert_array_equal(read_image(tmp_path / "moving.webp")[..., :3], smooth())
    assert read_header(tmp_path / "print.jpg").mode == "CMYK"
    assert read_header(tmp_path / "deep.png").deep
    header = read_header(tmp_path / "alpha.png")
    assert (header.alpha, header.deep, header.frames, header.orientation, header.profile) == (True, False, 1, 1, "")


def test_16_bits_of_color_are_noticed(tmp_path: Path) -> None:
    import cv2
    assert cv2.imwrite(str(tmp_path / "a.png"), smooth()[..., ::-1].astype(np.uint16) * 257)
    assert read_header(tmp_path / "a.png").deep
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), smooth())


@pytest.mark.parametrize("name", ["a.nef", "a.CR2", "a.dng", "a.arw"])
def test_raw_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    Image.fromarray(smooth()).save(tmp_path / name, format="TIFF")  # as their previews are
    with pytest.raises(SceneError, match=rf"{name}: is a camera's raw file.*develop it"):
        read_image(tmp_path / name)
    (tmp_path / name).write_bytes(b"FUJIFILMCCD-RAW")
    with pytest.raises(SceneError, match=rf"{name}: is a camera's raw file"):
        inspect_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg"])
def test_heic_is_read_by_its_contents(tmp_path: Path, name: str) -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif (npcr[heic]) is not installed")
    big = np.kron(smooth(), np.ones((8, 8, 1), np.uint8))
    with (tmp_path / name).open("wb") as file:
        pillow_heif.from_bytes("RGB", (192, 128), big.tobytes()).save(file, quality=95)
    assert inspect_image(tmp_path / name) == ((192, 128), False)
    assert np.abs(read_image(tmp_path / name).astype(int) - big).mean() < 4


def test_heic_without_pillow_heif_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])  # where it was registered before
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    with pytest.raises(MissingExtraError, match=r"a.heic: reading HEIC needs pillow-heif: pip install 'npcr\[heic\]'"):
        inspect_image(tmp_path / "a.heic")
