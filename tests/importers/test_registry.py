# SPDX-License-Identifier: Apache-2.0
"""The public contract of importers, by one that is no part of the package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npcr.commands import import_scene
from npcr.config import load_config
from npcr.data.scene import load_scene
from npcr.errors import NpcrError, SceneError
from npcr.importers import (
    Capture,
    Importer,
    Lens,
    Option,
    View,
    find_importer,
    import_capture,
    importers,
    register_importer,
    unregister_importer,
)
from npcr.io.points import PointCloud
from tests.captures import SIZE, points, poses, write_photographs


class RigImporter(Importer):
    """A rig's JSON: one focal length, and the 16 numbers of each camera's pose by the name of its photograph."""

    name = "rig"
    summary = "a rig's JSON"
    description = "The rig of the test: rig.json beside its photographs."
    options = (Option("focal_scale", "multiply the focal length", float, default=1.0, metavar="F"),
               Option("axes", "of the poses", default="opencv", choices=("opencv", "opengl")),
               Option("every_second", "leave out every second photograph", is_flag=True))

    def read(self, source: Path, **options: Any) -> Capture:
        values = json.loads(source.read_text())
        lens = Lens((values["focal"] * options["focal_scale"],) * 2, None, None)
        turn = np.diag([1.0, -1.0, -1.0, 1.0]) if options["axes"] == "opengl" else np.eye(4)
        views = [View(name, source.parent / name, None, np.reshape(pose, (4, 4)) @ turn, lens)
                 for name, pose in values["poses"].items()]
        return Capture(source, views[::2] if options["every_second"] else views,
                       clouds=[PointCloud(np.array(values["points"], np.float32))])


@pytest.fixture
def rig() -> Iterator[RigImporter]:
    importer = RigImporter()
    register_importer(importer)
    yield importer
    unregister_importer(importer.name)
    assert importer not in importers()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = write_photographs(tmp_path / "capture")
    turned = poses() @ np.diag([1.0, -1.0, -1.0, 1.0])
    file = tmp_path / "capture" / "rig.json"
    file.write_text(json.dumps({"focal": 25.0, "points": points().tolist(), "poses": {
        name: pose.ravel().tolist() for name, pose in zip(names, turned, strict=True)}}))
    return file


def run_tool(*arguments: object) -> None:
    import_scene.main([*map(str, arguments)])


def test_a_registered_importer_is_on_the_command_line(rig, source, tmp_path):
    run_tool("rig", source, tmp_path / "scene", "--axes", "opengl", "--focal-scale", 2, "--every-second")
    cfg = load_config(tmp_path / "scene" / "scene.yml")
    scene = load_scene(tmp_path / "scene", size_raw=cfg.INPUT.SIZE_RAW, frame_num=1, mask=False, center=[])
    assert len(scene.frames[0].images) == 2
    np.testing.assert_allclose(scene.cameras.cam_to_world, poses()[::2], atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics[0], [[50, 0, 23.5], [0, 50, 17.5], [0, 0, 1]])
    assert scene.cameras.size == SIZE


def test_its_help_names_its_options(rig, capsys):
    with pytest.raises(SystemExit) as ended:
        run_tool("rig", "--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for text in (rig.description, "--focal-scale F", "--axes {opencv,opengl}", "--every-second", "--downscale F"):
        assert text in printed


def test_the_built_in_importers_are_registered():
    assert [importer.name for importer in importers()] == ["colmap", "transforms", "nhr", "metashape"]
    assert find_importer("nhr").summary == "layouts of NHR and ConvNeRF"


def test_an_unknown_name_is_an_error_that_names_the_known_ones():
    with pytest.raises(NpcrError, match="no importer is called 'rig'; known: colmap, transforms, nhr, metashape"):
        find_importer("rig")
    with pytest.raises(NpcrError, match="no importer is called 'rig'"):
        unregister_importer("rig")


def test_a_name_is_registered_once(rig):
    with pytest.raises(NpcrError, match="importer 'rig' is registered already, as RigImporter"):
        register_importer(RigImporter())
    assert find_importer("rig") is rig


def test_a_capture_without_photographs_is_refused(tmp_path):
    with pytest.raises(SceneError, match="no photograph to train on"):
        import_capture(Capture(tmp_path / "rig" / "rig.json", []), tmp_path / "scene")
    with pytest.raises(ValueError, match="split is 'testing'; allowed: train, test, val"):
        View("a", Path("a.png"), None, np.eye(4), None, split="testing")
