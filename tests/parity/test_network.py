# SPDX-License-Identifier: Apache-2.0
"""The published model on the parity scene: layers, composited frames, losses, gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from yacs.config import CfgNode

from npcr.cameras import Cameras, unproject
from npcr.config import changed, explicit_keys, load_config
from npcr.factory import build_loss, load_renderer
from npcr.io.camera_files import read_cameras
from npcr.numerics import tf32
from npcr.renderers import LayeredRenderer
from tests.devices import DEVICES


@pytest.fixture(scope="module")
def expected(parity: Path) -> dict[str, np.ndarray]:
    return dict(np.load(parity / "expected.npz"))


@pytest.fixture(scope="module", params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(scope="module")
def loaded(parity: Path, device: torch.device) -> tuple[LayeredRenderer, CfgNode]:
    renderer, cfg, epoch = load_renderer(load_config(parity / "config.yml"), parity / "nr_model_0.pth", device,
                                         explicit=explicit_keys(parity / "config.yml"))
    assert epoch == 0
    assert renderer.legacy
    return renderer, cfg


@pytest.fixture(scope="module")
def cameras(parity: Path, device: torch.device) -> Cameras:
    raw = read_cameras(parity / "scene" / "CamPose.inf", parity / "scene" / "Intrinsic.inf", (160, 128))
    return raw.resized((120, 96), legacy=True).to(device)


def largest(a: torch.Tensor, b: np.ndarray) -> float:
    return float((a.cpu() - torch.from_numpy(b)).abs().max())


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("camera", [0, 1, 2])
def test_layers(loaded, cameras, expected, camera: int, backend: str) -> None:  # type: ignore[no-untyped-def]
    renderer = loaded[0]
    renderer.backend = renderer.network.backend = backend
    with torch.no_grad():
        output = renderer(cameras[camera])
    for k in range(4):
        assert np.array_equal(output.index[0, k].cpu().numpy(), expected[f"cam{camera}_layer{k}_index"])
        assert largest(output.layer_depth[0, k], expected[f"cam{camera}_layer{k}_depth"]) <= 6e-6
        assert largest(output.layer_rgba[0, k], expected[f"cam{camera}_layer{k}_rgba"]) < 1e-4
    assert largest(unproject(output.depth, cameras[camera])[0], expected[f"cam{camera}_world"]) < 1e-5


def test_composited_frames_in_one_batch(loaded, cameras, expected) -> None:  # type: ignore[no-untyped-def]
    with torch.no_grad():
        output = loaded[0](cameras)
    assert largest(torch.cat([output.trained_color, output.alpha], 1), expected["frames_rgba"]) < 1e-4


def test_running_statistics(parity: Path, device, cameras, expected) -> None:  # type: ignore[no-untyped-def]
    """The original met eight frames in training mode, layer by layer, before it recorded this one."""
    given = parity / "config.yml", ["MODEL.NORM", "batch"]
    renderer, _, _ = load_renderer(load_config(*given), parity / "nr_model_0.pth", device,
                                   explicit=explicit_keys(*given))
    with torch.no_grad(), tf32(False):
        for camera in range(8):
            images = renderer.feature_images(cameras[camera])[0]
            renderer.network.train()
            for image in images[0].split(1):
                renderer.network(image)
        output = renderer.eval()(cameras[0])
    # Rounding adds up over the eight frames whose statistics came before: 5e-5 to 1.3e-4, by number of threads.
    assert largest(torch.cat([output.trained_color, output.alpha], 1)[0], expected["frame0_eval_rgba"]) < 5e-4


def our_name(published: str) -> str:
    return {
        "pcpr_parameters.default_features": "default_feature",
        "pcpr_parameters.p_parameters.0": "features.0",
        "render.unet.inc.conv.conv.0.conv2.weight": "network.enter.conv1.conv.weight",
        "render.unet.down4.mpconv.2.conv.0.conv2_gate.weight": "network.down4.conv.conv1.gate.weight",
        "render.unet.outc2.conv2.weight": "network.alpha_out.spatial.weight",
    }[published]


@pytest.mark.parametrize("step", [0, 1])
def test_training_step(shared: Path, device, loaded, expected, step: int) -> None:  # type: ignore[no-untyped-def]
    renderer, cfg = loaded
    vgg = shared / "weights" / "vgg19_conv1_1-conv3_1.safetensors"
    loss = build_loss(changed(cfg, PERCEPTUAL__CHECKPOINT=str(vgg))).to(device)
    camera = Cameras(torch.from_numpy(expected[f"step{step}_T"])[None],
                     torch.from_numpy(expected[f"step{step}_K"])[None], (120, 96)).to(device)
    renderer.zero_grad()
    target = torch.from_numpy(expected[f"step{step}_target"])[None].to(device)
    with tf32(False):
        output = renderer(camera)
        terms = loss(output.trained_color, output.alpha, output.depth, target)
        terms["total"].backward()
    for name, theirs in (("perceptual", "ploss"), ("mse", "mseloss"), ("gradient", "gradloss"),
                         ("total", "totalloss")):
        assert terms[name].item() == pytest.approx(float(expected[f"step{step}_{theirs}"]), rel=1e-5)
    parameters = dict(renderer.named_parameters())
    prefix = f"step{step}_gradnorm_"
    for key in (key for key in expected if key.startswith(prefix)):
        norm = parameters[our_name(key.removeprefix(prefix))].grad.norm().item()
        assert norm == pytest.approx(float(expected[key]), rel=1e-3), key
