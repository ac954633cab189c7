# SPDX-License-Identifier: Apache-2.0
"""Check a scene before training: measure it, and find the wrong convention that explains what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from npcr.progress import Progress, no_progress
from npcr.scene_check.consistency import Consistency
from npcr.scene_check.diagnosis import Diagnosis, diagnose_photographs, diagnose_silhouettes
from npcr.scene_check.findings import Finding, Report, round_values
from npcr.scene_check.hypotheses import Hypothesis, Reconstruction
from npcr.scene_check.measurements import (
    check_raw_size,
    find_outlier_cameras,
    measure_depth,
    measure_geometry,
    measure_mattes,
    measure_silhouette_fit,
    measure_views,
)
from npcr.scene_check.scene_data import SceneData

_MOST = 0.5  # share of the points: where fewer lie within the mattes, the cloud is not the object's
_SLIGHT_GROWTH = 1.2  # of a scale: wide mattes explain as much
_ORDER = ("shifted-photographs", "reversed-order", "alphabetical-order")


def check_scene(data: SceneData, *, size_raw: Sequence[int] | None = None,
                near_far_size: Sequence[float] | None = None, size_test: Sequence[int] | None = None,
                progress: Progress = no_progress) -> Report:
    """Measure a scene and diagnose what does not fit.

    Args:
        data: the scene.
        size_raw: INPUT.SIZE_RAW of the configuration, [width, height]; None: there is none to check.
        near_far_size: INPUT.NEAR_FAR_SIZE of the configuration, [near, far, max_size]; None: the same.
        size_test: INPUT.SIZE_TEST of the configuration, [width, height]; None: the photographs' size.
        progress: wraps the iteration over what is tried.

    Returns:
        Measurements, problems and remarks.
    """
    report = Report({"scene": str(data.folder), "cameras": len(data.cameras), "picture": list(data.cameras.size),
                     "points": len(data.cloud), "point_colors": data.cloud.colors is not None,
                     "mattes": data.mattes is not None})
    if size_raw is not None:
        check_raw_size(report, size_raw, data.cameras.size)
    measure_geometry(report, data)
    anything_visible = measure_views(report, data)
    if data.mattes is not None:
        measure_mattes(report, data.mattes)
    if anything_visible and near_far_size is not None:
        measure_depth(report, data, near_far_size, size_test or data.cameras.size)
    reconstruction = Reconstruction(data.cameras, torch.from_numpy(data.cloud.positions),
                                    torch.arange(len(data.cameras)))
    if data.mattes is None:
        _check_by_photographs(report, data, reconstruction, progress)
    else:
        measure_silhouette_fit(report, data)
        if any(problem.name in ("inverted-mattes", "blank-mattes") for problem in report.problems):
            report.remarks.append(Finding("not-checked", "cameras, photographs and cloud were not compared",
                                          "Mend the mattes, then check again."))
        else:
            _check_by_mattes(report, data, data.mattes, reconstruction, progress)
    return report


def _check_by_photographs(report: Report, data: SceneData, reconstruction: Reconstruction,
                          progress: Progress) -> None:
    diagnosis = diagnose_photographs(reconstruction, data.photographs, data.cloud.colors, progress=progress)
    report.measures |= {"evidence": "colors", "color_correlation": round_values(diagnosis.before.point_score)}
    _add_finding(report, diagnosis)


def _check_by_mattes(report: Report, data: SceneData, mattes: list[np.ndarray], reconstruction: Reconstruction,
                     progress: Progress) -> None:
    diagnosis = diagnose_silhouettes(reconstruction, mattes, progress=progress)
    before = diagnosis.before
    report.measures |= {"evidence": "mattes", "points_within_all_mattes": round_values(before.point_score),
                        "covered_by_them": round_values(before.coverage)}
    if diagnosis.background:
        _add_surroundings(report, before)
    wrong_order = bool(diagnosis.hypotheses) and diagnosis.hypotheses[0].name in _ORDER
    if wrong_order and data.separate_mattes:
        diagnosis = _mattes_or_photographs(diagnosis, reconstruction, data)
    elif not diagnosis.hypotheses and (data.separate_mattes or not diagnosis.decided):
        # Photographs may be out of order although their mattes are not; colors also decide where mattes do not.
        by_color = diagnose_photographs(reconstruction, data.photographs, data.cloud.colors, progress=progress,
                                        order_only=diagnosis.decided)
        if by_color.hypotheses or (by_color.decided and not diagnosis.decided):
            diagnosis = by_color
            report.measures["evidence"] = "colors"
            if not diagnosis.hypotheses and before.point_score < _MOST:
                # Points that mostly fall into mattes, but not into all, run out of the pictures, or behind cameras.
                if report.measures["spilled"] < 0.5 * (1 - before.point_score):
                    _add_disagreement(report, before, "colors agree, though")
                else:
                    _add_surroundings(report, before)
    _add_finding(report, diagnosis)
    if not diagnosis.hypotheses:
        find_outlier_cameras(report, data)


def _mattes_or_photographs(diagnosis: Diagnosis, reconstruction: Reconstruction, data: SceneData) -> Diagnosis:
    """Blame the mattes' order alone, where the photographs agree with the cameras as they are."""
    photographs = diagnose_photographs(reconstruction, data.photographs, data.cloud.colors, order_only=True)
    if photographs.hypotheses or not photographs.decided:
        return diagnosis
    wrong_order = diagnosis.hypotheses[0]
    of_mattes = Hypothesis(
        "shifted-mattes" if wrong_order.name == "shifted-photographs" else "mattes-order",
        wrong_order.description.replace("photograph", "matte") + "; the photographs are in their places",
        "Rename the mattes: each has the number of its photograph.", wrong_order.correct)
    return Diagnosis([of_mattes], diagnosis.before, diagnosis.after, True)


