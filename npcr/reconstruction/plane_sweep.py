# SPDX-License-Identifier: Apache-2.0
"""Multi-view stereo by plane sweeping, which adds points to a sparse cloud.

Each photograph is compared with some neighbors over planes of constant depth in front of it, over the sparse cloud's
range of depths. A pixel takes the plane on which a window about it correlates best (normalized
cross-correlation, the better half of the neighbors: what is hidden in one of them is left out), refined between
planes. What survives is what enough neighbors' own depths agree with. It finds textured, unmoving surfaces;
blank walls, sky, and what only one photograph shows stay empty.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from npcr.cameras import Cameras, project
from npcr.errors import SceneError
from npcr.io.images import read_image, read_matte
from npcr.io.points import PointCloud
from npcr.progress import Progress, no_progress
from npcr.reconstruction.mattes import reduced_size
from npcr.reconstruction.point_filters import merge_clouds, random_downsample, voxel_downsample

logger = logging.getLogger("npcr")

_NEIGHBORS = 5
_BEST_ANGLE = 8.0  # degrees between the rays of two photographs: good for matching and for depth
_WINDOW = 7  # pixels
_LEAST_SCORE = 0.55  # correlation, -1 to 1
_LEAST_CONTRAST = 2.0  # standard deviation of a window, of 255
_AGREEMENT = 0.01  # relative depth
_LEAST_AGREEING = 3  # neighbors
_LEAST_POINTS = 8  # of the sparse cloud, for a range of depths

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Photograph:
    """What the sweep needs of one photograph."""

    gray: _Floats  # (H, W)
    color: NDArray[np.uint8]  # (H, W, 3)
    inside: NDArray[np.bool_]  # (H, W): where the object is


def densify(cloud: PointCloud, cameras: Cameras, images: Sequence[Path], mattes: Sequence[Path | None], count: int, *,
            longest_side: int = 480, planes: int = 96, workers: int = 4,
            progress: Progress = no_progress) -> PointCloud:
    """Add points to a sparse cloud that are found in the photographs, and colored from them.

    Args:
        cloud: the sparse cloud, which gives the range of depths; colors are kept where it has them.
        cameras: three at least.
        images: the photograph of each camera, undistorted.
        mattes: of each photograph; None where it has none and all of it may be searched.
        count: number of points in all, at most.
        longest_side: photographs are reduced to it, pixels.
        planes: number of depths compared.
        workers: threads.
        progress: wraps the iteration over photographs.

    Returns:
        The sparse cloud's points and the new ones behind them.

    Raises:
        SceneError: there are fewer than three cameras.
    """
    if len(cameras) < 3:
        raise SceneError(f"--densify compares photographs; it needs at least 3, the capture has {len(cameras)}")
    if count <= len(cloud):
        logger.warning("--densify %d: the cloud has %d points already; none is added", count, len(cloud))
        return cloud
    small = cameras.resized(reduced_size(cameras.size, longest_side))
    spans = [_depth_range(cloud, small[i]) for i in range(len(small))]
    _warn_of_unsearched([image for image, span in zip(images, spans, strict=True) if span is None], len(images))
    with ThreadPoolExecutor(workers) as pool:
        photographs = list(pool.map(lambda files: _load(files[0], files[1], small.size),
                                    zip(images, mattes, strict=True)))
        near = _neighbors(small, cloud)
        sweeps = pool.map(lambda i: _sweep(i, near[i], photographs, small, spans[i], planes), range(len(small)))
        try:
            depths = list(progress(sweeps, len(small)))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = [_consistent_points(i, near[i], depths, photographs[i], small) for i in range(len(small))]
    positions, colors = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if not len(positions):
        logger.warning("--densify: photographs agree on no point; the cloud stays at %d points. Do cameras and "
                       "photographs belong together, and is there texture?", len(cloud))
        return cloud
    return merge_clouds(cloud, _downsample_evenly(PointCloud(positions, colors), count - len(cloud)))


def _warn_of_unsearched(images: list[Path], count: int) -> None:
    if images:
        logger.warning("--densify: %d of %d photographs see fewer than %d points of the sparse cloud and are not "
                       "searched, first %s", len(images), count, _LEAST_POINTS, images[0])


def _load(image: Path, matte: Path | None, size: tuple[int, int]) -> _Photograph:
    pixels = read_image(image)
    color = _reduced(pixels[..., :3], size)
    alpha = pixels[..., 3] if matte == image else read_matte(matte) if matte is not None else None
    inside = np.ones(color.shape[:2], bool)
    if alpha is not None:
        inside = _reduced(alpha, size) > 127
    return _Photograph(cv2.cvtColor(color, cv2.COLOR_RGB2GRAY).astype(np.float32), color, inside)


def _reduced(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA), np.uint8)


def _neighbors(cameras: Cameras, cloud: PointCloud) -> list[list[int]]:
    """Of each camera the few whose rays to the cloud's middle meet its own at an angle good for stereo."""
    poses = cameras.cam_to_world.double().numpy()
    middle = np.median(cloud.positions, axis=0)
    rays = middle - poses[:, :3, 3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    angles = np.degrees(np.arccos(np.clip(rays @ rays.T, -1, 1)))
    turned = np.degrees(np.arccos(np.clip(poses[:, :3, 2] @ poses[:, :3, 2].T, -1, 1)))
    # Off by a factor either way is equally bad; photographs from one place, or of another side, tell nothing.
    cost = np.abs(np.log(np.maximum(angles, 1e-3) / _BEST_ANGLE)) + np.where(turned > 45, 10, 0)
    np.fill_diagonal(cost, np.inf)
    return [np.argsort(row)[:min(_NEIGHBORS, len(row) - 1)].tolist() for row in cost]


def _sweep(i: int, neighbors: list[int], photographs: list[_Photograph], cameras: Cameras,
           span: tuple[float, float] | None, planes: int) -> _Floats:
    """(H, W) depth of photograph i, 0 where nothing correlates."""
    if span is None:
        return np.zeros(photographs[i].gray.shape, np.float32)
    inverse = np.linspace(1 / span[0], 1 / span[1], planes)
    own = _Windows(photographs[i].gray)
    warps = [_plane_homography(cameras, i, j) for j in neighbors]
    scores = np.empty((planes, *own.gray.shape), np.float32)
    keep = max(1, math.ceil(len(neighbors) / 2))
    for k, inverse_depth in enumerate(inverse):
        seen = np.stack([own.correlation(photographs[j].gray, warp(inverse_depth))
                         for j, warp in zip(neighbors, warps, strict=True)])
        scores[k] = np.sort(seen, axis=0)[-keep:].mean(0)
    which = scores.argmax(0)
    best = np.take_along_axis(scores, which[None], 0)[0]
    step = _parabola(scores, which)
    depth = 1 / (inverse[0] + (which + step) * (inverse[1] - inverse[0]))
    good = (best > _LEAST_SCORE) & (own.deviation > _LEAST_CONTRAST) & photographs[i].inside
    good &= (which > 0) & (which < planes - 1)
    return np.where(good, depth, 0).astype(np.float32)


def _depth_range(cloud: PointCloud, camera: Cameras) -> tuple[float, float] | None:
    """Nearest and farthest depth to search, from the cloud's points in the image; None with too few of them."""
    pixels, depth = project(torch.from_numpy(cloud.positions)[None], camera)
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor(camera.size)).all(-1)
    seen = depth[inside].numpy()
    if len(seen) < _LEAST_POINTS:
        return None
    low, high = np.percentile(seen, [1, 98])
    return (0.8 * float(low), 1.25 * float(high))


