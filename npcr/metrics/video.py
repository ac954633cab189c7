# SPDX-License-Identifier: Apache-2.0
"""Metrics of temporal consistency of a video, and of its motion against a reference: one number per frame.

Images are (B, C, H, W) in [0, 1], and so are the errors, but for `flow_error` (pixels) and `color_video_vdp` (JOD).
`warp_error` and `flicker` compare the color of a point of the object from frame to frame, without a reference;
`second_difference_error`, `flow_error` and `color_video_vdp` compare a pixel over time with a reference video. Low warp
error and flicker alone prove little, since a still or blurred video has them too: read them beside an error against
the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.extras import import_extra

DEPTH_TOLERANCE = 0.01  # relative depth difference up to which a point is visible in a pixel
MIN_VISIBLE_WEIGHT = 0.5  # bilinear weight of the four pixels around a point in which it must be visible
DISPLAY = "standard_fhd"  # ColorVideoVDP's display model: 24 inches, 1920x1080, seen from 0.6 m


class Correspondence(NamedTuple):
    """Pixels of another frame that correspond to a frame's pixels."""

    pixels: Tensor  # (B, H, W, 2) coordinates (x, y) in the other frame; finite
    visible: Tensor  # (B, H, W) bool: the pixel has a point, and the point is visible in the other frame


def find_correspondences(positions: Tensor, other_depth: Tensor, other: Cameras,
                         tolerance: float = DEPTH_TOLERANCE) -> Correspondence:
    """Project the points of a frame's pixels into another frame, with a depth test.

    A point is visible where it projects into the other image and pixels around it of half the bilinear weight or more
    have its depth.

    Args:
        positions: (B, H, W, 3) world points of the frame's pixels; not finite where a pixel has none.
        other_depth: (B, h, w) camera-space z of the other frame, 0 where empty.
        other: B cameras of the other frame, of size (w, h).
        tolerance: depth difference allowed, relative to the point's depth.

    Returns:
        Pixels of the other frame, and where the points are visible in it.

    Example:
        >>> from npcr.cameras import unproject
        >>> camera = Cameras(torch.eye(4)[None], torch.tensor([[[8.0, 0, 3], [0, 8, 3], [0, 0, 1]]]), (7, 7))
        >>> moved = torch.eye(4)[None].clone()
        >>> moved[0, 0, 3] = 0.5  # half a unit to the right: 8 * 0.5 / 2 is 2 pixels at depth 2
        >>> depth = torch.full((1, 7, 7), 2.0)
        >>> positions = unproject(depth, camera).permute(0, 2, 3, 1)
        >>> found = find_correspondences(positions, depth, Cameras(moved, camera.intrinsics, (7, 7)))
        >>> found.pixels[0, 0, 4].tolist(), found.visible[0, 0].tolist()
        ([2.0, 0.0], [False, False, True, True, True, True, True])
    """
    has_point = torch.isfinite(positions).all(dim=-1)
    pixels, z = project(positions.nan_to_num(0.0, 0.0, 0.0), other)
    pixels = pixels.nan_to_num(-2.0, -2.0, -2.0)
    width, height = other.size
    x, y = pixels.unbind(-1)
    margin = 1e-3  # rounding of a still camera's integer coordinates
    inside = (x >= -margin) & (x <= width - 1 + margin) & (y >= -margin) & (y <= height - 1 + margin) & (z > 0)
    left, top = (coordinate.floor().clamp(-1, limit) for coordinate, limit in ((x, width), (y, height)))
    weight = torch.zeros_like(z)
    flat = other_depth.flatten(1)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        index = (left.long() + dx).clamp(0, width - 1) + (top.long() + dy).clamp(0, height - 1) * width
        depth = flat.gather(1, index.flatten(1)).view_as(z)
        agrees = (depth > 0) & ((depth - z).abs() <= tolerance * z)
        weight += agrees * (1 - (x - left - dx).abs()).clamp(0, 1) * (1 - (y - top - dy).abs()).clamp(0, 1)
    return Correspondence(pixels, has_point & inside & (weight >= MIN_VISIBLE_WEIGHT))


