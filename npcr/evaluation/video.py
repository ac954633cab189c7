# SPDX-License-Identifier: Apache-2.0
"""How steady a camera path comes out with each kind of blending, and how true (docs/temporal.md: Measures).

A frame is rendered once and goes to every blender. Pictures are compared as they are shown, over the
background and clipped to [0, 1], before rounding; the matte of the truth, where there is one, says which
pixels count, else the rendered points do.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from npcr.cameras import Cameras, unproject
from npcr.data.path_ground_truth import Geometry, PathGroundTruth
from npcr.metrics.image import psnr, ssim
from npcr.metrics.video import (
    Correspondence,
    correspond,
    flicker,
    flow_error,
    second_difference_error,
    warp_error,
)
from npcr.renderers import over_background
from npcr.rendering.frames import show, single_frame
from npcr.temporal import Blender, RenderedFrame

# Relative depth difference up to which a rendered pixel shows a point. The nearest point of a pixel in hair
# changes with every frame; what is to be kept apart here is front and back.
OWN_VISIBLE = 0.03

T = TypeVar("T")

TRUTH = "truth"  # the true frames' own row: what even a perfect video reads


@dataclass
class VideoScores:
    """One path's numbers: of each blending, and of the truth itself, by metric, a value per frame.

    Lists are as long as the path; where a metric has no value (the first frame has no earlier one) is None.
    """

    frames: int
    each: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    pictures: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)  # (H, W, 3) of each frame
    render_seconds: float = 0.0  # the mean over the frames, like all of these
    blend_seconds: dict[str, float] = field(default_factory=dict)

    def put(self, name: str, metric: str, index: int, value: Tensor) -> None:
        values = self.each.setdefault(name, {}).setdefault(metric, [None] * self.frames)
        values[index] = value.item()

    def means(self) -> dict[str, dict[str, float]]:
        """Of each blending, the mean of each metric over the frames that have it."""
        return {name: {metric: float(np.mean([value for value in values if value is not None]))
                       for metric, values in metrics.items()} for name, metrics in self.each.items()}


@dataclass(frozen=True)
class _Step:
    """What one frame leaves for the next two."""

    frame: RenderedFrame  # single
    shown: dict[str, Tensor]  # (1, 3, H, W) by blending, and the truth's
    mask: Tensor | None  # (1, H, W) bool, the true matte
    geometry: Geometry | None

    def blendings(self) -> list[str]:
        return [name for name in self.shown if name != TRUTH]


def evaluate_video(renderer: nn.Module, cameras: Cameras, blenders: Mapping[str, Blender | None], *, gray: float,
                   truth: PathGroundTruth | None = None, frame: int = 0, keep_pictures: bool = True,
                   description: str = "path", progress: bool = True) -> VideoScores:
    """Render `cameras` in order and score what each of `blenders` makes of them.

    blenders: by name; None shows single frames. gray: the background, 0-1. Everything that
    `truth` has is made use of. Pictures are kept for slices and for ColorVideoVDP, 3 bytes a pixel.
    """
    renderer.eval()
    scores = VideoScores(len(cameras), blend_seconds=dict.fromkeys(blenders, 0.0))
    steps: deque[_Step] = deque(maxlen=3)
    with torch.inference_mode():
        singles, *readers = fan_out(_singles(renderer, cameras, frame, scores), 1 + len(blenders))
        shows = {name: show(reader, gray, blender)
                 for reader, (name, blender) in zip(readers, blenders.items(), strict=True)}
        path = tqdm(singles, desc=description, unit="frame", total=len(cameras), disable=not progress, leave=False)
        for index, single in enumerate(path):
            shown = {name: _next(name, pictures, single, scores) for name, pictures in shows.items()}
            steps.append(_with_truth(single, shown, gray, truth, index))
            _score(scores, index, list(steps))
            for name, picture in steps[-1].shown.items() if keep_pictures else ():
                scores.pictures.setdefault(name, []).append(_bytes(picture))
    return scores


def fan_out(source: Iterable[T], count: int) -> list[Iterator[T]]:
    """`count` readers of one stream, which is kept from the slowest to the fastest.

    As `itertools.tee`, which however lets go of its items only in blocks of 57.
    """
    stream = iter(source)
    waiting: list[deque[T]] = [deque() for _ in range(count)]

    def read(own: deque[T]) -> Iterator[T]:
        while True:
            if not own:
                try:
                    item = next(stream)
                except StopIteration:
                    return
                for queue in waiting:
                    queue.append(item)
                del item  # the queues alone hold it
            yield own.popleft()

    return [read(own) for own in waiting]


def _singles(renderer: nn.Module, cameras: Cameras, frame: int, scores: VideoScores) -> Iterator[RenderedFrame]:
    device = next(renderer.parameters()).device
    for index in range(len(cameras)):
        camera = cameras[index].to(device)
        start = _now(device)
        single = single_frame(renderer(camera, frame), camera, bool(renderer.legacy))
        scores.render_seconds += (_now(device) - start) / scores.frames
        yield single


def _next(name: str, pictures: Iterator[tuple[Tensor, Tensor]], single: RenderedFrame, scores: VideoScores) -> Tensor:
    """The next picture of a blending; what was rendered for it meanwhile is not of its time."""
    start, rendered = _now(single.depth.device), scores.render_seconds
    picture = next(pictures)[0].clamp(0, 1)
    seconds = (_now(single.depth.device) - start) / scores.frames
    scores.blend_seconds[name] += seconds - (scores.render_seconds - rendered)
    return picture


def _with_truth(single: RenderedFrame, shown: dict[str, Tensor], gray: float, truth: PathGroundTruth | None,
                index: int) -> _Step:
    device = single.depth.device
    mask = geometry = None
    if truth is not None and truth.has_pictures:
        rgba = truth.picture(index).to(device)
        shown = {**shown, TRUTH: over_background(rgba[:, :3], rgba[:, 3:], gray, legacy=False)}
        mask = rgba[:, 3] > 0
    if truth is not None and truth.has_geometry:
        geometry = Geometry(*(part.to(device) for part in truth.geometry(index)))
    return _Step(single, shown, mask, geometry)


def _score(scores: VideoScores, index: int, steps: list[_Step]) -> None:
    """Put down what frame `index`, the last of up to three `steps`, makes known."""
    _score_frame(scores, index, steps[-1])
    if len(steps) > 1:
        _score_pair(scores, index, *steps[-2:])
    if len(steps) > 2:
        _score_triple(scores, index - 1, *steps)


def _score_frame(scores: VideoScores, index: int, now: _Step) -> None:
    for name in now.blendings() if TRUTH in now.shown else ():
        scores.put(name, "psnr", index, psnr(now.shown[name], now.shown[TRUTH]))
        scores.put(name, "ssim", index, ssim(now.shown[name], now.shown[TRUTH]))


def _score_pair(scores: VideoScores, index: int, earlier: _Step, now: _Step) -> None:
    if now.geometry is not None and earlier.geometry is not None:
        true = correspond(now.geometry.position, earlier.geometry.depth, earlier.frame.cameras)
        for name, picture in now.shown.items():
            scores.put(name, "warp_error", index, warp_error(picture, earlier.shown[name], true))
    own = _by_rendered_depth(now.frame, earlier.frame)
    for name in now.blendings():
        scores.put(name, "warp_error_own", index, warp_error(now.shown[name], earlier.shown[name], own))
        if now.mask is not None:
            rendered, true_ones = ([step.shown[which] for step in (earlier, now)] for which in (name, TRUTH))
            scores.put(name, "flow_error", index, flow_error(rendered, true_ones, now.mask))


def _score_triple(scores: VideoScores, index: int, earlier: _Step, middle: _Step, later: _Step) -> None:
    steps = (earlier, middle, later)
    before, after = (_by_rendered_depth(middle.frame, other.frame) for other in (earlier, later))
    for name in middle.shown:
        shown = [step.shown[name] for step in steps]
        first, second, third = shown
        scores.put(name, "flicker", index, flicker(first, second, third, before, after))
        if middle.mask is not None and name != TRUTH:
            true = [step.shown[TRUTH] for step in steps]
            scores.put(name, "second_difference_error", index, second_difference_error(shown, true, middle.mask))


def _by_rendered_depth(current: RenderedFrame, other: RenderedFrame) -> Correspondence:
    positions = unproject(current.depth, current.cameras).permute(0, 2, 3, 1)
    positions = torch.where(current.depth[..., None] > 0, positions, torch.nan)
    return correspond(positions, other.depth, other.cameras, OWN_VISIBLE)


def _bytes(picture: Tensor) -> NDArray[np.uint8]:
    return (picture[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
