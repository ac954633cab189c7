# SPDX-License-Identifier: Apache-2.0
"""Metashape's cameras.xml: poses, transforms, camera model, what is left out, what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest

from npcr.camera_paths import rotation
from npcr.errors import SceneError
from npcr.importers.metashape import read_metashape
from npcr.importers.metashape.sensors import MetashapeDistortion
from npcr.importers.scene_writer import import_capture
from npcr.io.images import write_image
from tests.captures import SIZE, dot_errors, metashape_xml, poses, write_dots, write_metashape

TURN, SHIFT, SCALE = rotation((1, 2, 3), 0.7), np.array([5.0, -2, 1]), 2.5
TRANSFORM = (f"<transform><rotation>{' '.join(repr(float(v)) for v in TURN.ravel())}</rotation>"
             f"<translation>{' '.join(repr(float(v)) for v in SHIFT)}</translation><scale>{SCALE}</scale></transform>")


def into_chunk(pose: np.ndarray) -> np.ndarray:
    result = pose.copy()
    result[:3, :3] = TURN.T @ pose[:3, :3]
    result[:3, 3] = TURN.T @ (pose[:3, 3] - SHIFT) / SCALE
    return result


@pytest.mark.parametrize("where", ["nowhere", "chunk", "component"])
def test_poses_in_world_space(tmp_path, where):
    options = {"nowhere": {}, "chunk": {"chunk": TRANSFORM, "inner": into_chunk},
               "component": {"component": f'<components><component id="0">{TRANSFORM}</component></components>',
                             "inner": into_chunk}}[where]
    capture = read_metashape(write_metashape(tmp_path, **options))
    np.testing.assert_allclose([view.cam_to_world for view in capture.views], poses(), atol=1e-12)
    inner = read_metashape(tmp_path / "cameras.xml", chunk_space=True)
    expected = poses()[1] if where == "nowhere" else into_chunk(poses()[1])
    np.testing.assert_allclose(inner.views[1].cam_to_world, expected, atol=1e-12)


def test_the_principal_point_is_an_offset_and_b1_b2_are_affinity_and_skew(tmp_path):
    xml = write_metashape(tmp_path, calibration="<f>50</f><cx>2</cx><cy>-1.5</cy><b1>3</b1><b2>0.5</b2>")
    lens = read_metashape(xml).views[0].lens
    assert (lens.focal, lens.center, lens.skew) == ((53.0, 50.0), (25.5, 16.0), 0.5)


def test_the_distortion_is_metashapes_formula():
    x, y = 0.3, -0.2
    r2 = x * x + y * y
    k1, k2, k3, k4, p1, p2 = -0.2, 0.05, 0.01, -0.02, 0.003, -0.004
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3 + k4 * r2**4
    found = MetashapeDistortion((k1, k2, k3, k4, p1, p2, 0, 0), False)(np.array([[x, y]]))
    np.testing.assert_allclose(found, [[x * radial + p1 * (r2 + 2 * x * x) + 2 * p2 * x * y,
                                        y * radial + p2 * (r2 + 2 * y * y) + 2 * p1 * x * y]], rtol=1e-12)
    bent = MetashapeDistortion((0,) * 8, True)(np.array([[1.0, 0], [0, 0]]))
    np.testing.assert_allclose(bent, [[np.pi / 4, 0], [0, 0]], atol=1e-12)


@pytest.mark.parametrize("kind", ["frame", "fisheye"])
def test_lenses_are_undistorted(tmp_path, kind):
    """Dots where the distorted, skewed lens sees points end up where the scene's pinhole camera projects them."""
    size, dots = (160, 120), np.random.default_rng(1).uniform(-0.7, 0.7, (12, 3))
    coefficients = (-0.2, 0.05, 0.01, 0.0, 0.003, -0.004, 0.0, 0.0)
    distort = MetashapeDistortion(coefficients, kind == "fisheye")
    for i, pose in enumerate(poses()):
        local = (dots - pose[:3, 3]) @ pose[:3, :3]
        x, y = distort(local[:, :2] / local[:, 2:]).T
        pixels = np.stack([80 + 1.5 + 150 * x + 2 * x + 0.8 * y, 60 - 2 + 150 * y], 1) - 0.5
        write_dots(tmp_path / "images" / f"{i}.png", pixels, size)
    text = "<f>150</f><cx>1.5</cx><cy>-2</cy><b1>2</b1><b2>0.8</b2>" + "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("k1", "k2", "k3", "k4", "p1", "p2"), coefficients,
                                                       strict=False))
    xml = metashape_xml(calibration=text, kind=kind).replace(
        f'width="{SIZE[0]}" height="{SIZE[1]}"', f'width="{size[0]}" height="{size[1]}"')
    (tmp_path / "cameras.xml").write_text(xml)
    import_capture(read_metashape(tmp_path / "cameras.xml"), tmp_path.parent / f"scene_{kind}")
    errors = dot_errors(tmp_path.parent / f"scene_{kind}", dots)
    assert len(errors) >= 30
    assert np.median(errors) < 0.1