def sample_bicubic(image: Tensor, pixels: Tensor) -> Tensor:
    """Sample an image by Catmull-Rom's bicubic interpolation (R. Keys, IEEE TASSP 1981, a = -1/2).

    It is exact for colors quadratic in x and y. The blur of bilinear interpolation would count as flicker, the more
    the sharper the video is.

    Args:
        image: (B, C, h, w).
        pixels: (B, H, W, 2) coordinates (x, y), integers at pixel centers; beyond the border its pixels repeat.

    Returns:
        (B, C, H, W).
    """
    height, width = image.shape[2:]
    limits = pixels.new_tensor([width, height])
    pixels = torch.minimum(pixels.clamp(min=-2), limits + 2)
    first = pixels.floor()
    weights = [part.unbind(-1) for part in _catmull_rom(pixels - first)]
    columns, rows = ([(start.long() + tap - 1).clamp(0, size - 1) for tap in range(4)]
                     for start, size in zip(first.unbind(-1), (width, height), strict=True))
    flat = image.flatten(2)
    result = image.new_zeros(*image.shape[:2], *pixels.shape[1:3])
    for row, (_, along_y) in zip(rows, weights, strict=True):
        for column, (along_x, _) in zip(columns, weights, strict=True):
            index = (row * width + column).flatten(1)[:, None].expand(-1, image.shape[1], -1)
            result += flat.gather(2, index).view_as(result) * (along_x * along_y)[:, None]
    return result


def _catmull_rom(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of four samples for a position `t`, from 0 at the second to 1 at the third."""
    return (((1 - 0.5 * t) * t - 0.5) * t, (1.5 * t - 2.5) * t * t + 1,
            ((2 - 1.5 * t) * t + 0.5) * t, (0.5 * t - 0.5) * t * t)


def warp_error(current: Tensor, other: Tensor, to_other: Correspondence) -> Tensor:
    """Mean absolute difference between the colors of a point in two frames; lower is better.

    The warping error of W.-S. Lai et al., "Learning blind video temporal consistency", ECCV 2018, with the warp from
    geometry in place of optical flow, and absolute in place of squared differences.

    Args:
        current: (B, C, H, W) in [0, 1].
        other: (B, C, H, W) in [0, 1], the other frame.
        to_other: from the current frame's pixels to the other's.

    Returns:
        (B,) on the images' scale of 0 to 1, over the points visible in both frames; 0 where there is none.

    Example:
        >>> grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="xy"), dim=-1)[None]
        >>> still = Correspondence(grid, torch.ones(1, 4, 4, dtype=torch.bool))
        >>> image = torch.rand(1, 3, 4, 4)
        >>> round(warp_error(image, image + 0.25, still).item(), 3)
        0.25
    """
    return masked_mean((sample_bicubic(other, to_other.pixels) - current).abs(), to_other.visible)


def flicker(previous: Tensor, current: Tensor, following: Tensor, to_previous: Correspondence,
            to_following: Correspondence) -> Tensor:
    """Mean absolute difference between a point's color and the mean of its colors in the frames around.

    Lower is better; no reference is needed. Steady change (a moving highlight) gives 0, and a color that alternates
    between two values v apart gives v.

    Args:
        previous: (B, C, H, W) in [0, 1], the frame before.
        current: (B, C, H, W).
        following: (B, C, H, W), the frame after.
        to_previous: from the current frame's pixels to those of the frame before.
        to_following: the same for the frame after.

    Returns:
        (B,) on the images' scale of 0 to 1, over the points visible in all three frames; 0 where there is none.

    Example:
        >>> grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="xy"), dim=-1)[None]
        >>> still = Correspondence(grid, torch.ones(1, 4, 4, dtype=torch.bool))
        >>> dark, light = torch.full((1, 3, 4, 4), 0.5), torch.full((1, 3, 4, 4), 0.75)
        >>> flicker(dark, light, dark, still, still).item()
        0.25
        >>> flicker(dark, (dark + light) / 2, light, still, still).item()  # steady change
        0.0
    """
    around = (sample_bicubic(previous, to_previous.pixels) + sample_bicubic(following, to_following.pixels)) / 2
    return masked_mean((around - current).abs(), to_previous.visible & to_following.visible)


def second_difference_error(rendered: Sequence[Tensor], reference: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean absolute error of the second difference in time, previous - 2 current + following; lower is better.

    It is taken pixel by pixel, without a warp: flicker and lag both differ from the reference.

    Args:
        rendered: three consecutive frames, (B, C, H, W) in [0, 1] each.
        reference: the same frames of the reference video.
        mask: (B, H, W) bool, the pixels to compare.

    Returns:
        (B,) in [0, 4]; 0 where the mask is empty.

    Example:
        >>> still = [torch.full((1, 3, 4, 4), 0.5)] * 3
        >>> flash = [still[0], still[1] + 0.125, still[2]]
        >>> second_difference_error(flash, still, torch.ones(1, 4, 4, dtype=torch.bool)).item()
        0.25
    """
    def second_difference(frames: Sequence[Tensor]) -> Tensor:
        previous, current, following = frames
        return previous - 2 * current + following

    return masked_mean((second_difference(rendered) - second_difference(reference)).abs(), mask)


