# SPDX-License-Identifier: Apache-2.0
"""The layered form: project points into layers, gather features, run the U-Net on each layer, composite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from yacs.config import CfgNode

from npcr.cameras import Box, Cameras, view_directions
from npcr.errors import SceneError
from npcr.io.points import PointCloud
from npcr.numerics import autocast, current_precision
from npcr.ops import Fragments, gather_features, rasterize
from npcr.ops.memory import POOL
from npcr.renderers.base import (
    Painter,
    ParamGroup,
    Renderer,
    RenderOutput,
    check_feature_rows,
    network_groups,
    unit_colors,
)
from npcr.renderers.compositing import composite
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.half_activations import full_activations, half_activations, half_activations_enabled
from npcr.renderers.patches import Patch
from npcr.renderers.receptive_field import PixelRegion, bounding_region


class LayeredRenderer(Renderer):
    """The published form: a feature vector per point, one U-Net for each depth-peeled layer, layers composited.

    Args:
        clouds: (N, 3) float32 world coordinates, a tensor for each frame.
        colors: (N, 3) in [0, 1] of each cloud, fed to the network beside the features; None: not fed.
        feature_dim: learned numbers per point, C.
        layers: depth-peeled layers K.
        splat: (near, far, max_size) of `npcr.ops.rasterize`.
        peeling: "point" or "pixel", as of `npcr.ops.rasterize`.
        norm: "instance", "batch" or "none" (`npcr.renderers.norms`).
        legacy: render as the published implementation does (docs/conventions.md, "Default and legacy").
        depth_threshold: a deeper layer counts only within this depth of the one before; 0: always.
        backend: "auto", "compiled" or "torch": which kernels run, the network's on a CPU too.
        recompute_layers: keep the activations of one layer at a time in training, and compute them again for the
            gradients; not with batch norm, whose statistics span the layers.
        margin: a layer is rendered only in the rectangle of its points and so many pixels around it, and is transparent
            elsewhere; -1: everywhere. In training always everywhere.

    Raises:
        ValueError: arguments contradict each other.
    """

    def __init__(self, clouds: Sequence[Tensor], colors: Sequence[Tensor] | None = None, *,
                 feature_dim: int = 32, layers: int = 1,
                 splat: tuple[float, float, float] = (6.0, 16.0, 1.0), peeling: str = "point",
                 norm: str = "instance", legacy: bool = False, depth_threshold: float = 0.0,
                 backend: str = "auto", recompute_layers: bool = False, margin: int = -1) -> None:
        super().__init__(clouds, layers)
        if colors is not None and [len(c) for c in colors] != [len(c) for c in clouds]:
            raise ValueError("LayeredRenderer: colors must have a row for every point of every cloud")
        if recompute_layers and norm == "batch":
            raise ValueError("LayeredRenderer: recompute_layers takes layers apart, norm batch does not allow that")
        self.splat = splat
        self.peeling = peeling
        self.legacy = legacy
        self.depth_threshold = depth_threshold
        self.backend = backend
        self.recompute_layers = recompute_layers
        self.margin = margin
        self.use_rgb = colors is not None
        for frame, color in enumerate(colors or ()):
            self.register_buffer(f"colors_{frame}", color.float().contiguous(), persistent=False)
        self.features = nn.ParameterList([torch.randn(len(cloud), feature_dim) for cloud in clouds])
        self.default_feature = nn.Parameter(torch.randn(feature_dim))
        self.network = GatedUNet(feature_dim + 3 + (3 if self.use_rgb else 0), norm, backend)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, cfg: CfgNode, clouds: Sequence[PointCloud]) -> LayeredRenderer:
        """As `Renderer.from_config`; INPUT.USE_RGB needs colors in every cloud."""
        colors = None
        if cfg.INPUT.USE_RGB:
            missing = [frame for frame, cloud in enumerate(clouds) if cloud.colors is None]
            if missing:
                raise SceneError(f"INPUT.USE_RGB True needs colors in every point cloud; frame {missing[0] + 1}'s "
                                 "has none (rows are x y z r g b)")
            colors = unit_colors(clouds)
        near, far, max_size = cfg.INPUT.NEAR_FAR_SIZE
        return cls([torch.from_numpy(cloud.positions) for cloud in clouds], colors,
                   feature_dim=cfg.MODEL.FEATURE_DIM, layers=cfg.INPUT.LAYER_NUM, splat=(near, far, max_size),
                   peeling=cfg.PROJECTION.PEELING, norm=cfg.MODEL.NORM, legacy=cfg.MODEL.LEGACY,
                   depth_threshold=cfg.WEIGHTS.DEPTH_THR, backend=cfg.PROJECTION.BACKEND,
                   recompute_layers=cfg.SOLVER.RECOMPUTE_LAYERS, margin=cfg.RENDER.MARGIN)

    def colors(self, frame: int) -> Tensor:
        """(N, 3) float32 colors in [0, 1] of a frame's points; only with `use_rgb`."""
        return self.get_buffer(f"colors_{frame}")

    def param_groups(self, rates: CfgNode) -> list[ParamGroup]:
        """The network's weights and biases, and the features."""
        features = {"params": [self.default_feature, *self.features], "factor": rates.FEATURE_LR_FACTOR,
                    "weight_decay": rates.WEIGHT_DECAY}
        return [*network_groups(self.network, rates), features]

    @classmethod
    def check_state(cls, state: Mapping[str, Tensor], clouds: Sequence[Tensor], source: str) -> None:
        """As `Renderer.check_state`: a feature vector for every point."""
        check_feature_rows(state, clouds, source)

    @classmethod
    def fingerprint(cls, state: Mapping[str, Tensor]) -> list[float]:
        """The vector that stands in where no point is."""
        return state["default_feature"].tolist()

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        """As `Renderer.forward`."""
        images, fragments = self.feature_images(cameras, frame)
        layer_rgba = self._through_network(images.flatten(0, 1), fragments.index.flatten(0, 1))
        layer_rgba = layer_rgba.unflatten(0, images.shape[:2]).float()
        color, alpha = composite(layer_rgba, fragments.depth, self.depth_threshold, self.legacy)
        # A legacy picture over a background B is C A + (1 - A) B: its premultiplied color is C A.
        return RenderOutput(color * alpha if self.legacy else color, alpha, fragments.depth[:, 0], layer_rgba,
                            fragments.depth, fragments.index, color if self.legacy else None)

    def _through_network(self, images: Tensor, index: Tensor) -> Tensor:
        """(L, C, H, W) with their points (L, H, W) to (L, 4, H, W)."""
        if self.training and torch.is_grad_enabled() and self.recompute_layers:
            return torch.cat([_recomputed(self.run_network, one) for one in images.split(1)])
        if self.training or self.margin < 0:
            return self.run_network(images)
        regions = [bounding_region(layer >= 0, self.margin) for layer in index]
        return torch.cat([images.new_zeros(1, 4, *images.shape[2:]) if region is None else self.run_network(one, region)
                          for one, region in zip(images.split(1), regions, strict=True)])

    def why_no_tiles(self) -> str:
        """As `Renderer.why_no_tiles`: a tile does not know the picture's mean and variance."""
        if not self.network.looks_at_whole_images:
            return ""
        return ("MODEL.NORM instance normalizes by mean and variance of the whole picture, which a tile does not know. "
                "MODEL.NORM batch or none, in training, allow tiles; for this model render a smaller INPUT.SIZE_TEST")

    @torch.no_grad()
    def painter(self, camera: Cameras, frame: int = 0) -> Painter:
        """As `Renderer.painter`; which point a pixel has is found for the whole picture, in 8 bytes for each layer.

        Peeling by points does not allow less: a point that is seen anywhere leaves the cloud. The network runs in plain
        torch, a layer at a time.
        """
        fragments = self._project(camera, frame)

        def paint(wanted: PixelRegion) -> RenderOutput:
            layers = torch.cat([self._paint_layer(camera, frame, layer, wanted) for layer in fragments.index[0]])[None]
            depth, index = wanted.within(fragments.depth), wanted.within(fragments.index)
            color, alpha = composite(layers, depth, self.depth_threshold, self.legacy)
            return RenderOutput(color * alpha if self.legacy else color, alpha, depth[:, 0], layers, depth, index,
                                color if self.legacy else None)

        return paint

    def _paint_layer(self, camera: Cameras, frame: int, index: Tensor, wanted: PixelRegion) -> Tensor:
        """(1, 4, h, w) of one layer, whose points are `index` (H, W); transparent beyond `margin`."""
        layer = self.default_feature.new_zeros(1, 4, wanted.bottom - wanted.top, wanted.right - wanted.left)
        box = PixelRegion.whole(wanted.size) if self.margin < 0 else bounding_region(index >= 0, self.margin)
        shown = None if box is None else wanted.intersection(box)
        if shown is not None:
            seen = self.input_region(shown)
            images = self._gather(camera, frame, seen.within(index)[None, None].contiguous(), seen.box)
            Patch(layer, wanted).part(shown).copy_(self.run_network_within(images[0], seen, shown))
        return layer

    def feature_images(self, cameras: Cameras, frame: int = 0) -> tuple[Tensor, Fragments]:
        """What the network sees, (B, K, C, H, W), and the points it comes from.

        C: the winner's features, the view direction, and with `use_rgb` the winner's color. Memory is laid
        out (B, K, H, W, C), so that the network's input is channels_last without a copy.
        """
        fragments = self._project(cameras, frame)
        return self._gather(cameras, frame, fragments.index), fragments

    @torch.no_grad()
    def _project(self, cameras: Cameras, frame: int) -> Fragments:
        near, far, max_size = self.splat
        return rasterize(self.points(frame), cameras.cam_to_world, cameras.intrinsics, cameras.size, near=near, far=far,
                         max_size=max_size, layers=self.layers, peeling=self.peeling, backend=self.backend)

    def _gather(self, cameras: Cameras, frame: int, index: Tensor, box: Box | None = None) -> Tensor:
        """(B, K, C, H, W), what the network sees of the points `index` (B, K, H, W), which are those of `box`."""
        features = gather_features(self.features[frame], self.default_feature, index, backend=self.backend)
        seen = (index >= 0)[:, :, None]
        parts = [features, view_directions(cameras, self.legacy, box)[:, None] * seen]
        if self.use_rgb:
            colors = self.colors(frame)
            parts.append(gather_features(colors, colors.new_zeros(3), index, backend=self.backend))
        out = None
        if not torch.is_grad_enabled() and features.device.type == "cpu" and features.dtype == torch.float32:
            # Fresh memory would cost as much as the copy.
            out = POOL.empty(*index.shape, sum(part.shape[2] for part in parts))
        return torch.cat([part.movedim(2, -1) for part in parts], dim=-1, out=out).movedim(-1, 2)


def _recomputed(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """network(images), whose activations are made again for the gradients."""
    if half_activations_enabled():
        # Not the newer kind of checkpoint: it too sees what is saved through hooks, and one hides the other. What the
        # network saw is kept whole, so that it computes the same again.
        with full_activations():
            result: Tensor = checkpoint(_run_as, network, images, True, current_precision(), use_reentrant=True)
    else:
        result = checkpoint(_run_as, network, images, False, current_precision(), use_reentrant=False)
    return result


def _run_as(network: Callable[[Tensor], Tensor], images: Tensor, half: bool, precision: str) -> Tensor:
    """network(images) as when it was first run: the contexts of then are gone when gradients are made."""
    with half_activations(half), autocast(precision, images.device):
        return network(images)
