# SPDX-License-Identifier: Apache-2.0
"""A direct implementation of the gated U-Net (docs/method.md, "Network"), as the baseline of the benchmarks.

Every gated convolution is two convolutions, images are NCHW, inputs are concatenated, the norm is torch's, and
each layer is a separate pass. Parameters have the names of `npcr.renderers.GatedUNet`, so that both share weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainDoubleConv(nn.Module):
    """Two gated convolutions, each with norm and ReLU."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv1, self.norm1 = _gated(channels_in, channels_out), _norm(norm, channels_out)
        self.conv2, self.norm2 = _gated(channels_out, channels_out), _norm(norm, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        for pair, norm in ((self.conv1, self.norm1), (self.conv2, self.norm2)):
            x = F.relu(norm(torch.sigmoid(pair["gate"](x)) * pair["conv"](x)))
        return x


def _gated(channels_in: int, channels_out: int) -> nn.ModuleDict:
    return nn.ModuleDict({name: nn.Conv2d(channels_in, channels_out, 3, padding=1) for name in ("conv", "gate")})


def _norm(kind: str, channels: int) -> nn.Module:
    kinds = {"instance": lambda: nn.InstanceNorm2d(channels, affine=True), "batch": lambda: nn.BatchNorm2d(channels),
             "none": nn.Identity}
    return kinds[kind]()


class PlainDown(nn.Module):
    """Max-pooling, binomial downsampling and a double convolution."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv = PlainDoubleConv(channels_in, channels_out, norm)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(F.max_pool2d(x, 2, stride=1), (1, 1, 1, 1), mode="reflect")
        row = torch.tensor([0.25, 0.5, 0.25])
        kernel = (row[:, None] * row).to(x).expand(x.shape[1], 1, 3, 3)
        return self.conv(F.conv2d(x, kernel, stride=2, groups=x.shape[1]))


class PlainUp(nn.Module):
    """Bilinear upsampling, concatenation after the skip and a double convolution."""

    def __init__(self, channels_in: int, channels_out: int, norm: str) -> None:
        super().__init__()
        self.conv = PlainDoubleConv(channels_in, channels_out, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return self.conv(torch.cat([skip, x], dim=1))


class PlainOut(nn.Module):
    """The sum of a 1x1 and a 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(channels_in, channels_out, 1)
        self.spatial = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.point(x) + self.spatial(x)


class PlainUNet(nn.Module):
    """Gated U-Net from (B, in_channels, H, W) to (B, 4, H, W), one image at a time."""

    def __init__(self, in_channels: int, norm: str = "instance") -> None:
        super().__init__()
        self.enter = PlainDoubleConv(in_channels, 24, norm)
        self.down1, self.down2 = PlainDown(24, 48, norm), PlainDown(48, 96, norm)
        self.down3, self.down4 = PlainDown(96, 384, norm), PlainDown(384, 384, norm)
        self.up1, self.up2 = PlainUp(768, 192, norm), PlainUp(288, 48, norm)
        self.up3, self.up4 = PlainUp(96, 48, norm), PlainUp(72, 30, norm)
        self.out = PlainOut(30, 3)
        self.alpha_enter = PlainDoubleConv(in_channels + 3, 16, norm)
        self.alpha_down1, self.alpha_down2 = PlainDown(16, 32, norm), PlainDown(32, 64, norm)
        self.alpha_up1, self.alpha_up2 = PlainUp(144, 32, norm), PlainUp(72, 8, norm)
        self.alpha_out = PlainOut(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._forward_layer(layer.contiguous()) for layer in x.split(1)])

    def _forward_layer(self, x: Tensor) -> Tensor:
        level1 = self.enter(x)
        level2 = self.down1(level1)
        level3 = self.down2(level2)
        level4 = self.down3(level3)
        up = self.up3(self.up2(self.up1(self.down4(level4), level4), level3), level2)
        color = self.out(self.up4(up, level1))
        alpha1 = self.alpha_enter(torch.cat([x, color], dim=1))
        alpha2 = self.alpha_down1(alpha1)
        up = self.alpha_up1(self.alpha_down2(alpha2), torch.cat([level2, alpha2], dim=1))
        alpha = self.alpha_out(self.alpha_up2(up, torch.cat([level1, alpha1], dim=1)))
        return torch.cat([color, alpha], dim=1)


def plain_copy(network: nn.Module, in_channels: int, norm: str) -> PlainUNet:
    """Return a plain network with the weights of a `GatedUNet`.

    Args:
        network: the `GatedUNet`.
        in_channels: of its input.
        norm: its MODEL.NORM.

    Returns:
        The plain network, on the same device and in the same mode.
    """
    plain = PlainUNet(in_channels, norm)
    plain.load_state_dict({name: value.detach().contiguous() for name, value in network.state_dict().items()})
    return plain.train(network.training).to(next(network.parameters()).device)
