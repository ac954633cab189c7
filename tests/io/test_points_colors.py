# SPDX-License-Identifier: Apache-2.0
"""The range of colors: what is full brightness, what is clipped, refused or said."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import plyfile
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npcr.errors import SceneError
from npcr.io.points import read_points
from npcr.io.points_colors import as_colors
from tests.io.test_points_columns import write_ply

SHADES = np.array([[94, 71, 53], [67, 50, 38], [255, 250, 0], [12, 200, 131]], np.uint8)
POSITIONS = np.arange(12.0).reshape(4, 3) / 7
COLORS = ("red", "green", "blue")


def _write(path: Path, colors: np.ndarray) -> Path:
    """Write POSITIONS with colors as they are."""
    if path.suffix == ".ply":
        return write_ply(path, {name: column for names, values in (("xyz", POSITIONS), (COLORS, colors))
                                for name, column in zip(names, values.T, strict=True)})
    rows = np.hstack([POSITIONS, colors])
    if path.suffix == ".npy":
        np.save(path, rows)
    else:
        start = "v " if path.suffix == ".obj" else ""
        path.write_text("".join(start + " ".join(f"{value:.9g}" for value in row) + "\n" for row in rows))
    return path


def _read(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[list[int]], str]:
    with caplog.at_level(logging.WARNING, "npcr"):
        colors = read_points(path).colors
    assert colors is not None
    return colors.tolist(), caplog.text


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".xyz", ".txt", ".xzy", ".npy"])
@pytest.mark.parametrize(("low", "high", "said"), [
    (0, 1, False), (0, 1.0000001, False), (0, 1.03, True), (-0.0001, 1, False), (-0.02, 1, True), (0, 3.5, True),
])
def test_a_color_beyond_one_is_clipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, low: float,
                                       high: float, said: bool) -> None:
    colors = SHADES / 255
    colors[2] = high, 250 / 255, low
    path = _write(tmp_path / f"c{suffix}", colors)
    found, warnings = _read(path, caplog)
    assert found == SHADES.tolist()
    assert ("1 of 4 colors exceed 0-1 and are clipped" in warnings) is said
    assert said or not warnings


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".xyz", ".npy"])
@pytest.mark.parametrize("shift", [0, 0.25, -0.25])
def test_floats_up_to_255(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, shift: float) -> None:
    assert _read(_write(tmp_path / f"c{suffix}", SHADES + shift), caplog) == (SHADES.tolist(), "")


@pytest.mark.parametrize("factor", [256, 257])  # both are written for 16 bits
@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".ply", ".xyz", ".npy"])
def test_sixteen_bits(tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str, kind: type, factor: int) -> None:
    found, warnings = _read(_write(tmp_path / f"c{suffix}", (SHADES.astype(np.int64) * factor).astype(kind)), caplog)
    assert found == SHADES.tolist()
    is_typed = suffix == ".ply" and np.issubdtype(kind, np.integer)
    assert ("taken for 16 bits" in warnings) is not is_typed


def test_eight_bits_in_sixteen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert _read(_write(tmp_path / "c.ply", SHADES.astype(np.uint16)), caplog) == (SHADES.tolist(), "")


@pytest.mark.parametrize(("colors", "message"), [
    ([[9, 9, 9], [9, 256, 9]], r"c.xyz, line 2: color 9 256 9 is out of 0-255; 1 of 2"),
    ([[9, 9, 9], [9, -1, 9]], r"c.xyz, line 2: color 9 -1 9 is out of 0-255 \(below 0, as normals are\); 1 of 2"),
    ([[0.5, 0.5, 0.5], [-0.7, 0.1, 0.1]], r"line 2: color -0.7 0.1 0.1 is out of 0-1 \(below 0, as normals are\)"),
    ([[120.5, 9, 9], [300, 9, 9]], r"line 2: color 300 9 9 is out of 0-255; 1 of 2"),
    ([[1, 2, 3], [1, np.nan, 3]], r"line 2: color 1 nan 3 is not finite; 1 of 2"),
    ([[70000, 60000, 50000]], r"line 1: color 70000 60000 50000 is out of 0-65535; 1 of 1"),
])
def test_colors_far_out_of_range_are_refused(tmp_path: Path, colors: list[list[float]], message: str) -> None:
    rows = [" ".join(map(str, (1, 2, 3, *color))) for color in colors]
    (tmp_path / "c.xyz").write_text("\n".join(rows))
    with pytest.raises(SceneError, match=message):
        read_points(tmp_path / "c.xyz")


def test_black_clouds_and_dark_guesses_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("c.ply", "c.xyz", "c.obj"):
        caplog.clear()
        colors = np.zeros((4, 3), np.uint8)
        assert "all 4 points are black (0 0 0)" in _read(_write(tmp_path / name, colors), caplog)[1]
    caplog.clear()
    assert "taken for 0-255, which is dark" in _read(_write(tmp_path / "d.xyz", SHADES / 50), caplog)[1]


@pytest.mark.parametrize(("text", "expected", "said"), [
    ("0 0 0 1 0 1\n", [1, 0, 1], True), ("0 0 0 1.0 0.0 1.0\n", [255, 0, 255], False),
    ("x y z r g b\n0 0 0 1 0 1\n", [1, 0, 1], True), ("x y z r g b\n0 0 0 1.0 0.0 1.0\n", [255, 0, 255], False),
])
def test_zeros_and_ones_are_floats_where_they_are_written_so(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                             text: str, expected: list[int], said: bool) -> None:
    (tmp_path / "c.txt").write_text(text)
    found, warnings = _read(tmp_path / "c.txt", caplog)
    assert found == [expected]
    assert ("0 or 1 of 255" in warnings) is said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30), st.floats(-1e-3, 1e-3))
def test_every_range_leads_back_to_eight_bits(rows: list[tuple[int, int, int]], error: float) -> None:
    shades = np.array(rows, np.uint8)
    path = Path("memory.ply")
    np.testing.assert_array_equal(as_colors(shades / 255 + error, True, path), shades)
    np.testing.assert_array_equal(as_colors(shades.astype(np.float32) / np.float32(255), True, path), shades)
    np.testing.assert_array_equal(as_colors(shades.astype(np.uint16), False, path), shades)
    if shades.max() > 1:  # else they may be 0 and 1 of unit colors
        np.testing.assert_array_equal(as_colors(shades.astype(np.float32), None, path), shades)
        np.testing.assert_array_equal(as_colors(shades.astype(np.uint16) * np.uint16(257), False, path), shades)


@pytest.mark.parametrize("order", "<>")
def test_both_orders_of_bytes(tmp_path: Path, order: str) -> None:
    vertices = np.zeros(4, [(name, f"{order}f4") for name in (*"xyz", *COLORS)])
    for name, column in zip(COLORS, SHADES.T, strict=True):
        vertices[name] = column / np.float32(255)
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], byte_order=order).write(str(tmp_path / "c.ply"))
    np.testing.assert_array_equal(read_points(tmp_path / "c.ply").colors, SHADES)
