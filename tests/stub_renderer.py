# SPDX-License-Identifier: Apache-2.0
"""What the renderers of known pictures share: the contract's parts that their tests do not look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from npcr.cameras import Cameras
from npcr.io.points import PointCloud
from npcr.renderers.base import ParamGroup, Renderer, RenderOutput


class StubRenderer(Renderer):
    """One cloud of one point, no network; a subclass sets parameters and renders."""

    def __init__(self, legacy: bool = False) -> None:
        super().__init__([torch.zeros(1, 3)], layers=1)
        self.legacy = legacy
        self.network = nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode, clouds: Sequence[PointCloud]) -> StubRenderer:
        return cls()

    def param_groups(self, rates: CfgNode) -> list[ParamGroup]:
        return [{"params": list(self.parameters()), "factor": 1.0, "weight_decay": rates.WEIGHT_DECAY}]

    def output(self, straight: Tensor, alpha: Tensor, depth: Tensor) -> RenderOutput:
        """Straight color (B, 3, H, W) and alpha (B, 1, H, W) as a renderer of either kind gives them."""
        empty: Tensor = torch.empty(0)
        return RenderOutput(straight * alpha, alpha, depth, empty, empty, empty, straight if self.legacy else None)

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        raise NotImplementedError
