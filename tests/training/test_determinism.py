# SPDX-License-Identifier: Apache-2.0
"""SOLVER.DETERMINISTIC: the same bits each time, by what can be seen of that without a GPU.

On a GPU torch itself refuses, within `npcr.numerics.deterministic`, what it cannot compute so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from yacs.config import CfgNode

from npcr.checkpoints import model_path
from npcr.config import changed
from npcr.numerics import deterministic
from npcr.renderers import FORMS
from npcr.renderers.losses import VggFeatures
from npcr.training.trainer import Trainer
from tests.devices import DEVICES
from tests.scenes import write_tiny_scene
from tests.training.test_trainer import BLENDED, config, copy_epoch, same_parameters

# The operators behind torch's list of those without a deterministic implementation on a GPU, in any version since 2.4
# (torch.use_deterministic_algorithms), but for upsample_bilinear2d_backward: torch's interpolate then does without.
NONDETERMINISTIC = {
    "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "avg_pool3d_backward",
    "bincount", "cumsum", "cumprod_backward", "fractional_max_pool2d_backward", "grid_sampler_2d_backward", "histc",
    "kthvalue", "max_pool3d_with_indices_backward", "max_unpool2d", "median", "nll_loss_forward", "put", "put_",
    "reflection_pad2d_backward", "scatter_reduce", "scatter_reduce_", "upsample_bicubic2d_backward",
    "upsample_linear1d_backward", "upsample_trilinear3d_backward"}


class Operators(TorchDispatchMode):
    """The names of all operators that run, in gradients too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not (name == "cumsum" and not args[0].dtype.is_floating_point):  # of whole numbers it is deterministic
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene") / "tiny", cameras=3, size=(32, 28))


def form_config(form: str, scene: Path, output: Path, *options: str) -> CfgNode:
    its_own = BLENDED if form == "blended" else ["MODEL.FORM", form, "INPUT.LAYER_NUM", "2"]
    return config(scene, output, *its_own, "TEST.PERIOD", "0", "SOLVER.DETERMINISTIC", "True", *options)


RANDOM = {"strands": ["SOLVER.DROP_SPLATS", "0.2", "SOLVER.DROP_CELL", "2", "SOLVER.DROP_HARMONICS", "0.5",
                      "LOSS.OPACITY", "1", "LOSS.SIZE", "1", "MODEL.FIELD_NODES", "3"]}


@pytest.mark.parametrize("form", FORMS)
def test_a_step_has_no_operator_whose_sums_come_in_any_order_on_a_gpu(form: str, scene: Path, tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """With every term of the loss, and in torch: our own kernels, which replace some, have no atomics."""
    monkeypatch.setattr("npcr.renderers.losses._download_weights", lambda: {
        f"features.{number}.{name}": torch.zeros(shape) for number, a, b in ((0, 3, 64), (2, 64, 64), (5, 64, 128),
                                                                             (7, 128, 128))
        for name, shape in (("weight", (b, a, 3, 3)), ("bias", (b,)))})
    cfg = form_config(form, scene, tmp_path, "PROJECTION.BACKEND", "torch", "LOSS.PERCEPTUAL", "1", "LOSS.MSE", "1",
                      "LOSS.L1", "1", "LOSS.SSIM", "1", "LOSS.GRADIENT", "1", *RANDOM.get(form, []))
    trainer = Trainer(cfg, torch.device("cpu"))
    trainer.iteration = 2  # nothing is left out in the first step
    assert isinstance(trainer.loss.vgg, VggFeatures)
    batch = next(trainer._batches())
    with Operators() as seen:
        trainer.step(batch)
    assert {"convolution_backward", "upsample_bilinear2d_backward"} <= seen.names
    assert not seen.names & NONDETERMINISTIC


def test_the_scan_sees_gradients() -> None:
    x = torch.ones(1, 1, 4, 4, requires_grad=True)
    with Operators() as seen:
        F.pad(x, (1, 1, 1, 1), mode="reflect").sum().backward()
    assert seen.names & NONDETERMINISTIC == {"reflection_pad2d_backward"}


def test_interpolate_does_without_its_atomics_elsewhere_than_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)  # torch 2.4 asks for CUDA, later ones for another than a CPU
    x = torch.ones(1, 1, 4, 4, device="meta", requires_grad=True)
    with deterministic(True), Operators() as seen:
        F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True).sum().backward()
    assert "upsample_bilinear2d_backward" not in seen.names


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [pytest.param("layered", marks=pytest.mark.slow), "blended"])
def test_epochs_in_two_runs_equal_those_of_one_bit_for_bit(form: str, device: str, scene: Path, tmp_path: Path) -> None:
    whole = changed(form_config(form, scene, tmp_path / "whole"), MODEL__DEVICE=device)
    Trainer(whole, torch.device(device)).run()
    copy_epoch(tmp_path / "whole", tmp_path / "resumed", 1)
    resumed = changed(whole, OUTPUT_DIR=str(tmp_path / "resumed"), RESUME=True, LOAD_EPOCH=1)
    Trainer(resumed, torch.device(device)).run()
    assert same_parameters(model_path(tmp_path / "whole", 2), model_path(tmp_path / "resumed", 2))
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32"])
def test_a_step_in_another_precision(precision: str, scene: Path, tmp_path: Path) -> None:
    """It makes other gradients than float32, but hardly; tf32 is float32 on a CPU."""
    images, gradients = [], []
    for name in ("float32", precision):
        trainer = Trainer(form_config("blended", scene, tmp_path / name, "SOLVER.PRECISION", name), torch.device("cpu"))
        with torch.no_grad():
            trainer.renderer.network.out.weight.fill_(0.01)  # zero in a fresh network
        trainer.step(next(trainer._batches()))
        assert trainer.scaler.is_enabled() == (name == "float16")
        assert trainer.result is not None
        images.append(trainer.result.output.color)
        gradient = torch.cat([p.grad.flatten() for p in trainer.renderer.parameters() if p.grad is not None])
        gradients.append(gradient / gradient.norm())  # the scaler's factor is still in it
    torch.testing.assert_close(images[1], images[0], atol=1e-2, rtol=0)
    difference = (gradients[1] - gradients[0]).norm()
    assert difference == 0 if precision == "tf32" else 0 < difference < 0.1
