# SPDX-License-Identifier: Apache-2.0
"""COLMAP models of several files: rigs and frames, binary beside text, several models, images without a pose."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.colmap import read_colmap
from npcr.io.images import write_image
from tests.captures import SIZE, points, poses, write_colmap, write_photographs

pycolmap = pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")


def _camera_centers(folder: Path) -> np.ndarray:
    return np.array([view.cam_to_world[:3, 3] for view in read_colmap(folder).views])


def _rigid(pose: np.ndarray) -> Any:
    return pycolmap.Rigid3d(np.linalg.inv(pose)[:3])


def _write_rig(folder: Path, binary: bool, sensor_pose: bool = True) -> None:
    """Two frames of a rig of two cameras. The second sensor's quaternion has another length than 1, or is unknown."""
    model = pycolmap.Reconstruction()
    sensors = [pycolmap.sensor_t(pycolmap.SensorType.CAMERA, i) for i in (1, 2)]
    for i in (1, 2):
        model.add_camera(pycolmap.Camera(model="PINHOLE", width=SIZE[0], height=SIZE[1], params=[50, 50, 24, 18],
                                         camera_id=i))
    offset = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0.0, 0.1, 0.0, 1.0])), np.array([1.0, 2.0, 3.0]))
    rig = pycolmap.Rig()
    rig.rig_id = 1
    rig.add_ref_sensor(sensors[0])
    rig.add_sensor(sensors[1], offset)
    model.add_rig(rig)
    for number in (1, 2):
        frame = pycolmap.Frame()
        frame.frame_id, frame.rig_id, frame.rig_from_world = number, 1, _rigid(poses()[number - 1])
        for i, sensor in enumerate(sensors):
            frame.add_data_id(pycolmap.data_t(sensor, 2 * number + i))
        model.add_frame(frame)
        for i in range(2):
            image = pycolmap.Image(name=f"{2 * number + i - 2}.png", camera_id=i + 1, image_id=2 * number + i)
            image.frame_id = number
            model.add_image(image)
        model.register_frame(number)
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    (model.write_binary if binary else model.write_text)(place)
    write_photographs(folder / "images")
    if not sensor_pose:
        file = place / "rigs.txt"
        file.write_text("1 2 CAMERA 1 CAMERA 2 0\n")


@pytest.mark.parametrize("binary", [True, False])
def test_a_rig_places_its_cameras(tmp_path: Path, caplog: pytest.LogCaptureFixture, binary: bool) -> None:
    _write_rig(tmp_path, binary)
    views = read_colmap(tmp_path).views
    np.testing.assert_allclose([views[0].cam_to_world, views[2].cam_to_world], poses()[:2], atol=1e-9)
    angle = 2 * np.arctan2(0.1, 1.0)
    sensor = np.eye(4)
    sensor[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    sensor[:3, 3] = [1, 2, 3]
    for i in range(2):
        np.testing.assert_allclose(np.linalg.inv(views[2 * i + 1].cam_to_world),
                                   sensor @ np.linalg.inv(poses()[i]), atol=1e-9)
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "has no points; --points names a cloud"]


@pytest.mark.parametrize("suffix", [".bin", ".txt"])
@pytest.mark.parametrize("place", ["sparse", ".", "colmap/sparse"])
def test_of_several_models_the_one_with_most_images_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                            suffix: str, place: str) -> None:
    write_colmap(tmp_path / "other")
    model = pycolmap.Reconstruction(tmp_path / "other/sparse/0")
    (tmp_path / "other/images").rename(tmp_path / "images")
    for number in ("1", "10"):
        (tmp_path / place / number).mkdir(parents=True)
        (model.write_binary if suffix == ".bin" else model.write_text)(tmp_path / place / number)
    _write_rig(tmp_path / "small", binary=suffix == ".bin")
    small = pycolmap.Reconstruction(tmp_path / "small/sparse/0")
    small.deregister_frame(1)
    (tmp_path / place / "0").mkdir()
    (small.write_binary if suffix == ".bin" else small.write_text)(tmp_path / place / "0")
    assert read_colmap(tmp_path).file == tmp_path / place / "1"
    assert "COLMAP made 3 models that do not connect (0: 2, 1: 4, 10: 4 images); 1 is used" in caplog.text
    assert len(read_colmap(tmp_path, model=tmp_path / place / "0").views) == 2