def test_disabled_and_unaligned_cameras_are_left_out(tmp_path, caplog):
    more = ('<camera id="8" sensor_id="0" label="x" enabled="false"><transform>1</transform></camera>'
            '<group><camera id="9" sensor_id="0" label="y"/></group>')
    assert len(read_metashape(write_metashape(tmp_path, cameras=more)).views) == 4
    assert "1 of 6 cameras are disabled and left out, first x" in caplog.text
    assert "1 of 6 cameras are not aligned and left out, first y" in caplog.text


def test_a_plain_export_is_read_without_a_word(tmp_path, caplog):
    capture = read_metashape(write_metashape(tmp_path))
    assert [view.image.name for view in capture.views] == ["0.png", "1.png", "2.png", "3.png"]
    assert caplog.text == ""


def test_missing_photographs_and_masks(tmp_path, caplog):
    xml = write_metashape(tmp_path)
    (tmp_path / "images/1.png").unlink()
    assert [path.name for path in read_metashape(xml).missing] == ["1"]
    for i in (0, 2):
        write_image(tmp_path / "mattes" / f"{i}.png", np.full((SIZE[1], SIZE[0]), 9, np.uint8))
    views = read_metashape(xml, masks=tmp_path / "mattes").views
    assert [view.mask and view.mask.name for view in views] == ["0.png", "2.png", None]
    assert "mattes: has no mask for 1 of 3 photographs, first" in caplog.text


def without_calibration(text: str) -> str:
    """A panoramic sensor, for which Metashape writes no calibration."""
    return re.sub("<calibration.*</calibration>", "", text).replace('type="frame"', 'type="spherical"')


def transposed(text: str) -> str:
    """The poses column by column."""
    return re.sub("<transform>([^<]*)", lambda found: "<transform>" + " ".join(
        np.array(found[1].split()).reshape(4, 4).T.ravel()), text)


def rescaled(text: str, factors: tuple[float, ...]) -> str:
    """The poses with their axes made longer."""
    return re.sub("<transform>([^<]*)", lambda found: "<transform>" + " ".join(
        repr(v) for v in (np.array(found[1].split(), float).reshape(4, 4) * [*factors, 1]).ravel().tolist()), text)


