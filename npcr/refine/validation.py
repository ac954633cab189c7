# SPDX-License-Identifier: Apache-2.0
"""Validation of a model that is refined: flicker without reference, and PSNR against photographs.

Several processes of torchrun share its clips and views; all get the same scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from npcr import distributed
from npcr.cameras import Cameras
from npcr.data.samples import SceneDataset
from npcr.evaluation.views import ViewPictures, ViewScore, evaluate_views, mean_scores
from npcr.metrics.image import psnr
from npcr.progress import progress_bar
from npcr.refine.clips import ClipSource
from npcr.refine.losses import flicker
from npcr.refine.steady import render_frame
from npcr.renderers import Renderer

CLIPS = 8  # in which flicker is measured


@dataclass(frozen=True)
class ValidationScores:
    """Scores of the model at one point of refining."""

    flicker: float  # mean absolute difference from the reprojected earlier frame, 0-1
    psnr: float  # dB, of photographed views over black; NaN without photographs
    psnr_white: float = math.nan  # the same over white, where faults of a matte are visible

    def __str__(self) -> str:
        text = f"flicker {self.flicker:.5f}"
        text += "" if math.isnan(self.psnr) else f", PSNR {self.psnr:.3f} dB"
        return text + ("" if math.isnan(self.psnr_white) else f" ({self.psnr_white:.3f} over white)")

    def keeps_psnr(self, start: ValidationScores, drop: float) -> bool:
        """Whether no PSNR is more than `drop` dB below that of `start`; true without photographs."""
        pairs = ((self.psnr, start.psnr), (self.psnr_white, start.psnr_white))
        return not any(now < before - drop for now, before in pairs)  # comparisons with NaN are false


class RefineValidator:
    """Measures `ValidationScores`, always of the same clips and views.

    Args:
        clips: what clips are drawn from, once.
        depth_tolerance: relative, of flicker; see `npcr.temporal.find_warp`.
        seed: of the clips, none of which a training step draws.
        frame: of the scene, from 0.
        dataset: the photographs to compare with; None: PSNR is not measured.
        views: (frame, camera) pairs, from 0, to compare.
        batch: views rendered together.
    """

    def __init__(self, clips: ClipSource, *, depth_tolerance: float, seed: int, frame: int = 0,
                 dataset: SceneDataset | None = None, views: Sequence[tuple[int, int]] = (), batch: int = 1) -> None:
        rng = np.random.default_rng([seed, 2**32 - 1])
        self._clips: list[Cameras] = [clips.draw(rng) for _ in range(CLIPS)]
        self._depth_tolerance = depth_tolerance
        self._frame = frame
        self._dataset = dataset
        self._views = list(views)
        self._batch = batch

    def measure(self, renderer: Renderer) -> ValidationScores:
        """Render the clips and views and score them; a progress bar is visible meanwhile. All processes call it."""
        device = renderer.device
        clips = distributed.share(self._clips)
        own = []
        for cameras in progress_bar(clips, total=len(clips), title="measuring flicker", unit="clip", leave=False):
            with torch.no_grad():
                frames = [render_frame(renderer, cameras[i].to(device), self._frame) for i in range(len(cameras))]
            own.append(flicker(frames, self._depth_tolerance))
        flickers = distributed.gather_shares(own)
        return ValidationScores(sum(flickers) / len(flickers), *self._compare(renderer, device))

    def _compare(self, renderer: Renderer, device: torch.device) -> tuple[float, float]:
        """PSNR over black and over white; NaN without photographs."""
        if self._dataset is None or not self._views:
            return math.nan, math.nan
        own_white: list[float] = []

        def over_white(_: ViewScore, pictures: ViewPictures) -> None:
            rendered, target = pictures.rendered + 1 - pictures.alpha, pictures.target + 1 - pictures.target_alpha
            own_white.append(psnr(rendered.clamp(0, 1)[None], target.clamp(0, 1)[None]).item())

        own = evaluate_views(renderer, self._dataset, distributed.share(self._views), batch=self._batch, device=device,
                             on_view=over_white)
        scores, white = distributed.gather_shares(own), distributed.gather_shares(own_white)
        return mean_scores(scores)["psnr"], sum(white) / len(white)
