# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the render script measures every stage, of this tree and of a commit."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import render_script
from npcr.errors import NpcrError

pytestmark = pytest.mark.slow  # as all that runs a benchmark

SMALL = ("--frames", "3", "--rounds", "1", "--size", "48", "32")
STAGES = ["render", "render and copy", "jpeg", "png", "video", "total"]


def head() -> str:
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=render_script.ROOT, capture_output=True,
                          text=True, check=False)
    if told.returncode:
        pytest.skip("this tree is no git repository: there is no commit to compare with")
    return told.stdout.strip()


def test_every_stage_of_a_commit_and_of_this_tree(tmp_path: Path) -> None:
    output, commit = tmp_path / "result.json", head()
    assert render_script.main([*SMALL, "--baseline", commit, "--output", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["tree"], row["stage"]) for row in rows] == [(tree, stage) for tree in (commit, "this")
                                                             for stage in STAGES]
    assert all(row["fps"] > 0 for row in rows)
    assert all(("of_baseline" in row) == (row["tree"] == "this") for row in rows)
    assert str(tmp_path) not in subprocess.run(["git", "worktree", "list"], cwd=render_script.ROOT, check=True,
                                               capture_output=True, text=True).stdout


def test_a_renderer_may_render_before_each_ready_frame(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    assert render_script.main([*SMALL, "--form", "blended", "--points", "300", "--layers", "2",
                               "--output", str(output)]) == 0
    times = {row["stage"]: row["ms"] for row in json.loads(output.read_text())["rows"]}
    assert min(times["render and copy"], times["render"]) > 0.1  # how they compare is no test's to say


def test_an_unknown_commit_is_refused_in_one_line(tmp_path: Path) -> None:
    head()
    with pytest.raises(NpcrError, match="--baseline nothing: git cannot check it out"):
        render_script.main([*SMALL, "--baseline", "nothing", "--output", str(tmp_path / "result.json")])


def test_pictures_have_the_size_and_move() -> None:
    pictures = render_script.ready_pictures((250, 130))
    assert len(pictures) == render_script.PICTURES
    assert {picture.shape for picture in pictures} == {(130, 250, 4)}
    assert 0.1 < (pictures[0][..., 3] > 0).mean() < 0.9
    assert np.array_equal(pictures[1][:, 2:], pictures[0][:, :-2])