def test_a_model_whose_images_cannot_be_counted_is_not_chosen(tmp_path: Path,
                                                              caplog: pytest.LogCaptureFixture) -> None:
    write_colmap(tmp_path)
    (tmp_path / "sparse/0").rename(tmp_path / "sparse/1")
    (tmp_path / "sparse/0").mkdir()
    (tmp_path / "sparse/0/cameras.bin").write_bytes(b"")
    assert len(read_colmap(tmp_path).views) == 4
    assert "(0: 0, 1: 4 images); 1 is used" in caplog.text


def test_images_without_a_pose_are_counted_with_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write_rig(tmp_path, binary=False, sensor_pose=False)
    assert [view.label for view in read_colmap(tmp_path).views] == ["0.png", "2.png"]
    assert "2 of 4 images have no pose; they are left out, first 1.png" in caplog.text


def test_photographs_that_the_model_does_not_place_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_colmap(tmp_path)
    write_photographs(tmp_path / "images", 6)
    assert len(read_colmap(tmp_path).views) == 4
    assert "images: 2 of 6 photographs are left out, because the model does not place them; first 4.png" in caplog.text


@pytest.mark.parametrize("mask", ["{}_mask.png", "trimaps/{}.png"])
def test_pictures_that_are_masks_by_their_names_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                          mask: str) -> None:
    write_colmap(tmp_path)
    for i in range(4):
        write_image(tmp_path / "images" / mask.format(i), np.full((SIZE[1], SIZE[0]), 255, np.uint8))
    assert len(read_colmap(tmp_path).views) == 4
    assert "images: 4 of 8 pictures are masks by their names, and not used, first " + mask.format(0) in caplog.text
    assert "does not place" not in caplog.text


def test_poses_that_disagree_with_the_frames_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_colmap(tmp_path, binary=False)
    before = _camera_centers(tmp_path)
    file = tmp_path / "sparse/0/frames.txt"
    lines = file.read_text().splitlines()
    words = lines[-1].split()
    words[8] = "7.5"
    file.write_text("\n".join([*lines[:-1], " ".join(words)]))
    assert not np.allclose(before[3], _camera_centers(tmp_path)[3])
    assert "frames.txt: places 1 of 4 images elsewhere than images.txt does, first 3.png" in caplog.text


@pytest.mark.parametrize(("name", "change", "message"), [
    ("frames", lambda text: text.replace("0.45", "0,45", 1), r"frames.txt, line 4: QW is '0,45.*decimal point"),
    ("frames", lambda text: text.replace(" 1 CAMERA 1 1\n", " 3 CAMERA 1 1\n"), r"frames.txt, line 4: ends before"),
    ("frames", lambda text: text.replace(" 1 CAMERA 1 1\n", " 1 CAMERA 1 1 9\n"), r"line 4: has 14 words; .* needs 13"),
    ("frames", lambda text: "", r"rigs.txt and frames.txt do not fit its images; without these two files"),
    ("rigs", lambda text: text.replace("1 1 CAMERA", "1 1000000000 CAMERA"), r"rigs.txt, line 4: ends before"),
    ("rigs", lambda text: text.replace("1 1 CAMERA", "1 1 LIDAR"), r"rigs.txt and frames.txt do not fit"),
])
def test_damaged_rigs_and_frames_are_named(tmp_path: Path, name: str, change: Any, message: str) -> None:
    write_colmap(tmp_path, binary=False)
    file = tmp_path / f"sparse/0/{name}.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(SceneError, match=message):
        read_colmap(tmp_path)


@pytest.mark.parametrize(("binary", "left"), [(True, "rigs.bin"), (False, "frames.txt")])
def test_one_of_rigs_and_frames_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture, binary: bool,
                                            left: str) -> None:
    write_colmap(tmp_path, binary=binary)
    for file in (tmp_path / "sparse/0").iterdir():
        if file.stem in ("rigs", "frames") and file.name != left:
            file.unlink()
    np.testing.assert_allclose([view.cam_to_world for view in read_colmap(tmp_path).views], poses(), atol=1e-9)
    assert f"has {left}, but only rigs and frames together can be used" in caplog.text


