# SPDX-License-Identifier: Apache-2.0
"""Soft splats: what a point with a learned width covers of an image, and their layers composited into one image.

Where the published method gives each layer a U-Net pass of its own and composites the results, this composites
first and leaves one pass for all layers, so that a further layer costs a gather. A splat is round and soft, with
a learned width: what a point adds to a pixel changes smoothly as the camera moves, which a z-buffer of hard
squares does not (compare 3D Gaussian Splatting, Kerbl et al. 2023, and TRIPS, Franke et al. 2024; here the K
points of each pixel come from depth peeling, and a network finishes the image).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from npcr.cameras import Cameras
from npcr.ops import Fragments, composite_dots

_SMALLEST = 0.6  # pixels: standard deviation of the smallest splat before training


class Splats(NamedTuple):
    """A cloud's learned numbers, as a renderer keeps them. A splat is one soft dot, or a row of them: a strand."""

    points: Tensor  # (N, 3) world
    strands: Tensor  # (N, 3) world, half of the strand that passes a point, which is its middle
    values: Tensor  # (N, C) what is composited
    opacity: Tensor  # (N, 1) before the sigmoid
    log_width: Tensor  # (N, 1) logarithm of the splat's standard deviation in units of `start_width`
    background: Tensor  # (C,) what shows through


class SplatImage(NamedTuple):
    """The image of one camera, before the network."""

    values: Tensor  # (C, H, W)
    alpha: Tensor  # (H, W) coverage, 0 to 1
    depth: Tensor  # (H, W) camera-space z, the mean over what covers the pixel, 0 where nothing does; no gradient


def start_width(depth: Tensor, splat: tuple[float, float, float]) -> Tensor:
    """Compute the standard deviation of an untrained splat, in step with the radius of hard ones.

    Args:
        depth: camera-space z, any shape.
        splat: (near, far, max_size) as of INPUT.NEAR_FAR_SIZE (docs/conventions.md, "Projection").

    Returns:
        Pixels, shape of depth; never below what an image can show.
    """
    near, far, max_size = splat
    return _SMALLEST * (1 + max_size * (1 - (depth - near) / (far - near)).clamp(0, 1))


def soft_splat(splat: tuple[float, float, float]) -> tuple[float, float, float]:
    """Widen a splat for rasterizing it soft: by one pixel at near and at far, and on the line between them.

    Args:
        splat: (near, far, max_size) of hard splats.

    Returns:
        (near, far, max_size) for `npcr.ops.rasterize`.
    """
    near, far, max_size = splat
    return near, near + (far - near) * (max_size + 1) / max_size if max_size > 0 else 1e6 * far, max_size + 1


def reach(depth: Tensor, splat: tuple[float, float, float]) -> Tensor:
    """Compute the distance from a dot to the border of the square that is rasterized for it.

    Args:
        depth: camera-space z, any shape.
        splat: (near, far, max_size) of hard splats.

    Returns:
        Pixels, shape of depth.
    """
    near, far, max_size = soft_splat(splat)
    return 0.5 + max_size * (1 - (depth - near) / (far - near)).clamp(0, 1)


def dots_along(points: Tensor, strands: Tensor, dots: int) -> Tensor:
    """Place dots evenly along each strand, from its start to its end.

    Args:
        points: (N, D) the middles.
        strands: (N, D) half of each strand.
        dots: M, of each strand; for one dot it is the middle.

    Returns:
        (N * M, D), those of one point following each other.
    """
    if dots == 1:
        return points
    places = torch.linspace(-1, 1, dots, dtype=points.dtype, device=points.device)[:, None]
    return torch.addcmul(points[:, None], strands[:, None], places).flatten(0, 1)


def project_splats(splats: Splats, camera: Cameras, dots: int,
                   splat: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Make of splats what `npcr.ops.composite_dots` takes.

    Args:
        splats: of one cloud.
        camera: a batch of one.
        dots: M, of each point.
        splat: (near, far, max_size) of hard splats.

    Returns:
        (N * M, 2) the dots' pixels, those of one point following each other; and (N, 3 + C) the points' numbers.
    """
    rotation, intrinsics = camera.world_to_cam[0, :3, :3], camera.intrinsics[0]
    middles = splats.points @ rotation.T + camera.world_to_cam[0, :3, 3]
    # Homogeneous pixels are linear in the world's points: projecting middles and strands projects all dots.
    image_dots = dots_along(middles @ intrinsics.T, splats.strands @ (intrinsics @ rotation).T, dots)
    pixels = image_dots[:, :2] / image_dots[:, 2:]
    depth = middles[:, 2:].detach()
    sharpness = 0.5 / (start_width(depth, splat) * torch.exp(splats.log_width)).square()
    fade = reach(depth, splat).square().reciprocal()
    return pixels, torch.cat([torch.sigmoid(splats.opacity), sharpness, fade, splats.values], dim=1)


def composite_splats(splats: Splats, camera: Cameras, fragments: Fragments, dots: int,
                     splat: tuple[float, float, float], *, backend: str = "auto") -> SplatImage:
    """Composite the points of each pixel front to back; a dot covers `sigmoid(o) exp(-d² / 2 s²) (1 - d² / R²)` of it.

    d is the distance in pixels from the pixel's center to the projected dot, s = start_width exp(log_width), and R
    = `reach`: a dot must have faded where it ends, or moving images flicker. Differentiable in all of `splats`; the
    choice of the dots, `start_width` and `reach` are held fixed.

    Args:
        splats: of one cloud.
        camera: a batch of one.
        fragments: its dots, (1, K, H, W), nearest first; those of one point follow each other.
        dots: M, of each point.
        splat: (near, far, max_size) of hard splats.
        backend: as in `npcr.ops.composite_dots`.

    Returns:
        The image.
    """
    pixels, points = project_splats(splats, camera, dots, splat)
    image, mean_depth = composite_dots(pixels, points, fragments.index[0], fragments.depth[0], splats.background,
                                       backend=backend)
    return SplatImage(image[..., :-1].movedim(-1, 0), image[..., -1], mean_depth)
