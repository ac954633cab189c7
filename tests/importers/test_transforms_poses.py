# SPDX-License-Identifier: Apache-2.0
"""Matrices of transforms.json that are no poses, are suspicious together, or were moved by nerfstudio."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.transforms import read_transforms
from npcr.io.points import PointCloud, write_points
from tests.captures import TO_OPENGL, edit_transforms, points, poses, write_transforms

TURN = np.array([[1.0, 0, 0, 0.5], [0, 0, 1, -2], [0, -1, 0, 3], [0, 0, 0, 1]])


def write_matrices(folder: Path, change: Any, **more: Any) -> Path:
    """A capture whose matrices `change` has changed."""
    return edit_transforms(write_transforms(folder, **more), lambda v: [
        f.update(transform_matrix=np.asarray(change(np.array(f["transform_matrix"]))).tolist()) for f in v["frames"]])


@pytest.mark.parametrize("change", [
    lambda m: m[:3], lambda m: m.ravel(), lambda m: m @ np.diag([2.5, 2.5, 2.5, 1.0]),
    lambda m: m + np.vstack([np.zeros((3, 4)), [1e-8, 0, 0, 0]])], ids=["3x4", "16", "scaled", "rounded"])
def test_the_ways_to_write_a_pose(tmp_path, caplog, change):
    views = read_transforms(write_matrices(tmp_path, change)).views
    np.testing.assert_allclose([view.cam_to_world for view in views], poses(), atol=1e-9)
    assert caplog.text == ""


@pytest.mark.parametrize(("change", "message"), [
    (np.transpose, "last row of transform_matrix is .*looks transposed"),
    (lambda m: m.T.ravel(), "last row of transform_matrix is .*looks transposed"),
    (lambda m: m * 0, "last row of transform_matrix is 0, 0, 0, 0; .*all zeros"),
    (lambda m: m * 2, "last row of transform_matrix is 0, 0, 0, 2; .*divide the matrix"),
    (lambda m: np.vstack([m[:3], [[0.1, 0.2, 0.3, 0.4]]]), "last row of transform_matrix is 0.1, 0.2, 0.3, 0.4"),
    (lambda m: m @ np.diag([1, 1, -1, 1]), "left-handed"),
    (lambda m: m @ np.diag([1, 2, 1, 1]), "not orthonormal.*perpendicular"),
    (lambda m: m[:3] * 0, "not orthonormal"),
    (lambda m: m.T[:, :3], "4 rows of 4"),
    (lambda m: m[:3].ravel(), "4 rows of 4"),
    (lambda m: m.astype(str), "4 rows of 4"),
    (lambda m: np.char.replace(m.astype(str), ".", ","), "4 rows of 4"),
    (lambda m: m > 0, "4 rows of 4")])
def test_what_is_no_pose_is_refused(tmp_path, change, message):
    with pytest.raises(SceneError, match=message) as caught:
        read_transforms(write_matrices(tmp_path, change))
    assert "transforms.json, frames[0]" in str(caught.value)


def test_cameras_of_mitsuba_are_refused(tmp_path):
    with pytest.raises(SceneError, match=r"from_mitsuba is True; .*first and the third column"):
        read_transforms(write_transforms(tmp_path, from_mitsuba=True))


def test_cameras_at_one_point_are_said(tmp_path, caplog):
    read_transforms(write_matrices(tmp_path, lambda m: m.T[:3]))
    assert "all 4 cameras stand at one point (0, 0, 0)" in caplog.text


def test_a_pose_that_two_photographs_have_is_said(tmp_path, caplog):
    folder = edit_transforms(write_transforms(tmp_path), lambda v: v["frames"][2].update(
        transform_matrix=v["frames"][0]["transform_matrix"]))
    assert len(read_transforms(folder).views) == 4
    assert "1 of 4 photographs have exactly the pose of another, first frames[2] (2.png) that of frames[0]" \
        in caplog.text


def test_a_photograph_that_two_frames_name(tmp_path, caplog):
    folder = edit_transforms(write_transforms(tmp_path), lambda v: v["frames"].append(
        {**v["frames"][1], "file_path": "./images/1"}))
    assert len(read_transforms(folder).views) == 5
    assert "1 of 5 frames name a photograph that another frame names, too" in caplog.text
    edit_transforms(folder, lambda v: v["frames"][1]["transform_matrix"][0].__setitem__(3, 9.0))
    with pytest.raises(SceneError, match=r"frames\[1\] and frames\[4\] name the photograph .*1.png, with different"):
        read_transforms(folder)


def test_frames_of_different_times_are_said(tmp_path, caplog):
    edit_transforms(write_transforms(tmp_path), lambda v: [f.update(time=i / 3) for i, f in enumerate(v["frames"])])
    read_transforms(tmp_path)
    assert "4 different times; all are taken for one pose" in caplog.text


@pytest.mark.parametrize("more", [
    {"applied_transform": TURN[:3].tolist(), "applied_scale": 0.25}, {"applied_transform": TURN.tolist()},
    {"applied_scale": 4}, {"applied_transform": (TURN @ np.diag([3.0, 3.0, 3.0, 1.0]))[:3].tolist()}])
def test_applied_transform_and_scale_are_undone(tmp_path, more):
    """nerfstudio turns and shifts, then scales; directions of the axes are not scaled."""
    matrix = np.vstack([np.array(more.get("applied_transform", np.eye(4)))[:3], [0, 0, 0, 1]])
    scale = more.get("applied_scale", 1.0)

    def moved(pose: np.ndarray) -> np.ndarray:
        result = matrix @ pose
        result[:3, :3] /= np.linalg.norm(result[:3, 0])
        result[:3, 3] *= scale
        return result

    folder = write_matrices(tmp_path, moved, **more)
    seen = [view.cam_to_world for view in read_transforms(folder).views]
    np.testing.assert_allclose(seen, [moved(pose @ TO_OPENGL) @ TO_OPENGL for pose in poses()], atol=1e-9)
    undone = [view.cam_to_world for view in read_transforms(folder, undo_applied_transform=True).views]
    np.testing.assert_allclose(undone, poses(), atol=1e-9)


@pytest.mark.parametrize(("more", "message"), [
    ({}, "neither applied_transform nor applied_scale"),
    ({"applied_scale": 0}, "applied_scale is 0; a number above 0"),
    ({"applied_scale": "0,25"}, "applied_scale is '0,25'"),
    ({"applied_transform": np.diag([1.0, 1.0, -1.0, 1.0]).tolist()}, "applied_transform is .*not mirrored"),
    ({"applied_transform": np.diag([1.0, 2.0, 1.0, 1.0]).tolist()}, "applied_transform is "),
    ({"applied_transform": TURN.T.tolist()}, "last row of applied_transform is 0.5, -2, 3, 1; .*looks transposed"),
    ({"applied_transform": (2 * TURN).tolist()}, "last row of applied_transform is 0, 0, 0, 2; .*divide the matrix"),
    ({"applied_transform": np.zeros((4, 4)).tolist()}, "last row of applied_transform is .*all zeros"),
    ({"applied_transform": [[1, 2], [3, 4]]}, "applied_transform is .*3 or 4 rows")])
def test_what_cannot_be_undone_is_refused(tmp_path, more, message):
    with pytest.raises(SceneError, match=message):
        read_transforms(write_transforms(tmp_path, **more), undo_applied_transform=True)


def test_the_cloud_that_was_moved_is_left_out_when_it_is_undone(tmp_path, caplog):
    folder = write_transforms(tmp_path, applied_scale=0.5, ply_file_path="cloud.ply")
    write_points(folder / "cloud.ply", PointCloud(points().astype(np.float32)))
    assert read_transforms(folder).clouds == [folder / "cloud.ply"]
    assert caplog.text == ""
    capture = read_transforms(folder, undo_applied_transform=True)
    assert capture.clouds == []
    assert "'cloud.ply'" in capture.cloud_remarks[0]
    assert "left out, --points names another" in capture.cloud_remarks[0]


def test_a_key_with_two_values_is_refused(tmp_path):
    text = json.dumps(json.loads((write_transforms(tmp_path) / "transforms.json").read_text()))
    (tmp_path / "transforms.json").write_text(text.replace('"fl_x": 50.0', '"fl_x": 50.0, "fl_x": 60.0'))
    with pytest.raises(SceneError, match=r"'fl_x' twice, 50\.0 and 60\.0"):
        read_transforms(tmp_path)
