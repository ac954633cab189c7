# SPDX-License-Identifier: Apache-2.0
"""Refining as published: a model learns, on a camera path, to render by itself what blending would make of its frames.

For frame i of the path, with [a, b, c, d] of WEIGHTS.REFINE_WEIGHTS (docs/method.md, "Temporal"):
`target = a warp(previous blended) + b warp(previous raw)` and `blended = c raw + d target`. The loss compares the raw
image with the target, which is held fixed. Gradients add up over the path, then the optimizer makes one step: a pass.

By default images are premultiplied RGBA, warped by `npcr.temporal.reproject`. A legacy model is refined as published:
its color sum (0-1, no background) is warped by `reproject_legacy`.

Several processes of torchrun render neighboring frames of the path at the same time, one each, and all blend them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from npcr import distributed
from npcr.cameras import Cameras
from npcr.errors import TrainingError
from npcr.refine.frames import gather_frames
from npcr.renderers import Renderer
from npcr.renderers.losses import VggFeatures
from npcr.temporal import RenderedFrame, reproject, reproject_legacy
from npcr.training.exchange import StepExchange
from npcr.training.optimizers import trained_parameters
from npcr.training.pending_losses import PendingLosses


class RefineLoss(NamedTuple):
    """The loss of one frame, or its mean over the path."""

    feature: float  # VGG features, weighted
    mse: float  # weighted
    total: float


@dataclass(frozen=True)
class RefineSettings:
    """Settings of the published scheme."""

    weights: tuple[float, float, float, float]  # WEIGHTS.REFINE_WEIGHTS
    color_threshold: float  # WEIGHTS.COLOR_THR
    depth_tolerance: float  # TEMPORAL.DEPTH_TOLERANCE
    perceptual: float = 1.0  # LOSS.PERCEPTUAL
    mse: float = 1.0  # LOSS.MSE


class PathRefiner:
    """Refines a model on a camera path, as published.

    The model stays in eval mode: it is refined as it will be rendered. Memory is that of one frame's graph.

    Args:
        renderer: the model.
        cameras: the path, at least 2.
        optimizer: of `npcr.training.optimizers.build_optimizer`.
        vgg: on the renderer's device; None where `settings.perceptual` is 0.
        settings: weights and tolerances.
        frame: of the scene, from 0.

    Raises:
        TrainingError: the path is too short.
        ValueError: vgg is missing.
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
        self.steps_per_pass = len(cameras) - 1  # frames with a loss; the optimizer steps once
        self.whole_passes = True
        self._legacy = renderer.legacy
        self._device = renderer.device
        self._exchange = StepExchange(self._device) if distributed.world_size() > 1 else None

    def run_pass(self, number: int = 1, first: int = 0) -> Iterator[PendingLosses[RefineLoss]]:
        """Go along the path once, then make an optimizer step.

        The step is made when the iteration ends; one that is left early changes nothing.

        Args:
            number: of the pass, for messages.
            first: 0, for a pass cannot begin in its middle.

        Yields:
            The losses of the second to the last frame, before the step.

        Raises:
            TrainingError: a loss is not finite; the message names frame and pass, and the step is not made.
        """
        if first:
            raise ValueError(f"PathRefiner.run_pass: first is {first}; a pass begins at its start")
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            earlier = self._render(0)
        blended = earlier.image
        losses: list[PendingLosses[RefineLoss]] = []
        for start in range(1, len(self.cameras), distributed.world_size()):
            numbers = range(start, min(start + distributed.world_size(), len(self.cameras)))
            own = {i: self._render(numbers[i]) for i in distributed.share(range(len(numbers)))}  # one, or none
            terms = torch.zeros(len(numbers), 2, device=self._device)  # feature and mse, of all processes' frames
            total: Tensor | None = None  # of this process's frame
            cameras = self.cameras[start:numbers.stop].to(self._device)
            for i, raw in enumerate(gather_frames(own, cameras, 3 if self._legacy else 4, self._exchange)):
                target = self._target(raw.detach(), earlier, blended)
                if i in own:
                    feature, mse = self._terms(raw.image, target)
                    total = feature + mse
                    terms[i] = torch.stack([feature, mse]).detach()
                earlier = raw.detach()
                blended = self.settings.weights[2] * earlier.image + self.settings.weights[3] * target
            if self._exchange is not None:
                self._exchange.sum(terms)
            for index, (feature, mse) in zip(numbers, terms, strict=True):
                losses.append(PendingLosses(partial(_not_finite, index + 1, number), _combine))
                losses[-1].add({"feature": feature, "mse": mse, "total": feature + mse})
            if total is not None:
                total.backward()
            yield from losses[-len(numbers):]
        for pending in losses:
            pending.read()
        if self._exchange is not None:
            self._exchange.add_up(trained_parameters(self.optimizer), terms.new_zeros(0), stop=False)
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
            warped = reproject_legacy(current, earlier, images, color_threshold=threshold)
        else:
            warped = reproject(current, earlier, images, color_threshold=threshold,
                                 depth_tolerance=self.settings.depth_tolerance)
        blended_weight, raw_weight, *_ = self.settings.weights
        return blended_weight * warped[0] + raw_weight * warped[1]

    def _terms(self, image: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted feature and MSE terms; a term of weight 0 is not computed."""
        feature = mse = image.new_zeros(())
        if self.vgg is not None and self.settings.perceptual:
            feature = self.settings.perceptual * self.vgg.distance(image[:, :3], target[:, :3])
        if self.settings.mse:
            mse = self.settings.mse * F.mse_loss(image, target)
        return feature, mse


def _not_finite(frame: int, number: int, losses: dict[str, float]) -> TrainingError:
    return TrainingError(f"refining: the loss of frame {frame} in pass {number} is {losses['total']:g}; a lower "
                         "REFINE.LR may help")


def _combine(parts: list[dict[str, float]]) -> RefineLoss:
    return RefineLoss(**parts[0])
