# SPDX-License-Identifier: Apache-2.0
"""Points of all layers to one feature image: soft splats, composited front to back by learned opacity.

Where the published method gives each layer a U-Net pass of its own and composites the results, this composites
first and leaves one pass for all layers, so that a further layer costs a gather. A splat is round and soft, with
a learned width: what a point adds to a pixel changes smoothly as the camera moves, which a z-buffer of hard
squares does not (compare 3D Gaussian Splatting, Kerbl et al. 2023, and TRIPS, Franke et al. 2024; here the K
points of each pixel come from depth peeling, and a network finishes the picture).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from npcr.cameras import Cameras, pixel_grid
from npcr.ops import Fragments, gather_features
from npcr.ops import native as compiled
from npcr.renderers.cpu import autograd as fast

OPAQUE = 0.99  # the most that one splat covers, so that light, and gradients, still reach those behind
MAX_DEGREE = 3  # of spherical harmonics
_SMALLEST = 0.6  # pixels: standard deviation of the smallest splat before training
COVERED = 1e-3  # coverage from which on a pixel has a depth


class Splats(NamedTuple):
    """A cloud's learned numbers, as a renderer keeps them. A splat is one soft dot, or a row of them: a strand."""

    points: Tensor  # (N, 3) world
    strands: Tensor  # (N, 3) world, half of the strand that passes a point, which is its middle
    values: Tensor  # (N, C) what is composited
    opacity: Tensor  # (N, 1) before the sigmoid
    log_width: Tensor  # (N, 1) logarithm of the splat's standard deviation in units of `start_width`
    background: Tensor  # (C,) what shows through


class SplatImage(NamedTuple):
    """What one camera sees, before the network."""

    values: Tensor  # (C, H, W)
    alpha: Tensor  # (H, W) coverage, 0 to 1
    depth: Tensor  # (H, W) camera-space z, the mean over what covers the pixel, 0 where nothing does; no gradient


def start_width(depth: Tensor, splat: tuple[float, float, float]) -> Tensor:
    """Standard deviation in pixels of an untrained splat at camera-space `depth`: in step with the radius that
    INPUT.NEAR_FAR_SIZE, `splat`, gives it (design, "Projection"), and never below what a pixel can show.
    """
    near, far, max_size = splat
    return _SMALLEST * (1 + max_size * (1 - (depth - near) / (far - near)).clamp(0, 1))


def soft_splat(splat: tuple[float, float, float]) -> tuple[float, float, float]:
    """(near, far, max_size) with which soft splats are rasterized, where hard ones have `splat`: one pixel more at
    near and at far, and on the line between them.
    """
    near, far, max_size = splat
    return near, near + (far - near) * (max_size + 1) / max_size if max_size > 0 else 1e6 * far, max_size + 1


def reach(depth: Tensor, splat: tuple[float, float, float]) -> Tensor:
    """Pixels from a dot at camera-space `depth` to the border of the square that is rasterized for it."""
    near, far, max_size = soft_splat(splat)
    return 0.5 + max_size * (1 - (depth - near) / (far - near)).clamp(0, 1)


def dots_along(points: Tensor, strands: Tensor, dots: int) -> Tensor:
    """(N * M, ...): M places evenly along each strand, from its start to its end; the middles for one dot."""
    if dots == 1:
        return points
    places = torch.linspace(-1, 1, dots, dtype=points.dtype, device=points.device)[:, None]
    return torch.addcmul(points[:, None], strands[:, None], places).flatten(0, 1)


def composite_splats(splats: Splats, camera: Cameras, fragments: Fragments, dots: int,
                     splat: tuple[float, float, float]) -> SplatImage:
    """Composite the points of each pixel: `w_k = a_k prod_{j<k}(1 - a_j)`,
    `a = sigmoid(o) exp(-d² / 2 s²) (1 - d² / R²)`.

    d is the distance in pixels from the pixel's center to the projected point, s = start_width exp(log_width), and R
    how far it was rasterized: a dot must have faded where it ends, or moving pictures flicker.
    camera: a batch of one. fragments: its dots, (1, K, H, W), nearest first; those of one point follow each other.
    splat: (near, far, max_size). Differentiable in all of `splats`; the choice of the dots, `start_width` and
    `reach` are held fixed.
    """
    rotation, intrinsics = camera.world_to_cam[0, :3, :3], camera.intrinsics[0]
    middles = splats.points @ rotation.T + camera.world_to_cam[0, :3, 3]
    # Homogeneous pixels are linear in the world's points: projecting middles and strands projects all dots.
    image_dots = dots_along(middles @ intrinsics.T, splats.strands @ (intrinsics @ rotation).T, dots)
    pixels = image_dots[:, :2] / image_dots[:, 2:]
    depth = middles[:, 2:].detach()
    sharpness = 0.5 / (start_width(depth, splat) * torch.exp(splats.log_width)).square()
    fade = reach(depth, splat).square().reciprocal()
    points = torch.cat([torch.sigmoid(splats.opacity), sharpness, fade, splats.values], dim=1)
    arguments = (pixels, points, fragments.index[0], fragments.depth[0], splats.background)
    image, depth = _Composite.apply(*arguments) if _kernel_serves(pixels) else composite_reference(*arguments)
    return SplatImage(image[..., :-1].movedim(-1, 0), image[..., -1], depth)