def _add_surroundings(report: Report, before: Consistency) -> None:
    report.remarks.append(Finding("surroundings", f"{1 - before.point_score:.0%} of the points lie far outside "
                                  "the mattes; they seem to be the object's surroundings",
                                  "Crop the cloud to the object: these points cost time and cannot be seen."))


def _add_disagreement(report: Report, before: Consistency, reason: str) -> None:
    report.problems.append(Finding(
        "no-agreement", f"cloud and mattes do not agree: {before.point_score:.0%} of the points lie within all "
        f"mattes and cover {before.coverage:.0%} of them; {reason}",
        "Look at the pictures. Do cloud, cameras and photographs belong to one reconstruction, and does the cloud keep "
        "to the object?"))


def _add_finding(report: Report, diagnosis: Diagnosis) -> None:
    before = diagnosis.before
    if diagnosis.hypotheses:
        assert diagnosis.after is not None
        first, *others = diagnosis.hypotheses
        text = (f"{first.description}. Mended, cloud and pictures agree by {diagnosis.after.mean:.2f} instead of "
                f"{before.mean:.2f}"
                + (f". As likely: {'; or '.join(other.description for other in others[:2])}" if others else ""))
        report.measures["also_likely"] = [other.name for other in others]
        fix = first.fix
        if report.measures["evidence"] == "mattes" and 1 < first.factor < _SLIGHT_GROWTH:
            fix += " Mattes that are wider than the object look the same: do their outlines keep to it?"
        report.problems.append(Finding(first.name, text, fix))
    elif not diagnosis.decided and report.measures["evidence"] == "mattes":
        _add_disagreement(report, before, "no known mistake explains it")
    elif not diagnosis.decided:
        report.remarks.append(Finding(
            "cannot-tell", "whether cameras and cloud fit the photographs cannot be told: there are no mattes"
            f" to go by, and colors agree by only {before.point_score:.2f}",
            "Look at the pictures: do the points lie on the things they belong to?"))
