# SPDX-License-Identifier: Apache-2.0
"""Rendering of photographed views, and their scores against the photographs.

Premultiplied color, which is color over black, is compared with the photograph's, both clipped to [0, 1], over the
whole image. Background counts too; PSNR is therefore higher than within the matte alone.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from npcr.cameras import concatenate
from npcr.data.samples import Sample, SceneDataset
from npcr.metrics.image import alpha_mae, alpha_sad, psnr, ssim
from npcr.out_of_memory import explain_out_of_memory
from npcr.progress import progress_bar
from npcr.renderers import Renderer
from npcr.renderers.tiles import render_pictures
from npcr.transfers import HostCopy, to_device

_LESS_MEMORY = "A smaller TEST.IMS_PER_BATCH, INPUT.SIZE_TEST or INPUT.LAYER_NUM needs less"
METRICS = ("psnr", "ssim", "alpha_mae", "alpha_sad")


@dataclass(frozen=True)
class ViewScore:
    """Scores of one view, by the metrics of `npcr.metrics.image`."""

    name: str  # "frame/photograph", such as 0/img_0001.jpg
    frame: int
    camera: int
    psnr: float  # dB, of color over black; infinite where nothing differs
    ssim: float  # of color over black
    alpha_mae: float
    alpha_sad: float  # thousands


@dataclass(frozen=True)
class ViewPictures:
    """The images that were compared, in [0, 1], on the CPU."""

    target: Tensor  # (3, H, W) the photograph's color, over black
    rendered: Tensor  # (3, H, W) the rendering's
    target_alpha: Tensor  # (1, H, W) the photograph's matte
    alpha: Tensor  # (1, H, W) the rendering's


def evaluate_views(renderer: Renderer, dataset: SceneDataset, views: Sequence[tuple[int, int]], *,
                   batch: int = 1, device: torch.device | str = "cpu", progress: bool = True,
                   on_view: Callable[[ViewScore, ViewPictures], None] | None = None) -> list[ViewScore]:
    """Render views and score them against their photographs.

    Args:
        renderer: on `device`; it renders in eval mode, and gets its former mode back.
        dataset: the photographs.
        views: (frame, camera) pairs, from 0.
        batch: views of one frame that are rendered together.
        device: where to render.
        progress: whether to show a progress bar.
        on_view: called with each view's scores and images, which are not kept.

    Returns:
        The scores, in the order of `views`.

    Raises:
        SceneError: a photograph cannot be read.
        OutOfMemoryError: the memory does not suffice.
    """
    scores: list[ViewScore] = []
    training = renderer.training
    renderer.eval()
    samples = dataset.prefetch(partial(dataset.sample, frame, camera) for frame, camera in views)
    ahead = 1 if torch.device(device).type == "cuda" else 0
    unread: deque[_Compared] = deque()
    try:
        with torch.no_grad(), progress_bar(total=len(views), title="evaluating", unit="view", hidden=not progress,
                                           leave=False) as bar:
            def take(ahead: int) -> None:
                while len(unread) > ahead:
                    group = unread.popleft()
                    for score, pictures in group.read():
                        scores.append(score)
                        if on_view is not None and pictures is not None:
                            on_view(score, pictures)
                    bar.update(len(group.samples))

            for group in _batches(samples, batch):
                unread.append(_compare(renderer, group, torch.device(device), pictures=on_view is not None))
                take(ahead)
            take(0)
    finally:
        renderer.train(training)
    return scores


def mean_scores(scores: Sequence[ViewScore]) -> dict[str, float]:
    """Average each metric over views.

    Args:
        scores: of any number of views.

    Returns:
        The means by metric; empty without views.
    """
    if not scores:
        return {}
    return {name: sum(getattr(score, name) for score in scores) / len(scores) for name in METRICS}


def format_scores(scores: Sequence[ViewScore]) -> str:
    """Make a table for a terminal.

    Args:
        scores: of at least one view.

    Returns:
        Lines of text: a row for each view and one for the mean.
    """
    means = {"name": "mean", **mean_scores(scores)}
    width = max(len(score.name) for score in scores)
    rows = [f"{'view':<{width}}    PSNR    SSIM  alpha MAE  alpha SAD"]
    for row in [*map(dataclasses.asdict, scores), means]:
        rows.append(f"{row['name']:<{width}}  {row['psnr']:6.2f}  {row['ssim']:6.4f}  "
                    f"{row['alpha_mae']:9.5f}  {row['alpha_sad']:9.4f}")
    return "\n".join(rows)


def _batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    """Up to `size` successive samples of one frame; a batch renders one point cloud."""
    group: list[Sample] = []
    for sample in samples:
        if group and (len(group) == size or sample.frame != group[0].frame):
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


class _Compared(NamedTuple):
    """Scores and, where they are wanted, images of a few views, on their way from the device."""

    samples: list[Sample]
    copy: HostCopy  # (B, metrics), then images as `ViewPictures` has them, (B, C, H, W) each

    def read(self) -> Iterator[tuple[ViewScore, ViewPictures | None]]:
        values, *images = self.copy.read()
        for i, (sample, row) in enumerate(zip(self.samples, values.tolist(), strict=True)):
            pictures = ViewPictures(*(image[i] for image in images)) if images else None
            yield ViewScore(sample.name, sample.frame, sample.camera, *row), pictures


def _compare(renderer: Renderer, group: list[Sample], device: torch.device, *, pictures: bool) -> _Compared:
    cameras = concatenate([sample.cameras for sample in group]).to(device)
    with explain_out_of_memory("evaluating", cameras.size, _LESS_MEMORY):
        output = render_pictures(renderer, cameras, group[0].frame)
    target = to_device(torch.stack([sample.target for sample in group]), device)
    target_alpha = target[:, 3:4]
    target_rgb = to_device(torch.stack([sample.color for sample in group]), device)
    rendered = output.color.clamp(0, 1)
    alpha = output.alpha.clamp(0, 1)
    metrics = [psnr(rendered, target_rgb), ssim(rendered, target_rgb), alpha_mae(alpha, target_alpha),
               alpha_sad(alpha, target_alpha)]
    images = (target_rgb, rendered, target_alpha, alpha) if pictures else ()
    return _Compared(group, HostCopy(torch.stack(metrics, dim=1), *images))
