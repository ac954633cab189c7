# SPDX-License-Identifier: Apache-2.0
"""A small model for the viewer's tests."""

from __future__ import annotations

import torch

from npcr.camera_paths import look_at
from npcr.renderers import StrandsRenderer
from npcr.viewer.pictures import View

POSE = look_at((0, -3, 0.4), (0, 0, 0))
VIEW = View(POSE, 30.0, (48, 36), background=0.0)


def small_model(frames: int = 1, width: int = 8) -> StrandsRenderer:
    """Large colored splats; its network, of this width, changes the picture."""
    torch.manual_seed(0)
    clouds = [torch.rand(150, 3) - 0.5 for _ in range(frames)]
    renderer = StrandsRenderer(clouds, [0.3] * frames, [torch.rand(150, 3) for _ in clouds], width=width)
    if width:
        torch.nn.init.normal_(renderer.network.out.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    return renderer.eval()
