# SPDX-License-Identifier: Apache-2.0
"""Steady video: neighboring frames of a camera path, reprojected onto the current one and blended with it.

A pixel with depth is unprojected with its own camera and projected into another frame's camera; the
color found there is that frame's opinion on the pixel. Two behaviors (docs/temporal.md):

- `reproject` and `DefaultBlender`: pixel centers are whole numbers, premultiplied RGBA is sampled smoothly,
  and an opinion weighs as much as it can be trusted.
- `reproject_legacy` and `LegacyBlender`: the published implementation's numbers.

Blenders turn a stream of frames into one of steadier frames, and keep no more of the path than they look at. A batch
is several paths side by side.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.cameras import Cameras, concatenate, project, unproject

# Relative depth difference beyond which the mean over a window would join things that lie apart.
STEP = 0.02


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


Window = tuple[slice, slice]  # rows, columns
WHOLE: Window = (slice(None), slice(None))
EMPTY: Window = (slice(0, 0), slice(0, 0))


class Warp(NamedTuple):
    """Where an earlier frame shows the points of a window's pixels, and how far it is to be trusted."""

    grid: Tensor  # (B, h, w, 2) as `grid_sample` takes it, align_corners=False; finite
    trust: Tensor  # (B, h, w) in [0, 1]; 0 where there is no point or it was outside the earlier picture


def reproject(current: Frame, earlier: Frame, images: Sequence[Tensor], *, color_threshold: float,
              depth_tolerance: float, angle: float = math.inf) -> list[Tensor]:
    """What `images` (B, C, H, W), seen through the earlier camera, say about the current frame's pixels.

    Images are premultiplied RGBA. The result lies between the current frame's value, at a trust of 0, and
    the warped one, at 1: trust is that of `find_warp` times `color_trust`. `angle` is in degrees.
    """
    warp = find_warp(surface_depth(current.depth), current.cameras, surface_depth(earlier.depth), earlier.cameras,
                     depth_tolerance, angle)
    channels = [image.shape[1] for image in images]
    result = []
    for sampled in sample_smoothly(torch.cat(list(images), dim=1), warp.grid).split(channels, dim=1):
        trust = warp.trust * color_trust(sampled - current.image, color_threshold)
        result.append(torch.lerp(current.image, sampled, trust[:, None]))
    return result


def surface_depth(depth: Tensor, window: Window | None = None) -> Tensor:
    """The depth (B, H, W) of the surface that hair makes up, of that of the nearest rendered points.

    A pixel's nearest point often lies behind the strands that cover the pixel, for points are sparse. The
    nearest of the 3x3 window around it is closer to what is seen; the mean over another one takes the noise
    from it, but for steps in depth, which stay. 0 where the window is empty. window: `occupied(depth, margin=1)`,
    where it is known.
    """
    window = occupied(depth, margin=1) if window is None else window
    surface = torch.zeros_like(depth)
    if window == EMPTY:
        return surface
    rows, columns = window
    near = depth[..., rows, columns]
    nearest = _over_neighbors(torch.where(near > 0, near, math.inf), torch.minimum)
    there = torch.isfinite(nearest)
    nearest = nearest.masked_fill(~there, 0.0)
    count = _over_neighbors(there.to(nearest.dtype), torch.add)
    even = _over_neighbors(nearest, torch.add) / count.clamp_min(1)
    step = (even - nearest).abs() > STEP * nearest
    surface[..., rows, columns] = torch.where(step, nearest, even).masked_fill(~there, 0.0)
    return surface


