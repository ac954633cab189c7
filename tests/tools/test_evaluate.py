# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npcr.checkpoints import make_checkpoint, model_path, save_model
from npcr.commands import evaluate as tool
from npcr.config import changed, load_config, to_dict
from npcr.data.scene import load_clouds
from npcr.errors import NpcrError
from npcr.factory import build_renderer
from npcr.io.images import read_image, write_image
from tests.scenes import write_tiny_scene

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "evaluate.py"
CONFIG = """\
MODEL: {DEVICE: cpu, FEATURE_DIM: 4}
INPUT: {SIZE_RAW: [48, 36], SIZE_TRAIN: [32, 24], SIZE_TEST: [32, 24], NEAR_FAR_SIZE: [2.0, 8.0, 1.5]}
DATASETS: {TRAIN: scene, HOLDOUT_EVERY: 2}
TEST: {IMS_PER_BATCH: 2}
OUTPUT_DIR: output
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a scene of 5 cameras, config.yml, untrained models of the epochs 3 and 12."""
    monkeypatch.chdir(tmp_path)
    write_tiny_scene(tmp_path / "scene", cameras=5, size=(48, 36))
    (tmp_path / "config.yml").write_text(CONFIG)
    cfg = load_config(tmp_path / "config.yml")
    clouds = load_clouds("scene", 1)
    for epoch in (3, 12):
        renderer = build_renderer(changed(cfg, SOLVER__SEED=epoch), clouds)
        save_model(model_path("output", epoch), make_checkpoint(renderer, clouds, to_dict(cfg), epoch))
    return tmp_path


def report_of(place: str) -> dict:
    return json.loads(Path(place, "evaluation.json").read_text())


def test_held_out_views_of_the_newest_checkpoint(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tool.main(["--config-file", "config.yml"])
    place = "output/evaluation_12"
    report = report_of(place)
    assert (report["epoch"], report["checkpoint"]) == (12, str(model_path("output", 12)))
    assert (report["views"], report["scene"], report["size"]) == ("held out", "scene", [32, 24])
    assert [view["camera"] for view in report["each"]] == [1, 3]
    assert [view["name"] for view in report["each"]] == ["0/img_0002.png", "0/img_0004.png"]
    for name, mean in report["mean"].items():
        assert mean == pytest.approx(np.mean([view[name] for view in report["each"]]))
        assert math.isfinite(mean)
    assert report["config"]["INPUT"]["SIZE_TEST"] == [32, 24]
    assert set(report["versions"]) == {"npcr", "python", "torch", "numpy"}
    assert load_config(Path(place, "config.yml")).DATASETS.HOLDOUT_EVERY == 2
    assert read_image(Path(place, "contact_sheet.png")).shape[1] == 5 * (32 + 4)
    printed = capsys.readouterr().out
    assert f"0/img_0004.png  {report['each'][1]['psnr']:6.2f}" in printed
    assert f"mean            {report['mean']['psnr']:6.2f}" in printed
    assert caplog.records == []


def test_all_views_of_a_chosen_checkpoint(folder: Path) -> None:
    tool.main(
        ["--config-file", "config.yml", "--checkpoint", "output/nr_model_3.pth", "--output", "here", "--all"]
    )
    report = report_of("here")
    assert (report["epoch"], report["views"]) == (3, "training and held out")
    assert [view["camera"] for view in report["each"]] == [0, 1, 2, 3, 4]


def test_without_held_out_views_the_training_views_serve_with_a_notice(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "npcr"):
        tool.main(["--config-file", "config.yml", "LOAD_EPOCH", "3", "DATASETS.HOLDOUT_EVERY", "0"])
    report = report_of("output/evaluation_3")
    assert (report["views"], len(report["each"])) == ("training", 5)
    assert [record.message for record in caplog.records] == [
        "no view is held out (DATASETS.HOLDOUT_EVERY 0, no DATASETS.TEST): evaluating on the training views, "
        "which flatters the model"
    ]


def test_a_second_scene(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tiny_scene(folder / "other", cameras=3, size=(48, 36))
    tool.main(["--config-file", "config.yml", "DATASETS.TEST", "other", "DATASETS.HOLDOUT_EVERY", "0"])
    report = report_of("output/evaluation_12")
    assert (report["views"], report["scene"], len(report["each"])) == ("held out", "other", 3)
    assert caplog.records == []


def test_views_that_training_saw_are_not_passed_off_as_held_out(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "npcr"):
        tool.main(["--config-file", "config.yml", "DATASETS.HOLDOUT_EVERY", "3"])
    assert [record.message for record in caplog.records] == [
        "output/nr_model_12.pth was trained with DATASETS.HOLDOUT_EVERY 2, the configuration says 3: some of "
        "these views may be training views"
    ]


def test_errors_are_one_line(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--config-file", "config.yml", "LOAD_EPOCH", "4"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: output: no nr_model_4.pth; epochs there: 3, 12\n"


def test_a_video_beside_its_truth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "scene" / "path"
    path.mkdir()
    for name in ("CamPose.inf", "Intrinsic.inf"):
        shutil.copyfile(folder / "scene" / name, path / name)
    for number in range(1, 6):
        write_image(path / f"img_{number:04d}.png", np.full((36, 48, 4), 10 * number, np.uint8))
    tool.main(["--config-file", "config.yml", "--video", "--output", "video", "--row", "5"])
    report = json.loads(Path("video", "video.json").read_text())
    assert (report["epoch"], report["row"], list(report["paths"])) == (12, 5, ["path", "fine orbit", "still camera"])
    means = report["paths"]["path"]["mean"]
    assert list(means) == ["off", "legacy", "default", "truth"]
    assert means["truth"]["flicker"] > 0  # made up: brighter from frame to frame, in steps of different size over white
    for name in ("off", "legacy", "default"):
        values = report["paths"]["path"]["each"][name]["psnr"]
        assert len(values) == 5
        assert means[name]["psnr"] == pytest.approx(np.mean(values))
    assert set(report["paths"]["fine orbit"]["mean"]["off"]) == {"warp_error_own", "flicker"}
    assert report["paths"]["still camera"]["mean"]["default"]["flicker"] < 1e-4
    assert "still camera, 8 frames" in capsys.readouterr().out
    assert {file.name for file in Path("video").iterdir()} == {"video.json", "curves.png", "slices.png", "config.yml"}


@pytest.mark.parametrize(("arguments", "message"), [
    ([], r"scene/path/CamPose\.inf: .*no such"),
    (["--cam-pose", "scene/CamPose.inf", "--frame", "2"], "--frame is 2; the model has frames 1 to 1"),
    (["--cam-pose", "scene/CamPose.inf", "--row", "24"], "--row is 24; pictures have rows 0 to 23"),
])
def test_what_is_wrong_with_a_video_is_told(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(NpcrError, match=message):
        tool.main(["--config-file", "config.yml", "--video", *arguments])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--row", "0"], "--row only goes with --video"), (["--video", "--all"], "--all does not go with --video"),
])
def test_options_of_the_other_kind_are_refused(arguments: list[str], message: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--config-file", "config.yml", *arguments])
    assert message in capsys.readouterr().err
