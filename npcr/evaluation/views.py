# SPDX-License-Identifier: Apache-2.0
"""Renders views that were photographed and says how far from the photographs they are.

Color is compared over black: `C` for premultiplied color, `C A` in legacy, against the photograph's
premultiplied color, both clipped to [0, 1], over the whole frame. Background counts, as it does for whoever
looks at the picture; PSNR is therefore higher than within the matte alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from npcr.cameras import concatenate
from npcr.data.samples import Sample, SceneDataset
from npcr.metrics.image import alpha_mae, alpha_sad, psnr, ssim
from npcr.renderers import Renderer, over_background

METRICS = ("psnr", "ssim", "alpha_mae", "alpha_sad")


@dataclass(frozen=True)
class ViewScore:
    """How one view compares; the metrics are those of `npcr.metrics.image`."""

    name: str  # "frame/photograph", such as 0/img_0001.jpg
    frame: int
    camera: int
    psnr: float  # dB, of color over black; infinite where nothing differs
    ssim: float  # of color over black
    alpha_mae: float
    alpha_sad: float  # thousands


@dataclass(frozen=True)
class ViewPictures:
    """What was compared: (3, H, W) color over black and (1, H, W) mattes, in [0, 1], on the CPU."""

    target: Tensor
    rendered: Tensor
    target_alpha: Tensor
    alpha: Tensor


def evaluate(renderer: Renderer, views: SceneDataset, which: Sequence[tuple[int, int]], *,
             batch: int = 1, device: torch.device | str = "cpu", progress: bool = True,
             on_view: Callable[[ViewScore, ViewPictures], None] | None = None) -> list[ViewScore]:
    """Render the (frame, camera) pairs in `which` and score them, in that order.

    `batch` views of one frame are rendered together, with the renderer in eval mode on `device` (its former mode
    returns). `on_view` is given each view's pictures as they come; they are not kept.
    """
    scores: list[ViewScore] = []
    training = renderer.training
    renderer.eval()
    samples = views.ahead(partial(views.plain, frame, camera) for frame, camera in which)
    try:
        with torch.no_grad(), tqdm(total=len(which), desc="evaluating", unit="view", disable=not progress,
                                   leave=False) as bar:
            for group in _batches(samples, batch):
                for score, pictures in _score(renderer, group, torch.device(device)):
                    scores.append(score)
                    if on_view is not None:
                        on_view(score, pictures)
                bar.update(len(group))
    finally:
        renderer.train(training)
    return scores


def mean_scores(scores: Sequence[ViewScore]) -> dict[str, float]:
    """The mean of each metric over the views; empty without views."""
    if not scores:
        return {}
    return {name: sum(getattr(score, name) for score in scores) / len(scores) for name in METRICS}


def format_scores(scores: Sequence[ViewScore]) -> str:
    """A table for a terminal: a row for each view and one for the mean."""
    means = {"name": "mean", **mean_scores(scores)}
    width = max(len(score.name) for score in scores)
    rows = [f"{'view':<{width}}    PSNR    SSIM  alpha MAE  alpha SAD"]
    for row in [*map(dataclasses.asdict, scores), means]:
        rows.append(f"{row['name']:<{width}}  {row['psnr']:6.2f}  {row['ssim']:6.4f}  "
                    f"{row['alpha_mae']:9.5f}  {row['alpha_sad']:9.4f}")
    return "\n".join(rows)


def _batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Up to `size` successive samples of one frame; a batch renders one cloud."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) == size or sample.frame != group[0].frame):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _score(renderer: Renderer, group: list[Sample],
           device: torch.device) -> Iterator[tuple[ViewScore, ViewPictures]]:
    cameras = concatenate([sample.cameras for sample in group]).to(device)
    output = renderer(cameras, group[0].frame)
    target = torch.stack([sample.target for sample in group]).to(device)
    target_alpha = target[:, 3:4]
    target_rgb = target[:, :3] * target_alpha if renderer.legacy else target[:, :3]
    rendered = over_background(output.rgb, output.alpha, 0.0, renderer.legacy).clamp(0, 1)
    alpha = output.alpha.clamp(0, 1)
    metrics = [psnr(rendered, target_rgb), ssim(rendered, target_rgb), alpha_mae(alpha, target_alpha),
               alpha_sad(alpha, target_alpha)]
    values = torch.stack(metrics, dim=1).tolist()
    for i, sample in enumerate(group):
        pictures = ViewPictures(*(image[i].cpu() for image in (target_rgb, rendered, target_alpha, alpha)))
        yield ViewScore(sample.name, sample.frame, sample.camera, *values[i]), pictures