def _plane_homography(cameras: Cameras, i: int, j: int) -> Callable[[float], NDArray[np.float64]]:
    """A function from a plane's inverse depth (parallel to image i) to the homography from image i to image j."""
    matrix = cameras.intrinsics.double().numpy()
    between = np.linalg.inv(cameras.cam_to_world[j].double().numpy()) @ cameras.cam_to_world[i].double().numpy()
    to_plane = np.linalg.inv(matrix[i])

    def at(inverse_depth: float) -> NDArray[np.float64]:
        moved = between[:3, :3].copy()
        moved[:, 2] += between[:3, 3] * inverse_depth  # R + t n^T / d, n along the axis
        return np.asarray(matrix[j] @ moved @ to_plane)

    return at


class _Windows:
    """Mean and deviation of an image's windows, for correlating them with another's."""

    def __init__(self, gray: _Floats) -> None:
        self.gray = gray
        self.mean = _box(gray)
        self.deviation = np.sqrt(np.maximum(_box(gray * gray) - self.mean**2, 1e-3))

    def correlation(self, other: _Floats, homography: NDArray[np.float64]) -> _Floats:
        """(H, W) normalized cross-correlation with `other` warped by the homography; -1 outside of it."""
        size = self.gray.shape[::-1]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        warped = np.asarray(cv2.warpPerspective(other, homography, size, flags=flags, borderValue=-1e4), np.float32)
        outside = warped < 0
        warped[outside] = 0
        mean = _box(warped)
        deviation = np.sqrt(np.maximum(_box(warped * warped) - mean**2, 1e-3))
        score = (_box(self.gray * warped) - self.mean * mean) / (self.deviation * deviation)
        score[outside] = -1
        return np.asarray(score, np.float32)


