# SPDX-License-Identifier: Apache-2.0
"""Initial values of a cloud's points from photographs: colors, and the directions in which strands run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.data.cloud_geometry import near_far_size, point_spacing
from npcr.io.points import PointCloud
from npcr.ops import rasterize

logger = logging.getLogger("npcr")

_TOLERANCE = 4  # spacings of the cloud: how far a point may lie behind the nearest one and still be visible
_BLUR = 1.5  # pixels: over which the direction of a photograph's texture is averaged


class PointVisibility(NamedTuple):
    """Where the points fall in one photograph, and which of them are visible."""

    x: Tensor  # (N,) int64 pixel, 0 where the point is outside
    y: Tensor
    visible: Tensor  # (N,) bool


def with_colors(cloud: PointCloud, cameras: Cameras, photographs: Sequence[Tensor], name: str) -> PointCloud:
    """Return a cloud with colors: its own, or where it has none the mean of the photographs that see each point.

    Args:
        cloud: with or without.
        cameras: one for each photograph.
        photographs: (4, H, W) premultiplied RGBA in [0, 1], at the cameras' size.
        name: of the cloud, for the message that photographs gave the colors.

    Returns:
        The cloud.

    Raises:
        SceneError: no camera sees a point.
    """
    if cloud.colors is not None:
        return cloud
    logger.info("%s: the cloud has no colors; %d photographs gave them", name, len(photographs))
    return PointCloud(cloud.positions, mean_colors(cloud.positions, cameras, photographs))


def mean_colors(points: NDArray[np.float32], cameras: Cameras, photographs: Iterable[Tensor]) -> NDArray[np.uint8]:
    """Average each point's color over the photographs that see it.

    A photograph sees a point where no other one lies in front of it by more than four spacings of the cloud. It
    counts by its alpha there. Points that no photograph sees get the mean color of the others.

    Args:
        points: (N, 3), world coordinates.
        cameras: one for each photograph.
        photographs: (4, H, W) premultiplied RGBA in [0, 1], at the cameras' size.

    Returns:
        (N, 3) uint8.

    Raises:
        SceneError: no camera sees a point.
    """
    total = torch.zeros(len(points), 4)
    for (x, y, visible), photograph in zip(_point_visibilities(points, cameras), photographs, strict=True):
        total += visible[:, None] * photograph[:, y, x].T
    known = total[:, 3] > 0
    colors = total[:, :3] / total[:, 3:].clamp_min(1e-9)
    if known.any():
        colors[~known] = colors[known].mean(0)
    return (colors.clamp(0, 1) * 255).round().byte().numpy()


def strand_directions(points: NDArray[np.float32], cameras: Cameras,
                      photographs: Iterable[Tensor]) -> NDArray[np.float32]:
    """Estimate the direction of the strand at each point from the photographs that see it.

    In each photograph, the camera's center and the texture's direction (of the structure tensor) at the point's pixel
    span a plane that contains the strand. The direction that fits the planes of all photographs best is the
    eigenvector of their normals' scatter matrix with the smallest eigenvalue (Paris et al. 2004, "Capture of Hair
    Geometry from Multiple Images").

    Args:
        points: (N, 3), world coordinates.
        cameras: one for each photograph.
        photographs: (4, H, W) premultiplied RGBA in [0, 1], at the cameras' size.

    Returns:
        (N, 3) float32, directions up to their sign; the length, 0 to 1, is the confidence, 0 where fewer than two
        photographs see the point.

    Raises:
        SceneError: no camera sees a point.
    """
    sums = torch.zeros(len(points), 3, 3)
    for i, ((x, y, visible), photograph) in enumerate(zip(_point_visibilities(points, cameras), photographs,
                                                          strict=True)):
        texture, coherence = (torch.from_numpy(result) for result in texture_directions(photograph.numpy()))
        direction = texture[y, x]  # (N, 2)
        weight = coherence[y, x] * photograph[3, y, x] * visible
        pixel = torch.stack([x, y], dim=1).float()
        to_world = (cameras.cam_to_world[i, :3, :3] @ torch.linalg.inv(cameras.intrinsics[i])).T
        one = torch.ones(len(points), 1)
        ray, next_ray = (torch.cat([at, one], dim=1) @ to_world for at in (pixel, pixel + direction))
        normal = torch.nn.functional.normalize(torch.linalg.cross(ray, next_ray), dim=1)
        sums += weight[:, None, None] * normal[:, :, None] * normal[:, None, :]
    eigenvalues, axes = torch.linalg.eigh(sums)  # ascending
    confidence = 1 - eigenvalues[:, 0] / eigenvalues[:, 1].clamp_min(1e-9)
    return (axes[:, :, 0] * (confidence * (eigenvalues[:, 1] > 1e-6)).clamp(0, 1)[:, None]).numpy()


def texture_directions(photograph: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the direction of a photograph's texture at each pixel, by the structure tensor.

    Args:
        photograph: (4, H, W) float32, RGBA in [0, 1].

    Returns:
        Unit vectors (H, W, 2), x and y, along the texture up to their sign; and their coherence (H, W), 0 to 1.
    """
    gray = photograph[:3].mean(0)
    dx, dy = (cv2.Sobel(gray, cv2.CV_32F, *order, ksize=3) for order in ((1, 0), (0, 1)))
    xx, yy, xy = (cv2.GaussianBlur(product, (0, 0), _BLUR) for product in (dx * dx, dy * dy, dx * dy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)  # the direction of the steepest change
    coherence = np.hypot(xx - yy, 2 * xy) / np.maximum(xx + yy, 1e-9)
    return np.stack([-np.sin(across), np.cos(across)], axis=-1), coherence


def _point_visibilities(points: NDArray[np.float32], cameras: Cameras) -> Iterator[PointVisibility]:
    """The visibility of the points, camera by camera."""
    cloud = torch.from_numpy(np.asarray(points, np.float32))
    near, far, radius = near_far_size(points, cameras)
    tolerance = _TOLERANCE * point_spacing(points)
    limit = torch.tensor(cameras.size) - 0.5
    for i in range(len(cameras)):
        front = rasterize(cloud, cameras.cam_to_world[i:i + 1], cameras.intrinsics[i:i + 1], cameras.size, near=near,
                          far=far, max_size=radius, layers=1).depth[0, 0]
        pixels, depth = (result[0] for result in project(cloud[None], cameras[i]))
        inside = (depth > 0) & (pixels > -0.5).all(1) & (pixels < limit).all(1)
        x, y = torch.where(inside[:, None], pixels, torch.zeros(())).round().long().T
        yield PointVisibility(x, y, inside & (depth <= front[y, x] + tolerance))