def flow_error(rendered: Sequence[Tensor], reference: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean distance between the optical flows of a rendered and a reference video; lower is better.

    tOF of M. Chu et al., "Learning temporal coherence via self-supervision for GAN-based video generation (TecoGAN)",
    SIGGRAPH 2020, with the flow of G. Farnebäck, "Two-frame motion estimation based on polynomial expansion", SCIA
    2003, of the gray images.

    Args:
        rendered: two consecutive frames, (B, 3, H, W) in [0, 1] each.
        reference: the same frames of the reference video.
        mask: (B, H, W) bool, the pixels to compare.

    Returns:
        (B,) pixels; 0 where the mask is empty.

    Example:
        >>> def waves(shift: float) -> Tensor:
        ...     y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
        ...     return (0.5 + 0.25 * torch.sin((x - shift) / 4) + 0.2 * torch.sin(y / 3)).expand(1, 3, -1, -1)
        >>> inside = torch.zeros(1, 64, 80, dtype=torch.bool)
        >>> inside[:, 16:48, 16:64] = True
        >>> round(flow_error((waves(0), waves(0)), (waves(0), waves(1)), inside).item())
        1
    """
    difference = np.stack([_flow(a, b) - _flow(c, d) for a, b, c, d in zip(*rendered, *reference, strict=True)])
    distance = torch.from_numpy(np.linalg.norm(difference, axis=-1)).to(mask.device)
    return masked_mean(distance[:, None], mask)


def color_video_vdp(rendered: NDArray[np.uint8], reference: NDArray[np.uint8], fps: float) -> float:
    """Visual quality of a video by ColorVideoVDP; higher is better.

    R. Mantiuk et al.: "ColorVideoVDP: A visual difference predictor for image, video and display distortions",
    SIGGRAPH 2024. On the display of `DISPLAY`.

    Args:
        rendered: (N, H, W, 3) uint8 sRGB.
        reference: (N, H, W, 3) uint8 sRGB.
        fps: frames a second.

    Returns:
        Just-objectionable differences (JOD), at most 10, where the videos look alike. One JOD less is a difference
        that three of four viewers notice.

    Raises:
        MissingExtraError: the package cvvdp is not installed.

    Example:
        >>> video = np.full((6, 32, 32, 3), 100, np.uint8)
        >>> round(color_video_vdp(video, video, fps=30), 2)
        10.0
    """
    pycvvdp = import_extra("pycvvdp")
    metric = pycvvdp.cvvdp(display_name=DISPLAY, quiet=True, device=torch.device("cpu"))
    with torch.no_grad():
        quality, _ = metric.predict(rendered, reference, dim_order="FHWC", frames_per_second=fps)
    return float(quality)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the channels and the pixels in a mask.

    Args:
        values: (B, C, H, W).
        mask: (B, H, W) bool.

    Returns:
        (B,); 0 where the mask is empty.

    Example:
        >>> masked_mean(torch.arange(4.0).view(1, 1, 2, 2), torch.tensor([[[True, False], [False, True]]])).item()
        1.5
    """
    weight = mask[:, None].to(values.dtype)
    total = (values * weight).flatten(1).sum(1)
    return total / (weight.flatten(1).sum(1) * values.shape[1]).clamp_min(1)


def _flow(first: Tensor, second: Tensor) -> NDArray[np.float32]:
    """(H, W, 2) Farnebäck's flow in pixels from one (3, H, W) image to the next."""
    before, after = (cv2.cvtColor((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy(),
                                  cv2.COLOR_RGB2GRAY) for image in (first, second))
    start = np.zeros((*before.shape, 2), np.float32)
    return np.asarray(cv2.calcOpticalFlowFarneback(before, after, start, 0.5, 3, 15, 3, 5, 1.2, 0), np.float32)
