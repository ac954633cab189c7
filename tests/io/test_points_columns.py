# SPDX-License-Identifier: Apache-2.0
"""Columns by name, number and value; headers, separators and encodings of the files that hold them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import plyfile
import pytest

from npcr.errors import SceneError
from npcr.io.points import read_points

COLORS = [[10, 20, 30], [200, 150, 100]]
NORMALS = "0 0.6 -0.8", "0.6 0.8 0"
PLY_HEADER = b"ply\nformat %b 1.0\ncomment J\xc3\xb6rg\ncomment J\xf6rg\nobj_info \xe4\nelement vertex 2\n"


def write_ply(path: Path, columns: Mapping[str, np.ndarray], element: str = "vertex") -> Path:
    vertices = np.zeros(len(next(iter(columns.values()))), [(name, c.dtype) for name, c in columns.items()])
    for name, column in columns.items():
        vertices[name] = column
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, element)]).write(str(path))
    return path


def _columns(names: tuple[str, ...] | str, values: np.ndarray, xyz: str = "xyz") -> dict[str, np.ndarray]:
    positions = dict.fromkeys(xyz, np.zeros(len(values), np.float32))
    return {**positions, **dict(zip(names, values.T, strict=True))}


def _colors(path: Path) -> list[list[int]] | None:
    colors = read_points(path).colors
    return None if colors is None else colors.tolist()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_ply_header_may_be_in_any_encoding(tmp_path: Path, mark: bytes, end: bytes) -> None:
    header = PLY_HEADER + b"".join(b"property double %c\n" % name for name in b"xyz") + b"end_header\n"
    header = mark + header.replace(b"\n", end)
    (tmp_path / "a.ply").write_bytes(header % b"ascii" + b"1 2 3" + end + b"4 5 6" + end)
    assert read_points(tmp_path / "a.ply").positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    for name, order in ((b"binary_little_endian", "<f8"), (b"binary_big_endian", ">f8")):
        values = np.array([[1, 2, 3], [4, 5, -6]], order)
        (tmp_path / "b.ply").write_bytes(header % name + values.tobytes())
        assert read_points(tmp_path / "b.ply").positions.tolist() == values.tolist()


def test_points_in_another_encoding_are_refused(tmp_path: Path) -> None:
    header = (PLY_HEADER + b"property float x\nproperty float y\nproperty float z\nend_header\n") % b"ascii"
    (tmp_path / "c.ply").write_bytes(header + b"1 2 3\n4 \xe9 6\n")
    (tmp_path / "d.ply").write_bytes(header.decode("latin-1").encode("utf-16"))
    for name in ("c.ply", "d.ply"):
        with pytest.raises(SceneError, match=f"{name}: is not a readable PLY file: it is not ASCII"):
            read_points(tmp_path / name)


@pytest.mark.parametrize(("row", "message"), [
    ("1,5 2 3 4", "'1,5' is not a number: it has a decimal comma; write 1.5"),
    ("nan 2 3 4,5", "'4,5' is not a number: it has a decimal comma; write 4.5"),
    ("1.5,2,3,4", "'1.5,2,3,4' is not a number; separate numbers by blanks, without commas"),
    ("1 2 3 4.5", "'1 2 3 4.5' is not a row of the element 'vertex' .malformed input at property 'red'.; its"),
    ("1 2 3", "early end-of-line at property 'red'"), ("", "early end-of-line at property 'x'"),
    ("1 2 3 4 5", "expected end-of-line"),
])
def test_a_bad_row_of_a_ply_text_is_named(tmp_path: Path, row: str, message: str) -> None:
    header = "ply\nformat ascii 1.0\nelement camera 1\nproperty int view\nelement vertex 3\n" + "".join(
        f"property float {axis}\n" for axis in "xyz")
    (tmp_path / "c.ply").write_text(f"{header}property uchar red\nend_header\n7\n1 2 3 4\n{row}\n1 2 3 4\n")
    with pytest.raises(SceneError, match=rf"c\.ply, line 13: .*{message}"):
        read_points(tmp_path / "c.ply")


def test_vertices_with_lists_below_a_header_in_another_encoding(tmp_path: Path) -> None:
    """Such vertices cannot be mapped into memory, and are read piece by piece."""
    header = (PLY_HEADER.replace(b"vertex 2", b"vertex 1") + b"property float x\nproperty float y\nproperty float z\n"
              b"property list uchar uchar seen\nend_header\n") % b"binary_little_endian"
    (tmp_path / "c.ply").write_bytes(header + np.array([1, 2, 3], "<f4").tobytes() + bytes([200]) + bytes(range(200)))
    assert read_points(tmp_path / "c.ply").positions.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("names", [
    ("red", "green", "blue"), ("Red", "Green", "Blue"), ("RED", "GREEN", "BLUE"), ("r", "g", "b"), ("R", "G", "B"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"), ("scalar_R", "scalar_G", "scalar_B"),
    ("scalar_red", "scalar_green", "scalar_blue"), ("scalar_Red", "scalar_Green", "scalar_Blue"), ("Rf", "Gf", "Bf"),
])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("xyz", ["xyz", "XYZ"])
def test_names_of_colors(tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...], kind: type,
                         xyz: str) -> None:
    columns = _columns(names, np.array(COLORS, kind), xyz)
    assert _colors(write_ply(tmp_path / "c.ply", columns)) == COLORS
    np.save(tmp_path / "c.npy", np.rec.fromarrays(list(columns.values()), names=list(columns)))
    assert _colors(tmp_path / "c.npy") == COLORS
    assert not caplog.records


@pytest.mark.parametrize("header", ["//X Y Z Rf Gf Bf", "# X Y Z Rf Gf Bf", "X Y Z Rf Gf Bf Af", "# x y z rf gf bf af"])
@pytest.mark.parametrize("white", ["1", "1.0"])
def test_colors_named_as_fractions_are_such(tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str,
                                            white: str) -> None:
    alpha = " 1" if "af" in header.lower() else ""
    (tmp_path / "c.txt").write_text(f"{header}\n1 2 3 {white} 0 0{alpha}\n4 5 6 {white} {white} 0{alpha}\n")
    assert _colors(tmp_path / "c.txt") == [[255, 0, 0], [255, 255, 0]]
    assert not caplog.records


@pytest.mark.parametrize("term", ["f_dc", "features_dc", "feature_dc"])
def test_splats_have_the_color_of_their_constant_term(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                      term: str) -> None:
    terms = (np.array([*COLORS, [255, 0, 128]]) / 255 - 0.5) / 0.28209479177387814
    terms[2, :2] *= 3  # beyond black and white, as trained splats are
    columns = _columns((f"{term}_0", f"{term}_1", f"{term}_2", "f_rest_0", "opacity"), np.c_[terms, terms[:, :2]])
    assert _colors(write_ply(tmp_path / "c.ply", columns)) == [*COLORS, [255, 0, 128]]
    assert not caplog.records


@pytest.mark.parametrize("name", ["rgb", "rgba", "RGB"])
@pytest.mark.parametrize("alpha", [0, 255])
@pytest.mark.parametrize("kind", ["uint32", "int32", "bits", "float64"])
def test_packed_colors(tmp_path: Path, name: str, alpha: int, kind: str) -> None:
    packed = np.array([alpha << 24 | r << 16 | g << 8 | b for r, g, b in COLORS], np.uint32)
    column = packed.view(np.float32) if kind == "bits" else packed.view(np.int32) if kind == "int32" else \
        packed.astype(kind)
    assert _colors(write_ply(tmp_path / "c.ply", {**_columns("", np.zeros((2, 0))), name: column})) == COLORS


@pytest.mark.parametrize("name", ["intensity", "scalar_Intensity", "Color", "red", "f_dc_0", "gray", "colour_r", "Rf",
                                  "features_dc_1"])
def test_what_could_be_a_color_but_is_not_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                       name: str) -> None:
    assert _colors(write_ply(tmp_path / "c.ply", _columns((name,), np.array([[1.0], [2.0]])))) is None
    assert f"c.ply: {name} could be a color but is not used" in caplog.text


def test_ordinary_columns_are_noted_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "npcr"):
        read_points(write_ply(tmp_path / "c.ply", _columns(("nx", "ny", "nz", "quality"), np.ones((2, 4)))))
        read_points(write_ply(tmp_path / "d.ply", _columns("rgba", np.full((2, 4), 9, np.uint8))))
    assert [(r.levelname, r.getMessage().partition(": ")[2]) for r in caplog.records] == [
        ("INFO", "not used: nx, ny, nz, quality"), ("INFO", "not used: a")]


@pytest.mark.parametrize("element", ["vertices", "point", "Vertex"])
def test_an_element_of_another_name_is_refused(tmp_path: Path, element: str) -> None:
    write_ply(tmp_path / "c.ply", _columns("", np.zeros((2, 0))), element)
    with pytest.raises(SceneError, match=f"c.ply: has no element 'vertex'; it has '{element}'"):
        read_points(tmp_path / "c.ply")


@pytest.mark.parametrize(("rows", "colors", "said"), [
    (["1 2 3 0.5", "4 5 6 0.7"], None, "column 4 (intensity?) is not used"),
    ([f"1 2 3 {NORMALS[0]}", f"4 5 6 {NORMALS[1]}"], None, "columns 4 to 6 are all of length 1 and taken for normals"),
    (["1 2 3 10 20 30 255", "4 5 6 200 150 100 255"], COLORS, ""),
    (["1 2 3 10 20 30 1", "4 5 6 200 150 100 1"], COLORS, ""),
    (["1 2 3 -730 10 20 30", "4 5 6 12 200 150 100"], COLORS, ""),
    (["1 2 3 730 10 20 30", "4 5 6 12 200 150 100"], COLORS, ""),
    (["1 2 3 0.25 10 20 30", "4 5 6 1 200 150 100"], COLORS, ""),
    ([f"1 2 3 10 20 30 {NORMALS[0]}", f"4 5 6 200 150 100 {NORMALS[1]}"], COLORS, ""),
    ([f"1 2 3 {NORMALS[0]} 10 20 30", f"4 5 6 {NORMALS[1]} 200 150 100"], COLORS, ""),
])
def test_columns_without_names(tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: list[str],
                               colors: list[list[int]] | None, said: str) -> None:
    (tmp_path / "c.xyz").write_text("\n".join(rows))
    np.save(tmp_path / "c.npy", np.array([row.split() for row in rows], np.float64))
    for name in ("c.xyz", "c.npy"):
        caplog.clear()
        assert _colors(tmp_path / name) == colors
        assert [said] == [said for r in caplog.records if f"{name}: {said}" in r.getMessage()] or not (
            said or caplog.records)


@pytest.mark.parametrize("numbers", [(0, 1, 2), (1, 2, 3), (7, 9, 20)])
@pytest.mark.parametrize("tail", ["", " 10 20 30", " 10 20 255"])
def test_a_column_that_counts_the_points_is_no_coordinate(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                          numbers: tuple[int, ...], tail: str) -> None:
    rows = [f"{number} {-number - 0.5} 8 9{tail}" for number in numbers]
    (tmp_path / "c.xyz").write_text("\n".join(rows))
    np.save(tmp_path / "c.npy", np.array([row.split() for row in rows], np.float64))
    for name in ("c.xyz", "c.npy"):
        cloud = read_points(tmp_path / name)
        assert cloud.positions.tolist() == [[-number - 0.5, 8, 9] for number in numbers]
        assert (cloud.colors is not None) is bool(tail)
        assert f"{name}: column 1 counts the points ({numbers[0]}, {numbers[1]}, ...)" in caplog.text
    caplog.clear()
    (tmp_path / "d.xyz").write_text("\n".join(["# id x y z r g b" if tail else "# id x y z", *rows]))
    assert read_points(tmp_path / "d.xyz").positions.tolist() == cloud.positions.tolist()
    assert not caplog.records


def test_a_coordinate_that_counts_is_one_where_nothing_is_left_over(tmp_path: Path,
                                                                    caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.xyz").write_text("".join(f"{x} 5 6 10 20 30\n" for x in range(4)))
    assert read_points(tmp_path / "c.xyz").positions[:, 0].tolist() == [0, 1, 2, 3]
    assert not caplog.records


@pytest.mark.parametrize(("row", "message"), [
    ("1 2 3 10 20 30 40", "x y z r g b a or x y z i r g b; put a line before the points"),
    ("1 2 3 10 20 30 40 50 60", "9 columns, of which no three are normals"),
    ("1 2 3 10 20 30 40 50", "line 1: has 8 numbers; .* other columns need a header line that names them"),
    ("1,5 2,5 3,5", "line 1: '1,5' has a decimal comma"), ("1;2,5;3", "line 1: '2,5' has a decimal comma"),
    ("1,2,", "line 1: \"''\" is not a number"), ("1|2|3", "line 1: has 1 numbers"),
    ("1;;3", "line 1: \"''\" is not a number"), ("X Y Z x y z\n1 2 3 4 5 6", "line 1: names a column twice"),
    ("X,Y,Z,R\n1,2,3", "line 1: names 4 columns; line 2 has 3 numbers"),
    ("X Y Z R G B\n1 2 3 10 20 30\n1 2 3 4", "line 3: has 4 numbers; the header names 6"),
])
def test_columns_that_cannot_be_told_are_refused(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "c.xyz").write_text(row + "\n" + row.splitlines()[-1].replace("10", "11"))
    with pytest.raises(SceneError, match=f"c.xyz.*{message}"):
        read_points(tmp_path / "c.xyz")


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", ";", "  "])
@pytest.mark.parametrize("header", [
    "", "X Y Z R G B", "//X Y Z R G B", "# x y z red green blue", "2", "//X Y Z R G B\n2", "2\n# x y z r g b",
    "# made by hand: x y z are in meters", '"x" "y" "z" "red" "green" "blue"',
])
def test_headers_and_separators(tmp_path: Path, caplog: pytest.LogCaptureFixture, header: str,
                                separator: str) -> None:
    if header and "made" not in header:
        header = "\n".join(("# " if line.startswith("# ") else "") + line.removeprefix("# ").replace(" ", separator)
                           for line in header.split("\n"))
    rows = ["1 2 3 10 20 30", "4 5 6 200 150 100"]
    (tmp_path / "c.txt").write_text("\n".join([header, *(row.replace(" ", separator) for row in rows)]))
    cloud = read_points(tmp_path / "c.txt")
    assert cloud.positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert _colors(tmp_path / "c.txt") == COLORS
    assert not caplog.records


def test_a_header_says_what_and_where_columns_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.txt").write_text("//X,Y,Z,Intensity,R,G,B,Scalar field\n"
                                    "1,2,3,40,10,20,30,5\n4,5,6,50,200,150,100,5\n")
    assert _colors(tmp_path / "c.txt") == COLORS
    (tmp_path / "d.txt").write_text("# b g r z y x\n30 20 10 3 2 1\n100 150 200 6 5 4\n")
    assert _colors(tmp_path / "d.txt") == COLORS
    assert read_points(tmp_path / "d.txt").positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert not caplog.records
    (tmp_path / "n.xyz").write_text("x y z nx ny nz\n1 2 3 0 0 1\n")
    assert _colors(tmp_path / "n.xyz") is None
    (tmp_path / "n.xyz").write_text("1,2,3 # x y z\n   \n4,5,6\n")
    assert len(read_points(tmp_path / "n.xyz")) == 2
    (tmp_path / "n.xyz").write_text("x y z\n")
    with pytest.raises(SceneError, match=r"n\.xyz: has no points"):
        read_points(tmp_path / "n.xyz")


def test_fields_of_several_numbers_are_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "c.npy", np.zeros(3, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("rgb", "u1", 3)]))
    assert _colors(tmp_path / "c.npy") is None
    assert "rgb_0, rgb_1, rgb_2 could be a color but are not used" in caplog.text


def test_another_number_of_points_than_promised_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "c.txt").write_text("3\n1 2 3\n4 5 6\n")
    assert len(read_points(tmp_path / "c.txt")) == 2
    assert "its beginning gives 3 points, 2 follow" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le-bom"])
@pytest.mark.parametrize("suffix", [".xyz", ".obj"])
def test_encodings_of_text(tmp_path: Path, suffix: str, encoding: str) -> None:
    start = "v " if suffix == ".obj" else ""
    text = f"{start}1 2 3 10 20 30 # Jörg\n# Müller\n  {start}4 5 6 200 150 100\r\n"
    data = b"\xff\xfe" + text.encode("utf-16-le") if encoding.endswith("bom") else text.encode(encoding)
    (tmp_path / f"c{suffix}").write_bytes(data)
    assert _colors(tmp_path / f"c{suffix}") == COLORS
    (tmp_path / f"d{suffix}").write_bytes(text.encode("utf-16-le"))
    with pytest.raises(SceneError, match="UTF-16 without a byte-order mark; save it as UTF-8"):
        read_points(tmp_path / f"d{suffix}")


@pytest.mark.parametrize(("rows", "colors", "said"), [
    ("v 1 2 3 1 0.2 0.4 0.6\nv 1 2 3 1 0 0 1\n", [[51, 102, 153], [0, 0, 255]], ""),
    ("v 1 2 3 0.2 0.4 0.6 1\nv 1 2 3 0 0 1 1\n", [[51, 102, 153], [0, 0, 255]], ""),
    ("v 1 2 3 0.5\nv 1 2 3 0.6\n", None, "is not 1 everywhere"),
    ("v 1 2 3 1 0 0 1\nv 1 2 3 1 0 0.2 1\n", [[0, 0, 255], [0, 51, 255]], "the fourth is taken for a weight"),
])
def test_the_weight_and_alpha_of_obj(tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: str,
                                     colors: list[list[int]] | None, said: str) -> None:
    (tmp_path / "c.obj").write_text(rows)
    assert _colors(tmp_path / "c.obj") == colors
    assert said in caplog.text
    assert bool(said) is bool(caplog.records)


@pytest.mark.parametrize(("name", "text", "place"), [
    ("c.obj", "mtllib cat.mtl\nv 1 2 3\nv 4 5 6\nvt 0 1\n", "a texture or a material ('mtllib cat.mtl')"),
    ("c.obj", "v 1 2 3\nvt 0.5 1\nv 4 5 6\n", "a texture or a material ('vt 0.5 1')"),
    ("c.ply", "comment TextureFile cat.png\n{}end_header\n1 2 3\n", "a texture ('TextureFile cat.png')"),
    ("c.ply", "{}element face 1\nproperty list uchar int vertex_indices\nproperty uchar red\nproperty uchar green\n"
              "property uchar blue\nend_header\n1 2 3\n3 0 0 0 9 8 7\n", "its element 'face'"),
    ("d.obj", "mtllib cat.mtl\nv 1 2 3 0.5 0.5 0.25\nvt 0 1\n", ""),
])
def test_colors_of_a_surface_are_said_to_be_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str,
                                                     text: str, place: str) -> None:
    vertex = "element vertex 1\n" + "".join(f"property float {axis}\n" for axis in "xyz")
    header = "ply\nformat ascii 1.0\n" if name.endswith("ply") else ""
    (tmp_path / name).write_text(header + text.format(vertex))
    assert (_colors(tmp_path / name) is None) is bool(place)
    assert [f"{name}: its vertices have no colors; those of its surface, in {place}"] == [
        record.getMessage().removeprefix(f"{tmp_path}/").partition(", are")[0] for record in caplog.records] or not (
        place or caplog.records)


def test_a_weight_and_an_alpha_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    (tmp_path / "c.obj").write_text("v 1 2 3 0.5 0.5 0.5 0.5\nv 1 2 3 0.1 0.2 0.3 0.4\n")
    with pytest.raises(SceneError, match=r"7 numbers, of which neither .* is 1 everywhere; write x y z r g b"):
        read_points(tmp_path / "c.obj")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["1 2 3 1e300 0 0.5\n", "1 2 3 nan 1 1 1\n", "1 2 3 1e300 1 1 1 1e300 1e300\n",
                                  "x y z rgb\n1e300 2 3 1e300\n", "x y z f_dc_0 f_dc_1 f_dc_2\n1 2 3 inf 1 1\n"])
def test_numbers_too_large_are_refused_by_name_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.xyz").write_text(text)
    with pytest.raises(SceneError, match=r"c\.xyz"):
        read_points(tmp_path / "c.xyz")


def test_an_obj_of_which_only_some_vertices_have_colors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.obj").write_text("v 1 2 3 0.5 0.5 0.5\nv 4 5 6\n")
    with pytest.raises(SceneError, match="line 2: has 3 numbers; the lines before have 6"):
        read_points(tmp_path / "c.obj")
