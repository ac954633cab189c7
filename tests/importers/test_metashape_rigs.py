# SPDX-License-Identifier: Apache-2.0
"""Metashape's rigs, components, chunks and bands: which cameras stand where, and which are left out, with a word."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from npcr.camera_paths import rotation
from npcr.errors import SceneError
from npcr.importers.metashape import read_metashape
from tests.captures import metashape_xml, poses, write_photographs

OFFSETS = {1: (rotation((0, 1, 0), 0.3), np.array([-0.5, 0.0, 0.1])),  # sensor's axes to its master's
           2: (rotation((1, 1, 0), -0.2), np.array([0.4, 0.2, 0.0]))}
CHUNK = "<transform><translation>1 2 3</translation><scale>2</scale></transform>"


def _text(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in np.ravel(values))


def _matrix(sensor: int) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = OFFSETS[sensor]
    return result


def rig_xml(*, shift: str = "translation", slave_sensor: str = 'master_id="0"', first: str = "",
            slaves: Sequence[tuple[int, int]] = ((1, 0), (2, 0)), chunk: str = "") -> str:
    """The four cameras with two more, slaves of cameras 0 and 0: (sensor, master) each."""
    more = "".join(f'<camera id="{4 + i}" sensor_id="{sensor}" master_id="{master}" label="{4 + i}"/>'
                   for i, (sensor, master) in enumerate(slaves))
    text = metashape_xml(cameras=more, chunk=chunk)
    calibration = text[text.index("<resolution"):text.index("</sensor>")]
    sensors = "".join(f'<sensor id="{i}" {slave_sensor} label="s{i}" type="frame">{calibration}'
                      f"<rotation>{_text(turn)}</rotation><{shift}>{_text(at)}</{shift}></sensor>"
                      for i, (turn, at) in OFFSETS.items())
    return text.replace("</sensors>", first + sensors + "</sensors>")


def read(folder: Path, text: str, count: int = 6, **options: object):
    write_photographs(folder / "images", count)
    (folder / "cameras.xml").write_text(text)
    return read_metashape(folder / "cameras.xml", **options)


@pytest.mark.parametrize("shift", ["translation", "location"])
def test_slaves_stand_where_their_master_and_their_sensor_say(tmp_path, caplog, shift):
    views = read(tmp_path, rig_xml(shift=shift)).views
    expected = [*poses(), poses()[0] @ _matrix(1), poses()[0] @ _matrix(2)]
    np.testing.assert_allclose([view.cam_to_world for view in views], expected, atol=1e-12)
    assert "2 of 6 cameras have no transform of their own and are placed by their master's and" in caplog.text


def test_a_slave_of_a_slave_and_the_transform_of_the_chunk(tmp_path):
    """Camera 5's sensor is placed in the rig of sensor 0, but led by camera 4 of sensor 1."""
    views = read(tmp_path, rig_xml(slaves=((1, 3), (2, 4)), chunk=CHUNK)).views
    expected = np.stack([*poses(), poses()[3] @ _matrix(1), poses()[3] @ _matrix(2)])
    expected[:, :3, 3] = 2 * expected[:, :3, 3] + [1, 2, 3]
    np.testing.assert_allclose([view.cam_to_world for view in views], expected, atol=1e-12)


def test_slaves_of_a_disabled_master_stand_and_of_an_unaligned_one_do_not(tmp_path, caplog):
    text = rig_xml(slaves=((1, 0), (2, 1))).replace('label="0"', 'label="0" enabled="false"')
    start = text.index("<transform>", text.index('label="1"'))
    text = text[:start] + text[text.index("</camera>", start):]
    views = read(tmp_path, text).views
    assert [view.label for view in views] == ["2", "3", "4"]
    np.testing.assert_allclose(views[2].cam_to_world, poses()[0] @ _matrix(1), atol=1e-12)
    assert "2 of 6 cameras are not aligned and left out, first 1" in caplog.text


@pytest.mark.parametrize(("text", "message"), [
    (rig_xml().replace("rotation>", "reference>"), r"sensor 1 \(s1\): is a slave of sensor 0 without rotation"),
    (rig_xml(shift="reference"), r"sensor 1 \(s1\): is a slave of sensor 0 without rotation and translation"),
    (rig_xml(slave_sensor=""), "4: is a slave of '0', but sensor 1 has no place in the rig of sensor 0"),
    (rig_xml(slaves=((1, 9),)), "4: master_id is '9'; no such camera"),
    (rig_xml(slaves=((1, 5), (2, 4))), "4: master_id is '5'; it follows itself"),
    (rig_xml().replace("<rotation>", "<rotation>2 "), "sensor 1 .*rotation is .*9 finite numbers"),
])
def test_rigs_that_do_not_say_where_a_slave_stands_are_refused(tmp_path, text, message):
    with pytest.raises(SceneError, match=message) as caught:
        read(tmp_path, text)
    assert "cameras.xml" in str(caught.value)


