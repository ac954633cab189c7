# SPDX-License-Identifier: Apache-2.0
"""Mattes as palettes, labels, colors and numbers of other ranges."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from npcr.errors import SceneError
from npcr.io.mattes import MatteKind, kind_of_matte, read_matte, read_trimap

# As segmentation tools color the numbers of objects: black, dark red, dark green, ochre, ..., gray at 7.
COLORS = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128),
          (128, 128, 128)]


def labels(*numbers: int) -> np.ndarray:
    """(20, 30): each number fills a stripe, with background around all."""
    result = np.zeros((20, 30), np.uint8)
    for place, number in enumerate(numbers):
        result[4:16, 3 + 4 * place:6 + 4 * place] = number
    return result


def soft() -> np.ndarray:
    """A disc with a soft edge."""
    y, x = np.mgrid[:20, :30]
    return np.rint(np.clip((8 - np.hypot(x - 15, y - 10)) / 6 + 0.5, 0, 1) * 255).astype(np.uint8)


def with_palette(indices: np.ndarray, colors: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(indices).convert("P")
    image.putdata(indices.ravel().tolist())
    image.putpalette([value for color in colors for value in color])
    return image


@pytest.mark.parametrize("numbers", [(1,), (2,), (7,), (1, 2), (1, 3, 7), (5, 6)])
@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_any_index_but_0_is_the_object(tmp_path: Path, numbers: tuple[int, ...], suffix: str) -> None:
    with_palette(labels(*numbers), COLORS).save(tmp_path / f"m{suffix}")
    np.testing.assert_array_equal(read_matte(tmp_path / f"m{suffix}"), np.where(labels(*numbers), 255, 0))


def test_one_object_is_silent_and_several_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_palette(labels(1), COLORS).save(tmp_path / "one.png")
    with_palette(labels(1, 2), COLORS).save(tmp_path / "two.png")
    read_matte(tmp_path / "one.png")
    assert not caplog.records
    read_matte(tmp_path / "two.png")
    assert "two.png: is a label image of 2 colors beside the background" in caplog.text


def test_a_palette_of_grays_keeps_them(tmp_path: Path) -> None:
    ramp = [(i, i, i) for i in range(256)]
    with_palette(soft(), ramp).save(tmp_path / "ramp.png")
    levels = np.unique(soft())
    shuffled = np.random.default_rng(1).permutation(len(levels))  # as optimizers of files number them
    with_palette(np.argsort(shuffled)[np.searchsorted(levels, soft())].astype(np.uint8),
                 [(int(v),) * 3 for v in levels[shuffled]]).save(tmp_path / "shuffled.png")
    for name in ("ramp", "shuffled"):
        np.testing.assert_array_equal(read_matte(tmp_path / f"{name}.png"), soft(), err_msg=name)


def test_black_is_the_background_wherever_the_palette_has_it(tmp_path: Path) -> None:
    with_palette(2 - labels(1), [(9, 9, 9), (0, 200, 0), (0, 0, 0)]).save(tmp_path / "m.png")
    np.testing.assert_array_equal(read_matte(tmp_path / "m.png"), labels(1) * 255)
    with_palette(labels(1), [(90, 0, 90), (0, 0, 0)]).save(tmp_path / "unclear.png")
    with pytest.raises(SceneError, match=r"unclear.png: its palette's index 0 is \(90, 0, 90\), and index 1 is black"):
        read_matte(tmp_path / "unclear.png")


def test_a_transparent_color_is_alpha_and_an_unused_one_is_not(tmp_path: Path) -> None:
    with_palette(labels(1, 2), COLORS).save(tmp_path / "clear.png", transparency=0)
    with_palette(labels(1, 2), COLORS).save(tmp_path / "unused.png", transparency=5)
    for name in ("clear", "unused"):
        np.testing.assert_array_equal(read_matte(tmp_path / f"{name}.png"), np.where(labels(1, 2), 255, 0))


def test_colored_masks_without_a_palette(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_palette(labels(1), COLORS).convert("RGB").save(tmp_path / "red.png")
    with_palette(labels(1), COLORS).convert("RGBA").save(tmp_path / "opaque.png")
    Image.merge("RGB", [Image.fromarray(labels(1, 3)), *[Image.new("L", (30, 20))] * 2]).save(tmp_path / "dark.png")
    for name, numbers in (("red", (1,)), ("opaque", (1,)), ("dark", (1, 3))):
        np.testing.assert_array_equal(read_matte(tmp_path / f"{name}.png"), np.where(labels(*numbers), 255, 0))
    assert "red.png: is in color; every color but black counts as the object" in caplog.text


def test_a_photograph_is_no_matte(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(SceneError, match=r"m.png: is a picture in more than 256 colors, not a matte"):
        read_matte(tmp_path / "m.png")
    Image.new("RGB", (30, 20), (0, 200, 0)).save(tmp_path / "green.png")
    with pytest.raises(SceneError, match=r"green.png: is in 1 colors without black"):
        read_matte(tmp_path / "green.png")


def test_a_gray_jpeg_is_a_matte_and_so_is_its_tint(tmp_path: Path) -> None:
    Image.fromarray(soft()).convert("RGB").save(tmp_path / "m.jpg", quality=70)
    Image.fromarray(np.dstack([soft(), soft(), np.maximum(soft(), 6)])).save(tmp_path / "tinted.png")
    for name in ("m.jpg", "tinted.png"):
        assert np.abs(read_matte(tmp_path / name).astype(int) - soft()).max() < 40


@pytest.mark.parametrize(("values", "expected"), [
    (soft().astype(np.uint16) * 257, soft()), (soft().astype(np.float32) / 255, soft()),
    (soft().astype(np.float32), soft()), (soft().astype(np.int32), soft()), (soft() > 127, (soft() > 127) * 255),
    (soft().astype(np.uint16), soft()), (labels(1, 2).astype(np.uint16), labels(1, 2)),
], ids=["16 bits", "floats to 1", "floats to 255", "32 bits", "1 bit", "8 bits in 16", "labels in 16"])
def test_numbers_of_other_ranges(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "m.tif")
    np.testing.assert_array_equal(read_matte(tmp_path / "m.tif"), expected)


def test_8_bits_in_16_are_said_and_specks_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    speck = np.zeros((40, 40), np.uint16)
    speck[3, 3] = 200  # of 65535: the edge of a soft matte
    Image.fromarray(speck).save(tmp_path / "speck.png")
    assert read_matte(tmp_path / "speck.png").max() == 0
    assert not caplog.records
    Image.fromarray(soft().astype(np.uint16)).save(tmp_path / "m.png")
    read_matte(tmp_path / "m.png")
    assert "m.png: has 16 bits but no value above 255; its values are taken as 8-bit ones" in caplog.text


@pytest.mark.parametrize("value", [np.nan, -1.0, 1e6])
def test_numbers_that_are_no_gray_values_are_refused(tmp_path: Path, value: float) -> None:
    Image.fromarray(np.full((4, 4), value, np.float32)).save(tmp_path / "m.tif")
    with pytest.raises(SceneError, match=r"m.tif: its values go from"):
        read_matte(tmp_path / "m.tif")


@pytest.mark.parametrize(("matte", "expected"), [
    (soft(), MatteKind.MATTE), (labels(255), MatteKind.MATTE), (labels(1), MatteKind.LABELS),
    (labels(1, 2, 3), MatteKind.LABELS), (labels(38, 75), MatteKind.LABELS), (labels(128), MatteKind.LABELS),
    (labels(1, 2, 255), MatteKind.LABELS), (labels(), MatteKind.EMPTY), (labels() + 255, MatteKind.OPAQUE),
    (labels() + 128, MatteKind.MATTE), (labels(255, 255, 254, 1), MatteKind.MATTE),
])
def test_labels_are_told_from_mattes(matte: np.ndarray, expected: MatteKind) -> None:
    assert kind_of_matte(matte) is expected


def test_a_trimap_is_gray(tmp_path: Path) -> None:
    grays = [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    with_palette(labels(1, 2), grays).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(np.unique(read_trimap(tmp_path / "gray.png")), [0, 128, 255])
    with_palette(labels(1, 2), COLORS).save(tmp_path / "t.png")
    with pytest.raises(SceneError, match=r"t.png: is in colors \(P\); a trimap is gray"):
        read_trimap(tmp_path / "t.png")


def test_small_numbers_are_said_where_there_are_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    faint = np.zeros((40, 40), np.uint8)
    faint[3, 3:6] = 1, 2, 1
    for name, matte in (("faint", faint), ("labels", labels(1, 2))):
        Image.fromarray(matte).save(tmp_path / f"{name}.png")
        with caplog.at_level(logging.WARNING, "npcr"):
            read_matte(tmp_path / f"{name}.png")
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        f"{tmp_path / 'labels.png'}: the largest value is 2 on a scale of 0-255"]
