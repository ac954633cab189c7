# SPDX-License-Identifier: Apache-2.0
"""The quality study: its variants are valid, runs are kept and taken up again, tables follow from results."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.quality import report, runs, study
from benchmarks.quality.clouds import changed_cloud, open_scene, write_scene_copy
from benchmarks.quality.runs import Job, Study, finished, remove, run
from benchmarks.quality.scores import flip, mean_of
from benchmarks.quality.variants import (
    BASE,
    CloudChange,
    Question,
    Variant,
    all_variants,
    questions,
    select,
)
from npcr.config import changed, explicit_keys, load_config, unread_keys
from npcr.data.cloud_geometry import point_spacing
from npcr.data.scene import load_clouds
from npcr.errors import ConfigError, MissingExtraError, NpcrError, SceneError
from npcr.io.points import PointCloud
from npcr.training.trainer import Trainer
from tests.scenes import write_tiny_scene

pytestmark = pytest.mark.slow  # as all that runs a benchmark

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
INPUT: {SIZE_RAW: [48, 36], SIZE_TRAIN: [48, 36], SIZE_TEST: [48, 36], NEAR_FAR_SIZE: [2.0, 8.0, 1.5]}
DATASETS: {TRAIN: ., HOLDOUT_EVERY: 3}
"""
SMALLEST = {"MODEL.FEATURE_DIM": 4, "MODEL.WIDTH": 4, "MODEL.DOTS": 3, "INPUT.LAYER_NUM": 2}


def make_study(folder: Path, *, minutes: float = 0.002, longest_side: int = 48) -> Study:
    scene = folder / "scene"
    if not scene.exists():
        write_tiny_scene(scene, cameras=6, size=(48, 36), points=60)
        (scene / "scene.yml").write_text(CONFIG)
    return Study(open_scene(scene), folder / "out", longest_side, minutes, torch.device("cpu"))


# Variants ---------------------------------------------------------------------------------------------------


def test_every_variant_is_a_valid_configuration(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    for variant in all_variants().values():
        cfg = Job(made, variant, 1).config()
        for key, value in variant.overrides.items():
            section, leaf = key.split(".")
            if key not in ("SOLVER.MAX_EPOCHS", "INPUT.USE_RGB"):  # time ends it; this cloud has no colors
                assert cfg[section][leaf] == value, (variant.name, key)
        assert (cfg.SOLVER.SEED, cfg.SOLVER.MAX_MINUTES, cfg.TEST.PERIOD) == (1, 0.002, 0)


def test_keys_that_a_form_does_not_read_are_left_alone(tmp_path: Path) -> None:
    made = make_study(tmp_path, longest_side=36)  # another size than the scene's, which changes NEAR_FAR_SIZE
    job, blended = Job(made, BASE, 0), Job(made, all_variants()["blended"], 0)
    cfg = job.config()
    assert not unread_keys(cfg)
    assert not unread_keys(blended.config())
    assert "INPUT.NEAR_FAR_SIZE" not in job.settings
    assert "INPUT.NEAR_FAR_SIZE" in blended.settings
    assert "SOLVER.DROP_SPLATS" not in blended.settings
    assert (cfg.MODEL.FORM, cfg.MODEL.NETWORK, cfg.MODEL.FIELD_NODES) == ("strands", False, 4)


def test_published_settings_are_those_of_the_published_file(tmp_path: Path) -> None:
    published = load_config(ROOT / "configs" / "Hair.yml")
    cfg = Job(make_study(tmp_path), all_variants()["published"], 0).config()
    own = {"DATASETS.TRAIN", "DATASETS.CENTER", "OUTPUT_DIR", "SOLVER.MAX_EPOCHS", "INPUT.SIZE_RAW",
           "INPUT.SIZE_TRAIN", "INPUT.SIZE_TEST", "INPUT.NEAR_FAR_SIZE"}
    for key in explicit_keys(ROOT / "configs" / "Hair.yml") - own:
        section, _, leaf = key.partition(".")
        wanted, found = (c[section][leaf] if leaf else c[section] for c in (published, cfg))
        assert found == (pytest.approx(wanted, rel=1e-3) if isinstance(wanted, float) else wanted), key
    assert cfg.MODEL.LEGACY
    assert cfg.LOSS.PERCEPTUAL == cfg.LOSS.MSE == 1


def test_questions_hold_the_recommended_value_once() -> None:
    for question in questions():
        assert len({label for label, _ in question.rows}) == len(question.rows)
        assert sum(variant == BASE for _, variant in question.rows) == (0 if question.name == "norm" else 1)
    assert [variant.name for variant in select(["noise-1", "width"])][-1] == "noise-1"
    of_network = [v for v in all_variants().values() if v.name.startswith("width-") or v.name == "with-network"]
    assert select(["width"]) == [BASE, *of_network]
    with pytest.raises(ConfigError, match="--only layer: no such variant or question; questions: form, resolution"):
        select(["layer"])


# Clouds -----------------------------------------------------------------------------------------------------


def plane(side: int = 40) -> PointCloud:
    """A square grid of spacing 1, colored by place."""
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    positions = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3).astype(np.float32)
    return PointCloud(positions, positions.astype(np.uint8))


