# SPDX-License-Identifier: Apache-2.0
"""Which known mistake, if any, explains that cloud and pictures do not agree.

Every known mistake is mended in turn (`hypotheses`) and the result judged (`consistency`),
coarsely first; the best are judged again with more points and pixels. A mistake is named where mending it makes
nearly all cameras agree clearly better, by more than chance among so many tries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from npcr.cameras import project
from npcr.reconstruction.progress import Progress
from npcr.scene_check.consistency import TRACE, Agreement, Colors, Evidence, Silhouettes, reduced
from npcr.scene_check.hypotheses import (
    Mistake,
    Reading,
    fixed_mistakes,
    log_grid,
    order_mistakes,
    scaled_cloud,
    scaled_focal,
    scaled_intrinsics,
)

_COARSE, _FINE = (88, 800), (256, 3500)  # (longest side in pixels, points)
_COARSE_CAMERAS, _FINE_CAMERAS = 12, 36
_FINALISTS = 8
_GOOD = 0.8  # of Agreement.consistent and .covered
_LIKE = 0.006  # agreements this near are taken for equal
_SLIGHT = 0.03  # of a scale
_BACKGROUND = 0.15  # of the object's width: points further outside than this are not the object's

_FAMILIES: list[tuple[Callable[[float, tuple[int, int]], Mistake], list[float]]] = [
    (scaled_intrinsics, log_grid(1 / 16, 16, 4)),
    (scaled_focal, log_grid(1 / 4, 4, 4)),
    (scaled_cloud, log_grid(1e-3, 1e3, 4)),
]


@dataclass(frozen=True)
class Diagnosis:
    """The outcome: mistakes as likely as each other (none: nothing wrong was found), and how sure that is."""

    mistakes: list[Mistake]  # the likeliest first
    as_read: Agreement  # of the files as they are
    mended: Agreement | None  # of the likeliest mistake
    decided: bool  # False: the evidence says too little either way
    background: bool = False  # points far outside the mattes, which are taken for surroundings


@dataclass(frozen=True)
class _Stage:
    evidence: Evidence
    reading: Reading
    rows: Tensor  # cameras that are judged

    def judge(self, mistake: Mistake | None) -> Agreement:
        mended = mistake.mend(self.reading) if mistake else self.reading
        return self.evidence.judge(mended.subset(self.rows))


def diagnose_silhouettes(reading: Reading, mattes: list[np.ndarray], *,
                         progress: Progress = lambda jobs, count: jobs) -> Diagnosis:
    """By mattes (H, W) uint8, one for each camera, all of one size."""
    stages = [_Stage(Silhouettes(mattes, side, min(count, len(reading.points))), _thinned(reading, count)[0],
                     _spread(len(reading.cameras), most))
              for (side, count), most in ((_COARSE, _COARSE_CAMERAS), (_FINE, _FINE_CAMERAS))]
    ranked = _search(stages, progress)
    fine = stages[1]
    as_read = fine.judge(None)
    background = as_read.covered >= _GOOD > as_read.consistent and _surroundings(fine.reading, mattes)
    named = [(m, a) for m, a in ranked if _explains(m, a, as_read, background)]
    looks_right = as_read.covered >= _GOOD or as_read.consistent >= _GOOD
    return _outcome(named, as_read, looks_right, background)


def diagnose_colors(reading: Reading, photographs: list[np.ndarray], colors: np.ndarray | None, *,
                     order_only: bool = False, progress: Progress = lambda jobs, count: jobs) -> Diagnosis:
    """By photographs (H, W, 3 or 4) uint8, one for each camera, all of one size.

    colors: (N, 3) uint8 of the points; None: photographs are compared with each other. order_only: only which
    photograph belongs to which camera is asked.
    """
    stages = []
    for (side, count), most in ((_COARSE, _COARSE_CAMERAS), (_FINE, _FINE_CAMERAS)):
        thin, chosen = _thinned(reading, count)
        own = None if colors is None else torch.from_numpy(colors[chosen.numpy()])
        stages.append(_Stage(Colors(photographs, side, own), thin, _spread(len(reading.cameras), most)))
    ranked = _search(stages, progress, order_only)
    as_read = stages[1].judge(None)
    named = [(m, a) for m, a in ranked if not _slight(m) and a.consistent >= 0.25 and a.mean > 1.3 * as_read.mean
             and clearly_better(a.each, as_read.each, 0.01)]
    return _outcome(named, as_read, as_read.consistent >= 0.3, False)


def clearly_better(new: Tensor, old: Tensor, least: float) -> bool:
    """Whether agreements (B,) of cameras rose by more than `least` and by more than chance would have it."""
    gain = (new - old)[~(new - old).isnan()]
    if not len(gain):
        return False
    mean, wins = float(gain.mean()), float((gain > 0).float().mean())
    if len(gain) < 6:
        return mean > max(least, 0.1) and wins == 1
    error = float(gain.std()) / math.sqrt(len(gain))
    return mean > least and mean > 4 * error and wins >= 0.75


def _slight(mistake: Mistake) -> bool:
    """Whether it is a scale that is off by no more than clouds and pictures leave open."""
    return mistake.factor != 1 and abs(math.log(mistake.factor)) < _SLIGHT


def _explains(mistake: Mistake, new: Agreement, old: Agreement, background: bool) -> bool:
    """Whether mending a mistake explains the silhouettes better than the files do."""
    if _slight(mistake):
        return False
    if not clearly_better(new.each, old.each, 0.02 if mistake.factor != 1 else 0.01):
        return False
    if background:
        # Surroundings spill whatever is done, save where all of the cloud is shrunk into the mattes.
        return mistake.factor == 1 and new.covered >= old.covered - 0.02
    if min(old.consistent, old.covered) >= _GOOD or old.consistent < 0.6:
        return new.consistent >= min(0.5, old.consistent + 0.3)
    # The points lie within the mattes and fill a part of them: a partial cloud, unless something fills all.
    return min(new.consistent, new.covered) >= _GOOD


def _outcome(named: list[tuple[Mistake, Agreement]], as_read: Agreement, looks_right: bool,
             background: bool) -> Diagnosis:
    if not named:
        return Diagnosis([], as_read, None, looks_right, background)
    best = max(agreement.mean for _, agreement in named)
    tied = sorted((pair for pair in named if pair[1].mean >= best - max(_LIKE, 0.02 * best)),
                  key=lambda pair: (pair[0].unlikeliness, -pair[1].mean))
    first_of_each = {mistake.name: mistake for mistake, _ in reversed(tied)}
    names = dict.fromkeys(mistake.name for mistake, _ in tied)
    return Diagnosis([first_of_each[name] for name in names], as_read, tied[0][1], True, background)


def _search(stages: list[_Stage], progress: Progress, order_only: bool = False) -> list[tuple[Mistake, Agreement]]:
    """The finalists with their agreement at the fine stage."""
    coarse, fine = stages
    size = fine.reading.cameras.size
    fixed = order_mistakes(len(fine.reading.cameras)) if order_only else fixed_mistakes(fine.reading)
    jobs: list[tuple[Mistake, int]] = [(mistake, -1) for mistake in fixed]
    if not order_only:
        jobs += [(make(factor, size), i) for i, (make, factors) in enumerate(_FAMILIES) for factor in factors]
    judged = [(coarse.judge(mistake).mean, mistake, family) for mistake, family in progress(jobs, len(jobs))]
    best = sorted((entry for entry in judged if entry[2] < 0), key=lambda entry: -entry[0])[:_FINALISTS]
    finalists = [mistake for _, mistake, _ in best]
    most = max(entry[0] for entry in judged) if judged else 0.0
    for i, (make, _) in enumerate(_FAMILIES):
        tried = [entry for entry in judged if entry[2] == i]
        if tried:
            mean, mistake, _ = max(tried, key=lambda entry: entry[0])
            if mean > 0.5 * most:  # finer steps cannot make up for more
                finalists.append(_refined(mistake.factor, make, coarse, fine))
            # A slight error stands out among slight changes only, however well some gross change may do.
            finalists.append(_refined(1.0, make, coarse, fine))
    return [(mistake, fine.judge(mistake)) for mistake in finalists]


def _refined(factor: float, make: Callable[[float, tuple[int, int]], Mistake], coarse: _Stage, fine: _Stage) -> Mistake:
    """The best factor near the given one, to about a percent."""
    size = fine.reading.cameras.size
    for step, stage in ((0.045, coarse), (0.013, fine)):
        factors = [factor * math.exp(step * i) for i in (-2, -1, 0, 1, 2)]
        means = [stage.judge(make(f, size)).mean for f in factors]
        # The best is a plateau, as wide as a pixel and a splat: its middle is meant.
        level = [f for f, mean in zip(factors, means, strict=True) if mean >= max(means) - 0.002]
        factor = math.sqrt(level[0] * level[-1])
    return make(factor, size)


def _surroundings(reading: Reading, mattes: list[np.ndarray]) -> bool:
    """Whether the points outside the mattes mostly lie far outside: they then are not the object's."""
    reach = []
    for i in _spread(len(mattes), _COARSE_CAMERAS).tolist():
        matte = reduced(mattes[i], _FINE[0])
        shown = (matte > 255 * TRACE).astype(np.uint8)
        cameras = reading.cameras[i].resized((matte.shape[1], matte.shape[0]))
        pixels, depth = (result[0] for result in project(reading.points[None], cameras))
        place = pixels[(depth > 0) & pixels.isfinite().all(1)].clamp(-1e6, 1e6).round().long().numpy()
        place = place[((place >= 0) & (place < matte.shape[::-1])).all(1)]
        distance = cv2.distanceTransform(1 - shown, cv2.DIST_L2, 5)[place[:, 1], place[:, 0]]
        reach += [distance[distance > 0] / max(math.sqrt(shown.sum()), 1)]
    outside = np.concatenate(reach)
    return bool(len(outside)) and float(np.median(outside)) > _BACKGROUND


def _thinned(reading: Reading, count: int) -> tuple[Reading, Tensor]:
    """With at most `count` of the points, and their rows."""
    total = len(reading.points)
    rows = torch.arange(total) if total <= count else torch.from_numpy(
        np.sort(np.random.default_rng(0).choice(total, count, replace=False)))
    return Reading(reading.cameras, reading.points[rows], reading.pictures), rows


def _spread(count: int, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()
