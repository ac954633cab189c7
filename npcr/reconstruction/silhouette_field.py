# SPDX-License-Identifier: Apache-2.0
"""Mattes and cameras as one function of space: how deep a point lies within the visual hull.

Each matte becomes a signed distance to its silhouette in pixels, positive inside; the smallest over the views
that see a point is its depth within the hull.

A view does not constrain what lies behind it or beyond a border of its image that the matte touches. Beyond a
border that the matte does not touch there is nothing of the object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.errors import SceneError
from npcr.reconstruction.mattes import signed_distance

UNCONSTRAINED = 1e6  # pixels: the distance where too few views constrain a point
_INSET = 0.5  # pixels: a point is drawn at least a pixel wide, so its center stays half a pixel within the matte


@dataclass(frozen=True)
class SilhouetteField:
    """The mattes as signed distances in pixels, with the cameras at their size."""

    distances: list[Tensor]  # (1, 3, H, W) float32 each: distance, its derivative along x and along y
    open_sides: Tensor  # (views, 4) bool: left, top, right, bottom border that the matte touches
    cameras: Cameras
    min_views: int  # a point that fewer views constrain is outside
    tolerated: int = 0  # views that may have a point outside without its being outside

    @classmethod
    def from_mattes(cls, mattes: Sequence[np.ndarray], cameras: Cameras, *, threshold: float = 0.5,
                    min_views: int | None = None, tolerated: int = 0) -> SilhouetteField:
        """Build the field of mattes.

        Args:
            mattes: (H, W) uint8, one for each camera and of its size.
            cameras: the views.
            threshold: coverage, 0 to 1, from which a pixel counts as the object.
            min_views: a point that fewer views constrain is outside; None: a quarter of them, at least two.
            tolerated: number of views that may be wrong about a point.

        Returns:
            The field.

        Raises:
            SceneError: no matte has anything of the object, or there is not one for each camera.
        """
        if len(mattes) != len(cameras):
            raise SceneError(f"carving: {len(mattes)} mattes for {len(cameras)} cameras")
        if not any((matte > 255 * threshold).any() for matte in mattes):
            raise SceneError(f"carving: no pixel of the {len(mattes)} mattes is above the threshold {threshold:g}")
        least = max(2, math.ceil(len(mattes) / 4)) if min_views is None else min_views
        touched = [[bool((border > 255 * threshold).any()) for border in (m[:, 0], m[0], m[:, -1], m[-1])]
                   for m in mattes]
        return cls([_with_gradient(signed_distance(matte, threshold) - _INSET) for matte in mattes],
                   torch.tensor(touched), cameras, min(least, len(mattes)), tolerated)

    def distance(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Measure how deep points lie within the hull.

        Args:
            points: (N, 3) float32, world coordinates.

        Returns:
            Distance (N,) in pixels to the hull's surface in the view that bounds the point, positive inside, and
            that view (N,); -UNCONSTRAINED and view -1 where too few views constrain the point.
        """
        smallest, seen = self._smallest(points)
        hidden = seen < self.min_views
        return smallest.value.masked_fill(hidden, -UNCONSTRAINED), smallest.view.masked_fill(hidden, -1)

    def views_within(self, points: Tensor, slack: float) -> Tensor:
        """Count the views that agree on points of the hull.

        Args:
            points: (N, 3) float32, world coordinates.
            slack: pixels by which a point may lie outside the hull.

        Returns:
            (N,) int32 views that constrain each point, 0 where it lies outside the hull.
        """
        smallest, seen = self._smallest(points)
        return seen.masked_fill(smallest.value < -slack, 0)

    def may_intersect(self, centers: Tensor, radius: float) -> Tensor:
        """Tell which spheres the hull's surface may pass through.

        Args:
            centers: (N, 3) float32, world coordinates.
            radius: of the spheres, world units.

        Returns:
            (N,) bool.
        """
        least, most = (_Smallest(len(centers), self.tolerated) for _ in range(2))
        seen = torch.zeros(len(centers), dtype=torch.int32)
        for i in range(len(self.cameras)):
            distance, known, scale = self._look_up(centers, i)
            seen += known
            least.add((distance - scale * radius).masked_fill(~known, UNCONSTRAINED), i)
            most.add((distance + scale * radius).masked_fill(~known, UNCONSTRAINED), i)
        # A pixel of slack: the distances are those of pixels, not of the silhouette itself.
        return (seen >= self.min_views) & (most.value > -1) & (least.value < 1)

    def newton_step(self, points: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """Compute the move along the gradient that brings points to the silhouette of one view.

        Args:
            points: (N, 3) float32, world coordinates, in front of the camera.
            view: index of the camera.

        Returns:
            The move (N, 3) and the outward unit normals (N, 3).
        """
        camera = self.cameras[view]
        matrix = camera.intrinsics[0]
        pixels, depth = (result[0] for result in project(points[None], camera))
        values = _sample(self.distances[view], pixels)
        slope = values[:, 1:]
        across = slope @ matrix[:2, :2]
        along = -(slope * (pixels - matrix[:2, 2])).sum(1, keepdim=True)
        gradient = torch.cat([across, along], 1) / depth[:, None] @ camera.cam_to_world[0, :3, :3].T
        square = (gradient**2).sum(1, keepdim=True).clamp_min(1e-20)
        return -values[:, :1] * gradient / square, -gradient / square.sqrt()

    def _smallest(self, points: Tensor) -> tuple[_Smallest, Tensor]:
        """The smallest distances of points over the views that constrain them, and how many do, (N,) int32."""
        smallest = _Smallest(len(points), self.tolerated)
        seen = torch.zeros(len(points), dtype=torch.int32)
        for i in range(len(self.cameras)):
            distance, known, _ = self._look_up(points, i)
            seen += known
            smallest.add(distance.masked_fill(~known, UNCONSTRAINED), i)
        return smallest, seen

    def _look_up(self, points: Tensor, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distance (N,) in the view, whether it constrains the point, and pixels per world unit at its depth."""
        camera, image = self.cameras[view], self.distances[view]
        pixels, depth = (result[0] for result in project(points[None], camera))
        last = torch.tensor([camera.size[0] - 1.0, camera.size[1] - 1.0])
        beyond = torch.cat([-0.5 - pixels, pixels - last - 0.5], 1) > 0  # (N, 4) left, top, right, bottom
        known = (depth > 0) & ~(beyond & self.open_sides[view]).any(1)
        nearest = torch.minimum(pixels.nan_to_num(0).clamp_min(0), last)
        offset = (pixels - nearest).norm(dim=1).nan_to_num(UNCONSTRAINED, UNCONSTRAINED)
        distance = _sample(image[:, :1], nearest)[:, 0] - offset
        scale = camera.intrinsics[0, 0, 0] / depth.clamp_min(1e-12)
        return distance, known, scale


class _Smallest:
    """The (`skipped` + 1)-th smallest of the values added for each of `count` points, and the view it came from."""

    def __init__(self, count: int, skipped: int) -> None:
        self._values = torch.full((count, skipped + 1), UNCONSTRAINED)
        self._views = torch.full((count, skipped + 1), -1)

    def add(self, values: Tensor, view: int) -> None:
        """Insert the `values` (count,) of `view`."""
        for rank in range(self._values.shape[1]):  # insertion into a sorted row
            held, owner = self._values[:, rank], self._views[:, rank]
            smaller = values < held
            if rank == 0:
                views = torch.full_like(owner, view)
            self._values[:, rank], values = torch.where(smaller, values, held), torch.where(smaller, held, values)
            self._views[:, rank], views = torch.where(smaller, views, owner), torch.where(smaller, owner, views)

    @property
    def value(self) -> Tensor:
        return self._values[:, -1]

    @property
    def view(self) -> Tensor:
        return self._views[:, -1]


def _with_gradient(distance: np.ndarray) -> Tensor:
    """(1, 3, H, W): the distance (H, W) and its derivatives along x and y."""
    gradient = [cv2.Scharr(distance, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1))]
    return torch.from_numpy(np.stack([distance, *gradient]))[None]


def _sample(images: Tensor, pixels: Tensor) -> Tensor:
    """(N, C) bilinear values of images (1, C, H, W) at pixels (N, 2); the border's value beyond it."""
    height, width = images.shape[2:]
    grid = (pixels + 0.5) / torch.tensor([width / 2, height / 2]) - 1
    sampled = torch.nn.functional.grid_sample(images, grid.nan_to_num(9)[None, None], padding_mode="border",
                                              align_corners=False)
    return sampled[0, :, 0].T
