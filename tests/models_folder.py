# SPDX-License-Identifier: Apache-2.0
"""A models/ folder as the published instructions have it, with a small untrained model; running scripts."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from npcr.checkpoints import make_checkpoint, model_path, save_model
from npcr.config import load_config, to_dict
from npcr.factory import build_renderer
from npcr.io.points import PointCloud
from tests.scenes import default_intrinsics, orbit_poses, write_blocks, write_poses

CONFIG = """\
MODEL: {DEVICE: cpu, FEATURE_DIM: 4}
INPUT: {SIZE_RAW: [64, 48], SIZE_TEST: [32, 24], LAYER_NUM: 2, NEAR_FAR_SIZE: [2.0, 8.0, 1.5]}
LOSS: {PERCEPTUAL: 0.0}
BACKGROUND_GRAY: 60
LOAD_EPOCH: 3
"""


def write_models_folder(root: Path) -> None:
    """`models/` under `root`: config.yml, 4 cameras for 64x48 pictures, nr_model_3.pth of two frames."""
    folder = root / "models"
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(CONFIG)
    write_poses(folder / "CamPose.inf", orbit_poses(40)[:4])
    write_blocks(folder / "Intrinsic.inf", default_intrinsics((64, 48))[None])
    cfg = load_config(folder / "config.yml")
    generator = np.random.default_rng(0)
    positions = (generator.normal(0, 0.4, (count, 3)).astype(np.float32) for count in (150, 100))
    clouds = [PointCloud(each, None) for each in positions]
    save_model(model_path(folder, 3), make_checkpoint(build_renderer(cfg, clouds), clouds, to_dict(cfg), 3))


def call_script(script: Path, arguments: tuple[object, ...], monkeypatch: pytest.MonkeyPatch,
                capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a script in this process; gives its exit status, standard output and error output."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [str(script), *map(str, arguments)])
    status = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err