def _box(values: _Floats) -> _Floats:
    return np.asarray(cv2.boxFilter(values, cv2.CV_32F, (_WINDOW, _WINDOW)))


def _parabola(scores: _Floats, which: NDArray[np.intp]) -> _Floats:
    """Where between planes the best score lies: the summit of the parabola through it and its neighbors, ±0.5."""
    inner = np.clip(which, 1, len(scores) - 2)
    before, at, after = (np.take_along_axis(scores, (inner + k)[None], 0)[0] for k in (-1, 0, 1))
    bend = before - 2 * at + after
    return np.clip(np.where(bend < -1e-6, 0.5 * (before - after) / np.minimum(bend, -1e-6), 0), -0.5, 0.5)


def _consistent_points(i: int, neighbors: list[int], depths: list[_Floats], photograph: _Photograph,
                       cameras: Cameras) -> tuple[_Floats, NDArray[np.uint8]]:
    """World points (N, 3) and colors of photograph i's depths that enough neighbors' depths agree with."""
    y, x = np.nonzero(depths[i])
    depth = depths[i][y, x].astype(np.float64)
    matrix, pose = cameras.intrinsics[i].double().numpy(), cameras.cam_to_world[i].double().numpy()
    rays = np.stack([x, y, np.ones(len(x))], 1) @ np.linalg.inv(matrix).T @ pose[:3, :3].T
    points = rays * depth[:, None] + pose[:3, 3]
    votes = np.zeros(len(points), int)
    world = torch.from_numpy(points.astype(np.float32))[None]
    for j in neighbors:
        pixels, seen_depth = (values[0].numpy() for values in project(world, cameras[j]))
        inside = (seen_depth > 0) & (pixels > -0.5).all(1) & (pixels < np.array(cameras.size) - 0.5).all(1)
        column, row = np.rint(np.where(inside[:, None], pixels, 0)).astype(int).T
        own_depth = depths[j][row, column]
        votes += inside & (np.abs(own_depth - seen_depth) < _AGREEMENT * seen_depth)
    kept = votes >= min(_LEAST_AGREEING, len(neighbors))
    return points[kept].astype(np.float32), photograph.color[y[kept], x[kept]]


def _downsample_evenly(cloud: PointCloud, count: int) -> PointCloud:
    """About `count` points spread evenly: the finest grid that leaves no more, then a random choice."""
    if len(cloud) <= count:
        return cloud
    extent = float(np.ptp(np.percentile(cloud.positions, [2, 98], axis=0), axis=0).max())
    if extent == 0:
        return random_downsample(voxel_downsample(cloud, 1.0), count)
    low, high = 1e-4 * extent, 0.2 * extent
    for _ in range(12):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if len(voxel_downsample(cloud, middle)) > count else (low, middle)
    return random_downsample(voxel_downsample(cloud, low), count)
