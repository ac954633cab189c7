# SPDX-License-Identifier: Apache-2.0
import struct

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.io.hair_files import read_hair

POINTS = np.arange(15, dtype="<f4").reshape(5, 3)


def header(strands=2, points=5, arrays=3, segments=0, thickness=1.0, magic=b"HAIR") -> bytes:
    return struct.pack("<4sIIIIff3f88s", magic, strands, points, arrays, segments, thickness, 0, 1, 1, 1, b"test")


def segments(*counts: int) -> bytes:
    return np.array(counts, "<u2").tobytes()


def write(tmp_path, data: bytes):
    path = tmp_path / "x.hair"
    path.write_bytes(data)
    return path


def test_every_array_is_read_from_its_offset(tmp_path):
    widths = np.array([1, 2, 3, 4, 5], "<f4")
    path = write(tmp_path, header(arrays=31) + segments(1, 2) + POINTS.tobytes() + widths.tobytes()
                 + np.full(5, 9, "<f4").tobytes() + np.full(15, 7, "<f4").tobytes())
    strands = read_hair(path)
    assert strands.has_thickness
    assert strands.counts.tolist() == [2, 3]
    np.testing.assert_array_equal(strands.points, POINTS)
    np.testing.assert_array_equal(strands.thickness, widths)


def test_missing_arrays_take_the_headers_defaults(tmp_path):
    path = write(tmp_path, header(points=4, arrays=2, segments=1, thickness=0.5) + POINTS[:4].tobytes())
    strands = read_hair(path)
    assert not strands.has_thickness
    assert strands.counts.tolist() == [2, 2]
    assert (strands.thickness == 0.5).all()


def test_strands_of_one_point_are_left_out(tmp_path):
    strands = read_hair(write(tmp_path, header(strands=3) + segments(1, 0, 1) + POINTS.tobytes()))
    assert strands.counts.tolist() == [2, 2]
    np.testing.assert_array_equal(strands.points, POINTS[[0, 1, 3, 4]])


@pytest.mark.parametrize(("data", "message"), [
    (b"", "has 0 bytes"),
    (b"HAIR" + bytes(60), "has 64 bytes"),
    (header(magic=b"HAIT"), "begins with b'HAIT'"),
    (header(arrays=1) + segments(1, 2), "no array of points"),
    (header(strands=0, points=0), "no strands"),
    (header() + segments(1, 2) + POINTS.tobytes()[:-1], "which take 192"),
    (header() + segments(1, 2) + POINTS.tobytes() + b"x", "which take 192"),
    (header(strands=2**32 - 1, points=2**32 - 1, arrays=31), "announces 4294967295 strands"),
    (header(strands=2**32 - 1, arrays=2, segments=2**32 - 1) + POINTS.tobytes(), "4294967295 strands for 5 points"),
    (header() + segments(1, 1) + POINTS.tobytes(), "have 4 points"),
    (header() + segments(65535, 65535) + POINTS.tobytes(), "have 131072 points"),
    (header(strands=5, arrays=2, segments=0) + POINTS.tobytes(), "none of its 5 strands"),
    (header() + segments(1, 2) + np.where(POINTS == 7, np.nan, POINTS).astype("<f4").tobytes(), "point 3: coord"),
    (header(thickness=float("inf")) + segments(1, 2) + POINTS.tobytes(), "point 1: thickness is inf"),
    (header(arrays=7) + segments(1, 2) + POINTS.tobytes() + np.array([1, 1, -1, 1, 1], "<f4").tobytes(),
     "point 3: thickness is -1"),
])
def test_damaged_files_are_refused(tmp_path, data, message):
    with pytest.raises(SceneError, match=message):
        read_hair(write(tmp_path, data))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SceneError, match=r"x\.hair: no such file"):
        read_hair(tmp_path / "x.hair")