def test_other_bands_of_a_multispectral_camera_are_left_out(tmp_path, caplog):
    text = rig_xml()
    for sensor, band in enumerate(("Red", "Green", "Red")):
        text = text.replace(f'label="s{sensor or ""}" type="frame">',
                            f'label="s{sensor or ""}" type="frame"><bands><band label="{band}"/></bands>')
    assert [view.label for view in read(tmp_path, text).views] == ["0", "1", "2", "3", "5"]
    assert "1 of 6 cameras are of other bands than their master (multispectral) and left out, first 4" in caplog.text


def component_xml(second: str, ids: Sequence[int] = (0, 0, 0, 1)) -> str:
    """The four cameras in two components, of which the first has the chunk's transform."""
    text = metashape_xml(component=f'<components><component id="0" label="A">{CHUNK}</component>'
                         f'<component id="1" label="B">{second}</component></components>')
    for camera, number in enumerate(ids):
        text = text.replace(f'label="{camera}" component_id="0"', f'label="{camera}" component_id="{number}"')
    return text


def test_components_that_nothing_connects_do_not_mix(tmp_path, caplog):
    assert [view.label for view in read(tmp_path, component_xml("")).views] == ["0", "1", "2"]
    assert "4 cameras lie in 2 components (A: 3, B: 1), which are not registered to each other; those of A are" \
           in caplog.text
    assert "1 of 4 cameras are in other components and left out, first 3" in caplog.text


def test_within_the_chunk_components_do_not_mix_either(tmp_path):
    views = read(tmp_path, component_xml(CHUNK, (0, 1, 1, 1)), chunk_space=True).views
    assert [view.label for view in views] == ["1", "2", "3"]


def test_components_with_transforms_of_their_own_stand_together_with_a_word(tmp_path, caplog):
    views = read(tmp_path, component_xml("<transform><scale>3</scale></transform>")).views
    np.testing.assert_allclose(views[2].cam_to_world[:3, 3], 2 * poses()[2][:3, 3] + [1, 2, 3], atol=1e-12)
    np.testing.assert_allclose(views[3].cam_to_world[:3, 3], 3 * poses()[3][:3, 3], atol=1e-12)
    assert "only the components' transforms place them to each other" in caplog.text


def test_cameras_may_be_listed_within_their_component(tmp_path, caplog):
    text = component_xml("<partition><camera_ids>3</camera_ids></partition>").replace(' component_id="0"', "")
    text = text.replace(' component_id="1"', "").replace(
        'label="A">', 'label="A"><partition><camera_ids>0 1 2</camera_ids></partition>')
    assert [view.label for view in read(tmp_path, text).views] == ["0", "1", "2"]
    assert "(A: 3, B: 1)" in caplog.text


def test_a_component_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SceneError, match="3: component_id is '7'; no such component"):
        read(tmp_path, component_xml("", (0, 0, 0, 7)))


def two_chunks() -> str:
    """A chunk without cameras before the one of the four."""
    text = metashape_xml()
    return text.replace("<chunk", '<chunk label="empty"/><chunk', 1)


def test_the_first_chunk_with_a_pose_is_used_and_all_are_named(tmp_path, caplog):
    assert len(read(tmp_path, two_chunks()).views) == 4
    assert "has 2 chunks ('empty', 'c'), which stand in coordinates of their own; 'c' is used, --chunk" in caplog.text


def test_a_chunk_is_chosen_by_its_name(tmp_path, caplog):
    assert len(read(tmp_path, two_chunks(), 4, chunk="c").views) == 4
    assert caplog.text == ""
    with pytest.raises(SceneError, match="none of its 0 cameras is enabled and aligned"):
        read(tmp_path, two_chunks(), chunk="empty")
    with pytest.raises(SceneError, match="--chunk is 'C'; 0 chunks have this name, there are 'empty', 'c'"):
        read(tmp_path, two_chunks(), chunk="C")
    with pytest.raises(SceneError, match="--chunk is 'c'; 2 chunks have this name"):
        read(tmp_path, two_chunks().replace("empty", "c"), chunk="c")


def test_frames_beyond_the_first_are_said(tmp_path, caplog):
    text = metashape_xml().replace("</chunk>", '<frames><frame id="0"/><frame id="1"/></frames></chunk>')
    assert len(read(tmp_path, text).views) == 4
    assert "has 2 frames; the photographs of the first are used" in caplog.text
