# SPDX-License-Identifier: Apache-2.0
"""Blending each frame of a camera path with its neighbors, so that video is steady (docs/method.md, "Temporal").

Blenders turn a stream of frames into one of steadier frames, and keep only the few frames that they blend. A batch is
several paths side by side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import torch
from torch import Tensor

from npcr.cameras import concatenate
from npcr.ops import native_temporal
from npcr.ops.dispatch import BLEND, use_compiled
from npcr.temporal.legacy import reproject_legacy
from npcr.temporal.reprojection import (
    EMPTY_CROP,
    Crop,
    RenderedFrame,
    box_of,
    color_confidence,
    color_factor,
    find_warp,
    image_to_world,
    occupied_crop,
    sample_smoothly,
    squared_turn,
    surface_depth,
    world_to_image,
)
from npcr.transfers import to_device


class Blender(ABC):
    """Steadies the frames of a path, or of B paths side by side. It holds settings alone: each path begins anew."""

    def blend(self, frames: Iterable[RenderedFrame]) -> Iterator[RenderedFrame]:
        """Blend the frames of a path with their neighbors.

        Args:
            frames: in the path's order; they are not changed. A few may be read ahead of what is yielded.

        Yields:
            As many frames, in the same order.

        Raises:
            ValueError: the frames' shapes differ.
        """
        return self._blend(_require_one_shape(frames))

    @property
    @abstractmethod
    def reach(self) -> int | None:
        """Frames on either side of one on which its blend depends; None: all before it."""

    @abstractmethod
    def _blend(self, frames: Iterator[RenderedFrame]) -> Iterator[RenderedFrame]:
        """As `blend`, of frames of one shape."""


def _require_one_shape(frames: Iterable[RenderedFrame]) -> Iterator[RenderedFrame]:
    shape = None
    for frame in frames:
        if shape is not None and shape != frame.image.shape:
            raise ValueError(f"Blender: the path's frames are {tuple(shape)}, this one is {tuple(frame.image.shape)}")
        shape = frame.image.shape
        yield frame


class _Neighbor(NamedTuple):
    """A frame that a `DefaultBlender` keeps, with what it needs of its depth."""

    frame: RenderedFrame
    crop: Crop  # around its points, with a margin of a pixel
    surface: Tensor  # (B, H, W) `surface_depth`
    pixels: Tensor | None  # (B, H, W, 4) the image as the CPU's kernel reads it; None where torch blends

    @classmethod
    def of(cls, frame: RenderedFrame, backend: str) -> _Neighbor:
        """A frame, and what it needs."""
        crop = occupied_crop(frame.depth, margin=1)
        pixels = _interleave(frame.image) if _has_kernel(frame.image, backend) else None
        return cls(frame, crop, surface_depth(frame.depth, crop, backend=backend), pixels)


class DefaultBlender(Blender):
    """Averages each frame's detail over neighboring frames, by confidence. Images are premultiplied RGBA, 0-1.

    A neighbor's share falls with the confidence of `find_warp`, and with its distance from the current frame in the
    mean over 5x5 pixels. That mean itself stays the current frame's: what flickers is detail, and what moves across
    the surface, such as gloss and silhouettes, is coarser than that.

    Args:
        history: frames to average, the current one in their middle. Where that is no odd number, the two outermost
            get the remaining share: 2 are the current frame and half of either neighbor, 1 changes nothing.
        color_tolerance: the distance of means over 5x5 pixels, in levels of 0-255, at which confidence is 1/e.
        depth_tolerance: the relative depth difference at which confidence is 1/e.
        angle: degrees between two cameras, seen from the object, at which confidence is 1/e.
        backend: "auto", "compiled" or "torch": whether the CPU's kernels blend. They take RGBA in float32.

    Raises:
        ValueError: `history` is below 1.
    """

    def __init__(self, history: float, color_tolerance: float, depth_tolerance: float, angle: float, *,
                 backend: str = "auto") -> None:
        if history < 1:
            raise ValueError(f"DefaultBlender: history is {history:g} frames; it counts the current one, so at least 1")
        self.history = history
        self.color_tolerance = color_tolerance
        self.depth_tolerance = depth_tolerance
        self.angle = angle
        self.backend = backend

    @property
    def reach(self) -> int:
        """As `Blender.reach`."""
        return math.ceil((self.history - 1) / 2)

    def _blend(self, frames: Iterator[RenderedFrame]) -> Iterator[RenderedFrame]:
        reach = self.reach
        kept: list[_Neighbor] = []  # at most `reach` frames before the current one, itself, and as many after
        current = 0  # index into `kept`
        for frame in frames:
            kept.append(_Neighbor.of(frame, self.backend))
            if len(kept) > current + reach:
                yield self._average(kept, current)
                current += 1
                if current > reach:
                    del kept[0]
                    current -= 1
        for index in range(current, len(kept)):
            yield self._average(kept[max(index - reach, 0):], min(index, reach))

    def _average(self, kept: Sequence[_Neighbor], current: int) -> RenderedFrame:
        """Frame number `current` of `kept`, its detail averaged over all of them."""
        frame, crop = kept[current].frame, kept[current].crop
        shares = {index: min((self.history - 1) / 2 - abs(index - current) + 1, 1)
                  for index in range(len(kept)) if index != current}
        others = [kept[index] for index in shares]
        if not others or crop == EMPTY_CROP:
            return frame
        in_torch = any(one.pixels is None for one in (kept[current], *others))
        average = self._average_reference if in_torch else self._average_compiled
        return replace(frame, image=average(kept[current], others, list(shares.values())))

    def _average_reference(self, current: _Neighbor, others: Sequence[_Neighbor], shares: list[float]) -> Tensor:
        """The blended image, in torch."""
        frame, crop, surface, _ = current
        many, (rows, columns) = len(others), crop  # the others side by side, as a batch
        warp = find_warp(surface.repeat(many, 1, 1), concatenate([frame.cameras] * many),
                         torch.cat([one.surface for one in others]),
                         concatenate([one.frame.cameras for one in others]), self.depth_tolerance, self.angle, crop)
        image = frame.image[..., rows, columns]
        difference = sample_smoothly(torch.cat([one.frame.image for one in others]), warp.grid)
        difference.sub_(image.repeat(many, 1, 1, 1)).mul_((warp.confidence > 0)[:, None])
        mean = _mean_5x5(difference)
        confidence = warp.confidence * color_confidence(mean, self.color_tolerance**2)
        weight = confidence.unflatten(0, (many, -1))
        share = to_device(torch.tensor(shares, dtype=weight.dtype), weight.device)
        weight = weight * share[:, None, None, None]
        detail = difference.sub_(mean).unflatten(0, (many, -1))
        blended = frame.image.clone()
        blended[..., rows, columns] += (detail * weight[:, :, None]).sum(0) / (1 + weight.sum(0))[:, None]
        return blended

    def _average_compiled(self, current: _Neighbor, others: Sequence[_Neighbor], shares: list[float]) -> Tensor:
        """As `_average_reference`, by the CPU's kernel."""
        frame, crop, surface, pixels = current
        assert pixels is not None
        blended = frame.image.clone(memory_format=torch.contiguous_format)
        to_world = image_to_world(frame.cameras)
        for path in range(len(blended)):  # of those side by side
            camera = concatenate([frame.cameras[path]] * len(others))
            cameras = concatenate([one.frame.cameras[path] for one in others])
            native_temporal.blend(
                pixels[path], surface[path], [one.pixels[path] for one in others if one.pixels is not None],
                [one.surface[path] for one in others], mappings=(world_to_image(cameras) @ to_world[path]).float(),
                turns=squared_turn(surface[path, None], camera, cameras, self.angle).float(),
                shares=torch.tensor(shares, dtype=torch.float32), box=box_of(crop, blended.shape),
                depth_tolerance=max(self.depth_tolerance, 1e-6), color_factor=color_factor(self.color_tolerance**2),
                blended=blended[path])
        return blended


