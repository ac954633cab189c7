# SPDX-License-Identifier: Apache-2.0
"""The blended form: the points of all layers composited into one picture, finished by one light network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.cameras import Cameras, view_directions
from npcr.ops import Fragments, rasterize
from npcr.renderers.cpu import autograd as fast
from npcr.renderers.layered import RenderOutput
from npcr.renderers.residual_unet import ResidualUNet
from npcr.renderers.splats import MAX_DEGREE, Splats, composite_splats, dots_along, soft_splat, spherical_harmonics

_START_LENGTH = 3.0  # spacings of the cloud: half a strand's length before training
_CONSTANT = 0.28209479  # the first spherical harmonic


class BlendedRenderer(nn.Module):
    """A point cloud per frame; per point a color by direction, a feature vector, opacity and width; one network.

    clouds: one (N, 3) float32 tensor a frame; colors: likewise in [0, 1], what the points' colors start from, or
    None: gray. splat is (near, far, max_size) as the configuration's; a splat reaches one pixel further than
    there, for it is soft. degree: of the spherical harmonics that make a point's color depend on the direction
    it is seen from. width: channels of the network at full resolution. dots: how many soft dots draw a point.
    spacing: of each cloud, world units, by which places and strands are measured; without, they cannot move.
    strands: of each cloud (N, 3), the strands' directions, of length 0 to 1 by how sure they are.
    The picture is the composited color and coverage plus what the network adds to both, in float32.
    """

    legacy = False

    def __init__(self, clouds: Sequence[Tensor], colors: Sequence[Tensor] | None = None, *, feature_dim: int = 8,
                 layers: int = 8, splat: tuple[float, float, float] = (6.0, 16.0, 1.0), peeling: str = "pixel",
                 degree: int = 2, width: int = 24, dots: int = 1, spacing: Sequence[float] = (),
                 strands: Sequence[Tensor] | None = None, backend: str = "auto") -> None:
        super().__init__()
        if colors is not None and [len(c) for c in colors] != [len(c) for c in clouds]:
            raise ValueError("BlendedRenderer: colors must have a row for every point of every cloud")
        if not 0 <= degree <= MAX_DEGREE:
            raise ValueError(f"BlendedRenderer: degree is {degree}; it must be from 0 to {MAX_DEGREE}")
        self.frames = len(clouds)
        self.layers = layers
        self.splat = splat
        self.peeling = peeling
        self.degree = degree
        self.backend = backend
        for frame, cloud in enumerate(clouds):
            self.register_buffer(f"points_{frame}", cloud.float().contiguous(), persistent=False)
        if colors is None:
            colors = [torch.full_like(cloud, 0.5) for cloud in clouds]
        self.features = nn.ParameterList([0.1 * torch.randn(len(cloud), feature_dim) for cloud in clouds])
        # Coefficients of the color by direction: the constant one, and the others, which learn at their own rate.
        self.colors = nn.ParameterList([(color / _CONSTANT)[:, None] for color in colors])
        if degree:
            self.shades = nn.ParameterList([color.new_zeros(len(color), (degree + 1) ** 2 - 1, 3) for color in colors])
        self.dots = dots
        self.spacing = list(spacing) or [0.0] * len(clouds)
        self.offsets = nn.ParameterList([torch.zeros(len(cloud), 3) for cloud in clouds])
        if dots > 1:
            strands = strands or [torch.zeros_like(cloud) for cloud in clouds]
            self.strands = nn.ParameterList([_START_LENGTH * strand for strand in strands])
        self.opacity = nn.ParameterList([torch.zeros(len(cloud), 1) for cloud in clouds])
        self.log_width = nn.ParameterList([torch.zeros(len(cloud), 1) for cloud in clouds])
        self.default_feature = nn.Parameter(torch.zeros(feature_dim))
        self.network = ResidualUNet(feature_dim + 7, 4, width)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def points(self, frame: int) -> Tensor:
        """(N, 3) float32 world positions of a frame's points."""
        return self.get_buffer(f"points_{frame}")

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        with torch.autocast(cameras.cam_to_world.device.type, enabled=False), fast.torch_only(self.backend == "torch"):
            fragments = self._project(cameras, frame)
            composed = [self._compose(cameras[i], Fragments(*(part[i:i + 1] for part in fragments)), frame)
                        for i in range(len(cameras))]
        values, alpha, depth = (torch.stack(parts) for parts in zip(*composed, strict=True))
        directions = view_directions(cameras) * alpha[:, None]
        added = self.network(torch.cat([values, alpha[:, None], directions], dim=1)).float()
        rgba = torch.cat([values[:, :3], alpha[:, None]], dim=1) + added
        return RenderOutput(rgba[:, :3], rgba[:, 3:], depth, rgba[:, None], depth[:, None], fragments.index)

    @torch.no_grad()
    def _project(self, cameras: Cameras, frame: int) -> Fragments:
        near, far, max_size = soft_splat(self.splat)
        dots = dots_along(*self.middles_and_strands(frame), self.dots)
        return rasterize(dots, cameras.cam_to_world, cameras.intrinsics, cameras.size, near=near, far=far,
                         max_size=max_size, layers=self.layers, peeling=self.peeling, backend=self.backend)

    def middles_and_strands(self, frame: int) -> tuple[Tensor, Tensor]:
        """(N, 3) each, world: the points where training has moved them, and half of the strand through each."""
        points = self.points(frame) + self.spacing[frame] * self.offsets[frame]
        return points, self.spacing[frame] * self.strands[frame] if self.dots > 1 else torch.zeros_like(points)

    def _compose(self, camera: Cameras, fragments: Fragments, frame: int) -> tuple[Tensor, Tensor, Tensor]:
        points, strands = self.middles_and_strands(frame)
        directions = F.normalize(points.detach() - camera.cam_to_world[0, :3, 3], dim=-1)
        coefficients = torch.cat([self.colors[frame], self.shades[frame]], 1) if self.degree else self.colors[frame]
        # Not an einsum: it would be a matrix product for each point.
        color = (spherical_harmonics(directions, self.degree)[:, :, None] * coefficients).sum(1)
        values = torch.cat([color, self.features[frame]], dim=1)
        background = torch.cat([color.new_zeros(3), self.default_feature])
        splats = Splats(points, strands, values, self.opacity[frame], self.log_width[frame], background)
        return composite_splats(splats, camera, fragments, self.dots, self.splat)
