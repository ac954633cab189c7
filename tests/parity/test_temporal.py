# SPDX-License-Identifier: Apache-2.0
"""The published blending and refining on the parity scene, number for number."""

from __future__ import annotations

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.config import explicit_keys, load_config
from npcr.factory import build_blender, build_vgg
from npcr.io.images import read_image
from npcr.numerics import tf32
from npcr.refine.published import PathRefiner, RefineSettings
from npcr.rendering.frames import render_path
from npcr.rendering.path_inputs import PathInputs, load_path_inputs
from tests.devices import DEVICES

RENDER = Path(__file__).resolve().parents[2] / "tools" / "render.py"


@pytest.fixture(scope="module")
def expected(parity: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity / "expected.npz"))


@pytest.fixture(scope="module", params=DEVICES)
def inputs(shared: Path, parity: Path, request: pytest.FixtureRequest) -> PathInputs:
    weights = next((shared / "weights").glob("vgg19*.safetensors"))
    given = parity / "config.yml", ["PERCEPTUAL.CHECKPOINT", str(weights)]
    return load_path_inputs(
        load_config(*given), torch.device(request.param), explicit=explicit_keys(*given),
        checkpoint=parity / "nr_model_0.pth", cam_pose=parity / "CamPose_path.inf",
        intrinsics=parity / "Intrinsic_path.inf")


def test_blended_frames(inputs: PathInputs, expected: dict[str, np.ndarray]) -> None:
    assert inputs.cfg.TEMPORAL.BLEND == "legacy"  # of itself, with a published model
    frames = list(render_path(inputs.renderer, inputs.cameras, gray=inputs.cfg.BACKGROUND_GRAY / 255,
                              blender=build_blender(inputs.cfg)))
    pictures = np.stack([frame.picture for frame in frames]).astype(np.float32)
    error = np.abs(pictures - expected["render_frames_bgr"][..., ::-1]).max(axis=-1)
    assert error.shape == (10, 96, 120)
    assert error.max() < 0.53  # rounding, and the network's 1e-4 of 255


@pytest.mark.slow
def test_refine_losses(inputs: PathInputs, expected: dict[str, np.ndarray]) -> None:
    a, b, c, d = inputs.cfg.WEIGHTS.REFINE_WEIGHTS
    settings = RefineSettings((a, b, c, d), inputs.cfg.WEIGHTS.COLOR_THR, inputs.cfg.TEMPORAL.DEPTH_TOLERANCE)
    optimizer = torch.optim.SGD(inputs.renderer.parameters(), lr=0.0)
    vgg = build_vgg(inputs.cfg)
    assert vgg is not None
    refiner = PathRefiner(inputs.renderer, inputs.cameras, optimizer, vgg.to(inputs.renderer.device), settings)
    with tf32(False):
        losses = np.array([losses.read() for losses in refiner.run_pass()])
    inputs.renderer.zero_grad(set_to_none=True)
    np.testing.assert_allclose(losses, expected["refine_losses"], rtol=1e-4, atol=0)


def test_the_published_walk_through(parity: Path, expected: dict[str, np.ndarray], tmp_path: Path,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Configuration, cameras and model into models/, then tools/render.py without arguments."""
    models = tmp_path / "models"
    models.mkdir()
    for source, name in (("config.yml", "config.yml"), ("CamPose_path.inf", "CamPose.inf"),
                         ("Intrinsic_path.inf", "Intrinsic.inf"), ("nr_model_0.pth", "nr_model_0.pth")):
        shutil.copyfile(parity / source, models / name)
    shutil.copytree(parity / "scene", tmp_path / "scene", ignore=shutil.ignore_patterns("img"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(RENDER)])
    runpy.run_path(str(RENDER), run_name="__main__")
    for number, published in enumerate(expected["render_frames_bgr"][..., ::-1], 1):
        picture = read_image(Path("output") / "res_0" / f"img_{number:04d}.jpg").astype(np.float32)
        assert np.abs(picture - published).mean() < 1.0  # JPEG's share
    assert (tmp_path / "output" / "res_0" / "video.mp4").stat().st_size > 1000
