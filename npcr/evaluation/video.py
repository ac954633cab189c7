# SPDX-License-Identifier: Apache-2.0
"""Steadiness and accuracy of a rendered camera path, with each kind of blending (docs/temporal.md, "Measures").

A frame is rendered once and goes to every blender. Images are compared over the background and clipped to [0, 1],
before rounding. Measures are taken within the ground truth's matte where there is one, else at the rendered points.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras, unproject
from npcr.data.path_ground_truth import GroundTruthGeometry, PathGroundTruth
from npcr.metrics.image import psnr, ssim
from npcr.metrics.video import (
    Correspondence,
    find_correspondences,
    flicker,
    flow_error,
    second_difference_error,
    warp_error,
)
from npcr.progress import progress_bar
from npcr.renderers import Renderer, RenderOutput, over_background
from npcr.rendering.frames import composite_frames, device_time, frame_from_output, render_timed
from npcr.temporal import Blender, RenderedFrame

# Relative depth difference up to which a point counts as visible in a rendered pixel. It separates front from back
# only, for the nearest point of a pixel in hair changes with every frame.
RENDERED_DEPTH_TOLERANCE = 0.03

T = TypeVar("T")

GROUND_TRUTH = "truth"  # names the true frames among the blendings: what even a perfect video scores


@dataclass
class VideoScores:
    """Scores of one path, by blending (and of the ground truth itself), metric and frame."""

    frames: int  # of the path
    # By blending and metric a list as long as the path, None where a metric has no value (the first frame has no
    # earlier one).
    per_frame: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    pictures: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)  # by blending, (H, W, 3) of each frame
    render_seconds: float = 0.0  # mean of a frame
    blend_seconds: dict[str, float] = field(default_factory=dict)  # by blending, mean of a frame

    def record(self, name: str, metric: str, index: int, value: Tensor) -> None:
        """Set a metric of frame `index` of the blending `name`."""
        values = self.per_frame.setdefault(name, {}).setdefault(metric, [None] * self.frames)
        values[index] = value.item()

    def means(self) -> dict[str, dict[str, float]]:
        """By blending, the mean of each metric over the frames that have a value."""
        return {name: {metric: float(np.mean([value for value in values if value is not None]))
                       for metric, values in metrics.items()} for name, metrics in self.per_frame.items()}


@dataclass(frozen=True)
class _PathFrame:
    """A frame of the path with everything that it and the next two are compared by."""

    rendered: RenderedFrame  # not blended
    images: dict[str, Tensor]  # (1, 3, H, W) by blending, and of the ground truth
    mask: Tensor | None  # (1, H, W) bool, the ground truth's matte
    geometry: GroundTruthGeometry | None

    def blendings(self) -> list[str]:
        return [name for name in self.images if name != GROUND_TRUTH]


def evaluate_video(renderer: Renderer, cameras: Cameras, blenders: Mapping[str, Blender | None], *, gray: float,
                   ground_truth: PathGroundTruth | None = None, frame: int = 0, keep_pictures: bool = True,
                   description: str = "path", progress: bool = True,
                   outputs: Iterator[tuple[RenderOutput, float]] | None = None) -> VideoScores:
    """Render a camera path and score it with each of several blenders.

    Args:
        renderer: is put into eval mode.
        cameras: the path, in order.
        blenders: by name; None: frames are not blended.
        gray: the background, 0-1.
        ground_truth: the path's true frames and geometry; every metric is measured that these allow.
        frame: of the scene, from 0.
        keep_pictures: whether scores hold each frame's pixels, 3 bytes each, for slices and ColorVideoVDP.
        description: of the progress bar.
        progress: whether to show one.
        outputs: frames of the path that were rendered before, as `render_timed` yields them; None: they are rendered.

    Returns:
        The scores.

    Raises:
        SceneError: a file of the ground truth cannot be read.
    """
    outputs = render_timed(renderer, cameras, frame) if outputs is None else outputs
    scores = VideoScores(len(cameras), blend_seconds=dict.fromkeys(blenders, 0.0))
    recent: deque[_PathFrame] = deque(maxlen=3)
    with torch.inference_mode():
        source = _Source(outputs, cameras.to(renderer.device), scores)
        frames, *readers = fan_out(source, 1 + len(blenders))
        streams = {name: composite_frames(reader, gray, blender)
                   for reader, (name, blender) in zip(readers, blenders.items(), strict=True)}
        path = progress_bar(frames, title=description, unit="frame", total=len(cameras), hidden=not progress,
                            leave=False)
        for index, rendered in enumerate(path):
            images = {name: _next_image(name, stream, source, scores) for name, stream in streams.items()}
            recent.append(_with_ground_truth(rendered, images, gray, ground_truth, index))
            _score(scores, index, list(recent))
            for name, image in recent[-1].images.items() if keep_pictures else ():
                scores.pictures.setdefault(name, []).append(_to_bytes(image))
    return scores


def fan_out(source: Iterable[T], count: int) -> list[Iterator[T]]:
    """Split one stream among several readers, keeping only items that the slowest has not read.

    `itertools.tee` does the same, but frees its items only in blocks of 57.

    Args:
        source: is read once.
        count: of readers.

    Returns:
        `count` iterators over the same items.
    """
    stream = iter(source)
    queues: list[deque[T]] = [deque() for _ in range(count)]

    def read(own: deque[T]) -> Iterator[T]:
        while True:
            if not own:
                try:
                    item = next(stream)
                except StopIteration:
                    return
                for queue in queues:
                    queue.append(item)
                del item  # so that only the queues refer to it
            yield own.popleft()

    return [read(own) for own in queues]


class _Source:
    """The frames of a path, rendered or read when they are asked for, and the time that this has taken."""

    def __init__(self, outputs: Iterator[tuple[RenderOutput, float]], cameras: Cameras, scores: VideoScores) -> None:
        self.outputs = outputs
        self.cameras = cameras
        self.scores = scores
        self.device = cameras.cam_to_world.device
        self.seconds = 0.0  # of all frames so far; of frames that are read this is not the time to render them

    def __iter__(self) -> Iterator[RenderedFrame]:
        for index in range(len(self.cameras)):
            start = device_time(self.device)
            output, seconds = next(self.outputs)
            self.scores.render_seconds += seconds / self.scores.frames
            self.seconds += device_time(self.device) - start
            yield frame_from_output(output, self.cameras[index])


def _next_image(name: str, stream: Iterator[tuple[Tensor, Tensor]], source: _Source, scores: VideoScores) -> Tensor:
    """The next image of a blending, whose time is recorded without that of getting frames meanwhile."""
    start, before = device_time(source.device), source.seconds
    image = next(stream)[0].clamp(0, 1)
    seconds = device_time(source.device) - start - (source.seconds - before)
    scores.blend_seconds[name] += seconds / scores.frames
    return image


def _with_ground_truth(rendered: RenderedFrame, images: dict[str, Tensor], gray: float,
                       ground_truth: PathGroundTruth | None, index: int) -> _PathFrame:
    device = rendered.depth.device
    mask = geometry = None
    if ground_truth is not None and ground_truth.has_images:
        rgba = ground_truth.image(index).to(device)
        images = {**images, GROUND_TRUTH: over_background(rgba[:, :3], rgba[:, 3:], gray)}
        mask = rgba[:, 3] > 0
    if ground_truth is not None and ground_truth.has_geometry:
        geometry = GroundTruthGeometry(*(part.to(device) for part in ground_truth.geometry(index)))
    return _PathFrame(rendered, images, mask, geometry)


def _score(scores: VideoScores, index: int, recent: list[_PathFrame]) -> None:
    """Record what frame `index`, the last of up to three `recent` ones, allows to measure."""
    _score_frame(scores, index, recent[-1])
    if len(recent) > 1:
        _score_pair(scores, index, *recent[-2:])
    if len(recent) > 2:
        _score_triple(scores, index - 1, *recent)


def _score_frame(scores: VideoScores, index: int, current: _PathFrame) -> None:
    for name in current.blendings() if GROUND_TRUTH in current.images else ():
        scores.record(name, "psnr", index, psnr(current.images[name], current.images[GROUND_TRUTH]))
        scores.record(name, "ssim", index, ssim(current.images[name], current.images[GROUND_TRUTH]))


def _score_pair(scores: VideoScores, index: int, earlier: _PathFrame, current: _PathFrame) -> None:
    if current.geometry is not None and earlier.geometry is not None:
        true = find_correspondences(current.geometry.position, earlier.geometry.depth, earlier.rendered.cameras)
        for name, image in current.images.items():
            scores.record(name, "warp_error", index, warp_error(image, earlier.images[name], true))
    own = _correspond_by_rendered_depth(current.rendered, earlier.rendered)
    for name in current.blendings():
        scores.record(name, "warp_error_own", index, warp_error(current.images[name], earlier.images[name], own))
        if current.mask is not None:
            rendered, true_ones = ([one.images[key] for one in (earlier, current)] for key in (name, GROUND_TRUTH))
            scores.record(name, "flow_error", index, flow_error(rendered, true_ones, current.mask))


def _score_triple(scores: VideoScores, index: int, earlier: _PathFrame, middle: _PathFrame, later: _PathFrame) -> None:
    frames = (earlier, middle, later)
    before, after = (_correspond_by_rendered_depth(middle.rendered, other.rendered) for other in (earlier, later))
    for name in middle.images:
        images = [one.images[name] for one in frames]
        first, second, third = images
        scores.record(name, "flicker", index, flicker(first, second, third, before, after))
        if middle.mask is not None and name != GROUND_TRUTH:
            true = [one.images[GROUND_TRUTH] for one in frames]
            scores.record(name, "second_difference_error", index, second_difference_error(images, true, middle.mask))


def _correspond_by_rendered_depth(current: RenderedFrame, other: RenderedFrame) -> Correspondence:
    positions = unproject(current.depth, current.cameras).permute(0, 2, 3, 1)
    positions = torch.where(current.depth[..., None] > 0, positions, torch.nan)
    return find_correspondences(positions, other.depth, other.cameras, RENDERED_DEPTH_TOLERANCE)


def _to_bytes(image: Tensor) -> NDArray[np.uint8]:
    """(1, 3, H, W) in [0, 1] to (H, W, 3)."""
    return (image[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
