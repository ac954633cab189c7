# SPDX-License-Identifier: Apache-2.0
"""Whether a scene makes sense: its measurements, remarks on them, and problems with a likely fix.

A problem is something to mend before training; a remark is worth knowing. docs/checking-a-scene.md explains
every line and every name.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.data.cloud_geometry import point_spacing
from npcr.data.scene import find_clouds, find_frames, frame_names
from npcr.errors import SceneError
from npcr.io.camera_files import read_cameras
from npcr.io.images import inspect_image, read_image, read_matte
from npcr.io.points import PointCloud, read_points
from npcr.reconstruction.mattes import coverage
from npcr.reconstruction.progress import Progress
from npcr.scene_check.consistency import SOLID, TRACE, reduced
from npcr.scene_check.diagnosis import Diagnosis, diagnose_colors, diagnose_silhouettes
from npcr.scene_check.hypotheses import Mistake, Reading

_LONGEST = 640  # pixels: to this photographs and mattes are averaged down for all measurements
_MOST_POINTS = 60000  # that measurements over all cameras take


@dataclass(frozen=True)
class Material:
    """One frame of a scene, photographs and mattes reduced."""

    folder: Path
    cameras: Cameras  # at the photographs' size
    images: list[Path]
    photographs: list[np.ndarray]  # (h, w, 3) uint8 each, all of one size
    mattes: list[np.ndarray] | None  # (h, w) uint8 each; None: the whole picture counts
    own_files: bool  # the mattes are files of their own, not alpha channels
    cloud: PointCloud


@dataclass(frozen=True)
class Finding:
    """A problem or a remark."""

    name: str
    text: str
    fix: str = ""


@dataclass
class Report:
    """What a check found."""

    measures: dict[str, Any]  # numbers by name, ready for JSON
    problems: list[Finding] = field(default_factory=list)
    remarks: list[Finding] = field(default_factory=list)


def load_material(folder: str | Path, *, frame: int = 1, mask: bool | None = None,
                  progress: Progress = lambda jobs, count: jobs) -> Material:
    """Read the `frame`-th frame (from 1) of a scene; mask: whether to read mattes, None: where all have one.

    Raises `SceneError` on whatever cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such scene folder")
    if frame < 1:
        raise SceneError(f"--frame is {frame}; frames count from 1")
    place = folder / "img" / frame_names(folder, frame)[frame - 1]
    first = next(iter(sorted(place.glob("img_*"))), None)
    if first is None:
        raise SceneError(f"{place}: has no photograph img_0001 (.jpg, .jpeg, .png)")
    size, _ = inspect_image(first)
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", size)
    try:
        found = find_frames(folder, cameras, frame, mask=mask is not False)[frame - 1]
    except SceneError:
        if mask is not None:
            raise
        found = find_frames(folder, cameras, frame, mask=False)[frame - 1]
    cloud = read_points(find_clouds(folder, frame)[frame - 1])
    with ThreadPoolExecutor(4) as pool:
        jobs = pool.map(_read_reduced, found.images, found.mattes)
        pictures = list(progress(jobs, len(found.images)))
    has_mattes = found.mattes[0] is not None
    return Material(folder, cameras, found.images, [p[..., :3] for p in pictures],
                    [p[..., 3] for p in pictures] if has_mattes else None,
                    any(m not in (None, i) for m, i in zip(found.mattes, found.images, strict=True)), cloud)


def check_scene(material: Material, *, size_raw: Sequence[int] | None = None,
                near_far_size: Sequence[float] | None = None, size_test: Sequence[int] | None = None,
                progress: Progress = lambda jobs, count: jobs) -> Report:
    """Measure a scene and judge it. The options are a configuration's values of these names, where there is one."""
    report = Report({"scene": str(material.folder), "cameras": len(material.cameras),
                     "picture": list(material.cameras.size), "points": len(material.cloud),
                     "point_colors": material.cloud.colors is not None, "mattes": material.mattes is not None})
    if size_raw is not None and list(size_raw) != list(material.cameras.size):
        _check_size(report, size_raw, material.cameras.size)
    _measure_geometry(report, material)
    seen = _measure_views(report, material)
    if material.mattes is not None:
        _measure_mattes(report, material.mattes)
    if seen and near_far_size is not None:
        _measure_depth(report, material, near_far_size, size_test or material.cameras.size)
    _diagnose(report, material, progress)
    return report


# ---- measurements ----

def _check_size(report: Report, size_raw: Sequence[int], size: tuple[int, int]) -> None:
    swapped = list(size_raw) == [size[1], size[0]]
    report.problems.append(Finding(
        "swapped-width-height" if swapped else "size-raw",
        f"INPUT.SIZE_RAW is {list(size_raw)}, the photographs are {size[0]} wide and {size[1]} high"
        + ("; width and height are swapped" if swapped else ""),
        f"Set INPUT.SIZE_RAW: [{size[0]}, {size[1]}]."))


