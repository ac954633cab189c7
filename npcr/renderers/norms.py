# SPDX-License-Identifier: Apache-2.0
"""The norms that MODEL.NORM names."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ImageNorm(nn.Module):
    """Normalize each channel of each image by its own mean and variance, then scale and shift.

    Equals `nn.InstanceNorm2d(affine=True)`, and batch norm in training mode on a batch of one, which is how
    the published method both trains and renders. Written out because torch's instance norm leaves
    channels_last memory, and its group norm in that memory loses three digits of the variance. What is of a half type
    is normalized in float32: the mean is often large beside the deviations from it, which rounding would swallow.

    Args:
        channels: of the feature map.
        eps: added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = widen(x)
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        shift = self.bias[:, None, None] - mean * scale
        return torch.addcmul(shift, x, scale)


def widen(x: Tensor) -> Tensor:
    """Return a tensor of a half type, as convolutions under autocast give it, in float32; others as they are.

    Args:
        x: any tensor of floating point.

    Returns:
        x, or its copy in float32.
    """
    return x.float() if x.itemsize == 2 else x


def make_norm(kind: str, channels: int) -> nn.Module:
    """Make the norm that a value of MODEL.NORM names.

    Args:
        kind: "instance" (of each image, as published), "batch" (running statistics) or "none".
        channels: of the feature map.

    Returns:
        An ImageNorm, nn.BatchNorm2d or nn.Identity.

    Raises:
        ValueError: kind is another.
    """
    if kind == "instance":
        return ImageNorm(channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"make_norm: kind is {kind!r}; allowed: instance, batch, none")


def own_statistics(norm: nn.Module) -> bool:
    """Return whether a norm takes its statistics from its input, rather than applying what it has learned.

    Args:
        norm: as `make_norm` gives it.

    Returns:
        True for an ImageNorm, and for a BatchNorm2d in training.
    """
    if isinstance(norm, nn.BatchNorm2d):
        return norm.training
    return not isinstance(norm, nn.Identity)


def fixed_affine(norm: nn.Module, channels: int) -> tuple[Tensor, Tensor]:
    """Return scale and shift that a norm without statistics of its own applies.

    Args:
        norm: a BatchNorm2d or Identity.
        channels: of the feature map.

    Returns:
        (channels,) each: from batch norm's running statistics, or ones and zeros.
    """
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale
    return torch.ones(channels), torch.zeros(channels)
