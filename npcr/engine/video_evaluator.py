# SPDX-License-Identifier: Apache-2.0
"""How steady a camera path comes out with each kind of blending, and how true (docs/temporal.md: Measures).

A frame is rendered once and goes to every blender. Pictures are compared as they are shown, over the
background and clipped to [0, 1], before rounding; the matte of the truth, where there is one, says which
pixels count, else the rendered points do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from npcr.cameras import Cameras, unproject
from npcr.data.path_truth import PathTruth
from npcr.engine.frames import show, single_frame
from npcr.metrics import psnr, ssim
from npcr.networks import over_background
from npcr.temporal import Blender, Frame
from npcr.video_metrics import (
    Correspondence,
    correspond,
    flicker,
    flow_error,
    second_difference_error,
    warp_error,
)

# Relative depth difference up to which a rendered pixel shows a point. The nearest point of a pixel in hair
# changes with every frame; what is to be kept apart here is front and back.
OWN_VISIBLE = 0.03

TRUTH = "truth"  # the true frames' own row: what even a perfect video reads


@dataclass
class VideoScores:
    """One path's numbers: of each blending, and of the truth itself, by metric, a value per frame.

    Lists are as long as the path; a frame for which a metric has no value (the first has no earlier one)
    holds None. `pictures`: (H, W, 3) uint8 of each frame. Seconds are means per frame.
    """

    each: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    pictures: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)
    render_seconds: float = 0.0
    blend_seconds: dict[str, float] = field(default_factory=dict)

    def means(self) -> dict[str, dict[str, float]]:
        """Of each blending, the mean of each metric over the frames that have it."""
        return {name: {metric: float(np.mean([value for value in values if value is not None]))
                       for metric, values in metrics.items()} for name, metrics in self.each.items()}


@dataclass(frozen=True)
class _Step:
    """What one frame leaves for the next two."""

    shown: dict[str, Tensor]  # (1, 3, H, W) by blending, and the truth's
    frame: Frame
    mask: Tensor | None  # (1, H, W) bool, the true matte
    to_earlier: Correspondence | None  # by rendered depth
    position: Tensor | None  # (1, H, W, 3) true
    depth: Tensor | None  # (1, H, W) true


def evaluate_video(renderer: nn.Module, cameras: Cameras, blenders: Mapping[str, Blender | None], *, gray: float,
                   truth: PathTruth | None = None, frame: int = 0, keep_pictures: bool = True,
                   description: str = "path", progress: bool = True) -> VideoScores:
    """Render `cameras` in order and score what each of `blenders` makes of them.

    blenders: fresh ones by name; None shows single frames. gray: the background, 0-1. Everything that
    `truth` has is made use of. Pictures are kept for slices and for ColorVideoVDP, 3 bytes a pixel.
    """
    renderer.eval()
    device = next(renderer.parameters()).device
    scores = VideoScores(blend_seconds=dict.fromkeys(blenders, 0.0))
    steps: list[_Step] = []
    with torch.inference_mode():
        for index in tqdm(range(len(cameras)), desc=description, unit="frame", disable=not progress, leave=False):
            camera = cameras[index].to(device)
            start = _now(device)
            single = single_frame(renderer(camera, frame), camera, bool(renderer.legacy))
            scores.render_seconds += (_now(device) - start) / len(cameras)
            shown = {}
            for name, blender in blenders.items():
                start = _now(device)
                shown[name] = show(single, gray, blender)[0].clamp(0, 1)
                scores.blend_seconds[name] += (_now(device) - start) / len(cameras)
            steps = [*steps[-2:], _step(single, shown, gray, truth, index, steps)]
            _score(scores, steps)
            if keep_pictures:
                for name, picture in steps[-1].shown.items():
                    scores.pictures.setdefault(name, []).append(_bytes(picture))
    return scores


def _step(single: Frame, shown: dict[str, Tensor], gray: float, truth: PathTruth | None, index: int,
          steps: list[_Step]) -> _Step:
    device = single.depth.device
    mask = position = depth = None
    if truth is not None and truth.has_pictures:
        rgba = truth.picture(index).to(device)
        shown = {**shown, TRUTH: over_background(rgba[:, :3], rgba[:, 3:], gray, legacy=False)}
        mask = rgba[:, 3] > 0
    if truth is not None and truth.has_geometry:
        position, depth = (part.to(device) for part in truth.geometry(index))
    to_earlier = _own(single, steps[-1].frame) if steps else None
    return _Step(shown, single, mask, to_earlier, position, depth)


def _own(current: Frame, other: Frame) -> Correspondence:
    """By rendered depth."""
    positions = unproject(current.depth, current.cameras).permute(0, 2, 3, 1)
    positions = torch.where(current.depth[..., None] > 0, positions, torch.nan)
    return correspond(positions, other.depth, other.cameras, OWN_VISIBLE)


def _score(scores: VideoScores, steps: list[_Step]) -> None:
    """Add the newest frame's values; flicker and second differences belong to the frame in the middle."""
    now = steps[-1]
    earlier = steps[-2] if len(steps) > 1 else None
    true_warp = None
    if earlier is not None and now.position is not None and earlier.depth is not None:
        true_warp = correspond(now.position, earlier.depth, earlier.frame.cameras)
    back = _own(earlier.frame, now.frame) if len(steps) > 2 and earlier is not None else None
    for name, picture in now.shown.items():
        values: dict[str, Tensor | None] = {}
        goal = now.shown.get(TRUTH) if name != TRUTH else None
        if goal is not None:
            values["psnr"], values["ssim"] = psnr(picture, goal), ssim(picture, goal)
        if name != TRUTH:
            values["warp_error_own"] = earlier and warp_error(picture, earlier.shown[name], _known(now.to_earlier))
        if now.position is not None:
            values["warp_error"] = earlier and warp_error(picture, earlier.shown[name], _known(true_warp))
        if goal is not None and now.mask is not None:
            values["flow_error"] = earlier and flow_error((earlier.shown[name], picture),
                                                          (earlier.shown[TRUTH], goal), now.mask)
        for metric, value in values.items():
            _append(scores, name, metric, value)
        for metric in ("flicker",) * (name != TRUTH) + ("second_difference_error",) * (goal is not None):
            _append(scores, name, metric, None)
        if len(steps) > 2 and name != TRUTH:
            _score_middle(scores, steps, name, _known(back))


def _score_middle(scores: VideoScores, steps: list[_Step], name: str, back: Correspondence) -> None:
    first, middle, last = (step.shown[name] for step in steps)
    unrest = flicker(first, middle, last, _known(steps[1].to_earlier), back)
    scores.each[name]["flicker"][-2] = unrest.item()
    mask = steps[1].mask
    if mask is not None:
        true_first, true_middle, true_last = (step.shown[TRUTH] for step in steps)
        error = second_difference_error((first, middle, last), (true_first, true_middle, true_last), mask)
        scores.each[name]["second_difference_error"][-2] = error.item()


def _append(scores: VideoScores, name: str, metric: str, value: Tensor | None) -> None:
    values = scores.each.setdefault(name, {}).setdefault(metric, [])
    values.append(None if value is None else value.item())


def _known(where: Correspondence | None) -> Correspondence:
    assert where is not None, "asked for before there is an earlier frame"
    return where


def _bytes(picture: Tensor) -> NDArray[np.uint8]:
    return (picture[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
