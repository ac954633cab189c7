# SPDX-License-Identifier: Apache-2.0
"""The zoom benchmark: which scenes and models it makes, what it keeps, and the table and picture that follow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks import zoom
from npcr.errors import NpcrError
from npcr.io.images import read_image, write_image
from npcr.io.points import PointCloud, write_points


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were run and the evaluations; they write what the real ones would."""
    made: list[list[str]] = []

    def python(script: str, *arguments: str | Path) -> None:
        given = list(map(str, arguments))
        made.append([script, *given])
        if script == "tools/make_hair.py":
            folder, size = Path(given[0]), int(given[given.index("--size") + 1])
            write_points(folder / "pointclouds" / "frame1.ply", PointCloud(np.eye(3, dtype=np.float32), None))
            (folder / "scene.yml").write_text(f"INPUT: {{NEAR_FAR_SIZE: [1, 2, {size}]}}\n")
        else:
            folder = Path(given[given.index("OUTPUT_DIR") + 1])
            folder.mkdir(parents=True)
            (folder / "nr_model_7.pth").write_bytes(b"a model")

    def evaluate(model: Path, config: Path, keys: Sequence[str], folder: Path) -> dict[str, float]:
        made.append(["evaluate", model.parent.name, config.parent.name, *keys])
        for camera in (4, 9, 14):
            for name in ("truth", "rendered"):
                write_image(folder / f"{name}_{camera:03d}.png", np.zeros((50, 50, 3), np.uint8))
        return {"psnr": 30.0 if model.parent.name == config.parent.name else 29.5, "ssim": 0.9, "alpha_mae": 0.01}

    monkeypatch.setattr(zoom, "python", python)
    monkeypatch.setattr(zoom, "evaluate", evaluate)
    return made


def test_every_form_is_compared_and_nothing_done_twice(tmp_path: Path, calls: list[list[str]]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- zoom -->\n<!-- /zoom -->\n")
    command = ["--output", str(tmp_path / "zoom"), "--page", str(page)]
    zoom.main(command)
    made = [call for call in calls if call[0] == "tools/make_hair.py"]
    names = ("--size", "--distance", "--samples", "--truth-samples")
    options = [[call[call.index(name) + 1] for name in names] for call in made]
    assert options == [["128", "1", "32", "128"], ["64", "1", "32", "128"], ["128", "0.5", "16", "64"],
                       ["256", "1", "8", "64"]]
    assert [call[0] for call in calls].count("tools/train.py") == 2 * 4
    kept = [call for call in calls if call[-2] == "INPUT.NEAR_FAR_SIZE"]
    assert [call[1:3] + call[-1:] for call in kept] == [["base", shown, "[1.0, 2.0, 128.0]"]
                                                        for shown in ("half", "near", "double")]
    rows = json.loads((tmp_path / "zoom" / "zoom.json").read_text())["rows"]
    assert [(row["form"], row["variant"], bool(row["use"])) for row in rows] == [
        *(("strands", variant, False) for variant in zoom.VARIANTS),
        *(("blended", variant, kept) for variant in zoom.VARIANTS for kept in (False, True))]
    text = page.read_text()
    assert "| strands | half the resolution | 29.50 | 30.00 | -0.50 | 0.900 | 0.900 | 0.0100 | 0.0100 |" in text
    assert "strands 30.00 dB, blended 30.00 dB" in text
    assert read_image(tmp_path / "zoom" / "zoom.jpg").shape == (3 * (22 + 260), 5 * 260, 3)
    done = len(calls)
    zoom.main(command)
    assert len(calls) == done


def test_another_cloud_is_refused(tmp_path: Path, calls: list[list[str]]) -> None:
    write_points(tmp_path / "scenes/half/pointclouds/frame1.ply", PointCloud(np.ones((3, 3), np.float32), None))
    (tmp_path / "scenes/half/scene.yml").touch()
    with pytest.raises(NpcrError, match=r"half: has another cloud than .*base"):
        zoom.main(["--output", str(tmp_path), "--variants", "half"])


def test_other_trainings_go_beside_and_other_scenes_elsewhere(tmp_path: Path, calls: list[list[str]]) -> None:
    command = ["--output", str(tmp_path), "--variants", "half", "--forms", "network"]
    zoom.main(command)
    zoom.main([*command, "--train", "DATASETS.SHIFT", "10"])
    trained = [call for call in calls if call[0] == "tools/train.py"]
    assert [" ".join(call).count("DATASETS.SHIFT 10") for call in trained] == [0, 0, 1, 1]
    with pytest.raises(NpcrError, match=r"was begun with --size 128, not 64; name another --output"):
        zoom.main([*command, "--size", "64"])


def test_the_picture_shows_where_the_difference_is_largest() -> None:
    error = np.zeros((30, 40), np.float32)
    error[20:24, 30:34] = 1
    error[2, 2] = 9
    assert zoom.worst_square(error, 4) == (20, 30)
    assert zoom.worst_square(np.ones((4, 4), np.float32), 4) == (0, 0)


def test_the_command_names_what_changes_the_results() -> None:
    args = zoom.parse(["--variants", "half", "--output", "elsewhere", "--epochs", "2"])
    assert zoom.command(args) == "python benchmarks/zoom.py --variants half --epochs 2"
