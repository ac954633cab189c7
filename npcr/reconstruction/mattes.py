# SPDX-License-Identifier: Apache-2.0
"""Mattes before a cloud is carved from them: reduced, freed from holes, measured against a cloud."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from npcr.cameras import Cameras, project

_NO_SILHOUETTE = 1e5  # pixels: the distance where a matte is all object, or all background


def reduced_size(size: tuple[int, int], longest_side: int) -> tuple[int, int]:
    """Scale a size down, with its shape kept.

    Args:
        size: (width, height), pixels.
        longest_side: limit of both, pixels.

    Returns:
        (width, height), at least 1 each; the size itself where it is within the limit.
    """
    scale = min(1.0, longest_side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def reduce_matte(matte: np.ndarray, longest_side: int) -> np.ndarray:
    """Average a matte down.

    Args:
        matte: (H, W) uint8.
        longest_side: limit of the result's height and width, pixels.

    Returns:
        (h, w) uint8.
    """
    size = reduced_size((matte.shape[1], matte.shape[0]), longest_side)
    return cv2.resize(np.ascontiguousarray(matte), size, interpolation=cv2.INTER_AREA)


def signed_distance(matte: np.ndarray, threshold: float) -> np.ndarray:
    """Compute the distance of every pixel to the silhouette.

    The silhouette is smoothed a little, so that the stairs of the pixels do not become stairs of the hull.

    Args:
        matte: (H, W) uint8.
        threshold: 0 to 1; the silhouette is where the matte crosses it.

    Returns:
        (H, W) float32, pixels, positive inside.
    """
    values = cv2.GaussianBlur(matte.astype(np.float32) / 255, (0, 0), 0.6) - threshold
    inside = (values > 0).astype(np.uint8)
    if not inside.any() or inside.all():
        return np.full(matte.shape, _NO_SILHOUETTE if inside.any() else -_NO_SILHOUETTE, np.float32)
    distance = (cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5))
    distance -= np.sign(distance) * 0.5  # the border runs between pixel centers
    return cv2.GaussianBlur(distance, (0, 0), 0.8)


def fill_holes(matte: np.ndarray, share: float, threshold: float = 0.5) -> np.ndarray:
    """Close small holes that the object encloses; often they are shadows that a keyer took for background.

    Args:
        matte: (H, W) uint8.
        share: holes below this share of the object's area are closed; 0 closes none.
        threshold: 0 to 1, from which a pixel is the object.

    Returns:
        (H, W) uint8, a copy with 255 in the holes and one pixel around them.
    """
    solid = (matte > 255 * threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - solid, connectivity=4)
    at_border = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    result = matte.copy()
    for label in range(1, count):
        if label not in at_border and stats[label, cv2.CC_STAT_AREA] < share * solid.sum():
            hole = cv2.dilate((labels == label).astype(np.uint8), np.ones((3, 3), np.uint8))
            result[hole > 0] = 255
    return result


def coverage(points: np.ndarray, cameras: Cameras, mattes: Sequence[np.ndarray], radius: float = 2.0,
             threshold: float = 0.5) -> tuple[float, float]:
    """Compare a projected cloud with the mattes, over all views.

    Args:
        points: (N, 3), world coordinates.
        cameras: one for each matte, at the mattes' size.
        mattes: (H, W) uint8 each.
        radius: pixels within which a point covers a pixel.
        threshold: 0 to 1, from which a pixel is the object.

    Returns:
        (covered, spilled), 0 to 1 each: the share of the object's pixels that a projected point covers, and the
        share of the projected points whose pixel lies outside the object.
    """
    near = total = outside = projected = 0
    cloud = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    for i, matte in enumerate(mattes):
        pixels, depth = project(cloud[None], cameras[i])
        place = torch.floor(pixels[0][depth[0] > 0] + 0.5).long().numpy()
        height, width = matte.shape
        place = place[((place >= 0) & (place < [width, height])).all(1)]
        hit = np.full((height, width), 255, np.uint8)
        hit[place[:, 1], place[:, 0]] = 0
        solid = matte > 255 * threshold
        near += int((cv2.distanceTransform(hit, cv2.DIST_L2, 5)[solid] <= radius).sum())
        total += int(solid.sum())
        outside += int((~solid[place[:, 1], place[:, 0]]).sum())
        projected += len(place)
    return near / max(total, 1), outside / max(projected, 1)
