# SPDX-License-Identifier: Apache-2.0
"""The parts of the U-Net: gated convolutions, anti-aliased halving, doubling, output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.renderers.cpu import autograd as fast
from npcr.renderers.norms import fixed_affine, make_norm, own_statistics
from npcr.renderers.receptive_field import Window


class GatedConv(nn.Module):
    """`sigmoid(gate(x)) * conv(x)`, both 3x3 with bias and padding 1: (B, a, H, W) to (B, b, H, W).

    Both convolutions read the same picture, so one convolution with the weights of both stacked computes
    them in a single pass; the parameters stay apart, as published checkpoints have them.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.gate = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, self.conv.weight, _bias(self.conv))

    def normed(self, x: Tensor, norm: nn.Module) -> Tensor:
        """`norm(self(x))`; a norm that is fixed, without gradients, is scaled into the convolution's weights."""
        if not isinstance(norm, nn.BatchNorm2d) or own_statistics(norm) or torch.is_grad_enabled():
            return norm(self(x))
        scale, shift = fixed_affine(norm, self.conv.out_channels)
        scaled = self._run(x, self.conv.weight * scale[:, None, None, None], _bias(self.conv) * scale)
        return scaled + shift[:, None, None].to(scaled.dtype)

    def _run(self, x: Tensor, conv_weight: Tensor, conv_bias: Tensor) -> Tensor:
        weight = torch.cat([conv_weight, self.gate.weight])
        bias = torch.cat([conv_bias, _bias(self.gate)])
        return F.glu(F.conv2d(x, weight, bias, padding=1), dim=1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # nn.Conv2d's type allows None; ours always have one
    return conv.bias


class DoubleConv(nn.Module):
    """Two gated convolutions, each followed by norm and ReLU: (B, a, H, W) to (B, b, H, W)."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv1 = GatedConv(channels_in, channels_out)
        self.norm1 = make_norm(norm, channels_out)
        self.conv2 = GatedConv(channels_out, channels_out)
        self.norm2 = make_norm(norm, channels_out)

    def forward(self, *sources: Tensor, window: Window | None = None) -> Tensor:
        """Several sources (B, a_i, H, W) count as concatenated along the channels.

        window: the pixels that are wanted, where `fast.supports_regions`; the others then hold anything.
        """
        if fast.serves(*sources):
            layers = ((self.conv1, self.norm1), (self.conv2, self.norm2))
            windows = (window.grown(1), window) if window else (None, None)
            for (gated, norm), wanted in zip(layers, windows, strict=True):
                sources = (fast.gated_layer(sources, gated.conv, gated.gate, norm, wanted),)
            return sources[0]
        x = sources[0] if len(sources) == 1 else torch.cat(sources, dim=1)
        x = F.relu(self.conv1.normed(x, self.norm1))
        return F.relu(self.conv2.normed(x, self.norm2))


def blur_halve(x: Tensor) -> Tensor:
    """Anti-aliased halving: binomial [1 2 1]² / 16 filter at stride 2, reflected borders.

    (B, C, H, W) to (B, C, ceil(H / 2), ceil(W / 2)); H and W at least 2 (the border is reflected once).
    """
    channels = x.shape[1]
    # Made on the device: a copy from the host would wait for it, and could not be captured in a CUDA graph.
    row = 0.5 - (torch.arange(3, dtype=x.dtype, device=x.device) - 1).abs() / 4
    kernel = (row[:, None] * row[None, :]).expand(channels, 1, 3, 3)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=channels)


class Down(nn.Module):
    """Max-pool 2 at stride 1, anti-aliased stride 2, double convolution: halves H and W."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv = DoubleConv(channels_in, channels_out, norm)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        halved = fast.halve(x) if fast.serves(x) else blur_halve(F.max_pool2d(x, 2, stride=1))
        return self.conv(halved, window=window)


class Up(nn.Module):
    """Bilinear doubling, zero-padded to the skips' size, concatenated after them, double convolution."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv = DoubleConv(channels_in, channels_out, norm)

    def forward(self, x: Tensor, *skips: Tensor, window: Window | None = None) -> Tensor:
        size = (skips[0].shape[2], skips[0].shape[3])
        doubled = fast.double(x, size) if fast.serves(x) else double(x, size)
        return self.conv(*skips, doubled, window=window)


def double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear doubling with aligned corners, zeros around it up to `size` (H, W), the smaller half first."""
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    rows, columns = size[0] - x.shape[2], size[1] - x.shape[3]
    if rows or columns:
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return x


class Out(nn.Module):
    """A 1x1 convolution plus a 3x3 convolution, summed."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(channels_in, channels_out, 1)
        self.spatial = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor, window: Window | None = None) -> Tensor:
        if fast.serves(x):  # the 1x1 weights are the middle of 3x3 ones
            weight = self.spatial.weight + F.pad(self.point.weight, (1, 1, 1, 1))
            return fast.convolution([x], weight, _bias(self.point) + _bias(self.spatial), window)
        return self.point(x) + self.spatial(x)
