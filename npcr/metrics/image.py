# SPDX-License-Identifier: Apache-2.0
"""Metrics of rendered images and mattes against reference ones, one number per image."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.transfers import to_device

# Of the reference implementation (Wang et al. 2004).
SSIM_WINDOW = 11  # side, pixels
SSIM_SIGMA = 1.5  # standard deviation of the Gaussian weights, pixels
SSIM_K1, SSIM_K2 = 0.01, 0.03


def psnr(image: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(data_range² / MSE); higher is better.

    Args:
        image: (B, ...) float, values in [0, data_range].
        target: (B, ...) reference.
        data_range: largest value.

    Returns:
        (B,) dB; infinite for equal images. The mean squared error is over all channels and pixels of an image.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> black, gray = torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.1)
        >>> round(psnr(gray, black).item(), 3)
        20.0
    """
    _check_shapes("psnr", image, target)
    mse = (image - target).square().flatten(1).mean(1)
    return 10 * torch.log10(data_range**2 / mse)


def ssim(image: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """Mean structural similarity; higher is better.

    Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli: "Image quality assessment: from error visibility to structural
    similarity", IEEE TIP 2004. Gaussian window of 11x11 pixels (sigma 1.5), at the positions where it lies within the
    image; the mean is over these and the channels. In a smaller image the window shrinks, and sigma with it, to the
    largest odd size that fits. Differentiable; computed in float32 also under autocast.

    Args:
        image: (B, C, H, W) float, values in [0, data_range].
        target: (B, C, H, W) reference.
        data_range: largest value.

    Returns:
        (B,) float32 in [-1, 1]; 1 for equal images.

    Raises:
        ValueError: the shapes differ, or are not (B, C, H, W).

    Example:
        >>> image = torch.arange(256.0).view(1, 1, 16, 16) / 255
        >>> round(ssim(image, image).item(), 2), round(ssim(1 - image, image).item(), 2)
        (1.0, -0.83)
    """
    _check_shapes("ssim", image, target)
    if image.ndim != 4:
        raise ValueError(f"ssim: image must be (B, C, H, W), is {tuple(image.shape)}")
    with torch.autocast(image.device.type, enabled=False):
        x, y = image.float(), target.float()
        window = _gaussian(min(SSIM_WINDOW, *x.shape[2:]), x.device)
        # The five moments that SSIM is made of; those of a target alone need no gradient.
        mean_x, xx, xy = _Filter.apply(torch.stack([x, x * x, x * y]), window, 0)
        mean_y, yy = _Filter.apply(torch.stack([y, y * y]), window, 0)
        mean_xx, mean_yy, mean_xy = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
        variances, covariance = (xx - mean_xx) + (yy - mean_yy), xy - mean_xy
        c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
        luminance = (2 * mean_xy + c1) / (mean_xx + mean_yy + c1)
        contrast_structure = (2 * covariance + c2) / (variances + c2)
        return (luminance * contrast_structure).flatten(1).mean(1)


def alpha_mae(alpha: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of a matte; lower is better.

    Args:
        alpha: (B, 1, H, W) float in [0, 1].
        target: (B, 1, H, W) reference.

    Returns:
        (B,) in [0, 1].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> round(alpha_mae(torch.full((1, 1, 4, 4), 0.75), torch.ones(1, 1, 4, 4)).item(), 3)
        0.25
    """
    _check_shapes("alpha_mae", alpha, target)
    return (alpha - target).abs().flatten(1).mean(1)


def alpha_sad(alpha: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute differences of a matte, in thousands; lower is better.

    The unit of matting benchmarks (C. Rhemann et al.: "A perceptually motivated online benchmark for image matting",
    CVPR 2009). Unlike a mean it grows with the image.

    Args:
        alpha: (B, 1, H, W) float in [0, 1].
        target: (B, 1, H, W) reference.

    Returns:
        (B,) in [0, H W / 1000].

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> round(alpha_sad(torch.full((1, 1, 40, 50), 0.75), torch.ones(1, 1, 40, 50)).item(), 3)
        0.5
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
    weights = torch.tensor([math.exp(-(i**2) / (2 * sigma**2)) for i in offsets])
    return to_device(weights / weights.sum(), device)


class _Filter(torch.autograd.Function):
    """Convolve images (..., H, W), padded with zeros, with a separable window.

    The window is symmetric, so the gradient is a convolution with it, too. torch's own gradient of a convolution of one
    channel takes ten times as long as the convolution, on a GPU a hundred times.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, window: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(window)
        ctx.padding = padding
        planes = images.flatten(0, -3)[None]
        count = planes.shape[1]  # each a channel of its own, for which there are kernels made to measure
        rows = F.conv2d(planes, window.expand(count, 1, 1, -1), padding=(0, padding), groups=count)
        filtered = F.conv2d(rows, window[:, None].expand(count, 1, -1, 1), padding=(padding, 0), groups=count)
        return filtered.view(*images.shape[:-2], *filtered.shape[2:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (window,) = ctx.saved_tensors
        return _Filter.apply(grad, window, len(window) - 1 - ctx.padding), None, None