@pytest.mark.parametrize(("change", "points"), [(CloudChange(density=0.25), 400), (CloudChange(density=2), 3200)])
def test_density(change: CloudChange, points: int) -> None:
    made = changed_cloud(plane(), change, seed=0)
    assert len(made) == points
    assert made.colors is not None
    away = np.abs(made.positions - made.colors).max(1)
    kept = min(points, len(plane()))
    assert not away[:kept].any()
    assert (away[kept:] > 0).all()
    np.testing.assert_array_equal(made.positions, changed_cloud(plane(), change, seed=0).positions)
    assert (made.positions[:10] != changed_cloud(plane(), change, seed=1).positions[:10]).any() == (points < 1600)


def test_noise_is_in_spacings() -> None:
    moved = changed_cloud(plane(), CloudChange(noise=2), seed=0).positions - plane().positions
    assert moved.std() == pytest.approx(2 * point_spacing(plane().positions), rel=0.05)


def test_scene_copy_shares_all_but_the_clouds(tmp_path: Path) -> None:
    scene = make_study(tmp_path).scene
    cloud = changed_cloud(scene.clouds[0], CloudChange(density=0.5), seed=0)
    write_scene_copy(tmp_path / "copy", scene, [cloud])
    assert len(load_clouds(tmp_path / "copy", 1)[0]) == 30
    for file in ("CamPose.inf", "img/0/img_0002.png"):
        assert (tmp_path / "copy" / file).read_bytes() == (scene.folder / file).read_bytes()
    assert not (tmp_path / "copy" / "scene.yml").exists()


def test_scene_that_does_not_serve(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"scene\.yml: no such file.*make_hair\.py"):
        open_scene(tmp_path)
    scene = make_study(tmp_path).scene.folder
    (scene / "scene.yml").write_text(CONFIG.replace("HOLDOUT_EVERY: 3", "HOLDOUT_EVERY: 0"))
    with pytest.raises(ConfigError, match=r"none is held out \(DATASETS.HOLDOUT_EVERY 0, 6 cameras"):
        open_scene(scene)


def test_splats_follow_picture_and_cloud(tmp_path: Path) -> None:
    made = make_study(tmp_path)
    layered = all_variants()["layered-1"]
    assert "INPUT.NEAR_FAR_SIZE" not in Job(made, layered, 0).keys
    half = Job(make_study(tmp_path, longest_side=36), layered, 0)
    assert half.keys["INPUT.SIZE_TRAIN"] == [36, 27]
    sparse = Job(made, Variant("sparse", layered.overrides, CloudChange(density=0.25)), 0)
    dense = Job(made, Variant("dense", layered.overrides, CloudChange(density=2)), 0)
    assert sparse.keys["INPUT.NEAR_FAR_SIZE"][2] > dense.keys["INPUT.NEAR_FAR_SIZE"][2]


# Scores -----------------------------------------------------------------------------------------------------


def test_flip_of_known_pictures() -> None:
    pytest.importorskip("flip_evaluator", reason="flip-evaluator is not installed")
    picture = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0))
    black = torch.zeros(3, 40, 50)
    assert flip(picture, picture) == 0
    assert flip(black + 1, black) == pytest.approx(0.967, abs=1e-3)  # black and white
    assert flip((picture + 0.05).clamp(max=1), picture) < flip((picture + 0.3).clamp(max=1), picture)


def test_flip_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'npcr\[study\]'"):
        flip(torch.zeros(3, 8, 8), torch.zeros(3, 8, 8))


def test_means_leave_out_what_was_not_measured() -> None:
    score = {"psnr": 20.0, "ssim": 0.5, "flip": 0.1, "alpha_mae": 0.1, "alpha_sad": 1.0, "perceptual": None}
    assert mean_of([score, score | {"psnr": 30.0}]) == score | {"psnr": 25.0}


