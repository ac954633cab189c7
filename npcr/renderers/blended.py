# SPDX-License-Identifier: Apache-2.0
"""The blended form: composite the points of all layers into one picture, and finish it with one light network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from npcr.cameras import Cameras, view_directions
from npcr.data.cloud_geometry import point_spacing
from npcr.data.point_initialization import strand_directions, with_colors
from npcr.io.points import PointCloud
from npcr.ops import Fragments, composite_dots, rasterize, view_colors
from npcr.ops.spherical_harmonics import MAX_DEGREE, constant_coefficient
from npcr.renderers.base import (
    Painter,
    ParamGroup,
    Photographs,
    Renderer,
    RenderOutput,
    check_feature_rows,
    network_groups,
    stack,
    unit_colors,
)
from npcr.renderers.patches import Patch
from npcr.renderers.receptive_field import PixelRegion
from npcr.renderers.residual_unet import ResidualUNet
from npcr.renderers.splats import Splats, composite_splats, dots_along, project_splats, soft_splat

_START_LENGTH = 3.0  # spacings of the cloud: half a strand's length before training


class BlendedRenderer(Renderer):
    """The blended form: soft strands composited into one feature image, finished by one light network.

    A point has a color by view direction, a feature vector, opacity and width, and a place and strand that training
    moves. The picture is the composited color and coverage plus what the network adds to both, in float32
    (docs/blended-form.md).

    Args:
        clouds: (N, 3) float32 world coordinates, a tensor for each frame.
        colors: (N, 3) in [0, 1] of each cloud, from which the points' colors start; None: gray.
        feature_dim: learned numbers per point beside its color.
        layers: points of each pixel that are composited, K.
        splat: (near, far, max_size) as of INPUT.NEAR_FAR_SIZE; being soft, a splat reaches one pixel further.
        peeling: "point" or "pixel", as of `npcr.ops.rasterize`.
        degree: of the spherical harmonics that make a point's color depend on the view direction, 0 to 3.
        width: channels of the network at full resolution.
        dots: soft dots in a row that draw a point; with more than one they lie along its strand.
        spacing: of each cloud, world units, in which moves and strands are measured; empty: points cannot move.
        backend: "auto", "compiled" or "torch": which kernels run.

    Raises:
        ValueError: arguments contradict each other.
    """

    shows_points_alone = True

    def __init__(self, clouds: Sequence[Tensor], colors: Sequence[Tensor] | None = None, *, feature_dim: int = 8,
                 layers: int = 8, splat: tuple[float, float, float] = (6.0, 16.0, 1.0), peeling: str = "pixel",
                 degree: int = 2, width: int = 24, dots: int = 1, spacing: Sequence[float] = (),
                 backend: str = "auto") -> None:
        super().__init__(clouds, layers)
        if colors is not None and [len(c) for c in colors] != [len(c) for c in clouds]:
            raise ValueError("BlendedRenderer: colors must have a row for every point of every cloud")
        if not 0 <= degree <= MAX_DEGREE:
            raise ValueError(f"BlendedRenderer: degree is {degree}; it must be from 0 to {MAX_DEGREE}")
        self.splat = splat
        self.peeling = peeling
        self.degree = degree
        self.backend = backend
        self.dots = dots
        self.spacing = list(spacing) or [0.0] * len(clouds)
        if colors is None:
            colors = [torch.full_like(cloud, 0.5) for cloud in clouds]
        self.features = nn.ParameterList([0.1 * torch.randn(len(cloud), feature_dim) for cloud in clouds])
        # Coefficients of the color by direction: the constant one, and the others, which learn at their own rate.
        self.colors = nn.ParameterList([constant_coefficient(color) for color in colors])
        if degree:
            self.shades = nn.ParameterList([color.new_zeros(len(color), (degree + 1) ** 2 - 1, 3) for color in colors])
        self.offsets = nn.ParameterList([torch.zeros(len(cloud), 3) for cloud in clouds])
        if dots > 1:
            self.strands = nn.ParameterList([torch.zeros_like(cloud) for cloud in clouds])
        self.opacity = nn.ParameterList([torch.zeros(len(cloud), 1) for cloud in clouds])
        self.log_width = nn.ParameterList([torch.zeros(len(cloud), 1) for cloud in clouds])
        self.default_feature = nn.Parameter(torch.zeros(feature_dim))
        self.network = ResidualUNet(feature_dim + 7, 4, width)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, cfg: CfgNode, clouds: Sequence[PointCloud]) -> BlendedRenderer:
        """As `Renderer.from_config`; the points' colors start from the clouds' where all have colors."""
        colors = unit_colors(clouds) if all(cloud.colors is not None for cloud in clouds) else None
        near, far, max_size = cfg.INPUT.NEAR_FAR_SIZE
        return cls([torch.from_numpy(cloud.positions) for cloud in clouds], colors, feature_dim=cfg.MODEL.FEATURE_DIM,
                   layers=cfg.INPUT.LAYER_NUM, splat=(near, far, max_size), peeling=cfg.PROJECTION.PEELING,
                   degree=cfg.MODEL.HARMONICS, width=cfg.MODEL.WIDTH, dots=cfg.MODEL.DOTS,
                   spacing=[point_spacing(cloud.positions) for cloud in clouds], backend=cfg.PROJECTION.BACKEND)

    @torch.no_grad()
    def initialize_from(self, clouds: Sequence[PointCloud],
                        photographs: Callable[[int], Photographs]) -> list[PointCloud]:
        """As `Renderer.initialize_from`: directions of the strands, and colors where a cloud has none."""
        completed = []
        for frame, cloud in enumerate(clouds):
            cameras, rgba = photographs(frame)
            if self.dots > 1:
                self.orient_strands(frame, torch.from_numpy(strand_directions(cloud.positions, cameras, rgba)))
            completed.append(with_colors(cloud, cameras, rgba, f"frame {frame + 1}"))
        for color, parameter in zip(unit_colors(completed), self.colors, strict=True):
            parameter.copy_(constant_coefficient(color))
        return completed

    @torch.no_grad()
    def orient_strands(self, frame: int, directions: Tensor) -> None:
        """Lay the strands of a frame's points along `directions` (N, 3), of length 0 to 1 by how sure they are."""
        self.strands[frame].copy_(_START_LENGTH * directions)

    def param_groups(self, rates: CfgNode) -> list[ParamGroup]:
        """The network's weights and biases, and the points' numbers by how fast they learn.

        Points have no weight decay: Adam would move a point that no photograph sees as fast as any other.
        """
        def points(parameters: Sequence[nn.Parameter], factor: float, decay: float = 0.0) -> ParamGroup:
            return {"params": parameters, "factor": factor, "weight_decay": decay, "eps": rates.POINT_EPS,
                    "fused": True}

        strands = list(self.strands) if self.dots > 1 else []
        return [*network_groups(self.network, rates),
                points([self.default_feature, *self.features, *self.colors], rates.FEATURE_LR_FACTOR),
                points(list(self.shades) if self.degree else [], rates.HARMONICS_LR_FACTOR, rates.HARMONICS_DECAY),
                points(list(self.opacity), rates.OPACITY_LR_FACTOR),
                points([*self.offsets, *strands], rates.POSITION_LR_FACTOR),
                points(list(self.log_width), rates.WIDTH_LR_FACTOR)]

    @classmethod
    def check_state(cls, state: Mapping[str, Tensor], clouds: Sequence[Tensor], source: str) -> None:
        """As `Renderer.check_state`: a feature vector for every point."""
        check_feature_rows(state, clouds, source)

    @classmethod
    def fingerprint(cls, state: Mapping[str, Tensor]) -> list[float]:
        """The vector that shows through where no point is."""
        return state["default_feature"].tolist()

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        """As `Renderer.forward`."""
        with torch.autocast(cameras.cam_to_world.device.type, enabled=False):
            fragments = self._project(cameras, frame)
            composed = [self._compose(cameras[i], Fragments(*(part[i:i + 1] for part in fragments)), frame)
                        for i in range(len(cameras))]
        values, alpha, depth = (stack(parts) for parts in zip(*composed, strict=True))
        rgba = torch.cat([values[:, :3], alpha[:, None]], dim=1)
        if self.finishing:
            directions = view_directions(cameras) * alpha[:, None]
            rgba = rgba + self.run_network(torch.cat([values, alpha[:, None], directions], dim=1)).float()
        return RenderOutput(rgba[:, :3], rgba[:, 3:], depth, rgba[:, None], depth[:, None], fragments.index)

    def why_no_tiles(self) -> str:
        """As `Renderer.why_no_tiles`."""
        return ""

    @torch.no_grad()
    def painter(self, camera: Cameras, frame: int = 0) -> Painter:
        """As `Renderer.painter`; which dots a pixel has is found for the whole picture, in 8 bytes for each of them."""
        index, depths = (part[0] for part in self._project(camera, frame))
        splats = self._splats(camera, frame)
        dots, points = project_splats(splats, camera, self.dots, self.splat)

        def paint(wanted: PixelRegion) -> RenderOutput:
            seen = self.input_region(wanted) if self.finishing else wanted
            image, depth = composite_dots(dots - dots.new_tensor([seen.left, seen.top]), points,
                                          seen.within(index).contiguous(), seen.within(depths).contiguous(),
                                          splats.background, backend=self.backend)
            picture = image.movedim(-1, 0)[None]
            rgba = Patch(torch.cat([picture[:, :3], picture[:, -1:]], dim=1), seen).part(wanted)
            if self.finishing:
                directions = view_directions(camera, box=seen.box) * picture[:, -1:]
                rgba = rgba + self.run_network_within(torch.cat([picture, directions], dim=1), seen, wanted).float()
            depth = Patch(depth[None], seen).part(wanted)
            return RenderOutput(rgba[:, :3], rgba[:, 3:], depth, rgba[:, None], depth[:, None],
                                wanted.within(index)[None])

        return paint

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
        return composite_splats(self._splats(camera, frame), camera, fragments, self.dots, self.splat,
                                backend=self.backend)

    def _splats(self, camera: Cameras, frame: int) -> Splats:
        points, strands = self.middles_and_strands(frame)
        shades = self.shades[frame] if self.degree else self.colors[frame][:, :0]
        color = view_colors(points.detach(), camera.cam_to_world[0, :3, 3], self.colors[frame], shades,
                            backend=self.backend)
        values = torch.cat([color, self.features[frame]], dim=1)
        background = torch.cat([color.new_zeros(3), self.default_feature])
        return Splats(points, strands, values, self.opacity[frame], self.log_width[frame], background)
