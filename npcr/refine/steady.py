# SPDX-License-Identifier: Apache-2.0
"""The default refining: a model learns to render steadily without losing what it learned from the photographs.

A step draws a short clip of neighboring frames (`npcr.refine.clips`) and adds up three gradients:

- steadiness: the clip's frames, reprojected onto each other, should agree (`steady_loss`);
- photometric: a training photograph, with the training loss, holds color and sharpness;
- anchor: the rendering should stay near the unrefined model's. Without photographs nothing else keeps it in place.

Step k draws from (seed, k) alone, so that a resumed run sees the same clips as one that never stopped.

Several processes of torchrun share the renderings of a step: each has some of the clip's frames, or the photograph's
view. All get all frames and compute the clip's loss, and each passes on the gradients of its own frames.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from npcr import distributed
from npcr.cameras import Cameras
from npcr.data.samples import Sample
from npcr.errors import TrainingError
from npcr.refine.clips import ClipSource
from npcr.refine.frames import gather_frames
from npcr.refine.losses import anchor_loss, steady_loss
from npcr.renderers import Renderer
from npcr.renderers.half_activations import half_activations
from npcr.renderers.losses import RenderLoss
from npcr.rendering.frames import frame_from_output
from npcr.temporal import RenderedFrame
from npcr.training.exchange import StepExchange
from npcr.training.optimizers import set_learning_rate, trained_parameters
from npcr.training.pending_losses import PendingLosses

_PHOTOGRAPH = -1  # among the numbers of a clip's frames
WARM_UP = 5  # steps in which the learning rate grows to its full value; Adam's first ones are uncertain


class SteadyLoss(NamedTuple):
    """The weighted terms of one step, or their means over a pass."""

    steadiness: float
    photometric: float
    anchor: float
    total: float


@dataclass(frozen=True)
class SteadySettings:
    """Settings of the steady refiner; names are those of the configuration's REFINE section."""

    passes: int
    steps: int  # optimizer steps of a pass
    lr: float
    steadiness: float
    photometric: float
    anchor: float
    depth_tolerance: float  # relative
    seed: int = 0
    one_frame_at_a_time: bool = False  # keep the graph of one frame in memory; the step takes longer
    half_activations: bool = False  # keep activations for gradients as float16; not for frames that are recomputed


@dataclass(frozen=True)
class PhotometricSource:
    """Training photographs for the photometric term."""

    draw: Callable[[np.random.Generator], Sample]  # a random sample of the refined frame
    loss: RenderLoss  # between rendering and sample


def render_frame(renderer: Renderer, camera: Cameras, frame: int) -> RenderedFrame:
    """Render one view as a frame of premultiplied RGBA.

    Args:
        renderer: in the mode it is to be rendered in.
        camera: a batch of one, on the renderer's device.
        frame: of the scene, from 0.

    Returns:
        The frame, with gradients.
    """
    with renderer.as_path_frames():
        return frame_from_output(renderer(camera, frame), camera)


