# SPDX-License-Identifier: Apache-2.0
"""What refining is judged by: flicker without reference, and how far renderings are from photographs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from npcr.cameras import Cameras
from npcr.data.samples import SceneDataset
from npcr.evaluation.views import ViewPictures, ViewScore, evaluate, mean_scores
from npcr.metrics.image import psnr
from npcr.refine.clips import ClipSource
from npcr.refine.losses import flicker
from npcr.refine.steady import render_frame
from npcr.renderers import Renderer

WINDOWS = 8  # windows in which flicker is measured


@dataclass(frozen=True)
class ValidationScores:
    """The model at one point of refining."""

    flicker: float  # mean absolute difference to the reprojected earlier frame, 0-255
    psnr: float  # dB, of the views that were photographed, over black; NaN without any
    psnr_white: float = math.nan  # the same over white, which shows what is wrong with a matte

    def __str__(self) -> str:
        text = f"flicker {self.flicker:.3f}"
        text += "" if math.isnan(self.psnr) else f", PSNR {self.psnr:.3f} dB"
        return text + ("" if math.isnan(self.psnr_white) else f" ({self.psnr_white:.3f} over white)")

    def keeps(self, start: ValidationScores, drop: float) -> bool:
        """Whether no PSNR is more than `drop` dB below that of `start`; true without photographs."""
        pairs = ((self.psnr, start.psnr), (self.psnr_white, start.psnr_white))
        return not any(now < before - drop for now, before in pairs)  # no comparison with NaN holds


class RefineValidator:
    """Measures `ValidationScores`, always in the same windows and views.

    views and jobs, (frame, camera) pairs: the photographs to compare with, or None. seed: of the windows,
    which no step draws.
    """

    def __init__(self, clips: ClipSource, *, depth_tolerance: float, seed: int, frame: int = 0,
                 views: SceneDataset | None = None, jobs: Sequence[tuple[int, int]] = (), batch: int = 1) -> None:
        rng = np.random.default_rng([seed, 2**32 - 1])
        self._windows: list[Cameras] = [clips.draw(rng) for _ in range(WINDOWS)]
        self._tolerance = depth_tolerance
        self._frame = frame
        self._views = views
        self._jobs = list(jobs)
        self._batch = batch

    def measure(self, renderer: Renderer) -> ValidationScores:
        """Render and compare; shows a progress bar that does not stay."""
        device = next(renderer.parameters()).device
        steadiness = []
        for cameras in tqdm(self._windows, desc="measuring flicker", unit="window", leave=False):
            with torch.no_grad():
                frames = [render_frame(renderer, cameras[i].to(device), self._frame) for i in range(len(cameras))]
            steadiness.append(flicker(frames, self._tolerance))
        return ValidationScores(sum(steadiness) / len(steadiness), *self._compare(renderer, device))

    def _compare(self, renderer: Renderer, device: torch.device) -> tuple[float, float]:
        """PSNR over black and over white; NaN without photographs."""
        if self._views is None or not self._jobs:
            return math.nan, math.nan
        white: list[float] = []

        def over_white(_: ViewScore, pictures: ViewPictures) -> None:
            rendered, target = pictures.rendered + 1 - pictures.alpha, pictures.target + 1 - pictures.target_alpha
            white.append(psnr(rendered.clamp(0, 1)[None], target.clamp(0, 1)[None]).item())

        scores = evaluate(renderer, self._views, self._jobs, batch=self._batch, device=device, on_view=over_white)
        return mean_scores(scores)["psnr"], sum(white) / len(white)
