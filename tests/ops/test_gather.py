# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from npcr.ops import compiled_available, gather_features

needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def random_case(
    seed: int, points: int, channels: int, shape: tuple[int, int, int, int], dtype: torch.dtype = torch.int32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """features, default_feature, index and a cotangent for the result."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(points, channels, generator=generator)
    default = torch.randn(channels, generator=generator)
    index = torch.randint(-1, max(points, 1), shape, generator=generator)
    if points == 0:
        index.fill_(-1)
    index[torch.rand(shape, generator=generator) < 0.3] = -1
    batch, layers, height, width = shape
    cotangent = torch.randn(batch, layers, channels, height, width, generator=generator)
    return features, default, index.to(dtype), cotangent


def run(case: tuple[Tensor, Tensor, Tensor, Tensor], backend: str) -> tuple[Tensor, Tensor, Tensor]:
    """The images and both gradients."""
    features, default, index, cotangent = case
    features, default = features.clone().requires_grad_(), default.clone().requires_grad_()
    images = gather_features(features, default, index, backend=backend)
    images.backward(cotangent)
    assert features.grad is not None
    assert default.grad is not None
    return images.detach(), features.grad, default.grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_by_hand(backend: str) -> None:
    features = torch.tensor([[1.0, 10], [2, 20], [3, 30]], requires_grad=True)
    default = torch.tensor([-1.0, -10], requires_grad=True)
    index = torch.tensor([[[[2, -1, 0]], [[2, -1, -1]]]], dtype=torch.int32)
    images = gather_features(features, default, index, backend=backend)
    assert images.tolist() == [[[[[3, -1, 1]], [[30, -10, 10]]], [[[3, -1, -1]], [[30, -10, -10]]]]]
    (images * torch.arange(12.0).reshape(images.shape)).sum().backward()
    assert features.grad is not None
    assert default.grad is not None
    assert features.grad.tolist() == [[2, 5], [0, 0], [6, 12]]
    assert default.grad.tolist() == [1 + 7 + 8, 4 + 10 + 11]


@needs_kernel
@pytest.mark.parametrize("channels", [1, 3, 32, 35])
@pytest.mark.parametrize(
    ("points", "shape"), [(0, (1, 1, 3, 2)), (1, (1, 2, 1, 1)), (17, (2, 3, 9, 11)), (900, (2, 2, 70, 60))]
)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_kernel_equals_the_reference(
    points: int, channels: int, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    case = random_case(points + channels, points, channels, shape, dtype)
    reference, kernel = run(case, "torch"), run(case, "compiled")
    assert torch.equal(reference[0], kernel[0])
    assert torch.equal(reference[1], kernel[1])  # the same sums in the same order
    torch.testing.assert_close(reference[2], kernel[2], rtol=1e-6, atol=1e-6)


@needs_kernel
def test_gradients_do_not_depend_on_the_number_of_threads(threads: None) -> None:
    case = random_case(0, 500, 32, (1, 3, 90, 80))
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(run(case, "compiled"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_is_channels_last(backend: str) -> None:
    features, default, index, _ = random_case(0, 20, 5, (2, 3, 7, 4))
    images = gather_features(features, default, index, backend=backend)
    assert images.shape == (2, 3, 5, 7, 4)
    flat = images.flatten(0, 1)
    assert flat.data_ptr() == images.data_ptr()
    assert flat.is_contiguous(memory_format=torch.channels_last)


def test_gradient_against_differences() -> None:
    features, default, index, _ = random_case(1, 6, 3, (1, 2, 4, 3))
    inputs = features.double().requires_grad_(), default.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda f, d: gather_features(f, d, index), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_go_through_the_reference(dtype: torch.dtype) -> None:
    case = random_case(2, 9, 4, (1, 1, 8, 8))
    images, grad, grad_default = run(tuple(x if x.dtype == torch.int32 else x.to(dtype) for x in case), "auto")
    assert images.dtype == grad.dtype == grad_default.dtype == dtype
    exact = run(tuple(x if x.dtype == torch.int32 else x.to(dtype).double() for x in case), "torch")
    for found, wanted in zip((images, grad, grad_default), exact, strict=True):
        torch.testing.assert_close(found, wanted.to(dtype))


def test_under_autocast() -> None:
    case = random_case(3, 9, 4, (1, 1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        under = run(case, "auto")
    assert all(torch.equal(a, b) for a, b in zip(under, run(case, "auto"), strict=True))
