# SPDX-License-Identifier: Apache-2.0
"""The gated U-Net on Triton kernels: how its blocks are run, on the reference; the kernels, in Triton's interpreter."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from npcr.cameras import Cameras
from npcr.numerics import autocast, tf32
from npcr.renderers import LayeredRenderer
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.gpu import block_runner
from npcr.renderers.gpu import runner as gpu_runner
from npcr.renderers.gpu.runner import EXACT_BLOCKS, runner_of, why_no_triton, why_not
from tests.scenes import orbit_cameras

KERNELS = Path(__file__).with_name("triton_kernels.py")
ADDRESSES = Path(__file__).with_name("triton_addresses.py")
needs_triton = pytest.mark.skipif(why_no_triton() is not None,
                                  reason=f"{why_no_triton()}; torch's wheels for CUDA bring it")


def run_kernel_tests(marks: str, names: str = "test", file: Path = KERNELS, **environment: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-m", marks, "-k", names, str(file)],
                          text=True, capture_output=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
@needs_triton
def test_kernels_in_the_interpreter() -> None:
    run_kernel_tests("not slow", TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.slow
def test_more_cases_in_the_interpreter() -> None:
    """All but the whole network, which takes minutes there, and is compared on a GPU."""
    run_kernel_tests("slow", "not whole_network", TRITON_INTERPRET="1")


@needs_triton
@pytest.mark.slow
def test_no_kernel_reaches_beyond_its_tensors() -> None:
    run_kernel_tests("slow or not slow", file=ADDRESSES, TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_kernels_on_a_gpu() -> None:
    run_kernel_tests("slow or not slow")


def network(channels: int = 5) -> GatedUNet:
    torch.manual_seed(0)
    return GatedUNet(channels, backend="torch")


def gradients(module: nn.Module, result: Tensor) -> Tensor:
    module.zero_grad(set_to_none=True)
    result.square().mean().backward()
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


@pytest.mark.parametrize(("height", "width"), [(49, 51)])
def test_the_sum_of_two_float16_is_as_good_as_float32(height: int, width: int) -> None:
    net, x = network(), torch.randn(1, 5, height, width).requires_grad_()
    wanted = net(x)
    exact = gradients(net, wanted)
    exact_x, x.grad = x.grad, None
    found = net._forward(runner_of(net, None), x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
    assert (gradients(net, found) - exact).norm() < 0.03 * exact.norm()  # few pixels: a ReLU's side weighs more
    assert x.grad is not None
    assert exact_x is not None
    assert (x.grad - exact_x).norm() < 0.03 * exact_x.norm()
    with torch.no_grad():
        assert torch.equal(net._forward(runner_of(net, None), x), found)


def test_float16_computes_some_blocks_with_the_sum_of_two() -> None:
    net, x = network(), torch.randn(1, 5, 32, 32)
    with torch.no_grad():
        wanted = net(x)
        errors = [(net._forward(runner_of(net, exact), x) - wanted).abs().max()
                  for exact in (frozenset(), EXACT_BLOCKS)]
    assert errors[1] < 0.015
    assert errors[1] < errors[0] / 2
    assert frozenset(dict(net.named_children())) > EXACT_BLOCKS


def test_elsewhere_than_on_a_gpu_torch_runs() -> None:
    x = torch.zeros(1, 5, 24, 24)
    for precision in ("float32", "float16x2"):
        with autocast(precision, x.device):
            assert block_runner(network(), x, "auto") is None


class OnGpu:
    """An image as `why_not` looks at it, where there is no GPU."""

    is_cuda, device, dtype = True, torch.device("cuda"), torch.float32

    def __init__(self, side: int, channels: int) -> None:
        self.shape = (6, channels, side, side)


@pytest.mark.parametrize(("changes", "reason"), [
    ({}, None), ({"capability": (7, 5)}, "compute capability 8.0"),
    ({"triton": "3.5.1"}, "Triton 3.6 or newer, installed is 3.5.1"), ({"norm": "batch"}, "MODEL.NORM instance"),
    ({"side": 7000}, "the image has 49,000,000"), ({"side": 5000}, None),
    ({"side": 5000, "channels": 90}, "fewer than 22,369,621 pixels, the image has 25,000,000"),
    ({"double": True}, "float32 weights")])
def test_what_the_kernels_do_not_serve_is_said(changes: dict[str, Any], reason: str | None,
                                               monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest,
                                               caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: changes.get("capability", (9, 0)))
    monkeypatch.setattr(importlib.metadata, "version", lambda _: changes.get("triton", "3.10.0+git1"))
    why_no_triton.cache_clear()
    request.addfinalizer(why_no_triton.cache_clear)
    net = GatedUNet(5, changes.get("norm", "instance"))
    x: Any = OnGpu(changes.get("side", 600), changes.get("channels", 5))
    found = why_not(net.double() if changes.get("double") else net, x)
    assert (reason is None) == (found is None)
    gpu_runner._say_why_not.cache_clear()
    with autocast("float16x2", torch.device("cpu")):
        runners = [block_runner(net, x, "auto") for _ in range(2)]
        assert block_runner(net, x, "torch") is None
    assert [run is None for run in runners] == [reason is not None] * 2
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (reason is not None)
    assert reason is None or (reason in warnings[0] and "computes in float32" in warnings[0])


def test_recomputed_layers_are_computed_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_runner, "why_not", lambda *_: None)
    found, calls = [], []
    real = gpu_runner.runner_of
    monkeypatch.setattr(gpu_runner, "runner_of", lambda *args: calls.append(args) or real(*args))
    for recompute in (False, True):
        renderer, camera = layered("cpu")
        renderer.recompute_layers = recompute
        with autocast("float16x2", torch.device("cpu")):
            result = renderer.train()(camera).layer_rgba
        found.append(gradients(renderer, result))
    assert len(calls) == 1 + 2 * 2  # both layers at once; then each, and each again for its gradients
    assert 0 < (found[1] - found[0]).norm() < 0.02 * found[0].norm()


def layered(device: str) -> tuple[LayeredRenderer, Cameras]:
    torch.manual_seed(0)
    renderer = LayeredRenderer([0.4 * torch.randn(3000, 3)], feature_dim=8, layers=2, splat=(2.0, 8.0, 1.5))
    return renderer.to(device), orbit_cameras(3, (26, 24))[1].to(device)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "allowed", "of_gradient"), [("float16", 0.01, None), ("float16x2", 2e-4, 0.03)])
def test_a_frame_and_gradients_on_a_gpu(precision: str, allowed: float, of_gradient: float | None) -> None:
    renderer, camera = layered("cuda")
    with tf32(False):
        wanted = renderer.train()(camera).layer_rgba
        exact = gradients(renderer, wanted)
        with autocast(precision, torch.device("cuda")):
            found = renderer(camera).layer_rgba
        assert 0 < (found - wanted).abs().max() < allowed
        if of_gradient is not None:
            assert (gradients(renderer, found) - exact).norm() < of_gradient * exact.norm()
        renderer.eval().runner.prepare_rendering(precision, True, torch.device("cuda"))
        with torch.no_grad():
            assert torch.equal(renderer(camera).layer_rgba, found)
