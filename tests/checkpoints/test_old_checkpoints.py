# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of release 0.1.0 as it was before its modules moved to rooms: they load, render and go on training.

`data/` holds a blended model of 60 points with its optimizer's state, written then. The layered network has 13 million
parameters; `data/` has their names and shapes, from which a seed makes the same numbers, and the images rendered then.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras
from npcr.checkpoints import load_model, load_parameters, load_training_state
from npcr.config import explicit_keys, load_config
from npcr.factory import build_renderer, checkpoint_clouds, merge_checkpoint_config
from npcr.renderers import Renderer
from npcr.training.optimizers import build_optimizer

DATA = Path(__file__).with_name("data")
MODEL = DATA / "nr_model_3.pth"
SIZE = (32, 24)
TOLERANCE = 1e-5
# Random weights amplify rounding: with and without kernels, and on two processors, pictures differ by 1e-3 of the
# largest number.
LAYERED_TOLERANCE = 3e-3


def camera() -> Cameras:
    pose = torch.eye(4)
    pose[2, 3] = -4.0
    return Cameras(pose[None], torch.tensor([[[30.0, 0, 15.5], [0, 30.0, 11.5], [0, 0, 1]]]), SIZE)


def blended() -> tuple[Renderer, torch.optim.Optimizer]:
    checkpoint = load_model(MODEL)
    options = ["MODEL.DEVICE", "cpu", "SOLVER.OPTIMIZER_NAME", "AdamW", "SOLVER.HARMONICS_DECAY", "1",
               "SOLVER.BASE_LR", "0.01", "SOLVER.FEATURE_LR_FACTOR", "3"]
    cfg = merge_checkpoint_config(load_config(None, options), checkpoint, MODEL, explicit_keys(None, options))
    renderer = build_renderer(cfg, checkpoint_clouds(cfg, checkpoint, MODEL))
    load_parameters(renderer, checkpoint, MODEL)
    return renderer, build_optimizer(cfg, renderer)


def rgba(renderer: Renderer) -> Tensor:
    with torch.no_grad():
        output = renderer.eval()(camera())
    return torch.cat([output.color, output.alpha], dim=1)[0]


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    with np.load(DATA / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def test_the_blended_model_renders_as_it_did(expected: dict[str, Tensor]) -> None:
    renderer, _ = blended()
    assert expected["blended_rgba"].abs().max() > 0.5
    torch.testing.assert_close(rgba(renderer), expected["blended_rgba"], atol=TOLERANCE, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(renderer(camera()).depth[0], expected["blended_depth"], atol=TOLERANCE, rtol=0)


def test_its_optimizer_goes_on_as_it_would_have(expected: dict[str, Tensor]) -> None:
    """A state of Adam that met other parameters than its own would step elsewhere."""
    renderer, optimizer = blended()
    before = rgba(renderer)
    optimizer.load_state_dict(load_training_state(DATA / "nr_optimizer_3.pth")["optimizer"])
    output = renderer.train()(camera())
    (output.color.square().mean() + (output.alpha - 0.5).square().mean()).backward()
    optimizer.step()
    after = rgba(renderer)
    assert (after - before).abs().max() > 100 * TOLERANCE
    torch.testing.assert_close(after, expected["blended_rgba_after_a_step"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("legacy", [False, True])
def test_the_layered_model_renders_as_it_did(expected: dict[str, Tensor], legacy: bool) -> None:
    shapes: dict[str, list[int]] = json.loads((DATA / "layered_shapes.json").read_text())
    checkpoint = load_model(MODEL)  # for its cloud
    cfg = load_config(None, ["MODEL.FORM", "layered", "MODEL.FEATURE_DIM", "4", "INPUT.LAYER_NUM", "2",
                             "INPUT.NEAR_FAR_SIZE", "[2,8,1.5]", "MODEL.LEGACY", str(legacy), "MODEL.DEVICE", "cpu"])
    renderer = build_renderer(cfg, checkpoint_clouds(cfg, checkpoint, MODEL))
    assert {name: list(value.shape) for name, value in renderer.state_dict().items()} == shapes
    renderer.load_state_dict(seeded_state(shapes))
    wanted = expected[f"layered_{'legacy' if legacy else 'default'}_rgba"]
    assert wanted.abs().max() > 1
    tolerance = LAYERED_TOLERANCE * float(wanted.abs().max())
    torch.testing.assert_close(rgba(renderer), wanted, atol=tolerance, rtol=0)


def seeded_state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Normal numbers, in the order of the names; weights of convolutions keep the variance of what they are given."""
    rng = np.random.default_rng(1)
    state = {}
    for name, shape in sorted(shapes.items()):
        scale = 1.0 if len(shape) < 2 or name.startswith("features") else (2.0 / np.prod(shape[1:])) ** 0.5
        state[name] = torch.from_numpy((rng.standard_normal(shape) * scale).astype(np.float32))
    return state
