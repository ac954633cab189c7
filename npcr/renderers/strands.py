# SPDX-License-Identifier: Apache-2.0
"""The strands form: Gaussians stretched along strands, all of them composited, finished by a light network or none."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from yacs.config import CfgNode

from npcr.cameras import Cameras, view_directions
from npcr.data.cloud_geometry import assumed_spacing
from npcr.data.point_initialization import strand_directions, with_colors
from npcr.io.points import PointCloud
from npcr.ops import composite_gaussians, composite_gaussians_within, project_gaussians, view_colors
from npcr.ops.gaussians import FILTER_VARIANCE
from npcr.ops.spherical_harmonics import MAX_DEGREE, constant_coefficient
from npcr.renderers.base import (
    Painter,
    ParamGroup,
    Photographs,
    RenderOutput,
    SplatRenderer,
    check_point_rows,
    network_groups,
    stack,
    unit_colors,
)
from npcr.renderers.color_field import LOBES, ColorField
from npcr.renderers.patches import Patch
from npcr.renderers.population import (
    Relocation,
    copy_rows,
    cut_strands,
    draw_cut,
    harmonic_degree,
    keep_rows,
    kept_share,
    learning_rate,
    mean_gradients,
    random_shifts,
    share_gradients,
    smooth_colors,
)
from npcr.renderers.receptive_field import PixelRegion
from npcr.renderers.residual_unet import ResidualUNet

logger = logging.getLogger("npcr")

# Before training, in spacings of the cloud: half of a strand that the photographs are sure of, and the width.
_START_LENGTH = 1.5
_START_WIDTH = 0.3
_NEAR = 2.0  # spacings: the side of the cells whose splats are neighbors in `smooth_colors`


class StrandsRenderer(SplatRenderer):
    """The strands form: a soft segment per point, continuous, all that cover a pixel composited front to back.

    A point has a color by view direction, a feature vector, opacity, width, and a place and strand that training moves;
    where it has no strand it is round. Lengths are in world units: an image of another resolution, or from nearer,
    needs no other training (docs/strands-form.md). The picture is the composited color and coverage plus what the
    network adds to both.

    Args:
        clouds: (N, 3) float32 world coordinates, a tensor for each frame.
        spacing: of each cloud, world units, in which moves, strands and widths are measured; above 0.
        colors: (N, 3) in [0, 1] of each cloud, from which the points' colors start; None: gray.
        feature_dim: learned numbers per point beside its color, for the network.
        degree: of the spherical harmonics that make a point's color depend on the view direction, 0 to 3.
        width: channels of the network at its highest resolution; 0: no network, and no features.
        halvings: of the picture that the network sees; what it adds is doubled as often.
        field_nodes: of the grid along each axis whose colors all splats around share; 0: none.
        field_lobes: spherical Gaussians of a node, by which its colors change with direction.
        strands: whether splats start along the strands that the photographs show; else nearly round, in any direction.
        filter_variance: of the low-pass filter of every image, square pixels, above 0; a pixel's area has 1/12.
        path_filter_variance: the same for the frames of a camera path: a wider one is steadier; 0: as every image.
        backend: "auto", "compiled" or "torch": which kernels run.

    Raises:
        ValueError: arguments contradict each other.
    """

    shows_points_alone = True

    def __init__(self, clouds: Sequence[Tensor], spacing: Sequence[float], colors: Sequence[Tensor] | None = None, *,
                 feature_dim: int = 8, degree: int = 2, width: int = 16, halvings: int = 0, field_nodes: int = 0,
                 field_lobes: int = LOBES, strands: bool = True, filter_variance: float = FILTER_VARIANCE,
                 path_filter_variance: float = 0.0, backend: str = "auto") -> None:
        super().__init__(clouds, layers=1)
        if colors is not None and [len(c) for c in colors] != [len(c) for c in clouds]:
            raise ValueError("StrandsRenderer: colors must have a row for every point of every cloud")
        if len(spacing) != len(clouds) or not all(value > 0 for value in spacing):
            raise ValueError(f"StrandsRenderer: spacing is {list(spacing)}; it must be above 0 for each cloud")
        if not 0 <= degree <= MAX_DEGREE:
            raise ValueError(f"StrandsRenderer: degree is {degree}; it must be from 0 to {MAX_DEGREE}")
        self.spacing = list(spacing)
        self.degree = degree
        self.from_photographs = strands
        self.filter_variance = filter_variance
        self.path_filter_variance = path_filter_variance or filter_variance
        self.backend = backend
        if colors is None:
            colors = [torch.full_like(cloud, 0.5) for cloud in clouds]
        if width:
            self.features = nn.ParameterList([0.1 * torch.randn(len(cloud), feature_dim) for cloud in clouds])
        # Coefficients of the color by direction: the constant one, and the others, which learn at their own rate.
        self.colors = nn.ParameterList([constant_coefficient(color) for color in colors])
        if degree:
            self.shades = nn.ParameterList([color.new_zeros(len(color), (degree + 1) ** 2 - 1, 3) for color in colors])
        self.offsets = nn.ParameterList([torch.zeros(len(cloud), 3) for cloud in clouds])
        self.strands = nn.ParameterList([torch.zeros(len(cloud), 3) for cloud in clouds])
        self.field = ColorField(clouds, field_nodes, field_lobes) if field_nodes else None
        if not strands:  # exactly round ones would stay so: in the middle of its range a strand has no gradient
            for strand in self.strands:
                nn.init.normal_(strand, std=_START_WIDTH / 3**0.5)
        self.opacity = nn.ParameterList([torch.zeros(len(cloud), 1) for cloud in clouds])
        self.log_width = nn.ParameterList([torch.zeros(len(cloud), 1) for cloud in clouds])
        self.network = ResidualUNet(feature_dim + 7, 4, width, halvings) if width else nn.Identity()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, cfg: CfgNode, clouds: Sequence[PointCloud]) -> StrandsRenderer:
        """As `Renderer.from_config`; the points' colors start from the clouds' where all have colors."""
        colors = unit_colors(clouds) if all(cloud.colors is not None for cloud in clouds) else None
        return cls([torch.from_numpy(cloud.positions) for cloud in clouds],
                   [assumed_spacing(cloud.positions) for cloud in clouds], colors, feature_dim=cfg.MODEL.FEATURE_DIM,
                   degree=cfg.MODEL.HARMONICS, width=cfg.MODEL.WIDTH if cfg.MODEL.NETWORK else 0,
                   halvings=cfg.MODEL.NETWORK_HALVINGS, field_nodes=cfg.MODEL.FIELD_NODES,
                   field_lobes=cfg.MODEL.FIELD_LOBES, strands=cfg.MODEL.STRANDS,
                   filter_variance=cfg.MODEL.FILTER_VARIANCE, path_filter_variance=cfg.TEMPORAL.FILTER_VARIANCE,
                   backend=cfg.PROJECTION.BACKEND)

    @torch.no_grad()
    def initialize_from(self, clouds: Sequence[PointCloud],
                        photographs: Callable[[int], Photographs]) -> list[PointCloud]:
        """As `Renderer.initialize_from`: directions of the strands, and colors where a cloud has none."""
        completed = []
        for frame, cloud in enumerate(clouds):
            cameras, rgba = photographs(frame)
            if self.from_photographs:
                directions = torch.from_numpy(strand_directions(cloud.positions, cameras, rgba))
                self.strands[frame].copy_(_START_LENGTH * directions)  # their length, 0 to 1, is how sure they are
            completed.append(with_colors(cloud, cameras, rgba, f"frame {frame + 1}"))
        for color, parameter in zip(unit_colors(completed), self.colors, strict=True):
            parameter.copy_(constant_coefficient(color))
        return completed

    def param_groups(self, rates: CfgNode) -> list[ParamGroup]:
        """The network's weights and biases, and the points' numbers by how fast they learn.

        Points have no weight decay: Adam would move a point that no photograph sees as fast as any other.
        """
        def points(parameters: Sequence[nn.Parameter], factor: float, decay: float = 0.0) -> ParamGroup:
            return {"params": parameters, "factor": factor, "weight_decay": decay, "eps": rates.POINT_EPS,
                    "fused": True}

        features = list(self.features) if self.has_network else []
        return [*network_groups(self.network, rates),
                points([*features, *self.colors], rates.FEATURE_LR_FACTOR),
                points(list(self.shades) if self.degree else [], rates.HARMONICS_LR_FACTOR, rates.HARMONICS_DECAY),
                points(list(self.field.lobes) if self.field else [], rates.FIELD_LR_FACTOR),
                points(list(self.opacity), rates.OPACITY_LR_FACTOR),
                points([*self.offsets, *self.strands], rates.POSITION_LR_FACTOR),
                points(list(self.log_width), rates.WIDTH_LR_FACTOR)]

    def hold_for_refining(self) -> None:
        """As `Renderer.hold_for_refining`: shared colors do not flicker, and their steps move a picture's tone."""
        if self.field is not None:
            self.field.requires_grad_(False)

    @property
    def has_network(self) -> bool:
        """Whether a network finishes the picture."""
        return not isinstance(self.network, nn.Identity)

    @classmethod
    def check_state(cls, state: Mapping[str, Tensor], clouds: Sequence[Tensor], source: str) -> None:
        """As `Renderer.check_state`: colors for every point."""
        check_point_rows(state, clouds, source, "colors")

    @classmethod
    def fingerprint(cls, state: Mapping[str, Tensor]) -> list[float]:
        """Means of what every point has."""
        return [float(state[f"{name}.0"].double().mean()) for name in ("colors", "opacity", "log_width")]

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        """As `Renderer.forward`."""
        with torch.autocast(cameras.cam_to_world.device.type, enabled=False):
            images, depths = zip(*(self._composite(cameras[i], frame) for i in range(len(cameras))), strict=True)
        values, depth = stack(images).movedim(-1, 1), stack(depths)
        color, _, alpha = values.split([3, values.shape[1] - 4, 1], dim=1)
        rgba = torch.cat([color, alpha], dim=1)
        if self.has_network and self.finishing:
            rgba = rgba + self.run_network(torch.cat([values, view_directions(cameras) * alpha], dim=1)).float()
        color, alpha = rgba.split([3, 1], dim=1)
        return RenderOutput(color, alpha, depth, rgba[:, None], depth[:, None])

    def gaussians(self, frame: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a frame's Gaussians as training has made them.

        Args:
            frame: from 0.

        Returns:
            Means (N, 3), half strands (N, 3) and widths (N,) in world units, opacities (N,) 0 to 1.
        """
        spacing = self.spacing[frame]
        return (torch.add(self.points(frame), self.offsets[frame], alpha=spacing), spacing * self.strands[frame],
                _START_WIDTH * spacing * torch.exp(self.log_width[frame][:, 0]),
                torch.sigmoid(self.opacity[frame][:, 0]))

    def regularizers(self, frame: int) -> dict[str, Tensor]:
        """As `SplatRenderer.regularizers`."""
        _, strands, widths, opacities = self.gaussians(frame)
        along = torch.sqrt(widths.square() + strands.square().sum(1))
        return {"opacity": opacities.mean(), "size": (widths + along).mean() / (2 * self.spacing[frame])}

    @torch.no_grad()
    def with_harmonics_alone(self) -> StrandsRenderer:
        """Copy the model without the colors that splats share: they become part of each splat's own harmonics.

        Returns:
            A model of its own, of degree `MAX_DEGREE`, the nearest to the shared colors; without these, this one.
        """
        if self.field is None:
            return self
        copied = copy.deepcopy(self)
        copied.field, copied.degree, copied.shades = None, MAX_DEGREE, nn.ParameterList()
        for frame, color in enumerate(self.colors):
            coefficients = self.field.harmonics(self.gaussians(frame)[0], self._directions(frame), MAX_DEGREE, frame)
            own = torch.cat([color, *([self.shades[frame]] if self.degree else [])], dim=1)
            coefficients[:, :own.shape[1]].add_(own)
            copied.colors[frame] = nn.Parameter(coefficients[:, :1].contiguous())
            copied.shades.append(nn.Parameter(coefficients[:, 1:].contiguous()))
        return copied

    @torch.no_grad()
    def share_gradients(self, side: float, seeds: Sequence[int]) -> None:
        """As `SplatRenderer.share_gradients`."""
        for frame, shades in enumerate(self.shades if self.degree else ()):
            if shades.grad is not None:  # other frames were not in this step
                share_gradients(shades.grad, self.gaussians(frame)[0], side * self.spacing[frame], (*seeds, frame))

    @torch.no_grad()
    def smooth_colors(self, optimizer: torch.optim.Optimizer, decay: float, seeds: Sequence[int]) -> None:
        """As `SplatRenderer.smooth_colors`; splats weigh by their opacity."""
        for frame, colors in enumerate(self.colors):
            if colors.grad is not None:  # other frames were not in this step
                share = min(1.0, decay * learning_rate(colors, optimizer))
                means, *_, opacities = self.gaussians(frame)
                smooth_colors(colors, opacities, means, _NEAR * self.spacing[frame], share, (*seeds, frame))

    @torch.no_grad()
    def relocate(self, optimizer: torch.optim.Optimizer, relocation: Relocation) -> int:
        """As `SplatRenderer.relocate`; waits for the device, since the host decides."""
        return sum(self._relocate(optimizer, relocation, frame) for frame in range(self.frames))

    def _relocate(self, optimizer: torch.optim.Optimizer, relocation: Relocation, frame: int) -> int:
        means, strands, widths, opacities = self.gaussians(frame)
        use = opacities if relocation.by == "opacity" else mean_gradients(self.colors[frame], optimizer)
        whole = means.isfinite().all(1) & strands.isfinite().all(1) & widths.isfinite() & opacities.isfinite()
        use = torch.where(whole, use.nan_to_num(0, 0, 0), 0)
        seeds = (*relocation.seeds, frame)
        cut = draw_cut(use.double().cpu().numpy(), relocation.below, seeds)
        if not len(cut.rows):
            return 0
        rows, source, place, pieces = (torch.from_numpy(part).to(means.device) for part in cut)
        logits = self.opacity[frame][:, 0]
        new = cut_strands(strands[source], widths[source], logits[source], place, pieces)
        shifts = new.shift + widths[source, None] * random_shifts(len(rows), (*seeds, 1)).to(means)
        middles = means[source] + shifts
        copy_rows(self._of_points(frame), optimizer, rows, source, pieces)
        spacing = self.spacing[frame]
        self.offsets[frame][rows] = (middles - self.points(frame)[rows]) / spacing
        self.strands[frame][rows] = new.strand / spacing
        self.opacity[frame][rows] = new.logit[:, None]
        return int((cut.place > 0).sum())

    @torch.enable_grad()
    def coverage(self, cameras: Cameras, frame: int) -> Tensor:
        """As `SplatRenderer.coverage`: the gradient of all images' sum with respect to the values is what is asked."""
        means, strands, widths, opacities = (tensor.detach() for tensor in self.gaussians(frame))
        sums = torch.zeros_like(widths)
        for camera in (cameras[i] for i in range(len(cameras))):
            ellipses = project_gaussians(means, strands, widths, opacities, camera.cam_to_world[0],
                                         camera.intrinsics[0], camera.size, filter_variance=self.filter_variance,
                                         backend=self.backend)
            values = torch.ones_like(sums)[:, None].requires_grad_()
            image, _ = composite_gaussians(ellipses, values, camera.size, backend=self.backend)
            sums += torch.autograd.grad(image[..., 0].sum(), values)[0][:, 0]
        return sums

    @torch.no_grad()
    def keep(self, optimizer: torch.optim.Optimizer, frame: int, rows: Tensor) -> NDArray[np.float32]:
        """As `SplatRenderer.keep`; lengths are then measured in the spacing of the new cloud, as in a checkpoint."""
        cloud = self.gaussians(frame)[0][rows]
        positions = cloud.cpu().numpy()
        spacing = assumed_spacing(positions)
        ratio = self.spacing[frame] / spacing
        for parameters in self._lists():
            parameters[frame] = keep_rows(parameters[frame], optimizer, rows)
        self.register_buffer(f"points_{frame}", cloud.contiguous(), persistent=False)
        self.offsets[frame].zero_()
        self.strands[frame].mul_(ratio)
        self.log_width[frame].add_(float(np.log(ratio)))
        self.spacing[frame] = spacing
        return positions

    @torch.no_grad()
    def _directions(self, frame: int) -> Tensor:
        """(N, 3) the strands, as long as they are thin: near 1 where they are far longer than a new splat is wide."""
        strands = self.strands[frame]
        return strands / torch.sqrt(strands.square().sum(1, keepdim=True) + _START_WIDTH**2)

    def _lists(self) -> list[nn.ParameterList]:
        """All that has a row for each point, a parameter for each frame."""
        return [module for module in self.children() if isinstance(module, nn.ParameterList)]

    def _of_points(self, frame: int) -> list[nn.Parameter]:
        return [parameters[frame] for parameters in self._lists()]

    def why_no_tiles(self) -> str:
        """As `Renderer.why_no_tiles`."""
        return ""

    @contextmanager
    def as_path_frames(self) -> Iterator[None]:
        """As `Renderer.as_path_frames`: with the wider filter."""
        usual = self.filter_variance
        self.filter_variance = self.path_filter_variance
        try:
            yield
        finally:
            self.filter_variance = usual

    @torch.no_grad()
    def painter(self, camera: Cameras, frame: int = 0) -> Painter:
        """As `Renderer.painter`."""
        ellipses, values = self._project(camera, frame)

        def paint(wanted: PixelRegion) -> RenderOutput:
            finish = self.has_network and self.finishing
            seen = self.input_region(wanted) if finish else wanted
            image, depth = composite_gaussians_within(ellipses, values, seen.box, backend=self.backend)
            picture = image.movedim(-1, 0)[None]
            rgba = Patch(torch.cat([picture[:, :3], picture[:, -1:]], dim=1), seen).part(wanted)
            if finish:
                directions = view_directions(camera, box=seen.box) * picture[:, -1:]
                rgba = rgba + self.run_network_within(torch.cat([picture, directions], dim=1), seen, wanted).float()
            depth = Patch(depth[None], seen).part(wanted)
            return RenderOutput(rgba[:, :3], rgba[:, 3:], depth, rgba[:, None], depth[:, None])

        return paint

    def _composite(self, camera: Cameras, frame: int) -> tuple[Tensor, Tensor]:
        """(H, W, C + 1) color, features and coverage, and (H, W) depth of one camera."""
        return composite_gaussians(*self._project(camera, frame), camera.size, backend=self.backend)

    def _project(self, camera: Cameras, frame: int) -> tuple[Tensor, Tensor]:
        """(N, 8) ellipses and (N, C) color and features of one camera."""
        means, strands, widths, opacities = self.gaussians(frame)
        shades = self.shades[frame] if self.degree else self.colors[frame][:, :0]
        dropping = self.dropping if self.training else None
        if dropping is not None:
            if dropping.splats:
                opacities = opacities * kept_share(means.detach(), self.spacing[frame], dropping)
            shades = shades[:, :(harmonic_degree(self.degree, dropping) + 1)**2 - 1]
        pose = camera.cam_to_world[0]
        ellipses = project_gaussians(means, strands, widths, opacities, pose, camera.intrinsics[0], camera.size,
                                     filter_variance=self.filter_variance, backend=self.backend)
        values = view_colors(means.detach(), pose[:3, 3], self.colors[frame], shades, backend=self.backend)
        if self.field is not None:
            values = values + self.field(means.detach(), self._directions(frame), pose[:3, 3], frame,
                                         backend=self.backend)
        if self.has_network and self.finishing:
            values = torch.cat([values, self.features[frame]], dim=1)
        return ellipses, values
