# SPDX-License-Identifier: Apache-2.0
"""A renderer of a known picture: a plane of constant color and depth, of one learned brightness."""

from __future__ import annotations

import math

import torch
from torch import nn

from npcr.cameras import Cameras, unproject
from npcr.renderers.base import RenderOutput
from tests.stub_renderer import StubRenderer

SIZE = (24, 18)


def orbit(count: int, step: float = 0.05) -> Cameras:
    """Cameras that look along z and move to the right."""
    poses = torch.eye(4).repeat(count, 1, 1)
    poses[:, 0, 3] = step * torch.arange(count)
    intrinsics = torch.tensor([[24.0, 0, 11.5], [0, 24.0, 8.5], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(poses, intrinsics, SIZE)


class PlaneRenderer(StubRenderer):
    """A striped plane at depth 2, its left four columns empty; its pixel rows are brighter and darker in turn,
    and change places with every picture."""

    def __init__(self, legacy: bool = False, alpha: float = 0.5, flicker: float = 0.0) -> None:
        super().__init__(legacy)
        self.brightness = nn.Parameter(torch.tensor(1.0))
        self.alpha, self.flicker = alpha, flicker
        self.calls: list[tuple[int, int, bool, bool]] = []  # cameras, frame, training, gradients

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        self.calls.append((len(cameras), frame, self.training, torch.is_grad_enabled()))
        depth = torch.full((len(cameras), SIZE[1], SIZE[0]), 2.0)
        points = unproject(depth, cameras)
        depth[..., :4] = 0
        there = (depth > 0).float()[:, None]
        odd = torch.arange(SIZE[1])[:, None] % 2
        sign = self.flicker * (1 - 2 * odd) * (-1) ** len(self.calls)
        color = self.brightness * (0.4 + 0.2 * torch.sin(4 * points) + sign)
        alpha = self.alpha * there
        return self.output(color * there, alpha, depth)


def nan_after(renderer: PlaneRenderer, frames: int) -> PlaneRenderer:
    """Makes the `frames`+1st render return NaN."""
    forward = renderer.forward

    def broken(cameras: Cameras, frame: int = 0) -> RenderOutput:
        output = forward(cameras, frame)
        return output._replace(color=output.color * math.nan) if len(renderer.calls) > frames else output

    renderer.forward = broken  # type: ignore[method-assign]
    return renderer
