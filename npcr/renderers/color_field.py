# SPDX-License-Identifier: Apache-2.0
"""A color by direction that all splats around share: spherical Gaussians at the nodes of a grid.

What a splat's few pixels cannot tell, its neighbors' can: how the light on a whole side of the object changes from view
to view, as rims against the light do. The nodes' colors by direction are sharper than harmonics of low degree, and
there are so few nodes that they learn no grain. A strand scatters light into a cone around itself (Marschner et al.
2003), so the color depends on the strand's direction, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from npcr.ops import native_field
from npcr.ops.dispatch import COLOR_FIELD, use_compiled
from npcr.ops.spherical_harmonics import spherical_harmonics

LOBES = 48  # spherical Gaussians of a node, spread evenly over the sphere, about 29 degrees apart
# Of a spherical Gaussian exp(sharpness (cos - 1)), for each of them: in proportion to their density. Of 48, half of the
# height is 27 degrees off the middle.
_SHARPNESS = 6.25 / 48
_OF_STRANDS = 6  # functions of a strand's direction, of degree 0 and 2: both its ends are the same
_OUTSIDE = 0.01  # share of the cloud on each side of each axis that may lie outside the grid: stray points
_AT_ONCE = {"cpu": 2**12, "cuda": 2**18}  # splats
_SAMPLES = 2**12  # directions of the sphere from which harmonics are fitted


class ColorField(nn.Module):
    """The colors that a frame's splats have in common, added to their own.

    Args:
        clouds: (N, 3) world coordinates, a tensor for each frame; the grid spans them but for stray points.
        nodes: of the grid along each axis, at least 1; with one the colors are the same everywhere.
        lobes: spherical Gaussians of a node, at least 1; more are narrower.
    """

    def __init__(self, clouds: Sequence[Tensor], nodes: int, lobes: int = LOBES) -> None:
        super().__init__()
        self.nodes = nodes
        self.lobes = nn.ParameterList([torch.zeros(lobes, nodes**3, 3 * _OF_STRANDS) for _ in clouds])
        self.register_buffer("centers", _directions(lobes).float(), persistent=False)
        for frame, cloud in enumerate(clouds):
            self.register_buffer(f"box_{frame}", _box(cloud))  # of the state: training moves and removes points

    def forward(self, places: Tensor, strands: Tensor, origin: Tensor, frame: int = 0, *,
                backend: str = "auto") -> Tensor:
        """Evaluate the colors of splats as they are seen from a camera.

        Differentiable in the lobes alone.

        Args:
            places: (N, 3) world coordinates; outside the grid the nearest place of it counts.
            strands: (N, 3) directions, of a length from 0, round, to 1, a thin strand.
            origin: (3,) world, the place of the camera.
            frame: from 0.
            backend: "auto", "compiled" or "torch", as in `npcr.ops.rasterize`; on a GPU it is always torch.

        Returns:
            (N, 3), of any range.

        Raises:
            OperatorError: backend "compiled" cannot serve.
        """
        seen = F.normalize(self._grid(frame) - origin, dim=1)
        values = (self._heights(seen)[:, :, None] * self.lobes[frame]).sum(0)
        return self._interpolated(values, places, strands, frame, backend)

    @torch.no_grad()
    def harmonics(self, places: Tensor, strands: Tensor, degree: int, frame: int = 0) -> Tensor:
        """Fit spherical harmonics to the colors of splats by least squares over all directions.

        Args:
            places, strands, frame: as in `forward`.
            degree: of the harmonics, 0 to 3.

        Returns:
            (N, (degree + 1)², 3).
        """
        directions = _directions(_SAMPLES).to(places)
        fit = torch.linalg.pinv(spherical_harmonics(directions, degree)) @ self._heights(directions).T
        return torch.stack([self._interpolated(torch.tensordot(row, self.lobes[frame], dims=1), places, strands, frame)
                            for row in fit], dim=1)

    def _heights(self, directions: Tensor) -> Tensor:
        """(lobes, n) of the spherical Gaussians in (n, 3) unit directions."""
        centers = self.get_buffer("centers")
        return torch.exp(_SHARPNESS * len(centers) * (centers @ directions.T - 1))

    def _grid(self, frame: int) -> Tensor:
        """(nodes³, 3) world coordinates, x fastest."""
        low, high = self.get_buffer(f"box_{frame}")
        line = (torch.arange(self.nodes, device=low.device) + 0.5 * (self.nodes == 1)) / max(1, self.nodes - 1)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        return low + torch.stack([x, y, z], dim=-1).view(-1, 3) * (high - low)

    def _interpolated(self, values: Tensor, places: Tensor, strands: Tensor, frame: int,
                      backend: str = "auto") -> Tensor:
        """(N, 3) colors from (nodes³, 3 * `_OF_STRANDS`) values of the nodes, linear between them."""
        box = self.get_buffer(f"box_{frame}")
        if use_compiled(COLOR_FIELD, backend, values, places, strands):
            inputs = (values.contiguous(), places.contiguous(), strands.contiguous(), box)
            compiled: Tensor = _InterpolateCompiled.apply(*inputs)
            return compiled
        low, high = box
        place = ((places.nan_to_num() - low) / (high - low)).clamp(0, 1) * (self.nodes - 1)
        colors: Tensor = _Interpolate.apply(values.T, place.T.contiguous(), strands.nan_to_num(0, 0, 0).T.contiguous())
        return colors.T


class _Interpolate(torch.autograd.Function):
    """(3, N) colors, linear between the values of a grid's nodes.

    A product of matrices, not a look-up, so that the gradient adds up in the same order each time, on a GPU, too. Some
    splats at a time: their weights of all nodes stay in a CPU's cache, and are made anew on the way back.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, strands: Tensor) -> Tensor:  # type: ignore[override]
        """Of (18, nodes³) values, (3, N) places in the grid and (3, N) strands."""
        ctx.save_for_backward(values, places, strands)
        colors = places.new_empty(places.shape)
        for part in _parts(places):
            shared = (values @ _weights(places[:, part], values.shape[1])).view(_OF_STRANDS, 3, -1)
            colors[:, part] = (_strand_functions(strands[:, part])[:, None] * shared).sum(0)
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        values, places, strands = ctx.saved_tensors
        grad_values = torch.zeros_like(values)
        for part in _parts(places):
            shared = (_strand_functions(strands[:, part])[:, None] * grad[:, part]).flatten(0, 1)
            grad_values.addmm_(shared, _weights(places[:, part], values.shape[1]).T)
        return grad_values, None, None


