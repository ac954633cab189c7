# SPDX-License-Identifier: Apache-2.0
"""How consistent points and images of a reconstruction are, by silhouettes or by color.

Silhouettes: points fall inside the mattes, and the mattes are full of points. Color: where a point falls in a
photograph, it has the point's own color, or the color that it has in the other photographs. Both are batched over
cameras and coarse, since hundreds of reconstructions are compared (`npcr.scene_check.diagnosis`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from npcr.cameras import project
from npcr.scene_check.hypotheses import Reconstruction
from npcr.scene_check.scene_data import downscale

TRACE = 0.02  # alpha: a matte's pixel above it may hold points, one above SOLID should
SOLID = 0.5
_MAX_OUTSIDE = 0.1  # share of the views in which a point of the object may fall outside the matte
_CELL = 16  # pixels: side of the windows in which points behind the nearest one count as hidden


@dataclass(frozen=True)
class Consistency:
    """How well points and images agree; reconstructions are compared by `per_camera`."""

    per_camera: Tensor  # (B,) higher is better, NaN where the camera's image is not known
    point_score: float  # silhouettes: share of the points that lie within (nearly) all mattes; color: correlation
    coverage: float  # silhouettes: share of the mattes that those points cover; color: share of the points seen

    @property
    def mean(self) -> float:
        """The mean over the cameras whose image is known."""
        known = self.per_camera[~self.per_camera.isnan()]
        return float(known.mean()) if len(known) else 0.0


class ConsistencyMeasure(Protocol):
    """Measures reconstructions by the images of a scene."""

    def measure(self, reconstruction: Reconstruction) -> Consistency:
        """Measure a reconstruction, whose cameras may be a subset."""


class SilhouetteConsistency:
    """Measures whether the points fill the mattes, and no more.

    Args:
        mattes: (H, W) uint8 each, all of one size.
        longest_side: pixels, to which they are reduced.
        points: number of points in the reconstructions that are measured.
    """

    def __init__(self, mattes: Sequence[np.ndarray], longest_side: int, points: int) -> None:
        reduced = np.stack([downscale(matte, longest_side) for matte in mattes])
        self.solid = torch.from_numpy(reduced > 255 * SOLID)
        trace = torch.from_numpy(reduced > 255 * TRACE)
        # The object may go on beyond these sides of the image: left, top, right, bottom.
        self.open_sides = torch.stack([side.any(1) for side in (trace[:, :, 0], trace[:, 0], trace[:, :, -1],
                                                                trace[:, -1])], 1)
        self.trace = F.max_pool2d(trace.float()[:, None], 3, 1, 1)[:, 0] > 0  # a pixel of rounding
        area = float(self.solid.sum((1, 2)).float().mean())
        self.radius = max(1, math.ceil(1.3 * math.sqrt(area / points)))
        self.size = (reduced.shape[2], reduced.shape[1])

    def measure(self, reconstruction: Reconstruction) -> Consistency:
        """Measure the share of the points inside each matte, times the share of it that they cover."""
        cameras = reconstruction.cameras.resized(self.size)
        pixels, depth = project(reconstruction.points.expand(len(cameras), -1, 3), cameras)
        front = (depth > 0) & pixels.isfinite().all(-1)
        pixel = torch.where(front[..., None], pixels, torch.tensor(-9.0)).clamp(-9, 1e6).add(0.5).floor().long()
        last = torch.tensor(self.size) - 1
        beyond = torch.cat([pixel < 0, pixel > last], -1)  # left, top, right, bottom
        in_image = front & ~beyond.any(-1)
        image = reconstruction.images.clamp_min(0)
        unknown = front & beyond.any(-1) & ~(beyond & ~self.open_sides[image][:, None]).any(-1)
        pixel = torch.minimum(pixel.clamp_min(0), last)
        flat = pixel[..., 1] * self.size[0] + pixel[..., 0]  # (B, N)
        inside = in_image & self.trace[image].flatten(1).gather(1, flat)

        has_image = reconstruction.images >= 0
        outside = ~inside & ~unknown & has_image[:, None]
        known = (~unknown & has_image[:, None]).sum(0)
        in_object = (known > 0) & (outside.sum(0) <= _MAX_OUTSIDE * known)
        share_inside = inside.sum(1) / (~unknown).sum(1).clamp_min(1)
        # Where most points lie beyond an open side, the rest tells little.
        share_inside = torch.where((~unknown).sum(1) > 0.05 * unknown.shape[1], share_inside, torch.nan)
        covered = self._covered(flat, inside, image)
        covered_by_object = self._covered(flat, inside & in_object, image)
        per_camera = torch.where(has_image, share_inside * covered, torch.nan)
        return Consistency(per_camera, float(in_object.float().mean()), float(covered_by_object[has_image].nanmean()))

    def _covered(self, flat: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        """(B,) share of each matte that lies near a projected point of the mask; NaN where the matte is empty."""
        width, height = self.size
        # Rows between the images keep them apart, so that one dilation does for all.
        hits = np.zeros((len(flat), height + self.radius, width), np.uint8)
        view, point = np.nonzero(mask.numpy())
        index = flat.numpy()[view, point]
        hits[view, index // width, index % width] = 1
        kernel = np.ones((2 * self.radius + 1, 2 * self.radius + 1), np.uint8)
        near = torch.from_numpy(cv2.dilate(hits.reshape(-1, width), kernel).reshape(hits.shape)[:, :height]) > 0
        solid = self.solid[image]
        total = solid.sum((1, 2))
        return torch.where(total > 0, (near & solid).sum((1, 2)) / total.clamp_min(1), torch.nan)


class PhotoConsistency:
    """Measures whether the points have the same color in all photographs.

    Args:
        photographs: (H, W, 3 or 4) uint8 each, all of one size.
        longest_side: pixels, to which they are reduced.
        colors: (N, 3) uint8 of the points that are measured; None: photographs are compared with each other.
    """

    def __init__(self, photographs: Sequence[np.ndarray], longest_side: int, colors: Tensor | None) -> None:
        reduced = np.stack([downscale(photograph[..., :3], longest_side) for photograph in photographs])
        self.photographs = torch.from_numpy(reduced).permute(0, 3, 1, 2).float() / 255
        self.colors = None if colors is None else colors.float() / 255
        self.size = (reduced.shape[2], reduced.shape[1])

    def measure(self, reconstruction: Reconstruction) -> Consistency:
        """Measure how much each photograph's colors gain in likelihood by the colors that are expected."""
        cameras = reconstruction.cameras.resized(self.size)
        pixels, depth = project(reconstruction.points.expand(len(cameras), -1, 3), cameras)
        last = torch.tensor(self.size) - 1
        has_image = reconstruction.images >= 0
        visible = (depth > 0) & (pixels >= 0).all(-1) & (pixels <= last).all(-1) & has_image[:, None]
        visible &= self._in_front(pixels, depth, visible)
        grid = torch.where(visible[..., None], pixels, torch.zeros(())) * 2 / last - 1
        samples = F.grid_sample(self.photographs[reconstruction.images.clamp_min(0)], grid[:, None],
                                align_corners=True)
        samples = samples[:, :, 0].transpose(1, 2) * visible[..., None]  # (B, N, 3)
        counts = visible.sum(0)
        if self.colors is not None:
            expected = self.colors.expand_as(samples)
        else:  # the mean over the other photographs
            expected = (samples.sum(0) - samples) / (counts - 1).clamp_min(1)[:, None]
            visible = visible & (counts > 1)
        r = _correlation(samples, expected, visible)
        share = visible.float().mean(1)
        # The gain in log-likelihood, per point of the cloud, of a linear fit over none: few points prove little.
        per_camera = torch.where(has_image, -0.5 * share * torch.log1p(-r.clamp(0, 0.999) ** 2), torch.nan)
        known = has_image & (share > 0)
        return Consistency(per_camera, float(r[known].mean()) if known.any() else 0.0, float(share.mean()))

    def _in_front(self, pixels: Tensor, depth: Tensor, visible: Tensor) -> Tensor:
        """(B, N) whether no point of the same small window lies far in front."""
        columns, rows = (side // _CELL + 1 for side in self.size)
        cell = (torch.where(visible[..., None], pixels, torch.zeros(())) / _CELL).long()
        cell = cell[..., 1].clamp(0, rows - 1) * columns + cell[..., 0].clamp(0, columns - 1)
        nearest = torch.full((len(depth), rows * columns), torch.inf)
        nearest.scatter_reduce_(1, cell, torch.where(visible, depth, torch.inf), "amin")
        median = torch.where(visible, depth, torch.nan).nanmedian(1, keepdim=True).values
        deviation = (torch.where(visible, depth, torch.nan) - median).abs().nanmedian(1, keepdim=True).values
        return depth <= nearest.gather(1, cell) + 0.7 * deviation


def _correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """(B,) of colors (B, N, 3) under a mask (B, N), channels taken together; 0 where nothing varies."""
    weight = mask[..., None].float()
    total = weight.sum(1, keepdim=True).clamp_min(1)
    a, b = ((x - (x * weight).sum(1, keepdim=True) / total) * weight for x in (a, b))
    square = (a * a).sum((1, 2)) * (b * b).sum((1, 2))
    return torch.where(square > 1e-9, (a * b).sum((1, 2)) / square.clamp_min(1e-12).sqrt(), torch.zeros(()))