def _measure_geometry(report: Report, material: Material) -> None:
    points, centers = material.cloud.positions, material.cameras.cam_to_world[:, :3, 3].numpy()
    low, high = np.percentile(points, [1, 99], axis=0)
    duplicates = len(points) - len(np.unique(points, axis=0))
    spread = np.linalg.norm(centers - np.median(points, axis=0), axis=1)
    report.measures |= {
        "cloud_low": _rounded(low), "cloud_high": _rounded(high), "cloud_size": _rounded(float((high - low).max())),
        "camera_distance": _rounded([float(spread.min()), float(np.median(spread)), float(spread.max())]),
        "point_spacing": _rounded(point_spacing(points)), "duplicates": duplicates}
    if duplicates > 0.01 * len(points):
        report.remarks.append(Finding("duplicates", f"{duplicates} of {len(points)} points repeat another's position",
                                      "Remove them: they cost time and memory and are never seen."))


def _measure_views(report: Report, material: Material) -> bool:
    """Who sees what; False where nobody sees a point."""
    cloud = torch.from_numpy(_subset(material.cloud.positions, _MOST_POINTS))
    shares, seen = [], torch.zeros(len(cloud), dtype=torch.int32)
    for i in range(len(material.cameras)):
        inside = _in_picture(cloud, material.cameras[i])[0]
        shares.append(float(inside.float().mean()))
        seen += inside
    blind = [i + 1 for i, share in enumerate(shares) if share == 0]
    report.measures |= {"views_per_point": _rounded(float(seen.float().mean())),
                        "points_seen_by_no_camera": _rounded(float((seen == 0).float().mean())),
                        "cameras_that_see_nothing": blind}
    if len(blind) == len(shares):
        report.problems.append(Finding("nothing-seen", "no camera sees a single point of the cloud",
                                       "Cameras and cloud do not share axes, units or place; see below, if a cause "
                                       "was found."))
    elif blind:
        report.problems.append(Finding("blind-cameras", f"{len(blind)} of {len(shares)} cameras see no point: "
                                       + _listed(blind), "Mend or remove these cameras and their photographs."))
    unseen = report.measures["points_seen_by_no_camera"]
    if 0.02 < unseen < 1:
        report.remarks.append(Finding("unseen-points", f"{unseen:.1%} of the points are in no picture",
                                      "Crop the cloud to what the cameras see."))
    return len(blind) < len(shares)