def composite_reference(dots: Tensor, points: Tensor, index: Tensor, depth: Tensor,
                   background: Tensor) -> tuple[Tensor, Tensor]:
    """Values and coverage (H, W, C + 1) and the mean depth (H, W), in torch: what the kernel npcr_composite does.

    dots (N M, 2) pixels; points (N, 3 + C): opacity 0 to 1, sharpness 1 / 2 s², fade 1 / R², values;
    index, depth (K, H, W).
    """
    height, width = index.shape[1:]
    at = _gather(dots, index)
    point = _gather(points, torch.where(index >= 0, index // (len(dots) // len(points)), -1))
    away = (at - pixel_grid((width, height), dots.device)).square().sum(-1)
    within = (1 - away * point[..., 2].detach()).clamp(min=0)
    coverage = point[..., 0] * torch.exp(-away * point[..., 1]) * within
    weights = front_to_back(torch.where(index >= 0, coverage, 0).clamp(max=OPAQUE))
    alpha = weights.sum(0)[..., None]
    values = torch.einsum("khw,khwc->hwc", weights, point[..., 3:]) + (1 - alpha) * background
    with torch.no_grad():
        mean_depth = torch.where(alpha[..., 0] > COVERED, (weights * depth).sum(0) / alpha[..., 0], 0)
    return torch.cat([values, alpha], dim=-1), mean_depth


def _kernel_serves(x: Tensor) -> bool:
    if x.device.type == "cpu":
        return fast.serves(x)
    return fast.enabled() and x.dtype == torch.float32 and not torch.compiler.is_compiling() and compiled.available(
        x.device)


class _Composite(torch.autograd.Function):
    """`composite_reference` on the compiled kernels."""

    @staticmethod
    def forward(ctx: Any, dots: Tensor, points: Tensor, index: Tensor, depth: Tensor,  # type: ignore[override]
                background: Tensor) -> tuple[Tensor, Tensor]:
        kept = [tensor.detach().contiguous() for tensor in (dots, points, index, background)]
        image, mean_depth = compiled.composite(kept[0], kept[1], kept[2], depth.contiguous(), kept[3])
        ctx.save_for_backward(*kept)
        ctx.mark_non_differentiable(mean_depth)
        return image, mean_depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_image: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        dots, points, index, background = ctx.saved_tensors
        grads = compiled.composite_grad(dots, points, index, background, grad_image.contiguous())
        return grads[0], grads[1], None, None, grads[2]


def _gather(table: Tensor, index: Tensor) -> Tensor:
    """Rows of `table` (N, C) at index (K, H, W), zeros where that is negative: (K, H, W, C)."""
    return gather_features(table, table.new_zeros(table.shape[1]), index[None])[0].movedim(1, -1)


def front_to_back(coverage: Tensor) -> Tensor:
    """(K, ...) shares that layers cover, nearest first, to the shares of the picture that they get."""
    passing = torch.cumprod(1 - coverage, dim=0)
    return coverage * torch.cat([torch.ones_like(passing[:1]), passing[:-1]])


def spherical_harmonics(directions: Tensor, degree: int) -> Tensor:
    """(N, 3) unit vectors to the real spherical harmonics up to `degree` (0 to 3), (N, (degree + 1)²)."""
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, 0.28209479)]
    if degree >= 1:
        values += [-0.48860251 * y, 0.48860251 * z, -0.48860251 * x]
    if degree >= 2:
        values += [1.09254843 * x * y, -1.09254843 * y * z, 0.31539157 * (2 * z * z - x * x - y * y),
                   -1.09254843 * x * z, 0.54627422 * (x * x - y * y)]
    if degree >= 3:
        values += [-0.59004359 * y * (3 * x * x - y * y), 2.89061144 * x * y * z,
                   -0.45704580 * y * (5 * z * z - 1), 0.37317633 * z * (5 * z * z - 3),
                   -0.45704580 * x * (5 * z * z - 1), 1.44530572 * z * (x * x - y * y),
                   -0.59004359 * x * (x * x - 3 * y * y)]
    return torch.stack(values, dim=-1)
