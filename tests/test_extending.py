# SPDX-License-Identifier: Apache-2.0
"""docs/extending.md works as written: its renderer is trained, saved and rendered, its importer imports a scene."""

from __future__ import annotations

import dataclasses
import doctest
import json
import math
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr import checkpoints, importers, renderers
from npcr.config import changed, keys, load_config
from npcr.data.scene import load_scene
from npcr.evaluation.views import evaluate_views
from npcr.factory import held_out_views, load_renderer, open_scene
from npcr.importers import find_importer, unregister_importer
from npcr.renderers import FORMS
from npcr.training.optimizers import build_optimizer
from npcr.training.trainer import Trainer
from tests.scenes import default_intrinsics, orbit_poses, photograph, write_tiny_scene

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n# (\S+?)(?:,[^\n]*)?\n(.*?)```", PAGE, re.DOTALL)


def run_block(file: str, monkeypatch: pytest.MonkeyPatch, number: int = 0) -> types.ModuleType:
    """The page's code block that begins with the name of `file`, as the module of that file."""
    code = [text for name, text in BLOCKS if name == file][number]
    name = file.removesuffix(".py").replace("/", ".")
    module = types.ModuleType(name)
    if name not in sys.modules:
        monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, f"docs/extending.md: {file}", "exec"), module.__dict__)
    return module


@pytest.fixture
def form(monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's renderer, registered as the page has it."""
    run_block("npcr/renderers/colored_points.py", monkeypatch)
    registration = next(text for name, text in BLOCKS if name == "npcr/renderers/__init__.py")
    before = dict(FORMS)
    forms = dict(FORMS)
    exec(registration, {**vars(renderers), "FORMS": forms})
    (name,) = forms.keys() - before.keys()
    monkeypatch.setitem(FORMS, name, forms[name])
    key = keys.KEYS["MODEL.FORM"]
    monkeypatch.setitem(keys.KEYS, "MODEL.FORM", dataclasses.replace(key, choices=(*key.choices, name)))
    return name


def test_a_renderer(form: str, tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=6, size=(32, 24), points=200)
    cfg = load_config(None, [
        "MODEL.FORM", form, "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", str(scene), "DATASETS.HOLDOUT_EVERY", "3",
        "INPUT.SIZE_RAW", "[32, 24]", "INPUT.SIZE_TRAIN", "[32, 24]", "INPUT.SIZE_TEST", "[32, 24]",
        "INPUT.NEAR_FAR_SIZE", "[2, 8, 3]", "INPUT.LAYER_NUM", "2", "LOSS.PERCEPTUAL", "0", "SOLVER.MAX_EPOCHS", "2",
        "SOLVER.BASE_LR", "0.05", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1", "DATASETS.SHIFT", "0",
        "DATASETS.MAXRATION", "0", "OUTPUT_DIR", str(tmp_path / "output")])
    device = torch.device("cpu")
    trainer = Trainer(cfg, device)
    before = [color.detach().clone() for color in trainer.renderer.colors]
    trainer.run()
    assert not torch.equal(trainer.renderer.colors[0], before[0])

    again = Trainer(changed(cfg, RESUME=True, SOLVER__MAX_EPOCHS=3), device)
    again.run()
    path = checkpoints.model_path(tmp_path / "output", 3)
    renderer, loaded, epoch = load_renderer(cfg, path, device, explicit=frozenset())
    assert (type(renderer), epoch) == (FORMS[form], 3)
    held_out = held_out_views(loaded, open_scene(loaded, str(scene)), device)
    assert held_out is not None
    scores = evaluate_views(renderer, *held_out, progress=False)
    assert len(scores) == 2
    assert all(math.isfinite(score.psnr) and score.psnr > 5 for score in scores)
    assert torch.equal(renderer.colors[0], again.renderer.colors[0])

    fingerprints = [one.fingerprint(one.state_dict()) for one in (renderer, trainer.renderer)]
    assert fingerprints[0] != fingerprints[1]
    grouped = [p for group in build_optimizer(cfg, renderer).param_groups for p in group["params"]]
    assert len(grouped) == len(list(renderer.parameters()))


@pytest.fixture
def importer(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's importer, registered as the page has it."""
    module = run_block("npcr/importers/pose_list.py", monkeypatch)
    exec(next(text for name, text in BLOCKS if name == "npcr/importers/__init__.py"), dict(vars(importers)))
    name = module.PoseListImporter.name
    yield name
    unregister_importer(name)


def test_an_importer(importer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from npcr.commands import import_scene

    source = tmp_path / "capture"
    source.mkdir()
    size, entries = (40, 32), []
    for i, pose in enumerate(orbit_poses(6)):
        Image.fromarray(photograph(i, size)).save(source / f"{i}.png")
        fov = 2 * math.atan(0.5 * size[0] / default_intrinsics(size)[0, 0])
        entries.append({"image": f"{i}.png", "fov": fov, "pose": pose.tolist()})
    (source / "poses.json").write_text(json.dumps(entries))
    assert find_importer(importer).summary

    import_scene.main([importer, str(source), str(tmp_path / "scene"), "--first", "5"])
    (tmp_path / "scene" / "pointclouds").mkdir()
    np.savetxt(tmp_path / "scene" / "pointclouds" / "frame1.xyz", np.zeros((3, 3)))
    scene = load_scene(tmp_path / "scene", size_raw=size, frame_num=1, mask=True, center=[])
    assert len(scene.cameras) == 5
    np.testing.assert_allclose(scene.cameras.cam_to_world, orbit_poses(6)[:5], atol=1e-5)


def test_a_loss_and_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    charbonnier = run_block("npcr/renderers/losses.py", monkeypatch).charbonnier
    assert charbonnier(torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)).item() == pytest.approx(1, abs=1e-5)
    metrics = run_block("npcr/metrics/image.py", monkeypatch)
    (example,) = doctest.DocTestFinder().find(metrics.alpha_mse, "alpha_mse", module=False, globs=vars(metrics))
    results = doctest.DocTestRunner().run(example)
    assert (results.attempted, results.failed) == (1, 0)


def test_every_block_of_the_page_is_run_here() -> None:
    assert {name for name, _ in BLOCKS} == {
        "npcr/renderers/colored_points.py", "npcr/renderers/__init__.py", "npcr/renderers/losses.py",
        "npcr/metrics/image.py", "npcr/importers/pose_list.py", "npcr/importers/__init__.py"}