# Runs -------------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_and_a_finished_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flip_evaluator", reason="flip-evaluator is not installed")
    made = make_study(tmp_path, minutes=0.05)
    job = Job(made, Variant("noise-1", SMALLEST, CloudChange(noise=1)), 0)

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(job, interrupt)
    assert finished(job) is None
    half_way = Trainer(changed(job.config(), SOLVER__MAX_MINUTES=1e-6), torch.device("cpu"))  # as Ctrl-C leaves it
    half_way.run()
    result = run(job)
    assert "resumed from" in (job.folder / "train.log").read_text()
    assert result["steps"] > half_way.iteration == 1
    assert result["training_seconds"] >= made.minutes * 60
    assert len(result["each"]) == 2
    assert result["points"] == 60
    assert {path.name for path in job.folder.iterdir()} == {"settings.json", "train.log", "train", "row.png",
                                                            "result.json"}
    assert not list((job.folder / "train").glob("nr_*"))

    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is run any more
    assert finished(job) == result
    with pytest.raises(ConfigError, match=r"was run with SOLVER.MAX_MINUTES 0.05, the study has 0.02"):
        finished(Job(make_study(tmp_path, minutes=0.02), job.variant, 0))
    remove(job)
    assert finished(job) is None


def test_equal_steps_are_whole_epochs(tmp_path: Path) -> None:
    pytest.importorskip("flip_evaluator", reason="flip-evaluator is not installed")
    scene = make_study(tmp_path).scene  # 4 of its 6 views are trained on
    options = ["--scene", str(scene.folder), "--side", "48", "--output", str(tmp_path / "out"), "--steps"]
    made = study.make_study(study.parse([*options, "8"]))
    result = run(Job(made, Variant("strands", {"MODEL.FORM": "strands", "MODEL.WIDTH": 4}), 0))
    assert (result["steps"], result["epochs"], result["layers"]) == (8, 2, 1)
    assert (result["settings"]["SOLVER.MAX_MINUTES"], result["settings"]["SOLVER.MAX_EPOCHS"]) == (0, 2)
    assert "does not read" not in (tmp_path / "out" / "runs" / "strands-seed0" / "train.log").read_text()
    with pytest.raises(ConfigError, match="--steps is 9; it must be a multiple of 4"):
        study.make_study(study.parse([*options, "9"]))
    with pytest.raises(SystemExit):
        study.parse([*options, "8", "--minutes", "1"])
    assert study.parse([*options, "8"]).minutes is None


def test_failed_training_says_why_and_the_next_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_study(tmp_path)
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train.py").write_text("import sys\nprint('error: the disk is full')\nsys.exit(2)\n")
    failures: list[NpcrError] = []
    study.run_all([Job(made, BASE, seed) for seed in range(2)], 0, failures)
    assert [str(failure).partition(" (")[0] for failure in failures] == [
        f"recommended-seed{seed}: training failed with status 2: error: the disk is full" for seed in range(2)]


def test_list_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study.main(["--list", "--only", "width", "--size", "full"])
    shown = capsys.readouterr().out
    assert "width-16" in shown
    assert "noise" not in shown
    count = len(select(["width"]))
    assert f"{count} variants, 2 seeds, 15 min of training each: about {count * 2 * 15.3333 / 60:.1f} hours" in shown
    assert not list(tmp_path.iterdir())


# Reports ----------------------------------------------------------------------------------------------------

MACHINE = {"processor": "Some CPU", "threads": 2, "cores": 2, "load_before": 0.2, "device": "cpu", "torch": "2.15.0",
           "commit": "abc1234", "time": "2026-01-02T03:04:05+0000"}


def row(variant: str, seed: int, psnr: float, **others: Any) -> dict[str, Any]:
    return {"variant": variant, "seed": seed, "psnr": psnr, "ssim": 0.75, "flip": 0.1, "alpha_mae": 0.01,
            "alpha_sad": 0.4, "perceptual": None, "steps": 1000, "seconds_per_step": 0.05, "layers": 16,
            "all_layers": 16, "machine": MACHINE} | others


def study_section(page: str, name: str) -> str:
    return page.partition(f"<!-- study:{name} -->")[2].partition(f"<!-- /study:{name} -->")[0]


