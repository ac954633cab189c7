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
from npcr.data.views import SceneViews
from npcr.engine.evaluator import evaluate, mean_scores
from npcr.engine.refine_losses import flicker
from npcr.engine.refine_windows import Windows
from npcr.engine.steady_refiner import render_frame
from npcr.networks import PointRenderer

WINDOWS = 8  # windows in which flicker is measured


@dataclass(frozen=True)
class RefineScores:
    """The model at one point of refining."""

    flicker: float  # mean absolute difference to the reprojected earlier frame, 0-255
    psnr: float  # dB, of the views that were photographed; NaN without any

    def __str__(self) -> str:
        psnr = "" if math.isnan(self.psnr) else f", PSNR {self.psnr:.3f} dB"
        return f"flicker {self.flicker:.3f}{psnr}"

    def keeps(self, start: RefineScores, drop: float) -> bool:
        """Whether PSNR is at most `drop` dB below that of `start`; true without photographs."""
        return math.isnan(self.psnr) or self.psnr >= start.psnr - drop


class RefineGauge:
    """Measures `RefineScores`, always in the same windows and views.

    views and jobs, (frame, camera) pairs: the photographs to compare with, or None. seed: of the windows,
    which no step draws.
    """

    def __init__(self, windows: Windows, *, depth_tolerance: float, seed: int, frame: int = 0,
                 views: SceneViews | None = None, jobs: Sequence[tuple[int, int]] = (), batch: int = 1) -> None:
        rng = np.random.default_rng([seed, 2**32 - 1])
        self._windows: list[Cameras] = [windows.draw(rng) for _ in range(WINDOWS)]
        self._tolerance = depth_tolerance
        self._frame = frame
        self._views = views
        self._jobs = list(jobs)
        self._batch = batch

    def measure(self, renderer: PointRenderer) -> RefineScores:
        """Render and compare; shows a progress bar that does not stay."""
        device = next(renderer.parameters()).device
        steadiness = []
        for cameras in tqdm(self._windows, desc="measuring flicker", unit="window", leave=False):
            with torch.no_grad():
                frames = [render_frame(renderer, cameras[i].to(device), self._frame) for i in range(len(cameras))]
            steadiness.append(flicker(frames, self._tolerance))
        psnr = math.nan
        if self._views is not None and self._jobs:
            scores = evaluate(renderer, self._views, self._jobs, batch=self._batch, device=device)
            psnr = mean_scores(scores)["psnr"]
        return RefineScores(sum(steadiness) / len(steadiness), psnr)