def _measure_mattes(report: Report, mattes: list[np.ndarray]) -> None:
    opaque = [float((m > 250).mean()) for m in mattes]
    empty = [float((m < 5).mean()) for m in mattes]
    partial = [1 - o - e for o, e in zip(opaque, empty, strict=True)]
    blank = [i + 1 for i, m in enumerate(mattes) if not (m > 255 * SOLID).any()]
    border = np.mean([np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]]).mean() / 255 for m in mattes])
    middle = np.mean([m[m.shape[0] // 3:-(m.shape[0] // 3), m.shape[1] // 3:-(m.shape[1] // 3)].mean() / 255
                      for m in mattes])
    report.measures |= {"matte_opaque": _rounded(float(np.mean(opaque))),
                        "matte_partial": _rounded(float(np.mean(partial))),
                        "matte_empty": _rounded(float(np.mean(empty))),
                        "matte_border": _rounded(float(border)), "blank_mattes": blank}
    if blank:
        report.problems.append(Finding("blank-mattes", f"{len(blank)} of {len(mattes)} mattes show nothing: "
                                       + _listed(blank),
                                       "Make these mattes anew (a mask of 0 and 1 must become 0 and 255)."))
    elif max(empty) == 0 and min(opaque) == 1:
        report.remarks.append(Finding("full-mattes", "every matte is opaque throughout",
                                      "Without mattes, set DATASETS.MASK: false."))
    elif border > 0.7 and middle < border - 0.2:
        report.problems.append(_INVERTED)


_INVERTED = Finding("inverted-mattes", "the mattes are inverted: they are opaque where the object is not",
                    "Write 255 - matte: the object is white, the background black.")


def _measure_depth(report: Report, material: Material, near_far_size: Sequence[float],
                   size_test: Sequence[int]) -> None:
    cameras = material.cameras.resized((int(size_test[0]), int(size_test[1])))
    cloud = torch.from_numpy(_subset(material.cloud.positions, 20000))
    depths = torch.cat([depth[inside] for inside, depth in
                        (_in_picture(cloud, cameras[i]) for i in range(len(cameras)))])
    low, middle, high = (float(v) for v in np.percentile(depths.numpy(), [0.5, 50, 99.5]))
    near, far, most = near_far_size
    radius = most * min(max(1 - (middle - near) / (far - near), 0), 1)
    gap = float(cameras.intrinsics[:, 0, 0].median()) * report.measures["point_spacing"] / middle
    # Covered are round(u - r)..round(u + r): 2 r + 1 pixels on average.
    report.measures |= {"near": near, "far": far, "depths": _rounded([low, middle, high]),
                        "splat_pixels": _rounded(2 * radius + 1), "gap_pixels": _rounded(gap)}
    advice = (f"Set INPUT.NEAR_FAR_SIZE: [{0.98 * low:.4g}, {2 * middle:.4g}, ...]; tools/carve_hull.py does for its "
              "cloud.")
    if not near < middle < far:
        report.problems.append(Finding("near-far", f"near {near:g} and far {far:g} do not enclose the points' depths, "
                                       f"{low:.4g} to {high:.4g}: all splats have one size", advice))
    elif near < 0.5 * low or near > middle or high > far * 1.02:
        report.remarks.append(Finding("near-far", f"near {near:g} and far {far:g} do not follow the points' depths, "
                                      f"{low:.4g} to {high:.4g}", advice))
    if gap > 1.7 * (2 * radius + 1):
        report.remarks.append(Finding("splats-too-small", f"splats are {2 * radius + 1:.2g} pixels wide, the points "
                                      f"{gap:.2g} pixels apart: what is behind shows through",
                                      "Raise the third number of INPUT.NEAR_FAR_SIZE, or use more points."))
    elif 2 * radius + 1 > 4 * max(gap, 1):
        report.remarks.append(Finding("splats-too-large", f"splats are {2 * radius + 1:.2g} pixels wide, the points "
                                      f"{gap:.2g} pixels apart: fine detail is covered up",
                                      "Lower the third number of INPUT.NEAR_FAR_SIZE."))


# ---- agreement ----

def _diagnose(report: Report, material: Material, progress: Progress) -> None:
    reading = Reading(material.cameras, torch.from_numpy(material.cloud.positions),
                      torch.arange(len(material.cameras)))
    if material.mattes is None:
        diagnosis = diagnose_colors(reading, material.photographs, material.cloud.colors, progress=progress)
        report.measures |= {"evidence": "colors", "color_correlation": _rounded(diagnosis.as_read.consistent)}
        _conclude(report, diagnosis)
        return
    _measure_fit(report, material)
    if any(p.name in ("inverted-mattes", "blank-mattes") for p in report.problems):
        return  # mattes like these say nothing about cameras
    diagnosis = diagnose_silhouettes(reading, material.mattes, progress=progress)
    report.measures |= {"evidence": "mattes", "points_within_all_mattes": _rounded(diagnosis.as_read.consistent),
                        "covered_by_them": _rounded(diagnosis.as_read.covered)}
    if diagnosis.background:
        report.remarks.append(Finding("surroundings", f"{1 - diagnosis.as_read.consistent:.0%} of the points lie far "
                                      "outside the mattes; they seem to be the object's surroundings",
                                      "Crop the cloud to the object: these points cost time and cannot be seen."))
    order = bool(diagnosis.mistakes) and diagnosis.mistakes[0].name in _ORDER
    if order and material.own_files:
        diagnosis = _mattes_or_photographs(diagnosis, reading, material)
    elif not diagnosis.mistakes and (material.own_files or not diagnosis.decided):
        # Photographs may be out of order although their mattes are not; colors also decide where mattes do not.
        by_color = diagnose_colors(reading, material.photographs, material.cloud.colors, progress=progress,
                                     order_only=diagnosis.decided)
        if by_color.mistakes or (by_color.decided and not diagnosis.decided):
            diagnosis = by_color
            report.measures["evidence"] = "colors"
    _conclude(report, diagnosis)
    if not diagnosis.mistakes:
        _find_odd_cameras(report, material)


_ORDER = ("shifted-photographs", "reversed-order", "alphabetical-order")


def _mattes_or_photographs(diagnosis: Diagnosis, reading: Reading, material: Material) -> Diagnosis:
    """The mattes are out of order: alone, where the photographs agree with the cameras as they are."""
    photographs = diagnose_colors(reading, material.photographs, material.cloud.colors, order_only=True)
    if photographs.mistakes or not photographs.decided:
        return diagnosis
    old = diagnosis.mistakes[0]
    named = Mistake("shifted-mattes" if old.name == "shifted-photographs" else "mattes-order",
                    old.found.replace("photograph", "matte") + "; the photographs are in their places",
                    "Rename the mattes: each has the number of its photograph.", old.mend)
    return Diagnosis([named], diagnosis.as_read, diagnosis.mended, True)


def _conclude(report: Report, diagnosis: Diagnosis) -> None:
    mattes = report.measures["evidence"] == "mattes"
    if diagnosis.mistakes:
        assert diagnosis.mended is not None
        first, *others = diagnosis.mistakes
        before, after = diagnosis.as_read.mean, diagnosis.mended.mean
        text = (f"{first.found}. Mended, cloud and pictures agree by {after:.2f} instead of {before:.2f}"
                + (f". As likely: {'; or '.join(m.found for m in others[:2])}" if others else ""))
        report.measures["also_likely"] = [mistake.name for mistake in others]
        report.problems.append(Finding(first.name, text, first.fix))
    elif not diagnosis.decided and mattes:
        report.problems.append(Finding(
            "no-agreement", f"cloud and mattes do not agree: {diagnosis.as_read.consistent:.0%} of the points lie "
            f"within all mattes and cover {diagnosis.as_read.covered:.0%} of them; no known mistake explains it",
            "Look at the pictures. Do cloud, cameras and photographs belong to one reconstruction?"))
    elif not diagnosis.decided:
        report.remarks.append(Finding(
            "cannot-tell", "whether cameras and cloud fit the photographs cannot be told: there are no mattes"
            f" to go by, and colors agree by only {diagnosis.as_read.consistent:.2f}",
            "Look at the pictures: do the points lie on the things they belong to?"))


def _measure_fit(report: Report, material: Material) -> None:
    """Shares of matte covered, of points spilled, and of points outside all mattes."""
    assert material.mattes is not None
    height, width = material.mattes[0].shape
    cameras = material.cameras.resized((width, height))
    points = _subset(material.cloud.positions, _MOST_POINTS)
    # Fewer points than there are cover less: the radius grows as their spacing does.
    radius = 2.0 * max(1.0, np.sqrt(float(np.mean([(m > 127).sum() for m in material.mattes])) / len(points)))
    covered = coverage(points, cameras, material.mattes, radius, SOLID)[0]
    spilled = coverage(points, cameras, material.mattes, radius, TRACE)[1]
    outside = torch.ones(len(points), dtype=torch.bool)
    cloud = torch.from_numpy(points)
    for i, matte in enumerate(material.mattes):
        inside, _, place = _places(cloud, cameras[i])
        shown = torch.from_numpy(matte > 255 * TRACE)
        outside[inside] &= ~shown[place[inside, 1], place[inside, 0]]
    report.measures |= {"covered": _rounded(covered), "spilled": _rounded(spilled),
                        "points_outside_all_mattes": _rounded(float(outside.float().mean()))}


def _find_odd_cameras(report: Report, material: Material) -> None:
    """Single cameras in which the cloud hardly meets the matte, though it does in most."""
    assert material.mattes is not None
    height, width = material.mattes[0].shape
    cameras = material.cameras.resized((width, height))
    points = _subset(material.cloud.positions, 10000)
    scores = []
    for i, matte in enumerate(material.mattes):
        covered, spilled = coverage(points, cameras[i], [matte], 4.0, TRACE)
        scores.append(covered * (1 - spilled))
    odd = [i + 1 for i, score in enumerate(scores) if score < 0.5 * float(np.median(scores))]
    if odd and len(odd) < 0.34 * len(scores):
        report.problems.append(Finding("odd-cameras", f"{len(odd)} of {len(scores)} cameras disagree with the cloud, "
                                       f"unlike the others: {_listed(odd)}",
                                       "Look at their pictures; mend or remove these cameras and photographs."))


def _in_picture(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    """(N,) whether points are in one camera's picture, and their depth."""
    return _places(points, camera)[:2]


def _places(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """As `_in_picture`, with the pixel (N, 2) int64, 0 outside."""
    pixels, depth = (result[0] for result in project(points[None], camera))
    inside = (depth > 0) & (pixels >= -0.5).all(1) & (pixels < torch.tensor(camera.size) - 0.5).all(1)
    return inside, depth, torch.where(inside[:, None], pixels, torch.zeros(())).add(0.5).floor().long()


def _read_reduced(image: Path, matte: Path | None) -> np.ndarray:
    """(h, w, 3 or 4) uint8, colors averaged as they are."""
    pixels = read_image(image)
    if matte is None:
        return reduced(pixels[..., :3], _LONGEST)
    alpha = pixels[..., 3] if matte == image else read_matte(matte)
    return reduced(np.dstack([pixels[..., :3], alpha]), _LONGEST)


def _subset(points: np.ndarray, limit: int) -> np.ndarray:
    if len(points) <= limit:
        return points
    return points[np.random.default_rng(0).choice(len(points), limit, replace=False)]


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")


def _rounded(value: Any) -> Any:
    if isinstance(value, (list, np.ndarray)):
        return [_rounded(float(v)) for v in value]
    return float(f"{value:.4g}")
