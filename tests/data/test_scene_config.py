# SPDX-License-Identifier: Apache-2.0
"""What a new scene's configuration recommends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npcr.config import from_dict, load_config
from npcr.data.cloud_geometry import object_centers
from npcr.data.scene_config import point_settings, scene_settings, update_scene_config
from npcr.errors import ConfigError
from tests.scenes import orbit_cameras


@pytest.mark.parametrize(("cameras", "held_out", "lobes"), [(5, 0, 16), (21, 7, 16), (23, 7, 48), (64, 8, 48)])
def test_a_new_scene(cameras: int, held_out: int, lobes: int) -> None:
    cfg = from_dict(scene_settings("cat", orbit_cameras(cameras, (200, 160)), mask=True), "test")
    assert cfg.INPUT.SIZE_RAW == [200, 160]
    assert held_out == cfg.DATASETS.HOLDOUT_EVERY
    assert lobes == cfg.MODEL.FIELD_LOBES
    assert (cfg.MODEL.FORM, cfg.SOLVER.LR_DECAY) == ("strands", "cosine")


def test_one_scenes_settings_do_not_leak_into_the_next() -> None:
    first = scene_settings("cat", orbit_cameras(24, (200, 160)), mask=True)
    first["DATASETS"]["MASK"] = False
    first["MODEL"]["FILTER_VARIANCE"] = 3
    second = scene_settings("dog", orbit_cameras(24, (200, 160)), mask=True)
    assert second["DATASETS"]["MASK"] is True
    assert second["MODEL"]["FILTER_VARIANCE"] != 3


def test_a_configuration_is_updated_and_what_goes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "scene.yml"
    file.write_text("# Made by hand\nDATASETS:\nINPUT:\n  # by tape\n  LAYER_NUM: 3  # for hair\n")
    update_scene_config(file, {"INPUT": {"NEAR_FAR_SIZE": [1.0, 2.0, 1.0]}, "DATASETS": {"CENTER": [3, 4]}})
    assert file.read_text().startswith("# Made by hand\nDATASETS:")
    cfg = load_config(file)
    assert (cfg.INPUT.LAYER_NUM, cfg.INPUT.NEAR_FAR_SIZE, cfg.DATASETS.CENTER) == (3, [1.0, 2.0, 1.0], [3, 4])
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: was written anew, without the comments of 2 lines, first line 4"]
    caplog.clear()
    update_scene_config(file, {"DATASETS": {"CENTER": [5, 6]}})
    assert not caplog.records
    file.write_text("INPUT: 3\n")
    with pytest.raises(ConfigError, match="INPUT is a section"):
        update_scene_config(file, {"INPUT": {"LAYER_NUM": 3}})


def test_cameras_that_do_not_see_the_middle_are_said(caplog: pytest.LogCaptureFixture) -> None:
    cameras = orbit_cameras(4, (200, 160))
    assert object_centers(np.zeros((9, 3)), cameras)[1] == 100
    assert not caplog.records
    object_centers(np.full((9, 3), [30.0, 0, 0]), cameras)
    assert "3 of 4 cameras do not have the cloud's middle in their picture, first camera 1; for" in caplog.text
    point_settings(np.float32([[0, 0, 0], [30, 0, 0], [30, 0, 0]]), cameras, [200, 160], is_cloud=False)
    assert "3 of 4 cameras do not have the object's middle in their picture" in caplog.text
