# SPDX-License-Identifier: Apache-2.0
"""Steady video: earlier frames of a camera path, reprojected onto the current one and blended with it.

A pixel with depth is unprojected with its own camera and projected into an earlier frame's camera; the
colour found there is the earlier frame's opinion on that pixel. Two behaviours (design, "Temporal"):

- `reproject` and `DefaultBlender`: pixel centres are whole numbers, premultiplied RGBA is sampled
  bilinearly, and only where the earlier frame saw that very point.
- `reproject_legacy` and `LegacyBlender`: the published implementation's numbers.

Blenders are streams: `blend` takes the frames of a path in order and keeps the history alone. A batch is
several paths side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from npcr.cameras import Cameras, project, unproject

# Of the four neighbours' bilinear weight, the share that must have seen the point for a sample to count.
SEEN_SHARE = 0.5


@dataclass(frozen=True)
class Frame:
    """One rendered frame (of B paths): a picture, the depth it was rendered at, and its cameras."""

    image: Tensor  # (B, C, H, W) float, C >= 3, red green blue first
    depth: Tensor  # (B, H, W) float, camera-space z; 0: nothing there
    cameras: Cameras  # B, of size (W, H)

    def __post_init__(self) -> None:
        width, height = self.cameras.size
        batch = len(self.cameras)
        if self.image.ndim != 4 or self.image.shape[1] < 3 or self.image.shape[2:] != (height, width):
            raise ValueError(f"Frame: image must be ({batch}, 3 or more, {height}, {width}), "
                             f"is {tuple(self.image.shape)}")
        if self.image.shape[0] != batch or tuple(self.depth.shape) != (batch, height, width):
            raise ValueError(f"Frame: image and depth must be a batch of {batch} of {height} by {width}, "
                             f"are {tuple(self.image.shape)} and {tuple(self.depth.shape)}")

    def detach(self) -> Frame:
        """The same frame without its graph."""
        return replace(self, image=self.image.detach(), depth=self.depth.detach())


def reproject(current: Frame, earlier: Frame, images: Sequence[Tensor], *, color_threshold: float,
              depth_tolerance: float) -> list[Tensor]:
    """What `images` (B, C, H, W), seen through the earlier camera, say about the current frame's pixels.

    Images are premultiplied, sampled bilinearly from those of the four neighbours that saw the point: whose
    depth is within `depth_tolerance` (relative) of the point's; where they are not all four the sample is up
    to half a pixel off, but nothing of an occluder enters it. The current frame's value stands where the
    current frame has no depth, where the neighbours that saw the point carry less than half of the weight,
    and where the squared RGB distance exceeds `color_threshold` (0-255 scale; the images are 0-1).
    """
    index, weights = _neighbours(current, earlier, depth_tolerance)
    trusted = (weights.sum(dim=1) >= SEEN_SHARE) & (current.depth > 0)  # (B, H, W)
    weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(SEEN_SHARE)
    limit = color_threshold / 255**2
    result = []
    for image in images:
        sampled = _gather(image, index, weights)
        near = _color_distance(sampled, current.image) <= limit
        result.append(torch.where((trusted & near)[:, None], sampled, current.image))
    return result


def _neighbours(current: Frame, earlier: Frame, depth_tolerance: float) -> tuple[Tensor, Tensor]:
    """Of every current pixel's point, its four pixels in the earlier frame.

    Returns their flat index (B, 4, H, W) int64 and their bilinear weight (B, 4, H, W), 0 where the
    neighbour is outside the picture, behind the camera, or did not see the point.
    """
    width, height = earlier.cameras.size
    pixels, z = _project(current, earlier.cameras)
    # One pixel beyond the border already has no neighbour inside; it also keeps NaN and infinity from int64.
    x = pixels[..., 0].nan_to_num(-2.0).clamp(-2.0, width + 1.0)
    y = pixels[..., 1].nan_to_num(-2.0).clamp(-2.0, height + 1.0)
    left, top = x.floor(), y.floor()
    right_share, bottom_share = x - left, y - top
    depth = earlier.depth.flatten(1)
    index, weights = [], []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        column, row = left.long() + dx, top.long() + dy
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        flat = column.clamp(0, width - 1) + row.clamp(0, height - 1) * width  # (B, H, W)
        there = depth.gather(1, flat.flatten(1)).view_as(z)
        seen = inside & (there > 0) & ((there - z).abs() <= depth_tolerance * z)  # z <= 0 never passes
        share = (right_share if dx else 1 - right_share) * (bottom_share if dy else 1 - bottom_share)
        index.append(flat)
        weights.append(share * seen)
    return torch.stack(index, dim=1), torch.stack(weights, dim=1)


def _gather(image: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """(B, C, H, W): the weighted sum of `image` (B, C, H, W) at flat pixels `index` (B, N, H, W)."""
    flat = image.flatten(2)
    total = torch.zeros_like(image)
    for n in range(index.shape[1]):
        at = index[:, n].flatten(1)[:, None].expand(-1, image.shape[1], -1)
        total += flat.gather(2, at).view_as(image) * weights[:, n, None]
    return total


def reproject_legacy(current: Frame, earlier: Frame, images: Sequence[Tensor], *,
                     color_threshold: float) -> list[Tensor]:
    """The published warp, on the images' own scale: half a pixel off, nearest neighbour, no visibility.

    The sample is `grid_sample` at (2u/W - 1, 2v/H - 1), nearest, align_corners=False, zeros outside. Pixels
    whose summed squared difference exceeds `color_threshold` (in the images' units), and after that every
    single channel that equals 0, take the current frame's value (design, "Legacy, exactly").
    """
    width, height = earlier.cameras.size
    pixels, _ = _project(current, earlier.cameras)
    grid = torch.stack([2 * pixels[..., 0] / width - 1, 2 * pixels[..., 1] / height - 1], dim=-1)
    # Points in the earlier camera's own plane give NaN or infinity, which devices turn into different pixels.
    grid = grid.nan_to_num(-4.0).clamp(-4.0, 4.0)
    result = []
    for image in images:
        sampled = torch.nn.functional.grid_sample(image, grid, mode="nearest", padding_mode="zeros",
                                                  align_corners=False)
        far = _color_distance(sampled, current.image) > color_threshold
        sampled = torch.where(far[:, None], current.image, sampled)
        result.append(torch.where(sampled == 0, current.image, sampled))
    return result


def _project(current: Frame, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """The current frame's points in earlier `cameras`: pixels (B, H, W, 2) and camera-space z (B, H, W)."""
    return project(unproject(current.depth, current.cameras).permute(0, 2, 3, 1), cameras)


def _color_distance(first: Tensor, second: Tensor) -> Tensor:
    """(B, H, W): the squared RGB distance of two images (B, 3 or more, H, W)."""
    return (first[:, :3] - second[:, :3]).square().sum(dim=1)


class Blender(ABC):
    """A stream that steadies the frames of one path (or of B paths side by side).

    `weights` belong to the current frame, the last blended one, the previous raw one, the one before that,
    and so on: any number of them from one up.
    """

    def __init__(self, weights: Sequence[float], color_threshold: float) -> None:
        if not weights:
            raise ValueError("Blender: weights are empty; the first belongs to the current frame")
        self.weights = list(weights)
        self.color_threshold = color_threshold
        self._raw: deque[Frame] = deque(maxlen=max(1, len(self.weights) - 2))  # newest first
        self._blended: Tensor | None = None  # of the newest

    def blend(self, frame: Frame) -> Frame:
        """The next frame of the path, steadied by those before it; `frame` itself is left as it is."""
        if self._raw and self._raw[0].image.shape != frame.image.shape:
            raise ValueError(f"Blender: the path's frames are {tuple(self._raw[0].image.shape)}, this one is "
                             f"{tuple(frame.image.shape)}")
        image = self._mix([frame.image, *self._opinions(frame)]) if self._ready() else frame.image
        self._raw.appendleft(frame)
        self._blended = image
        return replace(frame, image=image)

    def _opinions(self, frame: Frame) -> list[Tensor]:
        """The history on the current frame's pixels, in the order of the weights after the first."""
        opinions: list[Tensor] = []
        for earlier in self._raw:
            images = [earlier.image] if self._blended is None or opinions else [self._blended, earlier.image]
            opinions += self._reproject(frame, earlier, images)
        return opinions[:len(self.weights) - 1]

    @abstractmethod
    def _ready(self) -> bool:
        """Whether there is history enough to blend."""

    @abstractmethod
    def _reproject(self, current: Frame, earlier: Frame, images: Sequence[Tensor]) -> list[Tensor]:
        """The earlier frame's `images` on the current pixels, the current value where not to be trusted."""

    @abstractmethod
    def _mix(self, images: list[Tensor]) -> Tensor:
        """The weighted sum of the current image and the history's."""


class DefaultBlender(Blender):
    """Blends from the second frame on with whatever history there is. Images are premultiplied RGBA, 0-1.

    While the history is short the weights of what is there are scaled to a sum of one, so the first frames
    lean on the little history they have as later ones do on more. See `reproject` for the arguments.
    """

    def __init__(self, weights: Sequence[float], color_threshold: float, depth_tolerance: float) -> None:
        super().__init__(weights, color_threshold)
        self.depth_tolerance = depth_tolerance

    def _ready(self) -> bool:
        return bool(self._raw)

    def _reproject(self, current: Frame, earlier: Frame, images: Sequence[Tensor]) -> list[Tensor]:
        return reproject(current, earlier, images, color_threshold=self.color_threshold,
                         depth_tolerance=self.depth_tolerance)

    def _mix(self, images: list[Tensor]) -> Tensor:
        weights = self.weights[:len(images)]
        total = sum(weights)
        if total <= 0:
            return images[0]
        return _weighted_sum(images, [weight / total for weight in weights])


class LegacyBlender(Blender):
    """The published blending, from the frame on that finds the whole history (the sixth, with 7 weights).

    Images are RGB over the background, on a 0-255 scale, clipped; weights are used as they are.
    """

    def _ready(self) -> bool:
        return len(self._raw) == self._raw.maxlen

    def _reproject(self, current: Frame, earlier: Frame, images: Sequence[Tensor]) -> list[Tensor]:
        return reproject_legacy(current, earlier, images, color_threshold=self.color_threshold)

    def _mix(self, images: list[Tensor]) -> Tensor:
        return _weighted_sum(images, self.weights[:len(images)])


def _weighted_sum(images: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = images[0] * weights[0]
    for image, weight in zip(images[1:], weights[1:], strict=True):
        total = total + image * weight
    return total
