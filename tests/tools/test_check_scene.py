# SPDX-License-Identifier: Apache-2.0
import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from npcr.commands import check_scene as command
from npcr.config import load_config
from npcr.data.scene_config import update_scene_config
from npcr.errors import ConfigError, SceneError
from npcr.io.camera_files import read_cam_poses, write_cam_poses
from npcr.io.images import read_image
from npcr.synthetic.creature_scene import FuzzyOptions, make_fuzzy_scene


@pytest.fixture
def check_scene():
    def run(*arguments: object) -> None:
        command.main([*map(str, arguments)])
    return run


@pytest.fixture
def scene(tmp_path) -> Path:
    make_fuzzy_scene(tmp_path / "animal", FuzzyOptions(views=8, size=64, strands=1500, points=3000, path_views=2))
    return tmp_path / "animal"


def test_a_clean_scene_and_its_pictures(check_scene, scene, capsys):
    check_scene(scene, "--views", 3)  # no SystemExit: status 0
    out = capsys.readouterr().out
    assert "nothing wrong was found" in out
    assert "configured near" in out
    names = sorted(path.name for path in (scene / "check").iterdir())
    assert names == ["camera_0001.png", "camera_0005.png", "camera_0008.png", "cameras.png", "contact_sheet.png"]
    assert read_image(scene / "check/camera_0001.png").std() > 10


def test_problems_end_in_status_1_and_json(check_scene, scene, capsys):
    poses = read_cam_poses(scene / "CamPose.inf")
    write_cam_poses(scene / "CamPose.inf", poses @ np.diag([1, -1, -1, 1]))
    with pytest.raises(SystemExit) as ended:
        check_scene(scene / "scene.yml", "--json", "--no-pictures")
    assert ended.value.code == 1
    report = json.loads(capsys.readouterr().out)
    assert [problem["name"] for problem in report["problems"]] == ["nothing-seen", "opengl-axes"]
    assert "Negate" in report["problems"][1]["fix"]
    assert report["measures"]["cameras"] == 8
    assert not (scene / "check").exists()


def test_what_cannot_be_read(check_scene, scene, tmp_path):
    with pytest.raises(SceneError, match="neither a scene's folder nor"):
        check_scene(tmp_path / "nowhere")
    with pytest.raises(SceneError, match="--views is 0"):
        check_scene(scene, "--views", 0)
    (scene / "empty.yml").write_text("DATASETS:\n  MASK: True\n")
    with pytest.raises(ConfigError, match=r"empty\.yml: DATASETS\.TRAIN is empty"):
        check_scene(scene / "empty.yml")
    with pytest.raises(SceneError, match="no such frame"):
        check_scene(scene, "--frame", 3)
    (scene / "pointclouds/frame1.ply").write_text("nonsense")
    with pytest.raises(SceneError, match=r"frame1\.ply"):
        check_scene(scene)


def test_what_the_configuration_leaves_open_is_said(check_scene, scene, caplog):
    (scene / "scene.yml").rename(scene.parent / "other.yml")
    with caplog.at_level("INFO", "npcr"):
        check_scene(scene, "--no-pictures")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", f"{scene / 'scene.yml'}: no such file; sizes, near and far, and whether mattes are wanted, are not "
                 "checked")]
    caplog.clear()
    (scene.parent / "other.yml").rename(scene / "scene.yml")
    (scene / "elsewhere").mkdir()
    update_scene_config(scene / "scene.yml", {"DATASETS": {"TRAIN": "elsewhere"}})
    check_scene(scene, "--no-pictures")
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        f"{scene / 'scene.yml'}: DATASETS.TRAIN is {scene / 'elsewhere'}, which training uses; checked is {scene}"]


def test_the_configuration_decides_about_mattes(check_scene, scene, capsys):
    update_scene_config(scene / "scene.yml", {"DATASETS": {"MASK": False}})
    assert not load_config(scene / "scene.yml").DATASETS.MASK
    with suppress(SystemExit):  # whatever colors say of fur this small
        check_scene(scene, "--json", "--no-pictures")
    assert json.loads(capsys.readouterr().out)["measures"]["evidence"] == "colors"
