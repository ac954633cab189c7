# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from npcr.metrics.image import alpha_mae, alpha_sad, psnr, ssim


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_psnr_by_hand() -> None:
    black, gray = torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), 0.1)
    assert psnr(gray, black).item() == pytest.approx(20)  # MSE 0.01
    assert psnr(255 * gray, 255 * black, data_range=255).item() == pytest.approx(20)
    one_pixel = black.clone()
    one_pixel[0, :, 0, 0] = 1  # MSE 1/4
    assert psnr(one_pixel, black).item() == pytest.approx(10 * math.log10(4))
    assert psnr(black, black).item() == math.inf
    assert psnr(torch.cat([gray, one_pixel]), torch.cat([black, black])).tolist() == pytest.approx(
        [20, 10 * math.log10(4)])


def test_alpha_errors_by_hand() -> None:
    alpha, target = torch.zeros(2, 1, 20, 50), torch.zeros(2, 1, 20, 50)
    alpha[0] = 0.25
    target[1, 0, 0, :10] = 1
    assert alpha_mae(alpha, target).tolist() == pytest.approx([0.25, 0.01])
    assert alpha_sad(alpha, target).tolist() == pytest.approx([0.25, 0.01])  # of 1000 pixels, in thousands
    assert alpha_sad(alpha[..., :25], target[..., :25]).tolist() == pytest.approx([0.125, 0.01])


def readable_ssim(x: np.ndarray, y: np.ndarray, data_range: float, size: int = 11,
                  sigma: float = 1.5) -> float:
    """Mean SSIM of one channel, window by window, as Wang et al. 2004 write it."""
    offsets = np.arange(size) - size // 2
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for top in range(x.shape[0] - size + 1):
        for left in range(x.shape[1] - size + 1):
            a = x[top:top + size, left:left + size]
            b = y[top:top + size, left:left + size]
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            variance_a = (weights * (a - mean_a) ** 2).sum()
            variance_b = (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            values.append((2 * mean_a * mean_b + c1) * (2 * covariance + c2)
                          / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize(("height", "width"), [(11, 11), (17, 23)])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_the_readable_one(height: int, width: int, data_range: float) -> None:
    target = noise(2, 3, height, width)
    image = (0.7 * target + 0.3 * noise(2, 3, height, width, seed=1)) * data_range
    target = target * data_range
    expected = [np.mean([readable_ssim(x.double().numpy(), y.double().numpy(), data_range)
                         for x, y in zip(image[b], target[b], strict=True)]) for b in range(2)]
    assert ssim(image, target, data_range).tolist() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("shape", "size"), [((10, 30), 9), ((5, 5), 5), ((2, 7), 1), ((1, 1), 1)])
def test_ssim_of_tiny_pictures_takes_a_smaller_window(shape: tuple[int, int], size: int) -> None:
    image, target = noise(1, 1, *shape), noise(1, 1, *shape, seed=1)
    expected = readable_ssim(image[0, 0].double().numpy(), target[0, 0].double().numpy(), 1.0, size,
                             1.5 * size / 11)
    assert ssim(image, target).item() == pytest.approx(expected, abs=1e-5)


def test_ssim_of_equal_flat_and_inverted_pictures() -> None:
    picture = noise(1, 3, 16, 16)
    assert ssim(picture, picture).item() == pytest.approx(1, abs=1e-6)
    flat = torch.full((1, 1, 16, 16), 0.5)
    # Flat pictures differ in luminance alone: (2ab + c1) / (a² + b² + c1).
    assert ssim(flat, flat / 2).item() == pytest.approx((0.25 + 1e-4) / (0.3125 + 1e-4), abs=1e-5)
    assert ssim(picture, 1 - picture).item() < 0


def test_ssim_has_a_gradient_that_leads_to_the_target() -> None:
    target = noise(1, 3, 20, 20)
    image = noise(1, 3, 20, 20, seed=1).requires_grad_()
    start = ssim(image, target).mean()
    start.backward()
    assert image.grad is not None
    step = (image + 10 * image.grad).detach()
    assert torch.isfinite(image.grad).all()
    assert ssim(step, target).item() > start.item() + 0.01
    flat = torch.zeros(1, 1, 16, 16, requires_grad=True)
    ssim(flat, torch.zeros(1, 1, 16, 16)).sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


@pytest.mark.parametrize("shape", [(2, 3, 24, 17), (1, 1, 11, 11), (1, 2, 5, 30)])
def test_ssim_has_torchs_gradients(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second derivatives, in both images, are those that torch finds for plain convolutions."""
    class Plain:
        @staticmethod
        def apply(images: torch.Tensor, window: torch.Tensor, padding: int) -> torch.Tensor:
            assert padding == 0
            rows = F.conv2d(images.flatten(0, -3)[:, None], window[None, None, None])
            return F.conv2d(rows, window[None, None, :, None]).view(*images.shape[:-2], shape[2] - len(window) + 1, -1)

    pictures = [torch.rand(shape, requires_grad=True) for _ in range(2)]

    def derivatives() -> list[torch.Tensor]:
        first = torch.autograd.grad(ssim(*pictures).sum(), pictures, create_graph=True)
        return [*first, *torch.autograd.grad(sum(grad.square().sum() for grad in first), pictures)]

    ours = derivatives()
    monkeypatch.setattr("npcr.metrics.image._Filter", Plain)
    for found, expected in zip(ours, derivatives(), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_ssim_keeps_float32_under_autocast() -> None:
    image, target = noise(1, 3, 24, 24), noise(1, 3, 24, 24, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ssim(image, target)
    assert inside.dtype == torch.float32
    assert inside.item() == ssim(image, target).item()


@pytest.mark.parametrize("metric", [psnr, ssim, alpha_mae, alpha_sad])
def test_shapes_are_checked(metric) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=rf"^{metric.__name__}: shapes must be .*1, 1, 8, 8.* and .*1, 8, 9"):
        metric(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9))
