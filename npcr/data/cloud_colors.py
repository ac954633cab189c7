# SPDX-License-Identifier: Apache-2.0
"""Colours of a point cloud that has none, from the photographs that see its points."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.data.scene_config import near_far_size, point_spacing
from npcr.projection import rasterise

_SPACINGS = 4  # of the cloud: how far a point may lie behind the nearest one and still count as seen


def mean_colors(points: np.ndarray, cameras: Cameras, photographs: Iterable[Tensor]) -> np.ndarray:
    """(N, 3) uint8: each point's mean colour over the photographs that see it.

    points (N, 3). photographs: of each of the cameras, (4, H, W) premultiplied RGBA in [0, 1] at the cameras' size.
    A photograph sees a point where no other lies in front of it by more than four spacings of the cloud; it counts
    by its alpha there. Points that none sees get the mean colour of the others. Raises `SceneError` where no camera
    sees a point.
    """
    cloud = torch.from_numpy(np.asarray(points, np.float32))
    near, far, radius = near_far_size(points, cameras)
    tolerance = _SPACINGS * point_spacing(points)
    total = torch.zeros(len(cloud), 4)
    limit = torch.tensor(cameras.size) - 0.5
    for i, photograph in enumerate(photographs):
        front = rasterise(cloud, cameras.cam_to_world[i:i + 1], cameras.intrinsics[i:i + 1], cameras.size, near=near,
                          far=far, max_size=radius, layers=1).depth[0, 0]
        pixels, depth = (result[0] for result in project(cloud[None], cameras[i]))
        inside = (depth > 0) & (pixels > -0.5).all(1) & (pixels < limit).all(1)
        x, y = torch.where(inside[:, None], pixels, torch.zeros(())).round().long().T
        visible = inside & (depth <= front[y, x] + tolerance)
        total += visible[:, None] * photograph[:, y, x].T
    known = total[:, 3] > 0
    colors = total[:, :3] / total[:, 3:].clamp_min(1e-9)
    if known.any():
        colors[~known] = colors[known].mean(0)
    return (colors.clamp(0, 1) * 255).round().byte().numpy()
