# SPDX-License-Identifier: Apache-2.0
"""Refining: teach a model, on a camera path, to render by itself what blending would make of it.

For frame i of the path (design, "Temporal"; weights [a, b, c, d] of WEIGHTS.REFINE_WEIGHTS):
`target = a warp(previous blended) + b warp(previous raw)`, `blended = c raw + d target`, and the raw picture
is drawn towards the target, which is held fixed. Gradients add up over the path, then the optimizer makes
one step: a pass.

Default: pictures are premultiplied RGBA, warped by `npcr.temporal.reproject`. A legacy model is refined as
published: its color sum (0-1, no background) with `reproject_legacy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.cameras import Cameras
from npcr.errors import TrainingError
from npcr.renderers import Renderer
from npcr.renderers.losses import VggFeatures
from npcr.temporal import RenderedFrame, reproject, reproject_legacy


class RefineLoss(NamedTuple):
    """The loss of one frame, or its mean over the path."""

    feature: float  # VGG features, weighted
    mse: float  # weighted
    total: float


@dataclass(frozen=True)
class RefineSettings:
    """What the refiner does besides walking; names as the configuration's keys."""

    weights: tuple[float, float, float, float]  # WEIGHTS.REFINE_WEIGHTS
    color_threshold: float  # WEIGHTS.COLOR_THR
    depth_tolerance: float  # TEMPORAL.DEPTH_TOLERANCE
    perceptual: float = 1.0  # LOSS.PERCEPTUAL
    mse: float = 1.0  # LOSS.MSE


class PathRefiner:
    """Refines `renderer`, a `LayeredRenderer`, on the path of `cameras`.

    vgg may be None where `settings.perceptual` is 0. frame: which of the scene's clouds is shown. The model
    stays in eval mode: it is refined as it will be rendered. Memory is that of one frame's graph.
    """

    def __init__(self, renderer: Renderer, cameras: Cameras, optimizer: torch.optim.Optimizer,
                 vgg: VggFeatures | None, settings: RefineSettings, frame: int = 0) -> None:
        if len(cameras) < 2:
            raise TrainingError(f"refining needs a path of at least 2 cameras; this one has {len(cameras)}")
        if vgg is None and settings.perceptual:
            raise ValueError("PathRefiner: a perceptual weight above 0 needs vgg")
        self.renderer = renderer.eval()
        self.cameras = cameras
        self.optimizer = optimizer
        self.vgg = vgg
        self.settings = settings
        self.frame = frame
        self.steps_per_pass = len(cameras) - 1  # frames walked; the optimizer steps once
        self.whole_passes = True
        self._legacy = renderer.legacy
        self._device = renderer.device

    def run_pass(self, number: int = 1, first: int = 0) -> Iterator[RefineLoss]:
        """Walk the path once, then step: yields the losses of its second to last frame, before the step.

        The step is made when the iteration ends; one left early changes nothing, so there is no other `first`
        than 0. Raises `TrainingError`
        naming frame and pass (`number`) where a loss is not finite.
        """
        if first:
            raise ValueError(f"PathRefiner.run_pass: first is {first}; a pass is walked from its start")
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            earlier = self._render(0)
        blended = earlier.image
        for index in range(1, len(self.cameras)):
            raw = self._render(index)
            target = self._target(raw.detach(), earlier, blended)
            feature, mse = self._terms(raw.image, target)
            total = feature + mse
            if not bool(torch.isfinite(total)):
                raise TrainingError(f"refining: the loss of frame {index + 1} in pass {number} is "
                                    f"{total.item():g}; a lower REFINE.LR may help")
            total.backward()
            earlier = raw.detach()
            blended = self.settings.weights[2] * earlier.image + self.settings.weights[3] * target
            yield RefineLoss(feature.item(), mse.item(), total.item())
        self.optimizer.step()

    def _render(self, index: int) -> RenderedFrame:
        camera = self.cameras[index].to(self._device)
        output = self.renderer(camera, self.frame)
        image = torch.cat([output.color, output.alpha], dim=1) if output.legacy_color is None else output.legacy_color
        return RenderedFrame(image, output.depth, camera)

    @torch.no_grad()
    def _target(self, current: RenderedFrame, earlier: RenderedFrame, blended: Tensor) -> Tensor:
        images, threshold = [blended, earlier.image], self.settings.color_threshold
        if self._legacy:
            opinions = reproject_legacy(current, earlier, images, color_threshold=threshold)
        else:
            opinions = reproject(current, earlier, images, color_threshold=threshold,
                                 depth_tolerance=self.settings.depth_tolerance)
        of_blended, of_raw, *_ = self.settings.weights
        return of_blended * opinions[0] + of_raw * opinions[1]

    def _terms(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted feature and MSE terms; a term of weight 0 is not computed."""
        feature = mse = image.new_zeros(())
        if self.vgg is not None and self.settings.perceptual:
            feature = self.settings.perceptual * self.vgg.distance(image[:, :3], target[:, :3])
        if self.settings.mse:
            mse = self.settings.mse * F.mse_loss(image, target)
        return feature, mse


def mean_loss(losses: list[RefineLoss]) -> RefineLoss:
    """The mean over a pass's frames."""
    feature, mse, total = (sum(column) / len(losses) for column in zip(*losses, strict=True))
    return RefineLoss(feature, mse, total)
