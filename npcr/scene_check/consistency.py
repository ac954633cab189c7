# SPDX-License-Identifier: Apache-2.0
"""How well a point cloud and pictures agree in one reading of a scene: by silhouettes, or by colors.

Silhouettes: points fall inside the mattes, and the mattes are full of points. Colors: where a point falls in
a photograph, it has the point's own color, or the color it has in the other photographs. Both are batched over
cameras and coarse, since hundreds of readings are compared (`npcr.scene_check.diagnosis`).
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
from npcr.scene_check.hypotheses import Reading

TRACE = 0.02  # of coverage: a matte's pixel above it may hold points, one above SOLID should
SOLID = 0.5
_FEW = 0.1  # a point is within the object where at most this share of the views say otherwise
_BLOCK = 16  # pixels: side of the windows in which the nearest points are told from hidden ones


@dataclass(frozen=True)
class Agreement:
    """What cloud and pictures say of a reading; `each` is what readings are compared by."""

    each: Tensor  # (B,) agreement of each camera, higher is better, NaN where the picture is not known
    consistent: float  # silhouettes: share of the points that lie within (nearly) all mattes; colors: correlation
    covered: float  # silhouettes: share of the mattes that those points cover; colors: share of points seen

    @property
    def mean(self) -> float:
        known = self.each[~self.each.isnan()]
        return float(known.mean()) if len(known) else 0.0


class Evidence(Protocol):
    """Something that a reading can be judged by."""

    def judge(self, reading: Reading) -> Agreement:
        """The agreement of a reading, whose cameras may be a subset."""


class Silhouettes:
    """Mattes (n, h, w) as evidence."""

    def __init__(self, mattes: Sequence[np.ndarray], longest_side: int, points: int) -> None:
        """mattes: (H, W) uint8, all of one size; points: how many a cloud that is judged will have."""
        small = np.stack([reduced(matte, longest_side) for matte in mattes])
        self.solid = torch.from_numpy(small > 255 * SOLID)
        trace = torch.from_numpy(small > 255 * TRACE)
        self.open_sides = torch.stack([s.any(1) for s in (trace[:, :, 0], trace[:, 0], trace[:, :, -1],
                                                           trace[:, -1])], 1)  # left, top, right, bottom
        self.trace = F.max_pool2d(trace.float()[:, None], 3, 1, 1)[:, 0] > 0  # a pixel of rounding
        area = float(self.solid.sum((1, 2)).float().mean())
        self.radius = max(1, math.ceil(1.3 * math.sqrt(area / points)))
        self.size = (small.shape[2], small.shape[1])

    def judge(self, reading: Reading) -> Agreement:
        cameras = reading.cameras.resized(self.size)
        pixels, depth = project(reading.points.expand(len(cameras), -1, 3), cameras)
        front = (depth > 0) & pixels.isfinite().all(-1)
        place = torch.where(front[..., None], pixels, torch.tensor(-9.0)).clamp(-9, 1e6).add(0.5).floor().long()
        last = torch.tensor(self.size) - 1
        beyond = torch.cat([place < 0, place > last], -1)  # left, top, right, bottom
        in_picture = front & ~beyond.any(-1)
        picture = reading.pictures.clamp_min(0)
        unknown = front & beyond.any(-1) & ~(beyond & ~self.open_sides[picture][:, None]).any(-1)
        place = torch.minimum(place.clamp_min(0), last)
        flat = place[..., 1] * self.size[0] + place[..., 0]  # (B, N)
        inside = in_picture & self.trace[picture].flatten(1).gather(1, flat)

        has_picture = reading.pictures >= 0
        outside = ~inside & ~unknown & has_picture[:, None]
        known = (~unknown & has_picture[:, None]).sum(0)
        within = (known > 0) & (outside.sum(0) <= _FEW * known)
        share_inside = inside.sum(1) / (~unknown).sum(1).clamp_min(1)
        # Where most points lie beyond an open border, the rest says little.
        share_inside = torch.where((~unknown).sum(1) > 0.05 * unknown.shape[1], share_inside, torch.nan)
        covered = self._covered(flat, inside, picture)
        by_within = self._covered(flat, inside & within, picture)
        each = torch.where(has_picture, share_inside * covered, torch.nan)
        return Agreement(each, float(within.float().mean()), float(by_within[has_picture].nanmean()))

    def _covered(self, flat: Tensor, which: Tensor, picture: Tensor) -> Tensor:
        """(B,) share of each matte that lies near a projected point; NaN where the matte is empty."""
        width, height = self.size
        hits = np.zeros((len(flat), height + self.radius, width), np.uint8)  # apart, to be dilated as one picture
        view, point = np.nonzero(which.numpy())
        place = flat.numpy()[view, point]
        hits[view, place // width, place % width] = 1
        kernel = np.ones((2 * self.radius + 1, 2 * self.radius + 1), np.uint8)
        grown = torch.from_numpy(cv2.dilate(hits.reshape(-1, width), kernel).reshape(hits.shape)[:, :height]) > 0
        solid = self.solid[picture]
        total = solid.sum((1, 2))
        return torch.where(total > 0, (grown & solid).sum((1, 2)) / total.clamp_min(1), torch.nan)


class Colors:
    """Photographs (n, h, w, 3) as evidence, with the points' own colors or without."""

    def __init__(self, photographs: Sequence[np.ndarray], longest_side: int, colors: Tensor | None) -> None:
        """photographs: (H, W, 3) uint8, all of one size; colors: (N, 3) uint8 of the points that are judged."""
        small = np.stack([reduced(photograph[..., :3], longest_side) for photograph in photographs])
        self.photographs = torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255
        self.colors = None if colors is None else colors.float() / 255
        self.size = (small.shape[2], small.shape[1])

    def judge(self, reading: Reading) -> Agreement:
        cameras = reading.cameras.resized(self.size)
        pixels, depth = project(reading.points.expand(len(cameras), -1, 3), cameras)
        last = torch.tensor(self.size) - 1
        seen = (depth > 0) & (pixels >= 0).all(-1) & (pixels <= last).all(-1) & (reading.pictures >= 0)[:, None]
        seen &= self._in_front(pixels, depth, seen)
        grid = torch.where(seen[..., None], pixels, torch.zeros(())) * 2 / last - 1
        samples = F.grid_sample(self.photographs[reading.pictures.clamp_min(0)], grid[:, None], align_corners=True)
        samples = samples[:, :, 0].transpose(1, 2) * seen[..., None]  # (B, N, 3)
        counts = seen.sum(0)
        if self.colors is not None:
            expected = self.colors.expand_as(samples)
        else:  # the mean over the other photographs
            expected = (samples.sum(0) - samples) / (counts - 1).clamp_min(1)[:, None]
            seen = seen & (counts > 1)
        r = _correlation(samples, expected, seen)
        share = seen.float().mean(1)
        # The gain in log-likelihood, per point of the cloud, of a linear fit over none: few points prove little.
        each = torch.where(reading.pictures >= 0, -0.5 * share * torch.log1p(-r.clamp(0, 0.999) ** 2), torch.nan)
        known = (reading.pictures >= 0) & (share > 0)
        return Agreement(each, float(r[known].mean()) if known.any() else 0.0, float(share.mean()))

    def _in_front(self, pixels: Tensor, depth: Tensor, seen: Tensor) -> Tensor:
        """(B, N) whether no point of the same small window lies far in front."""
        columns, rows = (side // _BLOCK + 1 for side in self.size)
        cell = (torch.where(seen[..., None], pixels, torch.zeros(())) / _BLOCK).long()
        cell = cell[..., 1].clamp(0, rows - 1) * columns + cell[..., 0].clamp(0, columns - 1)
        nearest = torch.full((len(depth), rows * columns), torch.inf)
        nearest.scatter_reduce_(1, cell, torch.where(seen, depth, torch.inf), "amin")
        middle = torch.where(seen, depth, torch.nan).nanmedian(1, keepdim=True).values
        spread = (torch.where(seen, depth, torch.nan) - middle).abs().nanmedian(1, keepdim=True).values
        return depth <= nearest.gather(1, cell) + 0.7 * spread


def reduced(pixels: np.ndarray, longest_side: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) averaged down so that no side is longer."""
    height, width = pixels.shape[:2]
    scale = min(1.0, longest_side / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)


def _correlation(a: Tensor, b: Tensor, seen: Tensor) -> Tensor:
    """(B,) of colors (B, N, 3) where seen (B, N), channels taken together; 0 where nothing varies."""
    weight = seen[..., None].float()
    total = weight.sum(1, keepdim=True).clamp_min(1)
    a, b = ((x - (x * weight).sum(1, keepdim=True) / total) * weight for x in (a, b))
    square = (a * a).sum((1, 2)) * (b * b).sum((1, 2))
    return torch.where(square > 1e-9, (a * b).sum((1, 2)) / square.clamp_min(1e-12).sqrt(), torch.zeros(()))