def _over_neighbors(image: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`combine` over each pixel's 3x3 window within `image` (B, H, W): cheaper than pooling one channel is."""
    for axis in (-2, -1):
        size, result = image.shape[axis], image.clone()
        inner, outer = result.narrow(axis, 1, size - 1), result.narrow(axis, 0, size - 1)
        inner.copy_(combine(inner, image.narrow(axis, 0, size - 1)))
        outer.copy_(combine(outer, image.narrow(axis, 1, size - 1)))
        image = result
    return image


def _mean_over_neighbors(image: Tensor) -> Tensor:
    """The mean over each pixel's 5x5 window within `image` (B, C, H, W), 0 around it: cheaper than pooling."""
    for axis in (-2, -1):
        result = image.clone()
        for offset in range(1, min(3, image.shape[axis])):
            rest = image.shape[axis] - offset
            result.narrow(axis, offset, rest).add_(image.narrow(axis, 0, rest))
            result.narrow(axis, 0, rest).add_(image.narrow(axis, offset, rest))
        image = result
    return image.div_(25)


def occupied(depth: Tensor, margin: int = 0) -> Window:
    """The smallest window that holds every point of all of `depth` (B, H, W), and `margin` pixels more around it.

    It ends with the picture, and is `EMPTY` without points.
    """
    there = (depth > 0).any(dim=0)
    rows, columns = (there.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    if not len(rows):
        return EMPTY
    return _span(rows, margin, there.shape[0]), _span(columns, margin, there.shape[1])


def _span(places: Tensor, margin: int, end: int) -> slice:
    return slice(max(int(places[0]) - margin, 0), min(int(places[-1]) + 1 + margin, end))


def find_warp(surface: Tensor, cameras: Cameras, earlier_surface: Tensor, earlier_cameras: Cameras,
              depth_tolerance: float, angle: float = math.inf, window: Window = WHOLE) -> Warp:
    """Follow the points of `surface` (B, H, W) within `window` from their own `cameras` into the earlier ones.

    Trust falls as a Gaussian with the relative difference between a point's depth and that of the surface
    which the earlier frame shows there (to 1/e at `depth_tolerance`), and with the angle at which the two
    cameras stand to each other, seen from the object (to 1/e at `angle`, degrees).
    """
    width, height = earlier_cameras.size
    rows, columns = window
    depth = surface[..., rows, columns]
    u, v, z = _transfer(depth, cameras, earlier_cameras, window)
    # Points in the earlier camera's own plane give NaN or infinity.
    grid = torch.stack([u * (2 / width) + (1 / width - 1), v * (2 / height) + (1 / height - 1)], dim=-1)
    grid = grid.nan_to_num(-4.0, -4.0, -4.0).clamp(-4.0, 4.0)
    inside = (grid.abs() <= 1).all(dim=-1) & (z > 0)
    seen = F.grid_sample(earlier_surface[:, None], grid, mode="nearest", padding_mode="border",
                         align_corners=False)[:, 0]
    deviation = ((seen - z) / (max(depth_tolerance, 1e-6) * z)).square()
    apart = _angle_between(surface, cameras, earlier_cameras) / math.radians(angle)  # (B,)
    trust = torch.exp(-deviation - apart.square()[:, None, None])
    return Warp(grid, torch.where((depth > 0) & inside & (seen > 0), trust, 0))


def _transfer(depth: Tensor, cameras: Cameras, others: Cameras, window: Window) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of `window` with `depth` (B, h, w) in other cameras: u, v and camera-space z, each (B, h, w).

    What `project` makes of `unproject`'s points, as one matrix a camera: `z' (u, v, 1) = z M (x, y, 1) + m`.
    """
    to_world, from_world = cameras.cam_to_world.double(), others.world_to_cam.double()
    other = others.intrinsics.double()
    relative = from_world @ to_world
    matrix = other @ relative[:, :3, :3] @ torch.linalg.inv(cameras.intrinsics.double())
    shift = (other @ relative[:, :3, 3:]).to(depth.dtype)[..., None]  # (B, 3, 1, 1)
    along_x, along_y, fixed = matrix.to(depth.dtype)[..., None, None].unbind(2)  # each (B, 3, 1, 1)
    width, height = cameras.size
    x = torch.arange(width, device=depth.device, dtype=depth.dtype)[window[1]]
    y = torch.arange(height, device=depth.device, dtype=depth.dtype)[window[0], None]
    u, v, z = (depth[:, None] * (along_x * x + (along_y * y + fixed)) + shift).unbind(1)
    return u / z, v / z, z


def _angle_between(surface: Tensor, cameras: Cameras, others: Cameras) -> Tensor:
    """(B,) radians: the angle at the mean point of `surface`, on the first cameras' axes, between two cameras."""
    there = surface > 0
    distance = surface.flatten(1).sum(1) / there.flatten(1).sum(1).clamp_min(1)
    middle = cameras.cam_to_world[:, :3, 3] + distance[:, None] * cameras.cam_to_world[:, :3, 2]
    first, second = (F.normalize(one.cam_to_world[:, :3, 3] - middle, dim=-1) for one in (cameras, others))
    return 2 * torch.asin(((first - second).norm(dim=-1) / 2).clamp(max=1))


def color_trust(change: Tensor, color_threshold: float) -> Tensor:
    """(B, H, W) in [0, 1], 1/e where the squares of a change of images sum to `color_threshold` over the channels.

    That is on a 0-255 scale; `change` (B, C, H, W) is of images of 0-1. With alpha among the channels, a silhouette
    that has moved on is told from hair of the background's color.
    """
    distance = change.square().sum(dim=1)
    return torch.exp(distance * (-(255**2) / max(color_threshold, 1e-6)))


def sample_smoothly(image: Tensor, grid: Tensor) -> Tensor:
    """`image` (B, C, H, W) at `grid`: cubic, which blurs less than bilinear where it is done frame after frame."""
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)


def reproject_legacy(current: Frame, earlier: Frame, images: Sequence[Tensor], *,
                     color_threshold: float) -> list[Tensor]:
    """The published warp, on the images' own scale: half a pixel off, nearest neighbor, no visibility.

    The sample is `grid_sample` at (2u/W - 1, 2v/H - 1), nearest, align_corners=False, zeros outside. Pixels
    whose summed squared difference exceeds `color_threshold` (in the images' units), and after that every
    single channel that equals 0, take the current frame's value (design, "Legacy, exactly").
    """
    width, height = earlier.cameras.size
    points = unproject(current.depth, current.cameras).permute(0, 2, 3, 1)
    pixels, _ = project(points, earlier.cameras)
    grid = torch.stack([2 * pixels[..., 0] / width - 1, 2 * pixels[..., 1] / height - 1], dim=-1)
    # Points in the earlier camera's own plane give NaN or infinity, which devices turn into different pixels.
    grid = grid.nan_to_num(-4.0).clamp(-4.0, 4.0)
    result = []
    for image in images:
        sampled = F.grid_sample(image, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        far = _color_distance(sampled, current.image) > color_threshold
        sampled = torch.where(far[:, None], current.image, sampled)
        result.append(torch.where(sampled == 0, current.image, sampled))
    return result


def _color_distance(first: Tensor, second: Tensor) -> Tensor:
    """(B, H, W): the squared RGB distance of two images (B, 3 or more, H, W)."""
    return (first[:, :3] - second[:, :3]).square().sum(dim=1)


class Blender(ABC):
    """Steadies the frames of a path, or of B paths side by side. It is settings alone: each path begins anew."""

    def blend(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames of a path, steadied, in order and as many; `frames` themselves are left as they are.

        It may look a few frames ahead of what it yields. Raises ValueError where the frames' shapes differ.
        """
        return self._blend(_of_one_shape(frames))

    @abstractmethod
    def _blend(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """As `blend`, of frames of one shape."""


def _of_one_shape(frames: Iterable[Frame]) -> Iterator[Frame]:
    shape = None
    for frame in frames:
        if shape is not None and shape != frame.image.shape:
            raise ValueError(f"Blender: the path's frames are {tuple(shape)}, this one is {tuple(frame.image.shape)}")
        shape = frame.image.shape
        yield frame


class _Seen(NamedTuple):
    """A frame that a `DefaultBlender` holds, and what its points make up."""

    frame: Frame
    window: Window  # that holds them, and a pixel more
    surface: Tensor  # (B, H, W) `surface_depth`


class DefaultBlender(Blender):
    """Each frame's detail becomes the mean of what neighboring frames show there. Images are premultiplied RGBA, 0-1.

    Of `history` frames, the current one in their middle, each has a say; where that is no odd number, the two
    outermost have what is left of it: 2 are the current frame and half of either neighbor, 1 does nothing. An
    opinion's share falls with what it can be trusted: by `find_warp`, and by how far it lies from the current frame
    in the mean over 5x5 pixels (to 1/e at `color_tolerance` levels of 255). That mean itself stays the current
    frame's: what flickers is detail, and what moves across the surface, such as gloss and silhouettes, is more than
    that.
    """

    def __init__(self, history: float, color_tolerance: float, depth_tolerance: float, angle: float) -> None:
        if history < 1:
            raise ValueError(f"DefaultBlender: history is {history:g} frames; it counts the current one, so at least 1")
        self.history = history
        self.color_tolerance = color_tolerance
        self.depth_tolerance = depth_tolerance
        self.angle = angle

    def _blend(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        reach = math.ceil((self.history - 1) / 2)
        seen: list[_Seen] = []  # at most `reach` frames before the current one, itself, and as many after
        current = 0  # of `seen`
        for frame in frames:
            window = occupied(frame.depth, margin=1)
            seen.append(_Seen(frame, window, surface_depth(frame.depth, window)))
            if len(seen) > current + reach:
                yield self._mean(seen, current)
                current += 1
                if current > reach:
                    del seen[0]
                    current -= 1
        for index in range(current, len(seen)):
            yield self._mean(seen[max(index - reach, 0):], min(index, reach))

    def _mean(self, seen: Sequence[_Seen], current: int) -> Frame:
        """Frame number `current` of `seen`, with what all of them make of its detail."""
        frame, window, surface = seen[current]
        shares = {index: min((self.history - 1) / 2 - abs(index - current) + 1, 1)
                  for index in range(len(seen)) if index != current}
        others = [seen[index] for index in shares]
        if not others or window == EMPTY:
            return frame
        many, (rows, columns) = len(others), window  # the others side by side, as a batch
        warp = find_warp(surface.repeat(many, 1, 1), concatenate([frame.cameras] * many),
                         torch.cat([one.surface for one in others]),
                         concatenate([one.frame.cameras for one in others]), self.depth_tolerance, self.angle, window)
        image = frame.image[..., rows, columns]
        change = sample_smoothly(torch.cat([one.frame.image for one in others]), warp.grid)
        change.sub_(image.repeat(many, 1, 1, 1)).mul_((warp.trust > 0)[:, None])
        mean = _mean_over_neighbors(change)
        trust = (warp.trust * color_trust(mean, self.color_tolerance**2)).unflatten(0, (many, -1))
        trust = trust * trust.new_tensor(list(shares.values()))[:, None, None, None]
        detail = change.sub_(mean).unflatten(0, (many, -1))
        blended = frame.image.clone()
        blended[..., rows, columns] += (detail * trust[:, :, None]).sum(0) / (1 + trust.sum(0))[:, None]
        return replace(frame, image=blended)


class LegacyBlender(Blender):
    """The published blending, from the frame on that finds the whole history (the sixth, with 7 weights).

    Images are RGB over the background, on a 0-255 scale, clipped. `weights` belong to the current frame, the
    last blended one, the previous raw one, the one before that, and so on: any number of them from one up.
    They are used as they are.
    """

    def __init__(self, weights: Sequence[float], color_threshold: float) -> None:
        if not weights:
            raise ValueError("LegacyBlender: weights are empty; the first belongs to the current frame")
        self.weights = list(weights)
        self.color_threshold = color_threshold

    def _blend(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        raw: deque[Frame] = deque(maxlen=max(1, len(self.weights) - 2))  # newest first
        blended: Tensor | None = None  # of the newest
        for frame in frames:
            image = frame.image
            if blended is not None and len(raw) == raw.maxlen:
                image = _weighted_sum([image, *self._opinions(frame, raw, blended)], self.weights)
            raw.appendleft(frame)
            blended = image
            yield replace(frame, image=image)

    def _opinions(self, frame: Frame, raw: Iterable[Frame], blended: Tensor) -> list[Tensor]:
        """The history on the current frame's pixels, in the order of the weights after the first."""
        opinions: list[Tensor] = []
        for earlier in raw:
            images = [earlier.image] if opinions else [blended, earlier.image]
            opinions += reproject_legacy(frame, earlier, images, color_threshold=self.color_threshold)
        return opinions[:len(self.weights) - 1]


def _weighted_sum(images: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = images[0] * weights[0]
    for image, weight in zip(images[1:], weights[1:], strict=True):
        total = total + image * weight
    return total
