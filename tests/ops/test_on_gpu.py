# SPDX-License-Identifier: Apache-2.0
"""Twin and kernel on a GPU against the CPU. Skipped without one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.ops import compiled_available, gather_features, rasterize
from tests.ops.clouds import random_case

pytestmark = pytest.mark.gpu
needs_kernel = pytest.mark.skipif(not compiled_available("cuda"), reason="no compiled CUDA kernel for this device")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("peeling", ["point", "pixel"])
@pytest.mark.parametrize("seed", range(30))
def test_rasterize_equals_the_cpu(seed: int, peeling: str, backend: str) -> None:
    (*tensors, size), settings = random_case(seed)
    expected = rasterize(*tensors, size, **settings, peeling=peeling, backend="torch")
    on_gpu = [tensor.cuda() for tensor in tensors]
    found = rasterize(*on_gpu, size, **settings, peeling=peeling, backend=backend)
    assert torch.equal(found.index.cpu(), expected.index)
    assert torch.equal(found.depth.cpu(), expected.depth)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parity_scene(parity: Path, backend: str) -> None:
    points = torch.tensor(
        np.loadtxt(parity / "scene" / "pointclouds" / "frame1.xzy")[:, :3], dtype=torch.float32, device="cuda"
    )
    with np.load(parity / "expected.npz") as arrays:
        pose = torch.tensor(arrays["step0_T"], device="cuda")[None]
        intrinsics = torch.tensor(arrays["step0_K"], device="cuda")[None]
    settings = {"near": 3.0, "far": 6.0, "max_size": 1.5, "layers": 4}
    found = rasterize(points, pose, intrinsics, (120, 96), **settings, backend=backend)
    expected = rasterize(points.cpu(), pose.cpu(), intrinsics.cpu(), (120, 96), **settings)
    assert torch.equal(found.index.cpu(), expected.index)
    assert torch.equal(found.depth.cpu(), expected.depth)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [3, 32, 35])
def test_gather_and_its_gradient_equal_the_cpu(channels: int, backend: str) -> None:
    generator = torch.Generator().manual_seed(channels)
    features = torch.randn(500, channels, generator=generator)
    default = torch.randn(channels, generator=generator)
    index = torch.randint(-1, 500, (2, 3, 40, 50), generator=generator).int()
    index[0] = -1
    cotangent = torch.randn(2, 3, channels, 40, 50, generator=generator)
    results = []
    for device, chosen in (("cpu", "torch"), ("cuda", backend), ("cuda", backend)):
        inputs = [tensor.to(device).requires_grad_() for tensor in (features, default)]
        images = gather_features(*inputs, index.to(device), backend=chosen)
        grads = torch.autograd.grad(images, inputs, cotangent.to(device))
        results.append([tensor.detach().cpu() for tensor in (images, *grads)])
    expected, found, again = results
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@needs_kernel
def test_kernels_run_in_a_cuda_graph() -> None:
    (*tensors, size), settings = random_case(13)
    points, poses, intrinsics = (tensor.cuda() for tensor in tensors)
    features, default = torch.randn(len(points), 8, device="cuda"), torch.randn(8, device="cuda")

    def frame() -> torch.Tensor:
        index = rasterize(points, poses, intrinsics, size, **settings, backend="compiled").index
        return gather_features(features, default, index, backend="compiled")

    expected = frame()  # also warms up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = frame()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured, expected)
