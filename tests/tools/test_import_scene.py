# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from npcr.errors import SceneError
from npcr.io.camera_files import read_intrinsics
from npcr.io.images import write_image
from npcr.orbits import sphere_band

TOOL = Path(__file__).resolve().parents[2] / "tools" / "import_scene.py"


@pytest.fixture
def import_scene(monkeypatch):
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["import_scene.py", *map(str, arguments)])
        runpy.run_path(str(TOOL))["main"]()
    return run


@pytest.fixture
def capture(tmp_path) -> Path:
    """Four photographs without mattes, of which one does not exist."""
    folder = tmp_path / "capture"
    frames = []
    for i, pose in enumerate(sphere_band(4, 2.0)):
        if i:
            write_image(folder / f"{i}.png", np.full((80, 120, 3), 20 * i, np.uint8))
        frames.append({"file_path": f"{i}.png", "transform_matrix": (pose @ np.diag([1, -1, -1, 1])).tolist()})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 100, "cx": 60, "cy": 40, "frames": frames}))
    return folder


def test_transforms(import_scene, capture, tmp_path, capsys, caplog):
    import_scene("transforms", capture, tmp_path / "scene", "--downscale", 2)
    assert "1 of 4 photographs" in caplog.text
    assert "0.png" in caplog.text
    out = capsys.readouterr().out
    assert "3 photographs of 60x40" in out
    assert "carve_hull.py" in out
    np.testing.assert_allclose(read_intrinsics(tmp_path / "scene/Intrinsic.inf")[0],
                               [[50, 0, 29.5], [0, 50, 19.5], [0, 0, 1]])


def test_pixel_origin_center(import_scene, capture, tmp_path):
    import_scene("transforms", capture, tmp_path / "scene", "--pixel-origin", "center")
    assert read_intrinsics(tmp_path / "scene/Intrinsic.inf")[0, :2, 2].tolist() == [60, 40]


def test_mattes_may_be_demanded(import_scene, capture, tmp_path):
    with pytest.raises(SceneError, match="3 of 3 photographs have neither"):
        import_scene("transforms", capture, tmp_path / "scene", "--mask")


def test_photographs_must_not_end_up_tiny(import_scene, capture, tmp_path):
    with pytest.raises(SceneError, match="photographs of 12x8"):
        import_scene("transforms", capture, tmp_path / "scene", "--downscale", 10)
    assert not (tmp_path / "scene").exists()


def test_a_kind_is_needed(import_scene, capture, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        import_scene(capture, tmp_path / "scene")
    assert ended.value.code == 2
    assert "transforms" in capsys.readouterr().err
