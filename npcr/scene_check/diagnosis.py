# SPDX-License-Identifier: Apache-2.0
"""Which wrong convention, if any, explains that points and images do not agree.

Every hypothesis is corrected in turn (`hypotheses`) and the result measured (`consistency`), coarsely first; the
best ones are measured again with more points and pixels. A hypothesis is accepted where its correction makes nearly
all cameras agree clearly better, by more than chance among so many tries.
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
from npcr.progress import Progress, no_progress
from npcr.scene_check.consistency import (
    TRACE,
    Consistency,
    ConsistencyMeasure,
    PhotoConsistency,
    SilhouetteConsistency,
)
from npcr.scene_check.hypotheses import (
    Hypothesis,
    Reconstruction,
    discrete_hypotheses,
    order_hypotheses,
    scaled_cloud,
    scaled_focal,
    scaled_intrinsics,
)
from npcr.scene_check.scene_data import downscale

_COARSE, _FINE = (88, 800), (256, 3500)  # (longest side in pixels, points)
_COARSE_CAMERAS, _FINE_CAMERAS = 12, 36
_FINALISTS = 8
_GOOD = 0.8  # of Consistency.point_score and .coverage
_TIE = 0.006  # consistencies this near are taken for equal
_LEAST_SCALE = 0.03  # of a scale's logarithm: clouds and images do not determine it better
_TELLING_POINTS = 5  # fewer points that come to lie within the mattes may be chance
_BACKGROUND = 0.15  # of the object's width: points further outside than this are not the object's


def _log_grid(low: float, high: float, per_octave: float) -> list[float]:
    """Factors from `low` to `high` in even ratios, without those next to 1."""
    count = round(math.log2(high / low) * per_octave)
    return [f for f in (low * (high / low) ** (i / count) for i in range(count + 1)) if abs(math.log(f)) > 0.02]


_MakeScaled = Callable[[float, tuple[int, int]], Hypothesis]
_SCALE_FAMILIES: list[tuple[_MakeScaled, list[float]]] = [
    (scaled_intrinsics, _log_grid(1 / 16, 16, 4)),
    (scaled_focal, _log_grid(1 / 4, 4, 4)),
    (scaled_cloud, _log_grid(1e-3, 1e3, 4)),
]


@dataclass(frozen=True)
class Diagnosis:
    """The hypotheses that explain the images equally well, and how sure that is."""

    hypotheses: list[Hypothesis]  # the one of the lowest cost first; none: nothing wrong was found
    before: Consistency  # of the files as they are
    after: Consistency | None  # with the first hypothesis corrected
    decided: bool  # False: the images tell too little either way
    background: bool = False  # points far outside the mattes, which are taken for surroundings


@dataclass(frozen=True)
class _Stage:
    """One resolution at which hypotheses are measured."""

    images: ConsistencyMeasure
    reconstruction: Reconstruction
    rows: Tensor  # cameras that are measured

    def measure(self, hypothesis: Hypothesis | None) -> Consistency:
        """Measure the reconstruction with the hypothesis corrected; None: as it is."""
        corrected = hypothesis.correct(self.reconstruction) if hypothesis else self.reconstruction
        return self.images.measure(corrected.subset(self.rows))


def diagnose_silhouettes(reconstruction: Reconstruction, mattes: list[np.ndarray], *,
                         progress: Progress = no_progress) -> Diagnosis:
    """Diagnose a reconstruction by silhouettes.

    Args:
        reconstruction: as the files describe it.
        mattes: (H, W) uint8, one for each camera, all of one size.
        progress: wraps the iteration over the hypotheses.

    Returns:
        The diagnosis.
    """
    stages = [_Stage(SilhouetteConsistency(mattes, side, min(count, len(reconstruction.points))),
                     _subsample(reconstruction, count)[0], _evenly_spaced(len(reconstruction.cameras), most))
              for (side, count), most in ((_COARSE, _COARSE_CAMERAS), (_FINE, _FINE_CAMERAS))]
    finalists = _search(stages, progress)
    fine = stages[1]
    before = fine.measure(None)
    background = before.coverage >= _GOOD > before.point_score and _has_background(fine.reconstruction, mattes)
    points = len(fine.reconstruction.points)
    accepted = [(h, after) for h, after in finalists if _explains(h, after, before, background, points)]
    looks_right = before.coverage >= _GOOD or before.point_score >= _GOOD
    return _conclude(accepted, before, looks_right, background)


def diagnose_photographs(reconstruction: Reconstruction, photographs: list[np.ndarray], colors: np.ndarray | None, *,
                         order_only: bool = False, progress: Progress = no_progress) -> Diagnosis:
    """Diagnose a reconstruction by the colors of photographs.

    Args:
        reconstruction: as the files describe it.
        photographs: (H, W, 3 or 4) uint8, one for each camera, all of one size.
        colors: (N, 3) uint8 of the points; None: photographs are compared with each other.
        order_only: try only which photograph belongs to which camera.
        progress: wraps the iteration over the hypotheses.

    Returns:
        The diagnosis.
    """
    stages = []
    for (side, count), most in ((_COARSE, _COARSE_CAMERAS), (_FINE, _FINE_CAMERAS)):
        subset, rows = _subsample(reconstruction, count)
        own = None if colors is None else torch.from_numpy(colors[rows.numpy()])
        stages.append(_Stage(PhotoConsistency(photographs, side, own), subset,
                             _evenly_spaced(len(reconstruction.cameras), most)))
    finalists = _search(stages, progress, order_only)
    before = stages[1].measure(None)
    accepted = [(h, after) for h, after in finalists
                if not _is_negligible(h) and after.point_score >= 0.25 and after.mean > 1.3 * before.mean
                and clearly_better(after.per_camera, before.per_camera, 0.01)]
    return _conclude(accepted, before, before.point_score >= 0.3, False)


def clearly_better(new: Tensor, old: Tensor, least: float) -> bool:
    """Test whether cameras agree better, by enough and by more than chance.

    Args:
        new: (B,) consistency of each camera, NaN where unknown.
        old: (B,) the same before.
        least: gain that the mean must exceed.

    Returns:
        Whether they do.
    """
    gain = (new - old)[~(new - old).isnan()]
    if not len(gain):
        return False
    mean, wins = float(gain.mean()), float((gain > 0).float().mean())
    if len(gain) < 6:
        return mean > max(least, 0.1) and wins == 1
    error = float(gain.std()) / math.sqrt(len(gain))
    return mean > least and mean > 4 * error and wins >= 0.75


def _is_negligible(hypothesis: Hypothesis) -> bool:
    """Whether it is a scale that is wrong by no more than clouds and images leave open."""
    return hypothesis.factor != 1 and abs(math.log(hypothesis.factor)) < _LEAST_SCALE


def _explains(hypothesis: Hypothesis, after: Consistency, before: Consistency, background: bool, points: int) -> bool:
    """Whether a hypothesis explains the silhouettes better than the files do."""
    if _is_negligible(hypothesis):
        return False
    more_within = points * (after.point_score - before.point_score)
    # Where none of the files' points lies outside, the mattes merely are not filled. The outermost of few points lie
    # within the outline, by about their spacing: its radius is sqrt(points) / 2 times as long.
    if more_within < _TELLING_POINTS and hypothesis.factor < math.exp(2 / math.sqrt(points)):
        return False
    if not clearly_better(after.per_camera, before.per_camera, 0.02 if hypothesis.factor != 1 else 0.01):
        return False
    if background:
        # Surroundings spill whatever is done, save where all of the cloud is shrunk into the mattes.
        return hypothesis.factor == 1 and after.coverage >= before.coverage - 0.02
    if min(before.point_score, before.coverage) >= _GOOD or before.point_score < 0.6:
        return after.point_score >= min(0.5, before.point_score + 0.3)
    # The points lie within the mattes and fill a part of them: a partial cloud, unless something fills all.
    return min(after.point_score, after.coverage) >= _GOOD


def _conclude(accepted: list[tuple[Hypothesis, Consistency]], before: Consistency, looks_right: bool,
              background: bool) -> Diagnosis:
    """Keep the accepted hypotheses that are as good as the best, one of each name."""
    if not accepted:
        return Diagnosis([], before, None, looks_right, background)
    best = max(after.mean for _, after in accepted)
    tied = sorted((pair for pair in accepted if pair[1].mean >= best - max(_TIE, 0.02 * best)),
                  key=lambda pair: (pair[0].cost, -pair[1].mean))
    first_of_each: dict[str, Hypothesis] = {}
    for hypothesis, _ in tied:
        first_of_each.setdefault(hypothesis.name, hypothesis)
    return Diagnosis(list(first_of_each.values()), before, tied[0][1], True, background)


def _search(stages: list[_Stage], progress: Progress,
            order_only: bool = False) -> list[tuple[Hypothesis, Consistency]]:
    """The best hypotheses of the coarse stage, with their consistency at the fine stage."""
    coarse, fine = stages
    size = fine.reconstruction.cameras.size
    discrete = (order_hypotheses(len(fine.reconstruction.cameras)) if order_only
                else discrete_hypotheses(fine.reconstruction))
    tries: list[tuple[Hypothesis, int]] = [(hypothesis, -1) for hypothesis in discrete]
    if not order_only:
        tries += [(make(factor, size), i) for i, (make, factors) in enumerate(_SCALE_FAMILIES) for factor in factors]
    measured = [(coarse.measure(hypothesis).mean, hypothesis, family)
                for hypothesis, family in progress(tries, len(tries))]
    best = sorted((entry for entry in measured if entry[2] < 0), key=lambda entry: -entry[0])[:_FINALISTS]
    finalists = [hypothesis for _, hypothesis, _ in best]
    highest = max(entry[0] for entry in measured) if measured else 0.0
    for i, (make, _) in enumerate(_SCALE_FAMILIES):
        of_family = [entry for entry in measured if entry[2] == i]
        if of_family:
            mean, hypothesis, _ = max(of_family, key=lambda entry: entry[0])
            if mean > 0.5 * highest:  # finer steps cannot make up for more
                finalists.append(_refine_factor(hypothesis.factor, make, coarse, fine))
            # A slight error stands out among slight changes only, however well some gross change may do.
            finalists.append(_refine_factor(1.0, make, coarse, fine))
    return [(hypothesis, fine.measure(hypothesis)) for hypothesis in finalists]


def _refine_factor(factor: float, make: _MakeScaled, coarse: _Stage, fine: _Stage) -> Hypothesis:
    """The hypothesis of the best factor near the given one, to about a percent."""
    size = fine.reconstruction.cameras.size
    for step, stage in ((0.045, coarse), (0.013, fine)):
        factors = [factor * math.exp(step * i) for i in (-2, -1, 0, 1, 2)]
        means = [stage.measure(make(f, size)).mean for f in factors]
        # The best is a plateau, as wide as a pixel and a splat: take its middle.
        plateau = [f for f, mean in zip(factors, means, strict=True) if mean >= max(means) - 0.002]
        factor = math.sqrt(plateau[0] * plateau[-1])
    return make(factor, size)


def _has_background(reconstruction: Reconstruction, mattes: list[np.ndarray]) -> bool:
    """Whether the points outside the mattes mostly lie far outside: they then are not the object's."""
    distances = []
    for i in _evenly_spaced(len(mattes), _COARSE_CAMERAS).tolist():
        matte = downscale(mattes[i], _FINE[0])
        silhouette = (matte > 255 * TRACE).astype(np.uint8)
        camera = reconstruction.cameras[i].resized((matte.shape[1], matte.shape[0]))
        pixels, depth = (result[0] for result in project(reconstruction.points[None], camera))
        pixel = pixels[(depth > 0) & pixels.isfinite().all(1)].clamp(-1e6, 1e6).round().long().numpy()
        pixel = pixel[((pixel >= 0) & (pixel < matte.shape[::-1])).all(1)]
        distance = cv2.distanceTransform(1 - silhouette, cv2.DIST_L2, 5)[pixel[:, 1], pixel[:, 0]]
        distances += [distance[distance > 0] / max(math.sqrt(silhouette.sum()), 1)]
    outside = np.concatenate(distances)
    return bool(len(outside)) and float(np.median(outside)) > _BACKGROUND


def _subsample(reconstruction: Reconstruction, count: int) -> tuple[Reconstruction, Tensor]:
    """The reconstruction with at most `count` of the points, and their rows."""
    total = len(reconstruction.points)
    rows = torch.arange(total) if total <= count else torch.from_numpy(
        np.sort(np.random.default_rng(0).choice(total, count, replace=False)))
    return Reconstruction(reconstruction.cameras, reconstruction.points[rows], reconstruction.images), rows


def _evenly_spaced(count: int, most: int) -> Tensor:
    """At most `most` of the indices below `count`, the first and the last among them."""
    return torch.linspace(0, count - 1, min(count, most)).round().long()
