# SPDX-License-Identifier: Apache-2.0
"""The blocks of the gated U-Net: gated convolutions, anti-aliased halving, doubling, output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.renderers.norms import fixed_affine, make_norm, own_statistics, widen


class GatedConv(nn.Module):
    """`sigmoid(gate(x)) * conv(x)`, both 3x3 with bias and padding 1: (B, a, H, W) to (B, b, H, W).

    Both convolutions read the same feature map, so one convolution with the weights of both stacked computes
    them in a single pass; the parameters stay apart, as published checkpoints have them. Under autocast the
    convolution alone is of a half type: a norm follows, which would enlarge what is rounded after it.

    Args:
        channels_in: a.
        channels_out: b.
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
        return scaled + shift[:, None, None]

    def _run(self, x: Tensor, conv_weight: Tensor, conv_bias: Tensor) -> Tensor:
        weight = torch.cat([conv_weight, self.gate.weight])
        bias = torch.cat([conv_bias, _bias(self.gate)])
        return F.glu(widen(F.conv2d(x, weight, bias, padding=1)), dim=1)


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None  # nn.Conv2d's type allows None; ours always have one
    return conv.bias


class DoubleConv(nn.Module):
    """Two gated convolutions, each followed by norm and ReLU: (B, a, H, W) to (B, b, H, W).

    Args:
        channels_in: a.
        channels_out: b.
        norm: as in `npcr.renderers.norms.make_norm`.
    """

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv1 = GatedConv(channels_in, channels_out)
        self.norm1 = make_norm(norm, channels_out)
        self.conv2 = GatedConv(channels_out, channels_out)
        self.norm2 = make_norm(norm, channels_out)

    def forward(self, *sources: Tensor) -> Tensor:
        """Several sources (B, a_i, H, W) count as concatenated along the channels."""
        x = sources[0] if len(sources) == 1 else torch.cat(sources, dim=1)
        x = F.relu(self.conv1.normed(x, self.norm1))
        return F.relu(self.conv2.normed(x, self.norm2))


def blur_halve(x: Tensor, borders: tuple[bool, bool, bool, bool] = (True, True, True, True)) -> Tensor:
    """Halve with anti-aliasing: binomial [1 2 1]² / 16 filter at stride 2, reflected borders.

    Args:
        x: (B, C, H, W), H and W at least 2 (the border is reflected once).
        borders: whether x ends with the image on the left, at the top, on the right, at the bottom; elsewhere it is
            not reflected, and the first pixel of the result lies on the second of x.

    Returns:
        (B, C, ceil(H / 2), ceil(W / 2)); half a pixel less for each side without a border.
    """
    channels = x.shape[1]
    # Made on the device: a copy from the host would wait for it, and could not be captured in a CUDA graph.
    row = 0.5 - (torch.arange(3, dtype=x.dtype, device=x.device) - 1).abs() / 4
    kernel = (row[:, None] * row[None, :]).expand(channels, 1, 3, 3)
    return F.conv2d(_reflect(x, borders), kernel, stride=2, groups=channels)


def _reflect(x: Tensor, borders: tuple[bool, bool, bool, bool]) -> Tensor:
    """Pad by one pixel, as `F.pad` does in mode "reflect", whose gradients on a GPU are added up in any order."""
    left, top, right, bottom = borders
    x = torch.cat([*([x[:, :, 1:2]] if top else []), x, *([x[:, :, -2:-1]] if bottom else [])], dim=2)
    return torch.cat([*([x[..., 1:2]] if left else []), x, *([x[..., -2:-1]] if right else [])], dim=3)


class Down(nn.Module):
    """Max-pool 2 at stride 1, anti-aliased stride 2, double convolution: halves H and W.

    Args:
        channels_in, channels_out, norm: as of `DoubleConv`.
    """

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv = DoubleConv(channels_in, channels_out, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, a, H, W) to (B, b, H // 2, W // 2)."""
        result: Tensor = self.conv(blur_halve(F.max_pool2d(x, 2, stride=1)))
        return result


class Up(nn.Module):
    """Bilinear doubling, zero-padded to the skips' size, concatenated after them, double convolution.

    Args:
        channels_in: of the skips and the doubled feature map together.
        channels_out, norm: as of `DoubleConv`.
    """

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv = DoubleConv(channels_in, channels_out, norm)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        """x (B, a, h, w) and at least one skip (B, a_i, H, W), H >= 2 h, W >= 2 w, to (B, b, H, W)."""
        result: Tensor = self.conv(*skips, double(x, (skips[0].shape[2], skips[0].shape[3])))
        return result


def double(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Double bilinearly with aligned corners, and pad with zeros.

    Args:
        x: (B, C, h, w).
        size: (H, W) to pad to, the smaller half first; at least (2 h, 2 w).

    Returns:
        (B, C, H, W).
    """
    x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    rows, columns = size[0] - x.shape[2], size[1] - x.shape[3]
    if rows or columns:
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    return x


class Out(nn.Module):
    """A 1x1 convolution plus a 3x3 convolution, summed.

    Args:
        channels_in: of the feature map.
        channels_out: of the result.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(channels_in, channels_out, 1)
        self.spatial = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, a, H, W) to (B, b, H, W)."""
        result: Tensor = self.point(x) + self.spatial(x)
        return result
