# SPDX-License-Identifier: Apache-2.0
"""Reprojection of one frame of a camera path onto another (docs/method.md, "Temporal").

A pixel with depth is unprojected with its own camera and projected into another frame's camera, whose image is sampled
there. The sample counts by a confidence in [0, 1]: whether the other frame saw that point, and how well.
Pixel centers are whole numbers. A batch is several paths side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from npcr.cameras import Cameras
from npcr.ops import native_temporal
from npcr.ops.dispatch import BLEND, use_compiled

# Relative depth difference beyond which neighboring pixels lie on different surfaces, whose depths are not averaged.
DEPTH_STEP = 0.02


@dataclass(frozen=True)
class RenderedFrame:
    """One rendered frame (of B paths): an image, the depth it was rendered at, and its cameras."""

    image: Tensor  # (B, C, H, W) float, C >= 3, red green blue first
    depth: Tensor  # (B, H, W) float, camera-space z; 0 where empty
    cameras: Cameras  # B, of size (W, H)

    def __post_init__(self) -> None:
        width, height = self.cameras.size
        batch = len(self.cameras)
        if self.image.ndim != 4 or self.image.shape[1] < 3 or self.image.shape[2:] != (height, width):
            raise ValueError(f"RenderedFrame: image must be ({batch}, 3 or more, {height}, {width}), "
                             f"is {tuple(self.image.shape)}")
        if self.image.shape[0] != batch or tuple(self.depth.shape) != (batch, height, width):
            raise ValueError(f"RenderedFrame: image and depth must be a batch of {batch} of {height} by {width}, "
                             f"are {tuple(self.image.shape)} and {tuple(self.depth.shape)}")

    def detach(self) -> RenderedFrame:
        """The same frame without its graph."""
        return replace(self, image=self.image.detach(), depth=self.depth.detach())


Crop = tuple[slice, slice]  # rows, columns
FULL_CROP: Crop = (slice(None), slice(None))
EMPTY_CROP: Crop = (slice(0, 0), slice(0, 0))


class Warp(NamedTuple):
    """Where an earlier frame shows the points of a crop's pixels, and how reliable its samples are."""

    grid: Tensor  # (B, h, w, 2) as `grid_sample` takes it, align_corners=False; finite
    confidence: Tensor  # (B, h, w) in [0, 1]; 0 where there is no point or it was outside the earlier image


def reproject(current: RenderedFrame, earlier: RenderedFrame, images: Sequence[Tensor], *, color_threshold: float,
              depth_tolerance: float, angle: float = math.inf) -> list[Tensor]:
    """Warp images of an earlier frame onto the current one, and mix them with it by confidence.

    Args:
        current: premultiplied RGBA, 0-1.
        earlier: another frame; its depth and cameras are used.
        images: (B, C, H, W) each, premultiplied RGBA of the earlier view.
        color_threshold: see `color_confidence`.
        depth_tolerance: relative, see `find_warp`.
        angle: degrees, see `find_warp`; infinite: confidence does not depend on it.

    Returns:
        (B, C, H, W) each: the current image at a confidence of 0, the warped one at 1.
    """
    warp = find_warp(surface_depth(current.depth), current.cameras, surface_depth(earlier.depth), earlier.cameras,
                     depth_tolerance, angle)
    channels = [image.shape[1] for image in images]
    result = []
    for sampled in sample_smoothly(torch.cat(list(images), dim=1), warp.grid).split(channels, dim=1):
        confidence = warp.confidence * color_confidence(sampled - current.image, color_threshold)
        result.append(torch.lerp(current.image, sampled, confidence[:, None]))
    return result


def surface_depth(depth: Tensor, crop: Crop | None = None, *, backend: str = "torch") -> Tensor:
    """Estimate the depth of the surface that hair makes up from that of the nearest rendered points.

    A pixel's nearest point often lies behind the strands that cover the pixel, for points are sparse. The nearest of
    the 3x3 pixels around it is closer to what is visible. The mean over another 3x3 removes noise, except at steps in
    depth, which stay.

    Args:
        depth: (B, H, W), camera-space z, 0 where empty.
        crop: `occupied_crop(depth, margin=1)`, where it is known already.
        backend: "auto", "compiled" or "torch", as in `npcr.ops.rasterize`; gradients only torch has.

    Returns:
        (B, H, W); 0 where the 3x3 pixels are empty.
    """
    crop = occupied_crop(depth, margin=1) if crop is None else crop
    if crop == EMPTY_CROP:
        return torch.zeros_like(depth)
    if depth.requires_grad or not use_compiled(BLEND, backend, depth):
        return surface_depth_reference(depth, crop)
    depth = depth.contiguous()
    surface = torch.zeros_like(depth)
    for index in range(len(depth)):
        native_temporal.surface_depth(depth[index], box_of(crop, depth.shape), surface[index])
    return surface


