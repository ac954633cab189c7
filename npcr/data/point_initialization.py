# SPDX-License-Identifier: Apache-2.0
"""What photographs say about the points that they see: colors, and the directions in which strands run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.data.cloud_geometry import near_far_size, point_spacing
from npcr.ops import rasterize

_SPACINGS = 4  # of the cloud: how far a point may lie behind the nearest one and still count as seen
_BLUR = 1.5  # pixels: over which the direction of a photograph's texture is averaged


class PointVisibility(NamedTuple):
    """Where one photograph sees the points."""

    x: Tensor  # (N,) int64 pixel, 0 where the point is outside
    y: Tensor
    visible: Tensor  # (N,) bool


def mean_colors(points: NDArray[np.float32], cameras: Cameras, photographs: Iterable[Tensor]) -> NDArray[np.uint8]:
    """(N, 3) uint8: each point's mean color over the photographs that see it.

    points (N, 3). photographs: of each of the cameras, (4, H, W) premultiplied RGBA in [0, 1] at the cameras' size.
    A photograph sees a point where no other lies in front of it by more than four spacings of the cloud; it counts
    by its alpha there. Points that none sees get the mean color of the others. Raises `SceneError` where no camera
    sees a point.
    """
    total = torch.zeros(len(points), 4)
    for sight, photograph in zip(_point_visibilities(points, cameras), photographs, strict=True):
        total += sight.visible[:, None] * photograph[:, sight.y, sight.x].T
    known = total[:, 3] > 0
    colors = total[:, :3] / total[:, 3:].clamp_min(1e-9)
    if known.any():
        colors[~known] = colors[known].mean(0)
    return (colors.clamp(0, 1) * 255).round().byte().numpy()


def strand_directions(points: NDArray[np.float32], cameras: Cameras,
                      photographs: Iterable[Tensor]) -> NDArray[np.float32]:
    """(N, 3): the direction of the strand at each point, up to its sign; its length, 0 to 1, says how sure it is.

    In each photograph the texture's direction (the structure tensor's) at a point's pixel and the camera's center
    span a plane that the strand lies in; the direction that fits the planes of all photographs that see the point
    best is their normals' least common one (Paris et al. 2004, "Capture of Hair Geometry from Multiple Images").
    Arguments and errors as of `mean_colors`; a point that fewer than two see has length 0.
    """
    sums = torch.zeros(len(points), 3, 3)
    for i, (sight, photograph) in enumerate(zip(_point_visibilities(points, cameras), photographs, strict=True)):
        direction, strength = texture_directions(photograph.numpy())
        along = torch.from_numpy(direction)[sight.y, sight.x]  # (N, 2)
        weight = torch.from_numpy(strength)[sight.y, sight.x] * photograph[3, sight.y, sight.x] * sight.visible
        pixel = torch.stack([sight.x, sight.y], dim=1).float()
        to_world = (cameras.cam_to_world[i, :3, :3] @ torch.linalg.inv(cameras.intrinsics[i])).T
        one = torch.ones(len(points), 1)
        ray, next_ray = (torch.cat([at, one], dim=1) @ to_world for at in (pixel, pixel + along))
        normal = torch.nn.functional.normalize(torch.linalg.cross(ray, next_ray), dim=1)
        sums += weight[:, None, None] * normal[:, :, None] * normal[:, None, :]
    shares, axes = torch.linalg.eigh(sums)  # ascending
    sure = 1 - shares[:, 0] / shares[:, 1].clamp_min(1e-9)
    return (axes[:, :, 0] * (sure * (shares[:, 1] > 1e-6)).clamp(0, 1)[:, None]).numpy()


def texture_directions(photograph: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of (4, H, W): unit vectors (H, W, 2), x and y, along the texture, and how clear it is (H, W), 0 to 1."""
    gray = photograph[:3].mean(0)
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), _BLUR) for product in (dx * dx, dy * dy, dx * dy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)  # the direction of the steepest change
    clear = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-9)
    return np.stack([-np.sin(across), np.cos(across)], axis=-1), clear


def _point_visibilities(points: NDArray[np.float32], cameras: Cameras) -> Iterator[PointVisibility]:
    """Camera by camera, where it sees the points."""
    cloud = torch.from_numpy(np.asarray(points, np.float32))
    near, far, radius = near_far_size(points, cameras)
    tolerance = _SPACINGS * point_spacing(points)
    limit = torch.tensor(cameras.size) - 0.5
    for i in range(len(cameras)):
        front = rasterize(cloud, cameras.cam_to_world[i:i + 1], cameras.intrinsics[i:i + 1], cameras.size, near=near,
                          far=far, max_size=radius, layers=1).depth[0, 0]
        pixels, depth = (result[0] for result in project(cloud[None], cameras[i]))
        inside = (depth > 0) & (pixels > -0.5).all(1) & (pixels < limit).all(1)
        x, y = torch.where(inside[:, None], pixels, torch.zeros(())).round().long().T
        yield PointVisibility(x, y, inside & (depth <= front[y, x] + tolerance))
