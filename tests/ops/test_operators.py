# SPDX-License-Identifier: Apache-2.0
"""The registration with torch: schemas, fake tensors, autograd, torch.compile."""

from __future__ import annotations

import pytest
import torch

from npcr.ops import compiled_available, gather_features, rasterize
from tests.ops.clouds import random_case

needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck(backend: str) -> None:
    (points, poses, intrinsics, size), settings = random_case(13)
    settings["layers"] = 2
    torch.library.opcheck(
        torch.ops.npcr.rasterize.default,
        (points, poses, intrinsics, *size, 1.0, 4.0, 1.0, 2, "point", backend),
    )
    index = rasterize(points, poses, intrinsics, size, **settings, backend=backend).index
    features = torch.randn(len(points), 3, requires_grad=True)
    default = torch.randn(3, requires_grad=True)
    torch.library.opcheck(torch.ops.npcr.gather_features.default, (features, default, index, backend))
    grad = torch.randn(*index.shape, 3)
    torch.library.opcheck(torch.ops.npcr.scatter_features.default, (grad, index, len(points), backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_into_one_graph(backend: str) -> None:
    (points, poses, intrinsics, size), settings = random_case(13)

    def frame(features: torch.Tensor, default: torch.Tensor) -> torch.Tensor:
        index = rasterize(points, poses, intrinsics, size, **settings, backend=backend).index
        return gather_features(features, default, index, backend=backend).square().mean()

    features = torch.randn(len(points), 3, requires_grad=True)
    default = torch.randn(3, requires_grad=True)
    plain = torch.autograd.grad(frame(features, default), (features, default))
    compiled = torch.compile(frame, backend="aot_eager", fullgraph=True)
    traced = torch.autograd.grad(compiled(features, default), (features, default))
    for found, wanted in zip(traced, plain, strict=True):
        torch.testing.assert_close(found, wanted)