ENTITIES = '<?xml version="1.0"?><!DOCTYPE d [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><d>&b;</d>'


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s[:300], "not XML"),
    (lambda s: ENTITIES, r"has a document type .* or entities .*; export the cameras from Metashape again"),
    (lambda s: s.replace("UTF-8", "no-such"), "is no cameras.xml: its encoding cannot be read .*; save it as UTF-8"),
    (lambda s: rescaled(s, (2, 1, 1)), "0: transform: .*; its first three columns must be perpendicular and of one"),
    (lambda s: rescaled(s, (1, -1, 1)), "0: transform: its axes are left-handed"),
    (lambda s: "<document/>", "no element 'chunk'"),
    (lambda s: s.replace("<f>50</f>", "<f>0</f>"), r"sensor 0 \(s\): f is 0"),
    (lambda s: s.replace("<f>50</f>", "<f>wide</f>"), r"sensor 0 \(s\): f is 'wide'"),
    (lambda s: s.replace('type="frame"', 'type="spherical"'), "type is 'spherical': .*panoramas"),
    (lambda s: s.replace("<f>50</f>", "<f>2</f>"), r"sensor 0 \(s\): f is 2 for 48 pixels across, which no lens"),
    (lambda s: s.replace("<f>50</f>", "<f>50,5</f>"), "f is '50,5'; a finite number is needed, with decimal points"),
    (lambda s: s.replace("<transform>", "<transform>1,5 ", 1), "0: transform is '1,5 .*, with decimal points"),
    (without_calibration, "type is 'spherical': .*panoramas"),
    (lambda s: without_calibration(s).replace("spherical", "frame"), "has no calibration; align"),
    (lambda s: s.replace('type="frame"', 'type="equisolid_fisheye"'), "type is 'equisolid_fisheye'; known are frame"),
    (lambda s: s.replace("<f>", "<fx>50</fx><f>"), "has fx: it is of PhotoScan before 1.2"),
    (lambda s: s.replace("<f>", "<k5>0.1</k5><f>"), "calibration has k5 = 0.1, which is not known"),
    (lambda s: s.replace("<f>", "<k1>0</k1><k1>1</k1><f>"), "calibration has k1 2 times"),
    (lambda s: s.replace("</sensor>", "<frame><fiducials/></frame></sensor>"), "film camera with fiducial marks"),
    (lambda s: s.replace('id="3"', 'id="2"'), "two elements camera have the id '2'"),
    (lambda s: s.replace(' 0.0 0.0 0.0 1.0</t', ' 1.0 0.0 0.0 1.0</t', 1), "0: transform: the last row is 1 0 0 1"),
    (transposed, "0: transform: the last row is .* it looks transposed"),
    (lambda s: s.replace("</chunk>", "<transform><shift>1</shift></transform></chunk>"), "has 'shift'; known are"),
    (lambda s: s.replace('width="48"', 'width="0"'), "resolution is 0x36"),
    (lambda s: s.replace('sensor_id="0" label="2"', 'sensor_id="7" label="2"'), "2: sensor_id is '7'"),
    (lambda s: s.replace('label="0"><transform>', 'label="0"><transform>1 '), "0: transform is .*16 finite numbers"),
    (lambda s: s.replace("<f>", "<k1>nan</k1><f>"), "k1 is 'nan'"),
    (lambda s: s.replace("</chunk>", "<transform><scale>-1</scale></transform></chunk>"), "scale is -1"),
])
def test_malformed_files_are_named(tmp_path, change, message):
    file = write_metashape(tmp_path)
    file.write_text(change(file.read_text()))
    with pytest.raises(SceneError, match=message) as caught:
        read_metashape(file)
    assert "cameras.xml" in str(caught.value)


@pytest.mark.parametrize(("change", "said"), [
    (lambda s: s.replace("adjusted", "initial"), r"sensor 0 \(s\): has no adjusted calibration; the one of class"),
    (lambda s: s.replace("</sensor>", '<property name="rolling_shutter" value="full"/></sensor>'),
     "4 of 4 cameras have a rolling shutter compensated in Metashape, first 0"),
    (lambda s: s.replace("</transform></camera>", "</transform><rolling_shutter>1</rolling_shutter></camera>", 1),
     "1 of 4 cameras have a rolling shutter"),
    (lambda s: s.replace("<f>", "<cx>24</cx><cy>18</cy><f>"), "cx is 24 and cy 18, so that the principal point is far"),
    (lambda s: s.replace("</transform></camera>", "</transform><orientation>6</orientation></camera>", 2),
     "2 of 4 photographs have lost the EXIF orientation that they had in Metashape, first .*0.png"),
])
def test_what_is_taken_otherwise_is_said(tmp_path, caplog, change, said):
    file = write_metashape(tmp_path)
    file.write_text(change(file.read_text()))
    assert len(read_metashape(file).views) == 4
    assert re.search(said, caplog.text)


def test_an_initial_calibration_beside_the_adjusted_one_does_not_count(tmp_path, caplog):
    file = write_metashape(tmp_path)
    initial = f'<calibration class="initial"><resolution width="{SIZE[0]}" height="{SIZE[1]}"/><f>9</f></calibration>'
    file.write_text(file.read_text().replace("<calibration", initial + "<calibration", 1))
    assert read_metashape(file).views[0].lens.focal == (50.0, 50.0)
    assert caplog.text == ""


def test_the_scale_of_a_cameras_axes_does_not_count(tmp_path):
    file = write_metashape(tmp_path)
    file.write_text(rescaled(file.read_text(), (2, 2, 2)))
    np.testing.assert_allclose([view.cam_to_world for view in read_metashape(file).views], poses(), atol=1e-12)


def test_an_early_transform_of_the_chunk_is_sixteen_numbers(tmp_path):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = SCALE * TURN, SHIFT
    text = f"<transform>{' '.join(repr(float(v)) for v in matrix.ravel())}</transform>"
    capture = read_metashape(write_metashape(tmp_path, chunk=text, inner=into_chunk))
    np.testing.assert_allclose([view.cam_to_world for view in capture.views], poses(), atol=1e-12)