RESULTS: dict[str, Any] = {
    "environment": {"study": {
        "command": "python benchmarks/quality/study.py --size full", "picture": [200, 200], "minutes": 15.0,
        "scene": {"name": "bob", "views": 60, "held_out": 12, "points": 90000}}},
    "rows": [row("recommended", 0, 30.0), row("recommended", 1, 30.5), row("width-16", 0, 28.0),
             row("layered-4", 0, 29.0, layers=9, machine=MACHINE | {"commit": "def5678", "load_before": 1.6})],
}
WIDTHS = """\
|  | PSNR, dB ↑ | SSIM ↑ | FLIP ↓ | alpha MAE ↓ | alpha SAD ↓ | steps | ms a step | runs |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| 16 | 28.00 | 0.750 | 0.1000 | 0.0100 | 0.400 | 1,000 | 50 | 1 |
| 8 (recommended) | 30.25 ± 0.25 | 0.750 ± 0.000 | 0.1000 ± 0.0000 | 0.0100 ± 0.0000 | 0.400 ± 0.000 | 1,000 ± 0 | \
50 ± 0 | 2 |
"""


def test_tables_of_fixed_results() -> None:
    asked = Question("width", "Channels", tuple((str(n), Variant(f"width-{n}")) for n in (16, 32, 64))
                     + (("8 (recommended)", BASE),))
    table = report.question_table(asked, RESULTS["rows"], "python study.py")
    assert table.startswith(WIDTHS)
    assert table.endswith("\n\nNot run: 32; 64.\n\n`python study.py --only width`\n")
    filled = report.sections(RESULTS)
    assert "`python benchmarks/quality/study.py --size full --only width`" in filled["width"]
    assert "| layered, tuned, 4 layers (reached 9 of 16) | 29.00 |" in filled["form"]
    assert filled["noise"].startswith("*Not run yet:*")  # the recommended settings alone answer nothing
    assert "15 minutes of training a run on Some CPU (cpu), 2 of 2 threads; load average" in filled["about"]
    assert "before the runs up to 1.6\n" in filled["about"]
    steps = RESULTS | {"environment": {"study": RESULTS["environment"]["study"] | {"minutes": None, "steps": 960}}}
    assert "- 960 steps a run on Some CPU (cpu)" in report.about(steps)
    assert "commit abc1234, def5678; 4 runs, 2026-01-02 to 2026-01-02" in filled["about"]


def test_page_is_filled_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, results = tmp_path / "quality.md", tmp_path / "study.json"
    page.write_text((ROOT / "docs" / "quality.md").read_text())
    results.write_text(json.dumps(RESULTS))
    report.main([str(results)])
    assert "*Not run yet:* `python benchmarks/quality/study.py --size full --only noise`" in capsys.readouterr().out
    report.main(["--answer", "form", str(results), "--page", str(page)])
    text = page.read_text()
    assert text.count("| Channels of the light network: 16 (`width-16`) | 28.00 |") == 1
    assert "--size full --seeds 2 --only layered-4 recommended width-16`" in text
    report.main(["--answer", "form", str(results), "--page", str(page)])
    assert page.read_text() == text
    report.main(["--answer", "form", str(results), str(results), "--page", str(page)])
    assert page.read_text().count("| Channels of the light network: 16 (`width-16`) | 28.00 |") == 2
    assert page.read_text().replace(study_section(page.read_text(), "form"), "") == text.replace(
        study_section(text, "form"), "")
    page.write_text(text.replace("<!-- /study:form -->", ""))
    with pytest.raises(ConfigError, match="has 0 sections between <!-- study:form -->"):
        report.main(["--answer", "form", str(results), "--page", str(page)])
    results.write_text("[]")
    with pytest.raises(ConfigError, match="holds no results of a study"):
        report.main([str(results)])


def test_commands_name_no_place_of_this_machine(tmp_path: Path) -> None:
    shown = report.command("full", scene=Path("datasets/cat"), minutes=None, vgg=tmp_path / "vgg.pth")
    assert shown == "python benchmarks/quality/study.py --size full --scene datasets/cat --vgg vgg.pth"


def test_csv_has_a_line_for_each_run(tmp_path: Path) -> None:
    report.write_csv(tmp_path / "study.csv", RESULTS["rows"])
    with (tmp_path / "study.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["variant"], line["seed"], line["psnr"], line["perceptual"]) for line in lines][1:3] == [
        ("recommended", "1", "30.5", ""), ("width-16", "0", "28.0", "")]