def _has_kernel(image: Tensor, backend: str) -> bool:
    return image.shape[1] == 4 and not image.requires_grad and use_compiled(BLEND, backend, image)


def _interleave(image: Tensor) -> Tensor:
    """A picture (B, C, H, W) on the CPU as (B, H, W, C), contiguous; in place where it is that already."""
    pixels = image.movedim(1, -1)
    if pixels.is_contiguous():
        return pixels
    # OpenCV interleaves channels several times faster than torch.
    merged = [torch.from_numpy(cv2.merge([*planes.numpy()])) for planes in image]
    return merged[0][None] if len(merged) == 1 else torch.stack(merged)


def _mean_5x5(image: Tensor) -> Tensor:
    """The mean over the 5x5 pixels around each of `image` (B, C, H, W), 0 beyond its border; cheaper than pooling."""
    for axis in (-2, -1):
        result = image.clone()
        for offset in range(1, min(3, image.shape[axis])):
            rest = image.shape[axis] - offset
            result.narrow(axis, offset, rest).add_(image.narrow(axis, 0, rest))
            result.narrow(axis, 0, rest).add_(image.narrow(axis, offset, rest))
        image = result
    return image.div_(25)


class LegacyBlender(Blender):
    """The published blending, which begins with the first frame that has the whole history (the sixth, of 7 weights).

    Images are RGB over the background, on a 0-255 scale, clipped.

    Args:
        weights: of the current frame, the last blended one, the previous raw one, the raw one before that, and so on;
            at least one. They are not normalized.
        color_threshold: see `reproject_legacy`.

    Raises:
        ValueError: there are no weights.
    """

    def __init__(self, weights: Sequence[float], color_threshold: float) -> None:
        if not weights:
            raise ValueError("LegacyBlender: weights are empty; the first belongs to the current frame")
        self.weights = list(weights)
        self.color_threshold = color_threshold

    @property
    def reach(self) -> None:
        """As `Blender.reach`: a frame is blended with the one before as that was blended."""
        return None

    def _blend(self, frames: Iterator[RenderedFrame]) -> Iterator[RenderedFrame]:
        raw: deque[RenderedFrame] = deque(maxlen=max(1, len(self.weights) - 2))  # newest first
        blended: Tensor | None = None  # of the newest
        for frame in frames:
            image = frame.image
            if blended is not None and len(raw) == raw.maxlen:
                image = _weighted_sum([image, *self._warp_history(frame, raw, blended)], self.weights)
            raw.appendleft(frame)
            blended = image
            yield replace(frame, image=image)

    def _warp_history(self, frame: RenderedFrame, raw: Iterable[RenderedFrame], blended: Tensor) -> list[Tensor]:
        """The history, warped onto the current frame, in the order of the weights after the first."""
        warped: list[Tensor] = []
        for earlier in raw:
            images = [earlier.image] if warped else [blended, earlier.image]
            warped += reproject_legacy(frame, earlier, images, color_threshold=self.color_threshold)
        return warped[:len(self.weights) - 1]


def _weighted_sum(images: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = images[0] * weights[0]
    for image, weight in zip(images[1:], weights[1:], strict=True):
        total = total + image * weight
    return total