class SteadyRefiner:
    """Refines a model in the views of random clips.

    The model stays in eval mode: it is refined as it will be rendered. The anchor is a frozen copy of it, made here.

    Args:
        renderer: the unrefined model.
        clips: where clips are drawn from.
        optimizer: of `npcr.training.optimizers.build_optimizer`.
        settings: number of steps, learning rate and weights.
        photographs: for the photometric term; None: it is left out, and the anchor alone keeps the model in place.
        frame: of the scene, from 0.
    """

    def __init__(self, renderer: Renderer, clips: ClipSource, optimizer: torch.optim.Optimizer,
                 settings: SteadySettings, *, photographs: PhotometricSource | None = None, frame: int = 0) -> None:
        self.renderer = renderer.eval()
        self.clips = clips
        self.optimizer = optimizer
        self.settings = settings
        self.photographs = photographs
        self.frame = frame
        self.steps_per_pass = settings.steps
        self.whole_passes = False
        self._anchor = copy.deepcopy(renderer).requires_grad_(False) if settings.anchor else None
        self._device = renderer.device
        self._exchange = StepExchange(self._device) if distributed.world_size() > 1 else None

    def renderings(self, clip: int) -> int:
        """Count the renderings of a step that are learned from, which the processes share.

        Args:
            clip: frames of a clip.

        Returns:
            The frames and, where there is one, the photograph.
        """
        return len(self._work(clip))

    def run_pass(self, number: int, first: int = 0) -> Iterator[PendingLosses[SteadyLoss]]:
        """Make the steps of a pass.

        Args:
            number: of the pass, from 1.
            first: the step to begin at, from 0.

        Yields:
            The losses of each step, after it is made.

        Raises:
            TrainingError: a loss is not finite; the message names step and pass. On a CPU the step is not made; on a
                GPU reading the yielded losses raises it, when steps of such weights have been made.
        """
        for step in range(first, self.settings.steps):
            yield self._step((number - 1) * self.settings.steps + step)

    def _step(self, index: int) -> PendingLosses[SteadyLoss]:
        """Make optimizer step `index`, counted from 0 over all passes."""
        rng = np.random.default_rng([self.settings.seed, index])
        set_learning_rate(self.optimizer, self._learning_rate(index))
        self.optimizer.zero_grad(set_to_none=True)
        clip = self.clips.draw(rng)
        mine = distributed.stretch(self._work(len(clip)))
        steadiness, anchor = self._learn_clip(clip, mine)  # before the photograph: two graphs need not be in memory
        photometric = self._learn_photograph(rng) if _PHOTOGRAPH in mine else torch.zeros_like(steadiness)
        terms = torch.stack([steadiness, photometric, anchor])
        if self._exchange is not None:
            if not distributed.is_writer():
                terms[[0, 2]] = 0  # all processes have them
            self._exchange.add_up(trained_parameters(self.optimizer), terms, stop=False)
        losses = PendingLosses(partial(self._not_finite, index), _combine)
        losses.add(dict(zip(SteadyLoss._fields, (*terms, terms.sum()), strict=True)))
        self.optimizer.step()
        return losses

    def _work(self, frames: int) -> list[int]:
        """What a step of a clip of so many frames renders; neighbors go to one process where it has several."""
        photograph = self.photographs is not None and self.settings.photometric
        return [*([_PHOTOGRAPH] if photograph else []), *range(frames)]

    def _learn_clip(self, cameras: Cameras, mine: list[int]) -> tuple[Tensor, Tensor]:
        """Add the gradients of this process's frames of a clip; return the clip's terms, alike in all processes."""
        with half_activations(self.settings.half_activations):
            own = {number: self._render(cameras[number].to(self._device)) for number in mine if number != _PHOTOGRAPH}
            frames, reference = self._gather(own, cameras)
            for number, frame in own.items():  # the loss's gradients end at images, whoever rendered their neighbors
                frames[number] = replace(frame, image=frame.image.detach().requires_grad_())
            steadiness = self.settings.steadiness * steady_loss(frames, self.settings.depth_tolerance)
            anchor = steadiness.new_zeros(())
            if reference is not None:
                anchor = self.settings.anchor * anchor_loss(frames[len(frames) // 2], reference)
        if own:
            gradients = torch.autograd.grad(steadiness + anchor, [frames[number].image for number in own])
            torch.autograd.backward([frame.image for frame in own.values()], gradients)
        return steadiness.detach(), anchor.detach()

    def _gather(self, own: dict[int, RenderedFrame],
                cameras: Cameras) -> tuple[list[RenderedFrame], RenderedFrame | None]:
        """All frames of a clip, and the unrefined model's of its middle, which the first process renders."""
        if self._anchor is None:
            return gather_frames(own, cameras.to(self._device), 4, self._exchange), None
        count = len(cameras)
        everything = dict(own)
        if distributed.is_writer():
            with torch.no_grad():
                everything[count] = render_frame(self._anchor, cameras[count // 2].to(self._device), self.frame)
        cameras = cameras[[*range(count), count // 2]].to(self._device)
        *frames, reference = gather_frames(everything, cameras, 4, self._exchange)
        return frames, reference

    def _render(self, camera: Cameras) -> RenderedFrame:
        if self.settings.one_frame_at_a_time:
            rendered: RenderedFrame = checkpoint(render_frame, self.renderer, camera, self.frame, use_reentrant=False)
            return rendered
        return render_frame(self.renderer, camera, self.frame)

    def _learn_photograph(self, rng: np.random.Generator) -> Tensor:
        """Add the gradients of a photograph; return its term."""
        assert self.photographs is not None
        sample = self.photographs.draw(rng)
        with half_activations(self.settings.half_activations):
            output = self.renderer(sample.cameras, sample.frame)
            terms = self.photographs.loss(output.trained_color, output.alpha, output.depth, sample.target[None])
            loss: Tensor = self.settings.photometric * terms["total"]
        loss.backward()
        return loss.detach()

    def _learning_rate(self, index: int) -> float:
        """Linear warm-up times a cosine that falls to 0, so that the last steps settle."""
        share = index / (self.settings.passes * self.settings.steps)
        return self.settings.lr * min(1.0, (index + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    def _not_finite(self, index: int, losses: dict[str, float]) -> TrainingError:
        number, step = divmod(index, self.settings.steps)
        return TrainingError(f"refining: the loss of step {step + 1} in pass {number + 1} is "
                             f"{losses['total']:g}; a lower REFINE.LR may help")


def _combine(parts: list[dict[str, float]]) -> SteadyLoss:
    return SteadyLoss(**parts[0])
