# SPDX-License-Identifier: Apache-2.0
"""Colors for a point cloud, taken from the photographs."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch

from npcr.cameras import project
from npcr.data.cloud_geometry import near_far_size, point_spacing
from npcr.io.images import read_image
from npcr.ops import rasterize
from npcr.progress import Progress, no_progress
from npcr.reconstruction.mattes import reduced_size
from npcr.reconstruction.silhouettes import Silhouettes

logger = logging.getLogger("npcr")

_DEPTH_SIDE = 800  # longest side of the depth maps that visibility is tested on, pixels


def color_points(points: np.ndarray, normals: np.ndarray, silhouettes: Silhouettes, *,
                 progress: Progress = no_progress) -> np.ndarray:
    """Color each point from the photograph that sees it at the best angle.

    A photograph sees a point where no other point of the cloud lies in front of it; of those that do, the one counts
    that looks most along the outward normal. Points that none sees get the mean color.

    Args:
        points: (N, 3) float32, world coordinates.
        normals: (N, 3), outward, unit length.
        silhouettes: the photographs and their cameras.
        progress: wraps the iteration over photographs.

    Returns:
        (N, 3) uint8 RGB.
    """
    cloud, outward = torch.from_numpy(points).float(), torch.from_numpy(normals).float()
    cameras = silhouettes.cameras
    small = cameras.resized(reduced_size(cameras.size, _DEPTH_SIDE))
    near, far, radius = near_far_size(points, small)
    tolerance = 4 * point_spacing(points)
    best = torch.zeros(len(cloud))
    colors = torch.zeros(len(cloud), 3)
    with ThreadPoolExecutor(2) as pool:
        photographs = pool.map(read_image, silhouettes.images)
        for i, photograph in enumerate(progress(photographs, len(cameras))):
            front = rasterize(cloud, small.cam_to_world[i:i + 1], small.intrinsics[i:i + 1], small.size, near=near,
                              far=far, max_size=max(1.0, radius), layers=1).depth[0, 0]
            pixels, depth = (result[0] for result in project(cloud[None], small[i]))
            inside = (depth > 0) & (pixels > -0.5).all(1) & (pixels < torch.tensor(small.size) - 0.5).all(1)
            place = torch.where(inside[:, None], pixels, torch.zeros(())).round().long()
            visible = inside & (depth <= front[place[:, 1], place[:, 0]] + tolerance)
            toward = torch.nn.functional.normalize(cameras.cam_to_world[i, :3, 3] - cloud, dim=1)
            cosine = (toward * outward).sum(1)
            better = visible & (cosine > best)
            best[better] = cosine[better]
            raw = project(cloud[better][None], cameras[i])[0][0].numpy()
            colors[better] = torch.from_numpy(_bilinear(photograph, raw))
    hidden = best == 0
    if hidden.all():
        logger.warning("colors: none of the %d photographs sees a point; all points are black", len(cameras))
    elif hidden.any():
        logger.info("colors: %d of %d points are hidden in all photographs; they get the mean color of the others",
                    int(hidden.sum()), len(cloud))
        colors[hidden] = colors[~hidden].mean(0)
    return colors.round().clamp(0, 255).byte().numpy()


def _bilinear(photograph: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(N, 3) float32 colors at pixels (N, 2); weighted by alpha, so that no background shines in."""
    values = photograph.astype(np.float32)
    if values.shape[2] == 4:
        values[..., :3] *= values[..., 3:] / 255
    sampled = np.zeros((len(pixels), values.shape[2]), np.float32)
    for start in range(0, len(pixels), 30000):  # cv2.remap takes maps of fewer than 32768 rows
        part = pixels[start:start + 30000].astype(np.float32)
        sampled[start:start + 30000] = cv2.remap(values, part[:, :1], part[:, 1:], cv2.INTER_LINEAR,
                                                 borderMode=cv2.BORDER_REPLICATE).reshape(len(part), -1)
    if values.shape[2] == 4:
        return sampled[:, :3] * 255 / np.maximum(sampled[:, 3:], 1)
    return sampled[:, :3]
