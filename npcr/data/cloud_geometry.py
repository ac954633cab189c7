# SPDX-License-Identifier: Apache-2.0
"""Point clouds measured against cameras: spacing of the points, splat sizes, and where the object's center falls."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator

import numpy as np
import torch

from npcr.cameras import Cameras, project
from npcr.command_names import as_typed
from npcr.errors import SceneError

MAX_ROUNDING = 0.05  # pixels by which float32 may misplace points: cannot be seen
logger = logging.getLogger("npcr")

UNSEEN = ("likely the poses are world-to-camera, their axes are not those that the format demands (OpenCV's for "
          "OpenGL's, or the reverse), their rotations are transposed, or the cloud has been moved, turned or scaled")
LEAST_RADIUS = 0.35  # pixels, at the object: what the published Hair2 configuration amounts to
_NEIGHBOR = 6  # spacing is measured by the distance to this neighbor


def near_far_size(points: np.ndarray, cameras: Cameras) -> list[float]:
    """Compute INPUT.NEAR_FAR_SIZE, with which splats close the gaps between points without covering each other.

    A splat should shrink as the gaps between projected points do, with 1/z. Its radius falls linearly, so it
    follows the tangent to that curve at the median depth. The radius there makes a splat 1.5 times as wide as the
    points' spacing.

    Args:
        points: (N, 3), world coordinates.
        cameras: at the size of the images that are rendered.

    Returns:
        [near, far, max_size]: two depths in the world's unit, near just before the nearest points, and a radius in
        pixels.

    Raises:
        SceneError: no camera sees a point, or coordinates are too large to compute with.
    """
    depths = np.concatenate(list(_visible_depths(points, cameras)))
    if not len(depths):
        raise SceneError(f"none of the {len(cameras)} cameras sees a point of the cloud: {UNSEEN}. Of a scene that is "
                         f"written, {as_typed('npcr check')} SCENE tells which")
    median, near = float(np.median(depths)), 0.98 * float(np.percentile(depths, 0.5))
    focal = float(cameras.intrinsics[:, 0, 0].median())
    gap = focal * point_spacing(points) / median
    radius = max(LEAST_RADIUS, (1.5 * gap - 1) / 2)
    if not all(map(math.isfinite, (near, 2 * median, radius))):
        raise SceneError(f"the cloud's points are {median:.3g} away from the cameras, too far to compute with; has it "
                         "damaged coordinates, or another unit?")
    return [round_significant(near), round_significant(2 * median), round_significant(radius * (2 - near / median))]


def is_seen(points: np.ndarray, cameras: Cameras) -> bool:
    """Tell whether any camera sees a point.

    Args:
        points: (N, 3), world coordinates.
        cameras: of the photographs.

    Returns:
        Whether one does; of large clouds a part is looked at, as for `near_far_size`.
    """
    return any(len(depths) for depths in _visible_depths(points, cameras))


def rounding_in_pixels(points: np.ndarray, cameras: Cameras) -> float:
    """Estimate by how many pixels float32 misplaces points in the images, for coordinates far from the origin.

    Args:
        points: (N, 3), world coordinates.
        cameras: at the size of the images that are rendered.

    Returns:
        The spacing of float32 at the coordinates of the points and of the camera, as seen in the image: the median over
        the points before a camera, of the camera with the largest one.
    """
    subset = random_subset(points, 2000).astype(np.float64)
    poses, focals = cameras.cam_to_world.double().numpy(), cameras.intrinsics[:, 0, 0].tolist()
    largest = 0.0
    for pose, focal in zip(poses, focals, strict=True):
        depths = (subset - pose[:3, 3]) @ pose[:3, 2]
        before = depths > 0
        if before.any():
            reach = np.maximum(np.abs(subset[before]).max(1), np.abs(pose[:3, 3]).max())
            spacing = np.spacing(reach.astype(np.float32)).astype(np.float64)
            largest = max(largest, focal * float(np.median(spacing / depths[before])))
    return largest


def point_spacing(points: np.ndarray) -> float:
    """Estimate the spacing of a cloud: the side of the square of surface that each point has to itself.

    Args:
        points: (N, 3) on a surface.

    Returns:
        Median over the cloud, in its unit; 0 with too few points to tell.
    """
    if len(points) <= _NEIGHBOR:
        return 0.0
    cloud = torch.from_numpy(random_subset(points, 100000)).float()
    probes = cloud[torch.linspace(0, len(cloud) - 1, min(len(cloud), 512)).long()]
    # By differences: cdist's fast path loses nearby points in rounding.
    nearest = [torch.cdist(chunk, cloud, compute_mode="donot_use_mm_for_euclid_dist")
               .topk(_NEIGHBOR + 1, largest=False).values[:, -1] for chunk in probes.split(64)]
    # The disc out to the k-th neighbor holds k points besides its own; a subset lies sparser than the cloud.
    spacing = float(torch.cat(nearest).median()) * np.sqrt(np.pi / _NEIGHBOR)
    return float(spacing * np.sqrt(len(cloud) / len(points)))


def assumed_spacing(points: np.ndarray) -> float:
    """Estimate the spacing of any cloud; says where it is a guess.

    Args:
        points: (N, 3).

    Returns:
        `point_spacing`; of a cloud too small to tell, its extent over the root of its points, or 1. Above 0.
    """
    spacing = point_spacing(points)
    if not spacing:
        spacing = float(np.ptp(points, axis=0).max() / np.sqrt(len(points))) or 1.0
        logger.warning("a cloud of %d points does not tell its spacing; strands and widths start from %g world units",
                       len(points), spacing)
    return spacing


def object_centers(points: np.ndarray, cameras: Cameras, thing: str = "cloud") -> list[int]:
    """Compute DATASETS.CENTER: the pixel at which each camera sees the cloud's middle.

    Args:
        points: (N, 3), world coordinates.
        cameras: at the size of the photographs.
        thing: what the points are, for messages.

    Returns:
        [y, x] where it hardly moves between cameras, else [y, x, y, x, ...] with a pair for each of them.
    """
    middle = torch.from_numpy(np.median(points, axis=0)).float()
    pixels, depth = (result[:, 0] for result in project(middle.expand(len(cameras), 1, 3), cameras))
    width, height = cameras.size
    last = torch.tensor([width - 1, height - 1])
    pixels = torch.where((depth > 0)[:, None] & pixels.isfinite(), pixels, last / 2)
    unseen = ((depth <= 0) | (pixels < -0.5).any(1) | (pixels > last + 0.5).any(1)).nonzero()[:, 0].tolist()
    if unseen:
        logger.warning("DATASETS.CENTER: %d of %d cameras do not have the %s's middle in their picture, first "
                       "camera %d; for these it is the nearest pixel, or the picture's middle", len(unseen),
                       len(cameras), thing, unseen[0] + 1)
    pixels = torch.minimum(pixels.clamp_min(0), last)
    mean = pixels.mean(0, keepdim=True)
    if (pixels - mean).abs().max() <= 0.1 * min(width, height):
        pixels = mean
    return [round(v) for v in pixels.flip(1).flatten().tolist()]


def random_subset(points: np.ndarray, limit: int) -> np.ndarray:
    """Draw points from a cloud, the same ones every time.

    Args:
        points: (N, 3).
        limit: number of points at most.

    Returns:
        (min(N, limit), 3): all points in their order, or some in a random order.
    """
    if len(points) <= limit:
        return points
    return points[np.random.default_rng(0).choice(len(points), limit, replace=False)]


def round_significant(value: float) -> float:
    """Round a number to four significant digits.

    Args:
        value: any number.

    Returns:
        The rounded number.
    """
    return float(f"{value:.4g}")


def _visible_depths(points: np.ndarray, cameras: Cameras) -> Iterator[np.ndarray]:
    """Yield for each camera the depths of the points (N, 3), or of some of them, that fall into its image."""
    subset = torch.from_numpy(random_subset(points, 20000)).float()
    for i in range(len(cameras)):
        pixels, depth = project(subset[None], cameras[i])
        inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor(cameras.size)).all(-1)
        yield depth[inside].numpy()
