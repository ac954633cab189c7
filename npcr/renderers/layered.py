# SPDX-License-Identifier: Apache-2.0
"""Points with learned features to pictures: projection, gather, U-Net per layer, compositing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from npcr.cameras import Cameras, view_directions
from npcr.ops import Fragments, gather_features, rasterize
from npcr.ops.memory import POOL
from npcr.renderers.compositing import composite
from npcr.renderers.cpu import autograd as fast
from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.half_activations import half_activations, halved, whole
from npcr.renderers.receptive_field import bounding_region


class RenderOutput(NamedTuple):
    """What one call renders for B cameras with K layers."""

    rgb: Tensor  # (B, 3, H, W) weighted sum of the layers' colors; premultiplied unless legacy
    alpha: Tensor  # (B, 1, H, W)
    depth: Tensor  # (B, H, W) camera-space z of layer 0, 0 where empty
    layer_rgba: Tensor  # (B, K, 4, H, W) the U-Net's output, before the depth-gap rule
    layer_depth: Tensor  # (B, K, H, W)
    index: Tensor  # type: ignore[assignment]  # (B, K, H, W) winning points, -1 where empty


class LayeredRenderer(nn.Module):
    """A point cloud per frame, a feature vector per point, and one network for all layers.

    clouds: one (N, 3) float32 tensor a frame; colors: likewise in [0, 1], or None, then not fed to the
    network. splat is (near, far, max_size); the rest as the configuration keys of the same names say.
    recompute_layers trades time in training for the memory of all layers but one; not for batch norm,
    whose statistics span the layers. With a margin of 0 or more, a layer is rendered only in the rectangle of its
    points and so many pixels around it, and transparent elsewhere; in training it always is whole.
    The clouds are not part of the state dict: they are data, and checkpoints keep them beside it.
    """

    def __init__(self, clouds: Sequence[Tensor], colors: Sequence[Tensor] | None = None, *,
                 feature_dim: int = 32, layers: int = 1,
                 splat: tuple[float, float, float] = (6.0, 16.0, 1.0), peeling: str = "point",
                 norm: str = "instance", legacy: bool = False, depth_threshold: float = 0.0,
                 backend: str = "auto", recompute_layers: bool = False, margin: int = -1) -> None:
        super().__init__()
        if colors is not None and [len(c) for c in colors] != [len(c) for c in clouds]:
            raise ValueError("LayeredRenderer: colors must have a row for every point of every cloud")
        if recompute_layers and norm == "batch":
            raise ValueError("LayeredRenderer: recompute_layers takes layers apart, norm batch does not allow that")
        self.frames = len(clouds)
        self.layers = layers
        self.splat = splat
        self.peeling = peeling
        self.legacy = legacy
        self.depth_threshold = depth_threshold
        self.backend = backend
        self.recompute_layers = recompute_layers
        self.margin = margin
        self.use_rgb = colors is not None
        for frame, cloud in enumerate(clouds):
            self.register_buffer(f"points_{frame}", cloud.float().contiguous(), persistent=False)
            if colors is not None:
                self.register_buffer(f"colors_{frame}", colors[frame].float().contiguous(), persistent=False)
        self.features = nn.ParameterList([torch.randn(len(cloud), feature_dim) for cloud in clouds])
        self.default_feature = nn.Parameter(torch.randn(feature_dim))
        self.network = GatedUNet(feature_dim + 3 + (3 if self.use_rgb else 0), norm)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def points(self, frame: int) -> Tensor:
        """(N, 3) float32 world positions of a frame's points."""
        return self.get_buffer(f"points_{frame}")

    def colors(self, frame: int) -> Tensor:
        """(N, 3) float32 colors in [0, 1] of a frame's points; only with `use_rgb`."""
        return self.get_buffer(f"colors_{frame}")

    def forward(self, cameras: Cameras, frame: int = 0) -> RenderOutput:
        images, fragments = self.feature_images(cameras, frame)
        with fast.torch_only(self.backend == "torch"):
            layer_rgba = self._through_network(images.flatten(0, 1), fragments.index.flatten(0, 1))
        layer_rgba = layer_rgba.unflatten(0, images.shape[:2]).float()
        rgb, alpha = composite(layer_rgba, fragments.depth, self.depth_threshold, self.legacy)
        return RenderOutput(rgb, alpha, fragments.depth[:, 0], layer_rgba, fragments.depth, fragments.index)

    def _through_network(self, images: Tensor, index: Tensor) -> Tensor:
        """(L, C, H, W) with their points (L, H, W) to (L, 4, H, W)."""
        if self.training and torch.is_grad_enabled() and self.recompute_layers:
            return torch.cat([_recomputed(self.network, one) for one in images.split(1)])
        if self.training or self.margin < 0:
            result: Tensor = self.network(images)
            return result
        windows = [bounding_region(layer >= 0, self.margin) for layer in index]
        return torch.cat([images.new_zeros(1, 4, *images.shape[2:]) if window is None else self.network(one, window)
                          for one, window in zip(images.split(1), windows, strict=True)])

    def feature_images(self, cameras: Cameras, frame: int = 0) -> tuple[Tensor, Fragments]:
        """What the network sees, (B, K, C, H, W), and the points it comes from.

        C: the winner's features, the view direction, and with `use_rgb` the winner's color. Memory is laid
        out (B, K, H, W, C), so that the network's input is channels_last without a copy.
        """
        near, far, max_size = self.splat
        with torch.no_grad():
            fragments = rasterize(self.points(frame), cameras.cam_to_world, cameras.intrinsics, cameras.size,
                                  near=near, far=far, max_size=max_size, layers=self.layers,
                                  peeling=self.peeling, backend=self.backend)
        index = fragments.index
        features = gather_features(self.features[frame], self.default_feature, index)
        seen = (index >= 0)[:, :, None]
        parts = [features, view_directions(cameras, self.legacy)[:, None] * seen]
        if self.use_rgb:
            colors = self.colors(frame)
            parts.append(gather_features(colors, colors.new_zeros(3), index))
        out = None
        if not torch.is_grad_enabled() and features.device.type == "cpu" and features.dtype == torch.float32:
            # Fresh memory would cost as much as the copy.
            out = POOL.empty(*index.shape, sum(part.shape[2] for part in parts))
        return torch.cat([part.movedim(2, -1) for part in parts], dim=-1, out=out).movedim(-1, 2), fragments


def _recomputed(network: nn.Module, images: Tensor) -> Tensor:
    """network(images), whose activations are made again for the gradients."""
    if halved():
        # Not the newer kind of checkpoint: it too sees what is saved through hooks, and one hides the other. What the
        # network saw is kept whole, so that it computes the same again.
        with whole():
            result: Tensor = checkpoint(_run_as, network, images, fast.enabled(), True, use_reentrant=True)
    else:
        result = checkpoint(_run_as, network, images, fast.enabled(), False, use_reentrant=False)
    return result


def _run_as(network: nn.Module, images: Tensor, kernels: bool, half: bool) -> Tensor:
    """network(images) as when it was first run: the contexts of then are gone when gradients are made."""
    with fast.torch_only(not kernels), half_activations(half):
        result: Tensor = network(images)
        return result
