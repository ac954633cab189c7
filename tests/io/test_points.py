# SPDX-License-Identifier: Apache-2.0
"""Point clouds in every format, with and without colors."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
import plyfile
import pytest

from npcr.errors import MissingExtraError, SceneError
from npcr.io import points_text
from npcr.io.points import SUFFIXES, PointCloud, read_points, write_points


def _cloud(count: int, colored: bool) -> PointCloud:
    rng = np.random.default_rng(count)
    positions = (rng.normal(size=(count, 3)) * 10.0 ** rng.integers(-9, 9, (count, 3))).astype(np.float32)
    return PointCloud(positions, rng.integers(0, 256, (count, 3), dtype=np.uint8) if colored else None)


@pytest.mark.parametrize("colored", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_written_then_read_is_equal(tmp_path: Path, suffix: str, colored: bool) -> None:
    cloud = _cloud(257, colored)
    write_points(tmp_path / f"c{suffix}", cloud)
    back = read_points(tmp_path / f"c{suffix}")
    assert back.positions.dtype == np.float32
    np.testing.assert_array_equal(back.positions, cloud.positions)
    if cloud.colors is None:
        assert back.colors is None
    else:
        np.testing.assert_array_equal(back.colors, cloud.colors)


def test_chunks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_text, "_CHUNK", 10)
    for count in (9, 10, 11, 20, 25):
        write_points(tmp_path / "c.xyz", _cloud(count, True))
        back = read_points(tmp_path / "c.xyz")
        np.testing.assert_array_equal(back.positions, _cloud(count, True).positions)


def test_text_rows_are_x_y_z_whatever_the_suffix(tmp_path: Path) -> None:
    for suffix in (".xzy", ".xyz", ".txt"):
        (tmp_path / f"c{suffix}").write_text("# a comment\n1 2 3\n\n4\t5 6 # another\n")
        assert read_points(tmp_path / f"c{suffix}").positions.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_one_point(tmp_path: Path) -> None:
    (tmp_path / "c.xyz").write_text("1 2 3")
    assert read_points(tmp_path / "c.xyz").positions.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize(("text", "expected"), [
    ("0 0 0 255 128 7\n", [255, 128, 7]),
    ("0 0 0 1 0 1\n", [1, 0, 1]),  # whole numbers are on the scale of 0-255
    ("0 0 0 1.0 0.5 0.0\n", [255, 128, 0]),
])
def test_the_scale_of_colors_in_text(tmp_path: Path, text: str, expected: list[int]) -> None:
    (tmp_path / "c.txt").write_text(text)
    colors = read_points(tmp_path / "c.txt").colors
    assert colors is not None
    assert colors.tolist() == [expected]


def test_obj_reads_vertices_only_with_weights_and_colors(tmp_path: Path) -> None:
    (tmp_path / "c.obj").write_text("# x\nmtllib a\nv 1 2 3\nvn 0 0 1\nv 4 5 6\nf 1 2 1\n")
    assert read_points(tmp_path / "c.obj").positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    (tmp_path / "w.obj").write_text("v 1 2 3 1.0 0 1 0.2\n")
    cloud = read_points(tmp_path / "w.obj")
    assert cloud.positions.tolist() == [[1, 2, 3]]
    assert cloud.colors is not None
    assert cloud.colors.tolist() == [[0, 255, 51]]


def test_ascii_ply_with_float_colors_and_faces(tmp_path: Path) -> None:
    (tmp_path / "c.ply").write_text(
        "ply\nformat ascii 1.0\nelement vertex 2\nproperty double x\nproperty double y\nproperty double z\n"
        "property float nx\nproperty float red\nproperty float green\nproperty float blue\n"
        "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        "1 2 3 0 1 0.2 0\n4 5 6 0 0 0 1\n3 0 1 0\n")
    cloud = read_points(tmp_path / "c.ply")
    assert cloud.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert cloud.colors is not None
    assert cloud.colors.tolist() == [[255, 51, 0], [0, 0, 255]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_and_line_ends_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str) -> None:
    (tmp_path / "c.xyz").write_bytes("1 2 3\r\n4 5 6\r\n\r\n".encode(encoding))
    assert read_points(tmp_path / "c.xyz").positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert not caplog.records


@pytest.mark.parametrize("chunk", [100, 1000])
def test_a_bad_line_far_down_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(points_text, "_CHUNK", chunk)
    lines = ["1 2 3"] * 1000
    lines[777] = "1 2 x3"
    (tmp_path / "c.xyz").write_text("\n".join(lines))
    with pytest.raises(SceneError, match=r"c.xyz, line 778: 'x3' is not a number"):
        read_points(tmp_path / "c.xyz")
    (tmp_path / "d.xyz").write_text("1 2 3\n" * 500 + "\n" + "1 2 3 4 5 6\n" * 500)
    with pytest.raises(SceneError, match=r"d.xyz, line 502: has 6 numbers; the lines before have 3"):
        read_points(tmp_path / "d.xyz")


def test_points_that_overflow_float32_are_not_finite(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([[0, 0, 0], [0, 1e300, 0]]))
    with pytest.raises(SceneError, match=r"c.npy, point 2: coordinates 0 inf 0 are not finite; 1 of 2"):
        read_points(tmp_path / "c.npy")


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SceneError, match="cannot be read as an array of numbers"):
        read_points(tmp_path / "c.npy")


def _las(path: Path, *, version: str = "1.2", scale: int = 257) -> np.ndarray:
    laspy = pytest.importorskip("laspy", reason="laspy (npcr[las]) is not installed")
    las = laspy.create(point_format=2, file_version=version)
    positions = np.random.default_rng(0).uniform(-5, 5, (50, 3)).round(2)
    las.header.scales, las.header.offsets = [0.01] * 3, [0.0] * 3
    las.x, las.y, las.z = positions.T
    las.red, las.green, las.blue = (np.arange(50) * step * scale for step in (1, 2, 3))
    las.write(path)
    return positions


@pytest.mark.parametrize("scale", [257, 1])  # 16 bits a channel by the standard, 8 by habit
@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_and_laz(tmp_path: Path, suffix: str, scale: int) -> None:
    positions = _las(tmp_path / f"c{suffix}", scale=scale)
    cloud = read_points(tmp_path / f"c{suffix}")
    np.testing.assert_allclose(cloud.positions, positions, atol=1e-5)
    assert cloud.colors is not None
    assert cloud.colors[10].tolist() == [10, 20, 30]


@pytest.mark.parametrize("names", [("Red", "Green", "Blue"), ("scalar_R", "scalar_G", "scalar_B"), ("Intensity 2",)])
def test_extra_columns_of_las(tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]) -> None:
    """CloudCompare writes scalar fields so, here beside colors that are all 0, as a scan without a camera has them."""
    laspy = pytest.importorskip("laspy", reason="laspy (npcr[las]) is not installed")
    _las(tmp_path / "c.las", scale=0)
    las = laspy.read(tmp_path / "c.las")
    for factor, name in enumerate(names, 1):
        las.add_extra_dim(laspy.ExtraBytesParams(name, np.float32))
        las[name] = np.arange(50) * factor
    las.write(tmp_path / "d.las")
    colors = read_points(tmp_path / "d.las").colors
    if len(names) == 3:
        assert colors is not None
        assert colors[10].tolist() == [10, 20, 30]
        assert not caplog.records
    else:
        assert colors is None
        assert "Intensity 2 could be a color" in caplog.text


def test_las_colors_that_are_all_0_are_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _las(tmp_path / "c.las", scale=0)
    with caplog.at_level(logging.INFO, "npcr"):
        assert read_points(tmp_path / "c.las").colors is None
    assert [r.getMessage().partition(": ")[2] for r in caplog.records] == ["its colors are all 0 and taken for none"]


def test_a_las_cut_short_and_one_that_promises_too_much(tmp_path: Path) -> None:
    _las(tmp_path / "c.las")
    data = (tmp_path / "c.las").read_bytes()
    (tmp_path / "c.las").write_bytes(data[:-100])
    with pytest.raises(SceneError, match=r"c.las: its header promises 50 points, the file ends before"):
        read_points(tmp_path / "c.las")


def test_las_without_laspy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _las(tmp_path / "c.las")
    monkeypatch.setitem(sys.modules, "laspy", None)
    with pytest.raises(MissingExtraError, match=r"npcr\[las\]"):
        read_points(tmp_path / "c.las")


@pytest.mark.parametrize("text", [False, True])
def test_a_ply_with_more_data_than_its_header_counts_is_said(tmp_path, caplog, text):
    vertices = np.zeros(8, dtype=[("x", "f4"), ("y", "f4"), ("z", "f4")])
    vertices["x"] = np.arange(8)
    path = tmp_path / "a.ply"
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex")], text=text).write(str(path))
    assert len(read_points(path)) == 8
    assert not caplog.text
    path.write_bytes(path.read_bytes().replace(b"vertex 8", b"vertex 7"))
    assert len(read_points(path)) == 7
    assert "follow the data that its header counts (7 vertices)" in caplog.text
