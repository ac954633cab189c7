# SPDX-License-Identifier: Apache-2.0
"""What a new scene's configuration recommends."""

from __future__ import annotations

import pytest

from npcr.config import from_dict
from npcr.config.recommended import FEW_CAMERAS
from npcr.data.scene_config import scene_settings
from tests.scenes import orbit_cameras


@pytest.mark.parametrize(("cameras", "form"), [(FEW_CAMERAS - 1, "layered"), (FEW_CAMERAS, "blended")])
def test_the_form_follows_the_number_of_photographs(cameras: int, form: str) -> None:
    settings = scene_settings("cat", orbit_cameras(cameras, (200, 160)), mask=True)
    cfg = from_dict(settings, "test")
    assert form == cfg.MODEL.FORM
    assert cfg.INPUT.SIZE_RAW == [200, 160]
    held_out = 7 if form == "layered" else 8
    assert held_out == cfg.DATASETS.HOLDOUT_EVERY
    assert cfg.SOLVER.LR_DECAY == "cosine"


def test_one_scenes_settings_do_not_leak_into_the_next() -> None:
    first = scene_settings("cat", orbit_cameras(FEW_CAMERAS, (200, 160)), mask=True)
    first["DATASETS"]["MASK"] = False
    first["INPUT"]["LAYER_NUM"] = 3
    second = scene_settings("dog", orbit_cameras(FEW_CAMERAS, (200, 160)), mask=True)
    assert second["DATASETS"]["MASK"] is True
    assert second["INPUT"]["LAYER_NUM"] != 3
