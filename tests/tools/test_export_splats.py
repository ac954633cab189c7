# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import plyfile
import pytest
import torch

from npcr.checkpoints import make_checkpoint, model_path, save_model
from npcr.commands import evaluate
from npcr.commands import export_splats as tool
from npcr.config import changed, load_config, to_dict
from npcr.data.scene import load_clouds
from npcr.errors import ConfigError, MissingExtraError
from npcr.factory import build_renderer
from npcr.renderers import StrandsRenderer
from tests.scenes import write_tiny_scene

CONFIG = """\
MODEL: {FORM: strands, DEVICE: cpu, FEATURE_DIM: 4, WIDTH: 8}
INPUT: {SIZE_RAW: [48, 36], SIZE_TEST: [32, 24]}
DATASETS: {TRAIN: scene, HOLDOUT_EVERY: 2}
OUTPUT_DIR: output
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a scene of 4 cameras and two frames, config.yml, a model whose network shows."""
    monkeypatch.chdir(tmp_path)
    write_tiny_scene(tmp_path / "scene", cameras=4, frames=2, size=(48, 36))
    (tmp_path / "config.yml").write_text(CONFIG.replace("HOLDOUT_EVERY: 2", "HOLDOUT_EVERY: 2, FRAME_NUM: 2"))
    save(tmp_path / "config.yml")
    return tmp_path


def save(config: Path, **changes: object) -> StrandsRenderer:
    cfg = changed(load_config(config), **changes)
    clouds = load_clouds("scene", 2)
    renderer = build_renderer(cfg, clouds)
    if cfg.MODEL.FORM == "strands" and cfg.MODEL.NETWORK:
        torch.nn.init.normal_(renderer.network.out.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    if cfg.MODEL.FORM == "strands" and cfg.MODEL.FIELD_NODES:
        torch.nn.init.normal_(renderer.field.lobes[0], std=0.3)  # type: ignore[union-attr, index, arg-type]
    save_model(model_path("output", 5), make_checkpoint(renderer, clouds, to_dict(cfg), 5))
    return renderer  # type: ignore[return-value]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    tool.main(["--config-file", "config.yml", *arguments])
    return capsys.readouterr().out


def test_the_loss_is_measured_printed_and_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys)
    data = plyfile.PlyData.read("output/splats_5.ply")
    count = len(load_clouds("scene", 2)[0])
    assert len(data["vertex"]) == count
    assert f"{count} splats: output/splats_5.ply" in out
    loss = data.comments[1]
    assert loss in out
    assert loss.endswith("4 held-out views")  # 2 cameras of 2 frames
    alone, finished = (float(word) for word in np.array(loss.split())[[1, 6]])
    evaluate.main(["--config-file", "config.yml"])
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert finished == float(mean.split()[1])
    assert alone != finished
    save(folder / "config.yml", MODEL__NETWORK=False)  # the same splats, without the network: what a viewer shows
    evaluate.main(["--config-file", "config.yml", "MODEL.NETWORK", "False"])
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert alone == float(mean.split()[1])


def test_a_frame_without_a_score(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "--frame", "2", "--no-score", "--output", "new/b.ply")
    vertices = plyfile.PlyData.read("new/b.ply")["vertex"].data
    np.testing.assert_array_equal(vertices["x"], load_clouds("scene", 2)[1].positions[:, 0])
    assert "not measured (--no-score)" in out


def test_without_photographs_the_file_says_so(folder: Path, capsys: pytest.CaptureFixture[str],
                                              caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree("scene")
    assert "not measured: no photographs" in run(capsys)
    assert "the loss is not measured: scene: no such scene folder" in caplog.text


def test_training_views_flatter(folder: Path, capsys: pytest.CaptureFixture[str],
                                caplog: pytest.LogCaptureFixture) -> None:
    assert "8 training views" in run(capsys, "DATASETS.HOLDOUT_EVERY", "0")
    assert "flatters the network" in caplog.text


def test_a_model_without_a_network_loses_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder / "config.yml", MODEL__NETWORK=False)
    assert "no network: the splats are all of it" in run(capsys, "MODEL.NETWORK", "False")


def test_shared_colors_become_harmonics_and_what_that_costs_is_measured(
        folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    renderer = save(folder / "config.yml", MODEL__NETWORK=False, MODEL__FIELD_NODES=2)
    out = run(capsys, "MODEL.NETWORK", "False", "MODEL.FIELD_NODES", "2")
    loss = next(line for line in out.splitlines() if line.startswith("loss:"))
    assert " dB without the sharpness of shared colors, " in loss
    vertices = plyfile.PlyData.read("output/splats_5.ply")["vertex"].data
    written = np.array([vertices[f"f_rest_{index}"] for index in range(15)])  # of red, degrees 1 to 3
    np.testing.assert_allclose(written.T, renderer.with_harmonics_alone().shades[0][..., 0].detach(), rtol=1e-6)
    assert np.abs(written[8:]).max() > 0.01  # degree 3, which the model's own harmonics have not
    save(folder / "config.yml", MODEL__FIELD_NODES=2)
    assert " dB without the network and the sharpness of shared colors, " in run(capsys, "MODEL.FIELD_NODES", "2")


def test_splats_that_are_not_finite_are_left_out(folder: Path, capsys: pytest.CaptureFixture[str],
                                                 caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="npcr")
    renderer = save(folder / "config.yml")
    with torch.no_grad():
        renderer.log_width[0][3] = torch.nan
        renderer.shades[0][5, 2, 1] = torch.inf
    cloud, left_out = tool.make_splats(renderer, 0)
    assert (len(cloud.means), left_out) == (len(renderer.points(0)) - 2, 2)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--frame", "3"], "--frame is 3; .* has frames 1 to 2"),
    (["--output", "a.splat"], r"--output is a\.splat; its suffix must be \.ply or \.spz"),
])
def test_mistakes_are_named(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tool.main(["--config-file", "config.yml", *arguments])


def test_other_forms_are_no_gaussians(folder: Path) -> None:
    save(folder / "config.yml", MODEL__FORM="blended")
    with pytest.raises(ConfigError, match=r"is of MODEL\.FORM blended; only the strands form"):
        tool.main(["--config-file", "config.yml", "MODEL.FORM", "blended"])


def test_a_spz_says_what_it_loses(folder: Path, capsys: pytest.CaptureFixture[str],
                                  caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gsply", None)
        patch.setattr(tool, "measure_loss", None)  # it fails before that
        with pytest.raises(MissingExtraError, match=r"npcr\[splats\]"):
            tool.main(["--config-file", "config.yml", "--output", "a.spz"])
    pytest.importorskip("gsply", reason="needs the extra splats")
    renderer = save(folder / "config.yml")
    with torch.no_grad():
        renderer.log_width[0][3] -= 30
    save_model(model_path("output", 5), make_checkpoint(renderer, load_clouds("scene", 2),
                                                        to_dict(load_config("config.yml")), 5))
    out = run(capsys, "--output", "a.spz")
    assert "splats: a.spz" in out
    assert "PSNR" in out
    assert "4 held-out views" in out
    assert "a .spz holds no comment, and rounds: positions to " in out
    assert "1 of 600 splats have a size beyond" in caplog.text.replace(str(len(renderer.points(0))), "600")
