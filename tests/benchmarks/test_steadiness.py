# SPDX-License-Identifier: Apache-2.0
"""The steadiness benchmark: which commands it runs, what it keeps, and the table that follows from their results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import steadiness
from npcr.errors import ConfigError
from npcr.io.images import write_image

pytestmark = pytest.mark.slow  # as all that runs a benchmark

PSNR = {"off": [30.0, 31.0, 32.0], "legacy": [29.5, 31.0, 31.5], "default": [30.1, 31.0, 32.0]}


def video(blends: list[str], row: int) -> dict:
    seconds = {"render": 0.2, "blend": {blend: 0.002 if blend == "off" else 0.0121 for blend in blends}}
    path = {"mean": {blend: {"psnr": float(np.mean(PSNR[blend])), "flicker": 0.004, "warp_error": 0.01}
                     for blend in blends}, "each": {blend: {"psnr": PSNR[blend]} for blend in blends}}
    path["mean"]["truth"] = {"warp_error": 0.04, "flicker": 0.005}
    fine = {"mean": {blend: {"flicker": 0.002} for blend in blends}}
    return {"row": row, "paths": {"path": path | {"seconds": seconds}, "fine orbit": fine | {"seconds": seconds}}}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run; they write what the real ones would."""
    made: list[list[str]] = []

    def python(script: str, *arguments: str | Path) -> None:
        given = list(map(str, arguments))
        made.append([script, *given])
        value = {name: given[given.index(name) + 1] for name in ("OUTPUT_DIR", "--output", "--row") if name in given}
        if script == "tools/train.py":
            Path(value["OUTPUT_DIR"]).mkdir(parents=True)
            for kind in ("model", "optimizer"):
                (Path(value["OUTPUT_DIR"]) / f"nr_{kind}_7.pth").write_bytes(b"a model")
        elif script == "tools/refine.py":
            (Path(value["OUTPUT_DIR"]) / "nr_model_7_refined.pth").write_bytes(b"refined")
        else:
            folder = Path(value["--output"])
            folder.mkdir(parents=True, exist_ok=True)
            if "--video" in given:
                blends = [one for one in given if one in PSNR]
                (folder / "video.json").write_text(json.dumps(video(blends, int(value.get("--row", 5)))))
                write_image(folder / "slices.png", np.zeros((4 * len(blends), 6, 3), np.uint8))
            else:
                (folder / "evaluation.json").write_text(json.dumps({"mean": {"psnr": 28.0}}))

    monkeypatch.setattr(steadiness, "python", python)
    return made


def test_a_table_of_all_ways_and_nothing_done_twice(tmp_path: Path, calls: list[list[str]]) -> None:
    scene, output, page = tmp_path / "curls", tmp_path / "output", tmp_path / "page.md"
    (scene / "path").mkdir(parents=True)
    (scene / "path" / "CamPose.inf").touch()
    page.write_text("before\n<!-- steadiness -->\nold\n<!-- /steadiness -->\nafter\n")
    command = [str(scene), "--output", str(output), "--page", str(page), "--minutes", "2",
               "--refine", "REFINE.STEADINESS", "80"]
    steadiness.main(command)
    assert [call[0] for call in calls] == ["tools/train.py", *["tools/refine.py"] * 2, *["tools/evaluate.py"] * 6]
    published, steady = calls[1:3]
    assert " ".join(published).endswith("REFINE.SCHEME published REFINE.PATH given REFINE.LR 0.0001 LOSS.MSE 1 "
                                        f"LOSS.PERCEPTUAL 0 OUTPUT_DIR {output}/curls/published")
    assert "REFINE.STEADINESS" not in published
    assert steady[-4:-2] == ["REFINE.STEADINESS", "80"]
    assert [call[call.index("--row") + 1] for call in calls[5:] if "--video" in call] == ["5", "5"]
    rows = json.loads((output / "steadiness.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["true frames", *(method.title for method in steadiness.METHODS)]
    assert rows[2]["worst_psnr_change"] == pytest.approx(-0.5)
    assert rows[3]["blend_share"] == pytest.approx(0.0101 / 0.202)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert "| true frames | – | – | 0.0400 | 0.0050 | – | – | – |" in text  # without what was not measured
    assert "| legacy blending | 30.67 | -0.50 | 0.0100 |" in text
    assert "datasets/curls --minutes 2 --refine REFINE.STEADINESS 80`" in text
    assert (output / "curls" / "slices.png").exists()
    done = len(calls)
    steadiness.main(command)
    assert len(calls) == done


def test_published_refining_with_vgg(tmp_path: Path, calls: list[list[str]]) -> None:
    scene, weights = tmp_path / "curls", tmp_path / "vgg.safetensors"
    (scene / "path").mkdir(parents=True)
    (scene / "path" / "CamPose.inf").touch()
    weights.touch()
    steadiness.main([str(scene), "--output", str(tmp_path / "output"), "--vgg", str(weights)])
    published = calls[1]
    assert published[published.index("LOSS.PERCEPTUAL"):][:4] == ["LOSS.PERCEPTUAL", "1", "PERCEPTUAL.CHECKPOINT",
                                                                   str(weights)]
    report = json.loads((tmp_path / "output" / "steadiness.json").read_text())
    assert report["environment"]["command"].endswith("--minutes 5 --vgg vgg.safetensors")


def test_single_frames_of_another_form_without_refining(tmp_path: Path, calls: list[list[str]],
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    scene, page = tmp_path / "curls", tmp_path / "page.md"
    (scene / "path").mkdir(parents=True)
    (scene / "path" / "CamPose.inf").touch()
    page.write_text("<!-- strands -->\n<!-- /strands -->\n")
    command = [str(scene), "--output", str(tmp_path / "output"), "--minutes", "0", "--page", str(page), "--section",
               "strands", "--train", "MODEL.FORM", "strands", "SOLVER.MAX_EPOCHS", "19"]
    steadiness.main([*command, "--methods", "single frames"])
    assert [call[0] for call in calls] == ["tools/train.py", *["tools/evaluate.py"] * 2]
    assert " ".join(calls[0]).endswith("MODEL.DEVICE cpu MODEL.FORM strands SOLVER.MAX_EPOCHS 19")
    assert "SOLVER.MAX_MINUTES 0 " in " ".join(calls[0])
    assert calls[2][calls[2].index("--blend"):] == ["--blend", "off"]
    text = page.read_text()
    assert "--train MODEL.FORM strands SOLVER.MAX_EPOCHS 19 --methods 'single frames'`" in text
    assert "| single frames | 31.00 | 0.00 |" in text
    assert "blending" not in text
    steadiness.main([*command, "--methods", "single frames", "default blending"])
    assert [call[-2:] for call in calls[3:]] == [["--row", "5"]]  # the video once more; the rest is finished
    with pytest.raises(ConfigError, match="was trained with"):
        steadiness.main([*command[:-1], "20"])
    with pytest.raises(SystemExit):
        steadiness.main([str(scene), "--minutes", "0"])
    assert "beside --train SOLVER.MAX_EPOCHS" in capsys.readouterr().err


def test_a_scene_without_a_path_is_refused_before_anything_runs(tmp_path: Path, calls: list[list[str]]) -> None:
    with pytest.raises(ConfigError, match=r"has no path/CamPose.inf"):
        steadiness.main([str(tmp_path), "--output", str(tmp_path / "output")])
    assert not calls
