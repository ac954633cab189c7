# SPDX-License-Identifier: Apache-2.0
"""How steady a video is, and how far its motion is from the true one: one number per frame.

Pictures are (B, C, H, W) in [0, 1]. What a point of the object shows in one frame is compared with what it
shows in the next (`warp_error`, `flicker`); what a pixel shows over time with what the truth shows there
(`second_difference_error`, `flow_error`, `color_video_vdp`). Low warp error and flicker alone prove little:
a still or a smeared video has them too. They mean something beside a distance to the truth.
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
from npcr.errors import MissingExtraError

# Relative depth difference up to which a pixel shows the point that projects into it, and the share of the
# bilinear weight of the four pixels around that must show it.
VISIBLE, SHARE = 0.01, 0.5
# Of ColorVideoVDP, the screen that the video is thought to be watched on: 24 inches, 1920x1080, from 0.6 m.
DISPLAY = "standard_fhd"


class Correspondence(NamedTuple):
    """Where another frame shows the points that a frame's pixels show."""

    pixels: Tensor  # (B, H, W, 2) the other frame's coordinates (x, y); finite
    seen: Tensor  # (B, H, W) bool: there is a point here, and the other frame shows it


def correspond(positions: Tensor, other_depth: Tensor, other: Cameras, tolerance: float = VISIBLE) -> Correspondence:
    """Follow world `positions` (B, H, W, 3), not finite where a pixel shows nothing, into another frame.

    other_depth: (B, h, w) of the `other` cameras' frame, 0 where empty. A point is seen where it projects
    into that picture and the pixels around it, by half of their bilinear weight or more, have its depth, up
    to `tolerance` of it.
    """
    there = torch.isfinite(positions).all(dim=-1)
    pixels, z = project(positions.nan_to_num(0.0, 0.0, 0.0), other)
    pixels = pixels.nan_to_num(-2.0, -2.0, -2.0)
    width, height = other.size
    x, y = pixels.unbind(-1)
    slack = 1e-3  # rounding of a still camera's whole coordinates
    inside = (x >= -slack) & (x <= width - 1 + slack) & (y >= -slack) & (y <= height - 1 + slack) & (z > 0)
    left, top = (coordinate.floor().clamp(-1, limit) for coordinate, limit in ((x, width), (y, height)))
    share = torch.zeros_like(z)
    flat = other_depth.flatten(1)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        index = (left.long() + dx).clamp(0, width - 1) + (top.long() + dy).clamp(0, height - 1) * width
        depth = flat.gather(1, index.flatten(1)).view_as(z)
        agrees = (depth > 0) & ((depth - z).abs() <= tolerance * z)
        share += agrees * (1 - (x - left - dx).abs()).clamp(0, 1) * (1 - (y - top - dy).abs()).clamp(0, 1)
    return Correspondence(pixels, there & inside & (share >= SHARE))


def sample(image: Tensor, pixels: Tensor) -> Tensor:
    """`image` (B, C, h, w) at `pixels` (B, H, W, 2), whole at pixel centers: (B, C, H, W), by Catmull-Rom's cubic.

    That is exact where color changes like a square along x and y. The blur of a bilinear sample would read as
    flicker, and the more the sharper the video is.
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
    """Weights of the four samples around a place `t` (0 to 1) beyond the second (Keys 1981, a = -1/2)."""
    return (((1 - 0.5 * t) * t - 0.5) * t, (1.5 * t - 2.5) * t * t + 1,
            ((2 - 1.5 * t) * t + 0.5) * t, (0.5 * t - 0.5) * t * t)


def warp_error(current: Tensor, other: Tensor, where: Correspondence) -> Tensor:
    """(B,): mean absolute difference between a point's color now and in the other frame, where both show it.

    0 where no point is seen in both.
    """
    return masked_mean((sample(other, where.pixels) - current).abs(), where.seen)


def flicker(previous: Tensor, current: Tensor, following: Tensor, to_previous: Correspondence,
            to_following: Correspondence) -> Tensor:
    """(B,): how far a point's color is from the mean of its colors one frame before and after.

    Needs no truth. Steady change (a highlight that wanders in) counts nothing, and a color that jumps
    between two values v apart reads v. Where a point is not seen in all three frames it does not count.
    """
    around = (sample(previous, to_previous.pixels) + sample(following, to_following.pixels)) / 2
    return masked_mean((around - current).abs(), to_previous.seen & to_following.seen)


def second_difference_error(rendered: Sequence[Tensor], truth: Sequence[Tensor], mask: Tensor) -> Tensor:
    """(B,): mean absolute difference of the second differences in time, `before - 2 now + after`, in `mask`.

    A pixel's own change over three frames, without any warp: what flickers and what lags both differ from
    the truth's. `mask`: (B, H, W) bool.
    """
    def second(frames: Sequence[Tensor]) -> Tensor:
        before, now, after = frames
        return before - 2 * now + after

    return masked_mean((second(rendered) - second(truth)).abs(), mask)


def flow_error(rendered: Sequence[Tensor], truth: Sequence[Tensor], mask: Tensor) -> Tensor:
    """(B,): mean distance, in pixels, between the optical flows from the first frame to the second, in `mask`.

    The temporal distance of Chu et al. (TecoGAN, 2020): Farnebäck's flow of the gray pictures.
    """
    difference = np.stack([_flow(a, b) - _flow(c, d) for a, b, c, d in zip(*rendered, *truth, strict=True)])
    distance = torch.from_numpy(np.linalg.norm(difference, axis=-1)).to(mask.device)
    return masked_mean(distance[:, None], mask)


def color_video_vdp(rendered: NDArray[np.uint8], truth: NDArray[np.uint8], fps: float) -> float:
    """ColorVideoVDP (Mantiuk et al. 2024) of two videos (N, H, W, 3): quality in JOD, 10 where they look alike.

    One JOD is the difference that three of four viewers would notice. Raises `MissingExtraError` where the
    package is not installed.
    """
    try:
        import pycvvdp
    except ImportError as error:
        raise MissingExtraError("ColorVideoVDP needs the package cvvdp: pip install 'npcr[cvvdp]' "
                                f"({error})") from None
    metric = pycvvdp.cvvdp(display_name=DISPLAY, quiet=True, device=torch.device("cpu"))
    with torch.no_grad():
        quality, _ = metric.predict(rendered, truth, dim_order="FHWC", frames_per_second=fps)
    return float(quality)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B,): the mean of `values` (B, C, H, W) over the channels and the pixels in `mask` (B, H, W); 0 without."""
    weight = mask[:, None].to(values.dtype)
    total = (values * weight).flatten(1).sum(1)
    return total / (weight.flatten(1).sum(1) * values.shape[1]).clamp_min(1)


def _flow(first: Tensor, second: Tensor) -> NDArray[np.float32]:
    """(H, W, 2) Farnebäck's flow in pixels from one (3, H, W) picture to the next."""
    before, after = (cv2.cvtColor((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy(),
                                  cv2.COLOR_RGB2GRAY) for image in (first, second))
    start = np.zeros((*before.shape, 2), np.float32)
    return np.asarray(cv2.calcOpticalFlowFarneback(before, after, start, 0.5, 3, 15, 3, 5, 1.2, 0), np.float32)
