# SPDX-License-Identifier: Apache-2.0
"""Frames of a textured plane, of which every pixel's color and depth are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from npcr.cameras import Cameras, camera_rays, unproject
from npcr.temporal import RenderedFrame

SIZE = (40, 30)
NO_LIMIT = math.inf  # a color threshold that nothing exceeds


def camera(x: float = 0.0, angle: float = 0.0, batch: int = 1) -> Cameras:
    """A camera at (x, 0, 0) that looks along z, turned about y by `angle` radians."""
    pose = torch.eye(4)
    pose[0, 0] = pose[2, 2] = math.cos(angle)
    pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    pose[0, 3] = x
    intrinsics = torch.tensor([[40.0, 0, 19.3], [0, 40.0, 14.8], [0, 0, 1]])
    return Cameras(pose.repeat(batch, 1, 1), intrinsics.repeat(batch, 1, 1), SIZE)


def plane_depth(cameras: Cameras, z: float) -> Tensor:
    """Camera-space depth (B, H, W) of the world plane at `z`, for cameras at z = 0."""
    return z / camera_rays(cameras)[..., 2]


def texture(points: Tensor, shift: float = 0.0) -> Tensor:
    """Premultiplied RGBA (B, 4, H, W) of world points (B, 3, H, W): smooth, never 0."""
    x, y = points[:, 0], points[:, 1]
    color = [0.5 + 0.4 * torch.sin(2 * x + shift + k) * torch.cos(3 * y - k) for k in range(3)]
    return torch.stack([*color, 0.8 + 0.2 * torch.sin(x + y)], dim=1)


def plane_frame(cameras: Cameras, z: float = 4.0) -> RenderedFrame:
    depth = plane_depth(cameras, z)
    return RenderedFrame(texture(unproject(depth, cameras)), depth, cameras)
