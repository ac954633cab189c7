# SPDX-License-Identifier: Apache-2.0
"""CamPose.inf and Intrinsic.inf: columns, variants, warnings, and writing then reading."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.io.camera_files import (
    read_cam_poses,
    read_cameras,
    read_intrinsics,
    write_cam_poses,
    write_intrinsics,
)
from tests.scenes import default_intrinsics, orbit_poses, write_blocks, write_poses


def test_the_order_of_the_numbers(tmp_path: Path) -> None:
    # x axis = world y, y axis = world z, z axis = world x; center 7 8 9.
    (tmp_path / "p").write_text("1 0 0  0 1 0  0 0 1  7 8 9\n")
    expected = [[0, 0, 1, 7], [1, 0, 0, 8], [0, 1, 0, 9], [0, 0, 0, 1]]
    np.testing.assert_array_equal(read_cam_poses(tmp_path / "p"), [expected])


@pytest.mark.parametrize("digits", [6, 7, 8])
def test_printed_digits_pass_as_orthonormal(tmp_path: Path, digits: int) -> None:
    poses = orbit_poses(17)
    write_poses(tmp_path / "p", poses, digits)
    np.testing.assert_allclose(read_cam_poses(tmp_path / "p"), poses, atol=10.0**-digits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_poses_written_then_read_are_equal(tmp_path: Path, dtype: type) -> None:
    poses = orbit_poses(9).astype(dtype)
    write_cam_poses(tmp_path / "p", poses)
    np.testing.assert_array_equal(read_cam_poses(tmp_path / "p").astype(dtype), poses)
    write_cam_poses(tmp_path / "again", read_cam_poses(tmp_path / "p").astype(dtype))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "p").read_bytes()


@pytest.mark.parametrize("first", [0, 1])
def test_blocks_count_from_0_or_1(tmp_path: Path, first: int) -> None:
    matrices = np.stack([default_intrinsics() * [[1 + i], [1 + i], [1]] for i in range(3)])
    write_blocks(tmp_path / "k", matrices, first)
    np.testing.assert_array_equal(read_intrinsics(tmp_path / "k"), matrices)


def test_blocks_need_no_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("0\n5 0 1\n0 5 1\n0 0 1\n1\n6 0 1\n0 6 1\n0 0 1")
    assert read_intrinsics(tmp_path / "k")[:, 0, 0].tolist() == [5, 6]


def test_intrinsics_written_then_read_are_equal(tmp_path: Path) -> None:
    matrices = torch.tensor(np.stack([default_intrinsics() * [[np.pi + i], [1 / 3], [1]] for i in range(4)]))
    for values in (matrices, matrices.float()):
        write_intrinsics(tmp_path / "k", values)
        assert torch.equal(torch.from_numpy(read_intrinsics(tmp_path / "k")).to(values.dtype), values)


def test_one_block_serves_all_cameras(tmp_path: Path) -> None:
    write_poses(tmp_path / "p", orbit_poses(5))
    write_blocks(tmp_path / "k", default_intrinsics()[None])
    cameras = read_cameras(tmp_path / "p", tmp_path / "k", (24, 16))
    assert len(cameras) == 5
    assert cameras.size == (24, 16)
    assert cameras.intrinsics.dtype == cameras.cam_to_world.dtype == torch.float32
    assert torch.equal(cameras.intrinsics[4], torch.from_numpy(default_intrinsics()).float())


def test_a_block_each(tmp_path: Path) -> None:
    matrices = np.stack([default_intrinsics() * [[1 + i], [1], [1]] for i in range(3)])
    write_poses(tmp_path / "p", orbit_poses(3))
    write_blocks(tmp_path / "k", matrices)
    assert read_cameras(tmp_path / "p", tmp_path / "k", (24, 16)).intrinsics[:, 0, 0].tolist() == [24, 48, 72]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n\n"])
def test_marks_and_line_ends_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str,
                                          end: str) -> None:
    mark = "\N{BYTE ORDER MARK}" if encoding == "utf-16-be" else ""
    (tmp_path / "p").write_bytes((mark + "1 0 0  0 1 0  0 0 1  7 8 9" + end).encode(encoding))
    assert read_cam_poses(tmp_path / "p")[0, :3, 3].tolist() == [7, 8, 9]
    (tmp_path / "k").write_bytes((mark + end.join(["0", "9 0 4", "0 9 4", "0 0 1"]) + end).encode(encoding))
    assert read_intrinsics(tmp_path / "k").tolist() == [[[9, 0, 4], [0, 9, 4], [0, 0, 1]]]
    assert not caplog.records


def test_blank_lines_between_cameras_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "p").write_text("1 0 0  0 1 0  0 0 1  7 8 9\n\n1 0 0  0 1 0  0 0 1  4 5 6\n\n")
    assert len(read_cam_poses(tmp_path / "p")) == 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'p'}, line 2: blank lines are passed over"]


def test_equal_blocks_serve_a_longer_path(tmp_path: Path) -> None:
    write_poses(tmp_path / "p", orbit_poses(5))
    write_blocks(tmp_path / "k", np.repeat(default_intrinsics()[None], 2, 0))
    cameras = read_cameras(tmp_path / "p", tmp_path / "k", (24, 16))
    np.testing.assert_allclose(cameras.intrinsics[4].numpy(), default_intrinsics())


def test_surplus_blocks_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_poses(tmp_path / "p", orbit_poses(2))
    write_blocks(tmp_path / "k", np.repeat(default_intrinsics()[None], 3, 0))
    with caplog.at_level(logging.WARNING, "npcr"):
        assert len(read_cameras(tmp_path / "p", tmp_path / "k", (24, 16))) == 2
    assert "3 blocks for the 2 cameras" in caplog.text


def test_a_principal_point_outside_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_poses(tmp_path / "p", orbit_poses(2))
    write_blocks(tmp_path / "k", default_intrinsics((240, 160))[None])
    with caplog.at_level(logging.WARNING, "npcr"):
        read_cameras(tmp_path / "p", tmp_path / "k", (24, 16))
    assert "(119.5, 79.5) of block 0 lies outside the picture of 24x16" in caplog.text


def test_the_writers_refuse_other_shapes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be \(B, 4, 4\)"):
        write_cam_poses(tmp_path / "p", np.eye(4))
    with pytest.raises(ValueError, match=r"must be \(B, 3, 3\)"):
        write_intrinsics(tmp_path / "k", np.eye(4)[None])
