# SPDX-License-Identifier: Apache-2.0
"""A renderer that learns how much it shimmers."""

from __future__ import annotations

import torch
from torch import nn

from npcr.cameras import Cameras, unproject
from npcr.renderers.base import RenderOutput
from tests.path_stub import SIZE
from tests.stub_renderer import StubRenderer


class Shimmer(StubRenderer):
    """A plane at depth 2; its brightness depends on where the camera stands by `shimmer`, which is learned."""

    def __init__(self, legacy: bool = False, alpha: float = 0.8) -> None:
        super().__init__(legacy)
        self.brightness = nn.Parameter(torch.tensor(0.5))
        self.shimmer = nn.Parameter(torch.tensor(0.1))
        self.default_feature = nn.Parameter(torch.arange(3.0), requires_grad=False)
        self.alpha = alpha

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        depth = torch.full((len(cameras), SIZE[1], SIZE[0]), 2.0)
        texture = 0.1 * torch.sin(2 * unproject(depth, cameras))
        phase = torch.sin(40 * cameras.cam_to_world[:, 0, 3])[:, None, None, None]
        color = self.brightness + texture + self.shimmer * phase
        alpha = torch.full_like(color[:, :1], self.alpha)
        return self.output(color, alpha, depth)