def _both(folder: Path) -> Path:
    write_colmap(folder).write_text(folder / "sparse" / "0")
    return folder / "sparse" / "0"


def test_equal_binary_and_text_files_are_nothing_to_say(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _both(tmp_path)
    assert len(read_colmap(tmp_path).views) == 4
    assert not caplog.records


@pytest.mark.parametrize(("name", "old", "new", "message"), [
    ("images", " 0.png", " 9.png", "image 1 is 0.png and 9.png"),
    ("images", "\n1 0.45", "\n1 0.95", "the pose of 0.png"), ("cameras", " 50 50 ", " 60 60 ", "camera 1"),
    ("points3D", "\n1 ", "\n99 ", "40 and 40 points3D, or with other numbers"),
    ("points3D", "\n1 ", "\nx ", r"the text files cannot be read (.*points3D.txt, line 4: POINT3D_ID is 'x'"),
])
def test_text_files_that_differ_from_the_binary_ones_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                              name: str, old: str, new: str, message: str) -> None:
    file = _both(tmp_path) / f"{name}.txt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    np.testing.assert_allclose([view.cam_to_world for view in read_colmap(tmp_path).views], poses(), atol=1e-9)
    assert "the binary files are used; the text files beside them are not the same: " in caplog.text
    assert message.partition(".*")[0] in caplog.text
    assert message.partition(".*")[2] in caplog.text


def test_the_files_that_are_whole_are_read(tmp_path: Path) -> None:
    place = _both(tmp_path)
    (place / "images.bin").unlink()
    assert len(read_colmap(tmp_path).views) == 4
    (place / "points3D.txt").unlink()
    with pytest.raises(SceneError, match=r"images.bin: no such file; a COLMAP model has cameras, images, points3D"):
        read_colmap(tmp_path)


@pytest.mark.parametrize(("name", "change", "message"), [
    ("cameras", lambda b: struct.pack("<Q", 2) + 2 * b[8:], r"cameras.bin: .* it has two cameras 1"),
    ("images", lambda b: struct.pack("<Q", 5) + b[8:] + b[8:8 + 64 + 6 + 8 + 24 * 40],
     r"images.bin: .* it has two images 1: 0.png and 0.png"),
    ("images", lambda b: b[:12] + struct.pack("<4d", 0, 0, 0, 0) + b[44:], r"image 0.png: its quaternion"),
    ("images", lambda b: b[:12] + struct.pack("<d", float("inf")) + b[20:], r"image 0.png: its pose inf"),
    ("images", lambda b: b[:68] + struct.pack("<I", 5) + b[72:], r"image 0.png: its camera 5 is not in"),
    ("points3D", lambda b: struct.pack("<Q", 41) + b[8:] + b[8:8 + 51 + 32], r"points3D.bin: .* it has two points 1"),
])
def test_a_malformed_binary_record_is_named(tmp_path: Path, name: str, change: Any, message: str) -> None:
    write_colmap(tmp_path)
    file = tmp_path / f"sparse/0/{name}.bin"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(SceneError, match=message):
        read_colmap(tmp_path)


def test_points_seen_in_no_image_of_a_binary_model_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_colmap(tmp_path)
    file = tmp_path / "sparse/0/points3D.bin"
    data = bytearray(file.read_bytes())
    data[8 + 51:8 + 55] = struct.pack("<I", 77)
    file.write_bytes(bytes(data))
    np.testing.assert_allclose(read_colmap(tmp_path).clouds[0].positions, points(), atol=1e-6)
    assert "points3D.bin: 1 of 40 points are seen in images that the model lacks" in caplog.text
    assert "first point 1 in image 77" in caplog.text


def test_masks_beside_the_photographs_that_serve_none_are_said(tmp_path: Path,
                                                               caplog: pytest.LogCaptureFixture) -> None:
    write_colmap(tmp_path)
    write_image(tmp_path / "masks" / "camera.png", np.zeros((SIZE[1], SIZE[0]), np.uint8))
    assert all(view.mask is None for view in read_colmap(tmp_path).views)
    assert "masks: has no mask for 4 of 4 photographs, first" in caplog.text
    with pytest.raises(SceneError, match=r"has no mask for 4 of 4 photographs.*1 pictures, such as camera.png"):
        read_colmap(tmp_path, masks=tmp_path / "masks")