class _InterpolateCompiled(torch.autograd.Function):
    """The same on a CPU's kernel: (N, 3) colors of (nodes³, 18) values, (N, 3) world places, (N, 3) strands, a box."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, strands: Tensor,  # type: ignore[override]
                box: Tensor) -> Tensor:
        ctx.save_for_backward(places, strands, box)
        ctx.shape = values.shape
        return native_field.interpolate(values, places, strands, box)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        places, strands, box = ctx.saved_tensors
        return native_field.interpolate_grad(ctx.shape, places, strands, box, grad.contiguous()), None, None, None


def _parts(places: Tensor) -> list[slice]:
    step = _AT_ONCE[places.device.type]
    return [slice(start, start + step) for start in range(0, places.shape[1], step)]


def _weights(places: Tensor, count: int) -> Tensor:
    """(nodes³, n) of every node at (3, n) places, in units of the grid."""
    nodes = round(count ** (1 / 3))
    along = torch.arange(nodes, device=places.device)[:, None]
    x, y, z = (1 - (places[:, None] - along).abs()).clamp_min(0)
    return (z[:, None, None] * (y[:, None] * x)).flatten(0, 2)


def _strand_functions(strands: Tensor) -> Tensor:
    """(6, n) a constant, and the five independent parts of s sᵀ, of (3, n) strands."""
    x, y, z = strands
    third = (x * x + y * y + z * z) / 3
    return torch.stack([torch.ones_like(x), x * x - third, y * y - third, x * y, y * z, x * z])


def _directions(count: int) -> Tensor:
    """(count, 3) float64 unit vectors spread evenly over the sphere, on a spiral."""
    place = torch.arange(count, dtype=torch.float64) + 0.5
    polar, around = torch.acos(1 - 2 * place / count), np.pi * (1 + 5**0.5) * place
    return torch.stack([torch.cos(around) * torch.sin(polar), torch.sin(around) * torch.sin(polar), torch.cos(polar)],
                       dim=1)


def _box(cloud: Tensor) -> Tensor:
    """(2, 3) lowest and highest corner, but for `_OUTSIDE`."""
    finite = cloud[cloud.isfinite().all(1)].double().cpu().numpy()
    if not len(finite):
        finite = np.zeros((1, 3))
    low, high = np.quantile(finite, [_OUTSIDE, 1 - _OUTSIDE], axis=0)
    least = max(1e-3 * float((high - low).max()), 1e-6)  # a flat cloud has a grid of some thickness
    middle, half = (low + high) / 2, np.maximum(high - low, least) / 2
    return torch.from_numpy(np.stack([middle - half, middle + half])).to(cloud)