def surface_depth_reference(depth: Tensor, crop: Crop) -> Tensor:
    """As `surface_depth`, in torch.

    Args:
        depth, crop: as there.

    Returns:
        (B, H, W).
    """
    surface = torch.zeros_like(depth)
    rows, columns = crop
    points = depth[..., rows, columns]
    nearest = _reduce_3x3(torch.where(points > 0, points, math.inf), torch.minimum)
    occupied = torch.isfinite(nearest)
    nearest = nearest.masked_fill(~occupied, 0.0)
    count = _reduce_3x3(occupied.to(nearest.dtype), torch.add)
    mean = _reduce_3x3(nearest, torch.add) / count.clamp_min(1)
    is_step = (mean - nearest).abs() > DEPTH_STEP * nearest
    surface[..., rows, columns] = torch.where(is_step, nearest, mean).masked_fill(~occupied, 0.0)
    return surface


def _reduce_3x3(image: Tensor, combine: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """`combine` over the 3x3 pixels around each of `image` (B, H, W); for one channel cheaper than pooling."""
    for axis in (-2, -1):
        size, result = image.shape[axis], image.clone()
        inner, outer = result.narrow(axis, 1, size - 1), result.narrow(axis, 0, size - 1)
        inner.copy_(combine(inner, image.narrow(axis, 0, size - 1)))
        outer.copy_(combine(outer, image.narrow(axis, 1, size - 1)))
        image = result
    return image


def occupied_crop(depth: Tensor, margin: int = 0) -> Crop:
    """Find the smallest crop that holds every point of a batch; on a GPU the whole image, so that nothing waits for it.

    Args:
        depth: (B, H, W), 0 where empty.
        margin: pixels to add on each side; the crop ends with the image.

    Returns:
        The crop; `EMPTY_CROP` without points.
    """
    if depth.is_cuda:
        return FULL_CROP
    occupied: NDArray[np.bool_] = np.any(depth.detach().numpy() > 0, axis=0)  # for so little torch is slower
    rows, columns = (np.flatnonzero(np.any(occupied, axis=axis)) for axis in (1, 0))
    if not len(rows):
        return EMPTY_CROP
    return _span(rows, margin, occupied.shape[0]), _span(columns, margin, occupied.shape[1])


def _span(indices: NDArray[np.intp], margin: int, end: int) -> slice:
    """From the first to the last of sorted `indices`, and `margin` more, within 0 and `end`."""
    return slice(max(int(indices[0]) - margin, 0), min(int(indices[-1]) + 1 + margin, end))


def box_of(crop: Crop, shape: Sequence[int]) -> native_temporal.Box:
    """Find the pixels of a crop.

    Args:
        crop: of images.
        shape: of these, (…, H, W).

    Returns:
        Left, top, columns and rows.
    """
    (top, bottom, _), (left, right, _) = (part.indices(size) for part, size in zip(crop, shape[-2:], strict=True))
    return left, top, right - left, bottom - top


def find_warp(surface: Tensor, cameras: Cameras, earlier_surface: Tensor, earlier_cameras: Cameras,
              depth_tolerance: float, angle: float = math.inf, crop: Crop = FULL_CROP) -> Warp:
    """Project the points of one frame's surface into the camera of an earlier frame.

    Confidence falls as a Gaussian with the relative difference between a point's depth and that of the earlier
    frame's surface at the same place, and with the angle between the two cameras, seen from the object.

    Args:
        surface: (B, H, W), `surface_depth` of the current frame, 0 where empty.
        cameras: B, of the current frame.
        earlier_surface: (B, H', W'), of the earlier frame.
        earlier_cameras: B, of the earlier frame.
        depth_tolerance: the relative depth difference at which confidence is 1/e.
        angle: degrees at which confidence is 1/e; infinite: it does not depend on the angle.
        crop: the pixels of `surface` to find; default: all.

    Returns:
        The warp of the crop's (h, w) pixels.
    """
    width, height = earlier_cameras.size
    rows, columns = crop
    depth = surface[..., rows, columns]
    u, v, z = _project_pixels(depth, cameras, earlier_cameras, crop)
    # Points in the earlier camera's own plane give NaN or infinity.
    grid = torch.stack([u * (2 / width) + (1 / width - 1), v * (2 / height) + (1 / height - 1)], dim=-1)
    grid = grid.nan_to_num(-4.0, -4.0, -4.0).clamp(-4.0, 4.0)
    inside = (grid.abs() <= 1).all(dim=-1) & (z > 0)
    earlier_depth = F.grid_sample(earlier_surface[:, None], grid, mode="nearest", padding_mode="border",
                                  align_corners=False)[:, 0]
    deviation = ((earlier_depth - z) / (max(depth_tolerance, 1e-6) * z)).square()
    turn = squared_turn(surface, cameras, earlier_cameras, angle)
    confidence = torch.exp(-deviation - turn[:, None, None])
    return Warp(grid, torch.where((depth > 0) & inside & (earlier_depth > 0), confidence, 0))


def _project_pixels(depth: Tensor, cameras: Cameras, others: Cameras, crop: Crop) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels of `crop` with `depth` (B, h, w) in other cameras: u, v and camera-space z, each (B, h, w)."""
    mapping = world_to_image(others) @ image_to_world(cameras)  # as project(unproject(...)), but one matrix a camera
    along_x, along_y, fixed, shift = mapping.to(depth.dtype)[..., None, None].unbind(2)
    width, height = cameras.size
    x = torch.arange(width, device=depth.device, dtype=depth.dtype)[crop[1]]
    y = torch.arange(height, device=depth.device, dtype=depth.dtype)[crop[0], None]
    u, v, z = (depth[:, None] * (along_x * x + (along_y * y + fixed)) + shift).unbind(1)
    return u / z, v / z, z


def image_to_world(cameras: Cameras) -> Tensor:
    """Compute the matrices that unproject pixels.

    Args:
        cameras: B.

    Returns:
        (B, 4, 4) float64, from (x z, y z, z, 1) of pixels (x, y) with depth z to world coordinates.
    """
    intrinsics = torch.zeros_like(cameras.cam_to_world, dtype=torch.float64)
    intrinsics[:, :3, :3] = torch.linalg.inv_ex(cameras.intrinsics.double()).inverse
    intrinsics[:, 3, 3] = 1
    return cameras.cam_to_world.double() @ intrinsics


def world_to_image(cameras: Cameras) -> Tensor:
    """Compute the matrices that project points.

    Args:
        cameras: B.

    Returns:
        (B, 3, 4) float64, from world coordinates to (x z, y z, z) of pixels (x, y) with depth z.
    """
    return cameras.intrinsics.double() @ cameras.world_to_cam.double()[:, :3]


def squared_turn(surface: Tensor, cameras: Cameras, others: Cameras, angle: float) -> Tensor:
    """Compute how far cameras are from others, seen from the object.

    Args:
        surface: (B, H, W), `surface_depth` of the first cameras' frames.
        cameras, others: B each.
        angle: degrees that count as 1; infinite: all count as 0.

    Returns:
        (B,) squared.
    """
    return (_angle_between(surface, cameras, others) / math.radians(angle)).square()


def _angle_between(surface: Tensor, cameras: Cameras, others: Cameras) -> Tensor:
    """(B,) radians: the angle at the mean point of `surface`, on the first cameras' axes, between two cameras."""
    count = surface.sign().flatten(1).sum(1)  # a CPU takes longer to convert and count booleans
    distance = surface.flatten(1).sum(1) / count.clamp_min(1)
    middle = cameras.cam_to_world[:, :3, 3] + distance[:, None] * cameras.cam_to_world[:, :3, 2]
    first, second = (F.normalize(one.cam_to_world[:, :3, 3] - middle, dim=-1) for one in (cameras, others))
    return 2 * torch.asin((torch.linalg.vector_norm(first - second, dim=-1) / 2).clamp(max=1))


def color_confidence(difference: Tensor, color_threshold: float) -> Tensor:
    """Weigh samples by how far they are from the current frame.

    With alpha among the channels, a silhouette that has moved is distinguished from hair of the background's color.

    Args:
        difference: (B, C, H, W), of images of 0-1.
        color_threshold: the squared distance over the channels, in levels of 0-255, at which confidence is 1/e.

    Returns:
        (B, H, W), in [0, 1].
    """
    distance = difference.square().sum(dim=1)
    return torch.exp(-distance * color_factor(color_threshold))


def color_factor(color_threshold: float) -> float:
    """Compute the factor of a squared distance of colors in the exponent of their confidence.

    Args:
        color_threshold: as in `color_confidence`.

    Returns:
        The factor, for colors in [0, 1].
    """
    return float(255**2 / max(color_threshold, 1e-6))


def sample_smoothly(image: Tensor, grid: Tensor) -> Tensor:
    """Sample an image by cubics, which blur less than bilinear samples where that is done frame after frame.

    Args:
        image: (B, C, H, W).
        grid: (B, h, w, 2), as `grid_sample` takes it, align_corners=False.

    Returns:
        (B, C, h, w), with gradients to `image`; beyond the border its last pixels.
    """
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False)
