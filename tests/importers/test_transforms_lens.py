# SPDX-License-Identifier: Apache-2.0
"""Lenses of transforms.json: every key of nerfstudio and instant-ngp that changes the geometry counts or is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.importers.lenses import BrownDistortion, FisheyeDistortion, Lens
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.image_files import read_header
from tests.captures import SIZE, dot_errors, edit_transforms, poses, write_dots, write_transforms

ANGLE = 2 * math.atan(24 / 50)  # of 48 pixels at a focal length of 50
CAMERA = {"w": 48, "h": 36, "fl_x": 50.0, "fl_y": 52.0, "cx": 25.0, "cy": 17.0, "k1": 0.1, "k2": 0.02}


def write_lens(folder: Path, lens: dict[str, Any], own: dict[str, Any] | None = None) -> Path:
    """A capture with only these values of a lens; `own` are of its second frame."""
    def change(values: dict[str, Any]) -> None:
        for key in ("w", "h", "fl_x", "cx", "cy"):
            del values[key]
        values.update(lens)
        values["frames"][1].update(own or {})
    return edit_transforms(write_transforms(folder), change)


def lens_of(folder: Path, lens: dict[str, Any], own: dict[str, Any] | None = None) -> Lens:
    found = read_transforms(write_lens(folder, lens, own)).views[1].lens
    assert found is not None
    return found


@pytest.mark.parametrize("angle", [
    {"camera_angle_x": ANGLE, "camera_angle_y": 2 * math.atan(18 / 52)},
    {"x_fov": math.degrees(ANGLE), "y_fov": math.degrees(2 * math.atan(18 / 52))},
    {"fl_x": 50.0, "camera_angle_y": 2 * math.atan(18 / 52)},
    {"fx": 50.0, "fy": 52.0}, {"FL_X": 50, "FL_Y": 52}])
@pytest.mark.parametrize("frame", [False, True])
def test_an_angle_of_view_goes_with_center_and_distortion(tmp_path, angle, frame):
    rest = {key: value for key, value in CAMERA.items() if key not in ("fl_x", "fl_y")}
    found = lens_of(tmp_path, {"fl_x": 40.0} if frame else {**rest, **angle}, {**rest, **angle} if frame else None)
    np.testing.assert_allclose(found.focal, (50, 52))
    assert found.center == (24.5, 16.5)
    assert found.distortion == BrownDistortion((0.1, 0.02, 0.0, 0.0, 0.0))


def test_an_angle_of_view_needs_no_size(tmp_path):
    found = lens_of(tmp_path, {"camera_angle_x": ANGLE, "cx": 25.0, "cy": 17.0, "k1": 0.1})
    np.testing.assert_allclose(found.resized(SIZE).focal, (50, 50))
    assert (found.center, found.distortion) == ((24.5, 16.5), BrownDistortion((0.1, 0.0, 0.0, 0.0, 0.0)))


def test_an_angle_of_view_is_of_the_size_that_the_frame_states(tmp_path):
    """A photograph in portrait has its own w, and the same horizontal angle is of that."""
    folder = write_lens(tmp_path, {"camera_angle_x": ANGLE, "w": 96, "h": 72}, {"w": 24, "h": 18})
    first, second = read_transforms(folder).views[:2]
    assert first.lens is not None
    assert second.lens is not None
    np.testing.assert_allclose((first.lens.focal, second.lens.focal), ((100, 100), (25, 25)))


def test_values_of_a_frame_count_and_are_said(tmp_path, caplog):
    found = lens_of(tmp_path, CAMERA, {"fl_x": 60.0, "fl_y": 61.0, "k1": 0.2})
    assert found.focal == (60, 61)
    assert found.distortion == BrownDistortion((0.2, 0.02, 0.0, 0.0, 0.0))
    assert "lens values of their own, which count" in caplog.text
    assert "1 of 4 frames, first frames[1]: fl_x, fl_y, k1" in caplog.text


def test_what_contradicts_is_said_and_pixels_count(tmp_path, caplog):
    lens_of(tmp_path, {**CAMERA, "camera_angle_x": ANGLE, "camera_angle_y": 2 * math.atan(18 / 52.3)})
    assert caplog.text == ""
    assert lens_of(tmp_path, {**CAMERA, "camera_angle_x": 2 * ANGLE}).focal == (50, 52)
    assert "fl_x and camera_angle_x contradict each other; fl_x counts (4 of 4 frames" in caplog.text


def test_another_spelling_is_said(tmp_path, caplog):
    assert lens_of(tmp_path, {"fl_x": 50.0, "K1": 0.1}).distortion is not None
    assert "K1 is read as k1 (for all frames)" in caplog.text


@pytest.mark.parametrize("flag", [True, 1, "true", "True", "1"])
@pytest.mark.parametrize("coefficients", [(0.2, 0.05, 0.0, 0.0), (0.2, 0.05, 0.01, 0.002), (0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("frame", [False, True])
def test_the_flag_makes_a_fisheye(tmp_path, flag, coefficients, frame):
    numbers = dict(zip(("k1", "k2", "k3", "k4"), coefficients, strict=True))
    own = {**numbers, "is_fisheye": flag}
    found = lens_of(tmp_path, {"fl_x": 50.0, **({} if frame else own)}, own if frame else None)
    assert found.distortion == FisheyeDistortion(coefficients)


@pytest.mark.parametrize(("more", "fisheye"), [
    ({"is_fisheye": False}, False), ({"is_fisheye": 0}, False), ({"is_fisheye": "false"}, False),
    ({"camera_model": "opencv fisheye"}, True), ({"camera_model": "SIMPLE_RADIAL_FISHEYE"}, True),
    ({"camera_model": "OPENCV_FISHEYE", "is_fisheye": True}, True), ({"camera_model": "SIMPLE_RADIAL"}, False)])
def test_models_and_flags(tmp_path, more, fisheye):
    found = lens_of(tmp_path, {"fl_x": 50.0, "k1": 0.1, **more})
    assert isinstance(found.distortion, FisheyeDistortion if fisheye else BrownDistortion)


def test_the_frame_says_which_lens_it_has(tmp_path):
    brown = lens_of(tmp_path / "a", {"fl_x": 50.0, "k1": 0.1, "camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": False})
    fisheye = lens_of(tmp_path / "b", {"fl_x": 50.0, "k1": 0.1, "is_fisheye": 0}, {"camera_model": "OPENCV_FISHEYE"})
    assert isinstance(brown.distortion, BrownDistortion)
    assert isinstance(fisheye.distortion, FisheyeDistortion)


@pytest.mark.parametrize("frame", [False, True])
def test_a_list_of_coefficients_is_in_the_order_of_nerfstudio(tmp_path, caplog, frame):
    own = {"distortion_params": [0.1, 0.02, 0.03, 0.0, 0.004, 0.005]}
    found = lens_of(tmp_path / "brown", {"fl_x": 50.0, **({} if frame else own)}, own if frame else None)
    assert found.distortion == BrownDistortion((0.1, 0.02, 0.004, 0.005, 0.03))
    own = {"distortion_params": [0.1, 0.02, 0.03, 0.04, 0, 0], "k1": 0.1}
    found = lens_of(tmp_path / "fish", {"fl_x": 50.0, "is_fisheye": True, **({} if frame else own)},
                    own if frame else None)
    assert found.distortion == FisheyeDistortion((0.1, 0.02, 0.03, 0.04))
    assert caplog.text == ""


def test_a_frames_list_of_coefficients_counts_and_is_said(tmp_path, caplog):
    found = lens_of(tmp_path, {"fl_x": 50.0, "k1": 0.1}, {"distortion_params": [0.2, 0, 0, 0, 0, 0]})
    assert found.distortion == BrownDistortion((0.2, 0.0, 0.0, 0.0, 0.0))
    assert "1 of 4 frames, first frames[1]: k1" in caplog.text


@pytest.mark.parametrize("frame", [False, True])
@pytest.mark.parametrize(("own", "message"), [
    ({"distortion_params": [0.1, 0.2, 0.01, 0.01]}, r"distortion_params is \[.*six finite numbers k1, k2, k3, k4, p1"),
    ({"distortion_params": "0.1"}, "distortion_params is '0.1'; the six"),
    ({"distortion_params": [0.1, 0, 0, 0, 0, 0], "k1": 0.2}, "k1 is 0.2, but 0.1 in distortion_params")])
def test_lists_of_coefficients_that_are_refused(tmp_path, frame, own, message):
    place = r"transforms.json, frames\[1\]: " if frame else "transforms.json: "
    with pytest.raises(SceneError, match=place + message):
        lens_of(tmp_path, {"fl_x": 50.0, **({} if frame else own)}, own if frame else None)


def test_a_pinhole_with_coefficients_is_said(tmp_path, caplog):
    assert lens_of(tmp_path, {"fl_x": 50.0, "k1": 0.1, "camera_model": "PINHOLE"}).distortion is not None
    assert "camera_model is PINHOLE, which has no distortion" in caplog.text


@pytest.mark.parametrize("coefficients", [
    {"k1": 0.1, "k2": 0.3, "k3": 0.1, "k4": 0.3, "k5": 0.2, "k6": 0.1, "p1": 0.01, "p2": -0.01},
    {"k1": -0.2, "s1": 0.02, "s2": -0.01, "s3": 0.03, "s4": 0.01}])
def test_all_of_opencvs_coefficients_are_undone(tmp_path, coefficients):
    """Dots where OpenCV projects points through the lens lie where the imported pinhole cameras project them."""
    size, matrix = (240, 180), np.array([[180.0, 0, 121.5], [0, 185.0, 88.5], [0, 0, 1]])
    order = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4")
    numbers = np.array([coefficients.get(key, 0.0) for key in order])
    world = np.random.default_rng(5).uniform(-1.2, 1.2, (12, 3))
    folder = write_lens(tmp_path / "capture", {"w": 240, "h": 180, "fl_x": 180.0, "fl_y": 185.0, "cx": 122.0,
                                               "cy": 89.0, "camera_model": "FULL_OPENCV", **coefficients})
    for i, pose in enumerate(poses()):
        local = (world - pose[:3, 3]) @ pose[:3, :3]
        seen = cv2.projectPoints(local[:, None], np.zeros(3), np.zeros(3), matrix, numbers)[0].reshape(-1, 2)
        write_dots(folder / "images" / f"{i}.png", seen, size)
    import_capture(read_transforms(folder), tmp_path / "scene")
    errors = dot_errors(tmp_path / "scene", world)
    assert len(errors) > 20
    assert np.median(errors) < 0.1  # dots that overlap are off


@pytest.mark.parametrize(("lens", "message"), [
    ({"fl_x": 50, "distortion_params": [0, 0, 0, 0.1, 0, 0]}, "k4 is 0.1; only"),
    ({"fl_x": 50, "distortion": [0.1, 0, 0, 0, 0]}, r"distortion is \[0.1, .* none of the format's keys"),
    ({"fl_x": 50, "distortion": {"radial": [0.1]}}, "distortion is .* none of the format's keys"),
    ({"fl_x": 50, "skew": 2.5}, "skew is 2.5; .* none of the format's keys"),
    ({"fl_x": 50, "p3": 0.01}, "p3 is 0.01; .*undistort the photographs"),
    ({"fl_x": 50, "b1": -1}, "b1 is -1; "),
    ({"fl_x": 50, "k4": 0.1}, "k4 is 0.1; only OPENCV_FISHEYE .* FULL_OPENCV"),
    ({"fl_x": 50, "k5": 0.1}, "k5 is 0.1; only OPENCV_FISHEYE .* FULL_OPENCV"),
    ({"fl_x": 50, "k6": 0.1, "camera_model": "OPENCV"}, "k6 is 0.1; only"),
    ({"fl_x": 50, "k5": 0.1, "is_fisheye": True}, "k5 is 0.1; a fisheye lens has k1, k2, k3, k4 only"),
    ({"fl_x": 50, "p1": 0.1, "camera_model": "OPENCV_FISHEYE"}, "p1 is 0.1; a fisheye lens"),
    ({"fl_x": 50, "is_fisheye": "yes"}, "is_fisheye is 'yes'; true or false"),
    ({"fl_x": 50, "is_fisheye": 2}, "is_fisheye is 2"),
    ({"fl_x": 50, "is_fisheye": True, "camera_model": "OPENCV"}, "is_fisheye is True; camera_model beside it is OPEN"),
    ({"fl_x": 50, "is_fisheye": False, "camera_model": "OPENCV_FISHEYE"}, "is_fisheye is False; camera_model beside"),
    ({"fl_x": 50, "camera_model": "EQUIRECTANGULAR"}, "camera_model is 'EQUIRECTANGULAR'; a panorama"),
    ({"fl_x": 50, "camera_model": "FISHEYE624"}, "camera_model is 'FISHEYE624'; known are"),
    ({"fl_x": 50, "camera_model": 3}, "camera_model is 3; known are"),
    ({"fl_x": 50, "latlong": True}, "latlong is True; a panorama"),
    ({"fl_x": 50, "ftheta_p0": 0.1}, "ftheta_p0 is 0.1; f-theta"),
    ({"camera_angle_x": ANGLE, "is_fisheye": True}, "fl_x is missing; a fisheye lens needs it"),
    ({"camera_angle_x": 35.0}, r"camera_angle_x is 35.0; .*below pi \(radians\)"),
    ({"x_fov": 180}, r"x_fov is 180.0; .*below 180 \(degrees\)"),
    ({"fl_x": 1.2}, "fl_x is 1.2; pixels are needed"),
    ({"fl_x": "500,0"}, "fl_x is '500,0'; a finite number is needed, without quotes and with a decimal point"),
    ({"fl_x": "500.0"}, "fl_x is '500.0'"),
    ({"fl_x": True}, "fl_x is True"),
    ({"fl_x": 50, "cx": 24}, "cy is missing; cx is given"),
    ({"fl_x": 50, "cy": 24}, "cx is missing; cy is given"),
    ({"fl_x": 50, "cx": 0.5, "cy": 0.5}, "cx is 0.5; pixels are needed"),
    ({"fl_x": 50, "w": 48}, "h is missing; w is given"),
    ({"fl_x": 50, "w": 48, "h": 36.5}, "h is 36.5; a whole number")])
def test_lenses_that_are_refused(tmp_path, lens, message):
    with pytest.raises(SceneError, match=message) as caught:
        lens_of(tmp_path, lens)
    assert "transforms.json, frames[0]" in str(caught.value)


def test_a_size_of_its_own_with_pixels_of_the_top_level_is_refused(tmp_path):
    with pytest.raises(SceneError, match=r"frames\[1\]: w is 24; the top level's is 48, and fl_x is given there only"):
        lens_of(tmp_path, CAMERA, {"w": 24, "h": 18})


def test_one_focal_length_of_a_frame_without_the_other_is_refused(tmp_path):
    with pytest.raises(SceneError, match=r"frames\[1\]: fl_y is missing; the frame has .* give the frame both"):
        lens_of(tmp_path, CAMERA, {"fl_x": 60.0})


def test_a_principal_point_outside_of_the_photograph_is_said(tmp_path, caplog):
    lens_of(tmp_path, {"fl_x": 50, "cx": 480.0, "cy": 20.0})
    assert "principal point (cx, cy) lies outside of the photograph (4 of 4 frames, first frames[0]: 480, 20 in 48x36" \
        in caplog.text


@pytest.mark.parametrize(("key", "value", "said"), [
    ("rolling_shutter", [0.0, 0.0, 0.3, 0.0], "rolling_shutter is not undone"),
    ("transform_matrix_start", np.eye(4).tolist(), "camera's motion"),
    ("fisheye_crop_radius", 300, "fisheye_crop_radius is not used"),
    ("split", "test", "'split' is not read"),
    ("white_transparent", True, "--background 255,255,255")])
def test_keys_that_are_not_used_are_said(tmp_path, caplog, key, value, said):
    read_transforms(edit_transforms(write_transforms(tmp_path), lambda v: v["frames"][2].update({key: value})))
    assert said in caplog.text
    assert "1 of 4 frames, first frames[2]" in caplog.text


def test_keys_that_change_nothing_are_no_matter(tmp_path, caplog):
    read_transforms(edit_transforms(write_transforms(
        tmp_path, aabb_scale=4, scale=0.3, offset=[0.5, 0.5, 0.5], n_extra_learnable_dims=0, is_fisheye=False,
        rolling_shutter=[0.0, 0.0, 0.0, 0.0], white_transparent=False, k4=0.0, p3=0, b1=0.0, skew=0,
        distortion="none", distortion_params=[0, 0, 0, 0, 0, 0], camera_model="OPENCV"),
        lambda v: [f.update(sharpness=30.1, rotation=0.01, depth_file_path="depth/0.png", colmap_im_id=i)
                   for i, f in enumerate(v["frames"])]))
    assert caplog.text == ""


def test_a_lens_that_costs_most_of_a_picture_is_said(tmp_path, caplog):
    folder = write_lens(tmp_path / "capture", {"w": 48, "h": 36, "fl_x": 70.0, "k1": -0.05})
    import_capture(read_transforms(folder), tmp_path / "fine")
    assert "undistorted" not in caplog.text
    edit_transforms(folder, lambda v: v["frames"][1].update(k1=-45.0, k2=1017.0))
    import_capture(read_transforms(folder), tmp_path / "scene")
    assert "1 of 4 photographs show less than 50% of their picture once undistorted, first" in caplog.text
    assert "1.png; it shows" in caplog.text
    assert "magnified" in caplog.text
    assert read_header(tmp_path / "scene/img/0/img_0002.png").size == SIZE


def test_a_lens_that_magnifies_the_middle_is_said(tmp_path, caplog):
    folder = write_lens(tmp_path / "capture", {"w": 48, "h": 36, "fl_x": 50.0, "k1": 0.5})
    import_capture(read_transforms(folder), tmp_path / "fine")
    assert caplog.text == ""
    edit_transforms(folder, lambda v: [frame.update(k1=5.0) for frame in v["frames"][1:]])
    import_capture(read_transforms(folder), tmp_path / "scene")
    assert "3 of 4 photographs are magnified more than 1.25 times in their middle once" in caplog.text
    assert "1.png; it is magnified 1.62 times and shows 79.2% of its picture" in caplog.text


def test_a_fisheye_that_is_cut_by_the_largest_angle_is_said(tmp_path, caplog):
    folder = write_lens(tmp_path / "capture", {"w": 48, "h": 36, "fl_x": 13.0, "is_fisheye": True})
    import_capture(read_transforms(folder), tmp_path / "scene")
    assert "4 of 4 photographs show less than 50% of their picture once undistorted" in caplog.text
    assert "60 degrees off the axis" in caplog.text
