# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from npcr.cameras import project
from npcr.checkpoints import make_checkpoint, model_path, save_model
from npcr.commands import view as tool
from npcr.config import load_config, to_dict
from npcr.data.scene import load_clouds
from npcr.errors import CheckpointError, ConfigError, NpcrError
from npcr.factory import build_renderer
from npcr.io.camera_path_files import make_cameras
from npcr.viewer import app as app_module
from tests.models_folder import call_script
from tests.scenes import write_tiny_scene

CONFIG = """\
MODEL: {FORM: strands, DEVICE: cpu, FEATURE_DIM: 4, WIDTH: 8}
INPUT: {SIZE_RAW: [48, 36], SIZE_TEST: [32, 24]}
DATASETS: {TRAIN: scene}
BACKGROUND_GRAY: 60
OUTPUT_DIR: output
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a scene of 4 cameras, config.yml, an untrained model."""
    monkeypatch.chdir(tmp_path)
    write_tiny_scene(tmp_path / "scene", cameras=4, size=(48, 36))
    (tmp_path / "config.yml").write_text(CONFIG)
    cfg = load_config(tmp_path / "config.yml")
    clouds = load_clouds("scene", 1)
    save_model(model_path("output", 5), make_checkpoint(build_renderer(cfg, clouds), clouds, to_dict(cfg), 5))
    return tmp_path


@pytest.fixture
def made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `build` hands to the server, in place of a server."""
    found: dict[str, Any] = {}

    def serve(engine: object, settings: object, film: object, views: object, host: str, port: int) -> None:
        found.update(engine=engine, settings=settings, film=film, views=views, host=host, port=port)

    monkeypatch.setattr(tool, "ViewerApp", serve)
    return found


def build(*arguments: str) -> None:
    tool.build(tool.parse(["--config-file", "config.yml", *arguments]))


def test_a_model_with_photographs(made: dict[str, Any]) -> None:
    build()
    settings, views = made["settings"], made["views"]
    assert (made["host"], made["port"]) == ("127.0.0.1", 8080)
    assert (settings.size, settings.raw_size, settings.gray, settings.output) == (
        (32, 24), (48, 36), 60, Path("output/view"))
    np.testing.assert_array_equal(settings.pose, views.poses[0])
    assert len(views) == 4
    compared = views.compared(made["engine"], 2, 0, 255.0)
    assert compared.shape == (24, 96, 3)
    photograph, rendering, difference = np.split(compared.astype(int), 3, axis=1)
    np.testing.assert_array_equal(photograph, views.photograph(2, 0, 255.0))
    np.testing.assert_array_equal(difference, np.minimum(2 * np.abs(photograph - rendering), 255))
    with torch.inference_mode():
        output = made["engine"].renderer(views._dataset.sample(0, 2).cameras)
    over_white = (output.color[0] + 1 - output.alpha[0]).clamp(0, 1)
    np.testing.assert_allclose(np.moveaxis(rendering, -1, 0), 255 * over_white, atol=0.51)


def test_without_photographs_the_whole_cloud_is_seen(made: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    build("DATASETS.TRAIN", "gone")
    assert made["views"] is None
    assert "there are no photographs to compare with: gone: no such scene folder" in caplog.text
    settings = made["settings"]
    points = made["engine"].renderer.points(0)[None]
    pixels, depth = project(points, make_cameras([settings.pose], [settings.fov], (100, 100)))
    assert depth.min() > 0
    assert -0.5 < float(pixels.min()) < float(pixels.max()) < 99.5


def test_another_address_is_warned_of(made: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    build("--host", "0.0.0.0", "--port", "9000")
    assert (made["host"], made["port"]) == ("0.0.0.0", 9000)
    assert "whoever reaches this address can use the viewer" in caplog.text


def test_mistakes_are_named(made: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ConfigError, match="--max-size is 9; it must be from 24 to 8192"):
        build("--max-size", "9")
    with pytest.raises(NpcrError, match=r"none\.png"):
        build("--backdrop", "none.png")
    Path("output/nr_model_5.pth").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match=r"nr_model_5\.pth"):
        build()


def test_the_script_and_the_missing_extra(folder: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "viser", None)
    script = Path(__file__).resolve().parents[2] / "tools" / "view.py"
    status, _, err = call_script(script, ("--config-file", "config.yml"), monkeypatch, capsys)
    assert status == 2
    assert "the viewer needs viser: pip install 'npcr[viewer]'" in err


def test_the_server_listens_here_alone(folder: Path) -> None:
    pytest.importorskip("viser", reason="needs the extra viewer")
    app = tool.build(tool.parse(["--config-file", "config.yml", "--port", "8490"]))
    try:
        assert isinstance(app, app_module.ViewerApp)
        assert app.address.startswith("http://localhost:84")
        assert app.server.get_host() == "127.0.0.1"
    finally:
        app.stop()
