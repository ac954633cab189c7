# SPDX-License-Identifier: Apache-2.0
"""How far a rendered picture and matte are from the photographed ones, one number per picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SSIM_WINDOW = 11  # pixels
SSIM_SIGMA = 1.5  # pixels, of the Gaussian in that window
SSIM_K1, SSIM_K2 = 0.01, 0.03


def psnr(image: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """(B, ...) and (B, ...) -> (B,) peak signal-to-noise ratio in dB, `10 log10(data_range² / MSE)`.

    The mean squared error runs over all channels and pixels of a picture; infinite where it is 0.
    """
    _check_shapes("psnr", image, target)
    mse = (image - target).square().flatten(1).mean(1)
    return 10 * torch.log10(data_range**2 / mse)


def ssim(image: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """(B, C, H, W) and (B, C, H, W) -> (B,) mean structural similarity, at most 1 (Wang et al. 2004).

    Gaussian window of 11x11 pixels (sigma 1.5), at the positions where it lies within the picture; the mean
    runs over these and the channels. In a picture smaller than that the window, and sigma with it, shrinks
    to the largest odd size that fits. Differentiable in `image`; computed in float32 also under autocast.
    """
    _check_shapes("ssim", image, target)
    if image.ndim != 4:
        raise ValueError(f"ssim: image must be (B, C, H, W), is {tuple(image.shape)}")
    with torch.autocast(image.device.type, enabled=False):
        x, y = image.float(), target.float()
        window = _gaussian(min(SSIM_WINDOW, *x.shape[2:]), x.device)
        # One filtering for the five moments that SSIM is made of.
        moments = _filter(torch.stack([x, y, x * x, y * y, x * y]).flatten(0, 2)[:, None], window)
        mean_x, mean_y, xx, yy, xy = moments.unflatten(0, (5, *x.shape[:2])).squeeze(3).unbind(0)
        variance_x, variance_y = xx - mean_x**2, yy - mean_y**2
        covariance = xy - mean_x * mean_y
        c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        contrast_structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        return (luminance * contrast_structure).flatten(1).mean(1)


def alpha_mae(alpha: Tensor, target: Tensor) -> Tensor:
    """(B, 1, H, W) and (B, 1, H, W) mattes in [0, 1] -> (B,) mean absolute difference."""
    _check_shapes("alpha_mae", alpha, target)
    return (alpha - target).abs().flatten(1).mean(1)


def alpha_sad(alpha: Tensor, target: Tensor) -> Tensor:
    """(B, 1, H, W) and (B, 1, H, W) mattes in [0, 1] -> (B,) sum of absolute differences in thousands.

    The unit of image matting benchmarks (Rhemann et al. 2009); unlike a mean it grows with the picture.
    """
    _check_shapes("alpha_sad", alpha, target)
    return (alpha - target).abs().flatten(1).sum(1) / 1000


def _check_shapes(name: str, image: Tensor, target: Tensor) -> None:
    if image.shape != target.shape or image.ndim < 2:
        raise ValueError(f"{name}: shapes must be (B, ...) and equal, are {tuple(image.shape)} and "
                         f"{tuple(target.shape)}")


def _gaussian(largest: int, device: torch.device) -> Tensor:
    """(n,) weights that sum to 1; n is the largest odd number up to `largest`."""
    size = largest - (largest + 1) % 2
    sigma = SSIM_SIGMA * size / SSIM_WINDOW
    offsets = range(-(size // 2), size // 2 + 1)
    weights = torch.tensor([math.exp(-(i**2) / (2 * sigma**2)) for i in offsets], device=device)
    return weights / weights.sum()


def _filter(images: Tensor, window: Tensor) -> Tensor:
    """(N, 1, H, W) filtered along both axes, where the window fits."""
    return F.conv2d(F.conv2d(images, window[None, None, None, :]), window[None, None, :, None])
