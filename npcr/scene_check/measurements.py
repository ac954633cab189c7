# SPDX-License-Identifier: Apache-2.0
"""Measurements of a scene, each with the problems and remarks that follow from it alone.

Every function adds to a `Report`; docs/checking-a-scene.md explains each number and each name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.command_names import as_typed
from npcr.data.cloud_geometry import MAX_ROUNDING, point_spacing, random_subset, rounding_in_pixels
from npcr.reconstruction.mattes import coverage
from npcr.scene_check.consistency import SOLID, TRACE
from npcr.scene_check.findings import Finding, Report, format_numbers, round_values
from npcr.scene_check.scene_data import SceneData

_MOST_POINTS = 60000  # that measurements over all cameras take


def check_raw_size(report: Report, size_raw: Sequence[int], size: tuple[int, int]) -> None:
    """Report a configured size that is not the photographs' as a problem.

    Args:
        report: is added to.
        size_raw: INPUT.SIZE_RAW, [width, height].
        size: (width, height) of the photographs.
    """
    if list(size_raw) == list(size):
        return
    swapped = list(size_raw) == [size[1], size[0]]
    report.problems.append(Finding(
        "swapped-width-height" if swapped else "size-raw",
        f"INPUT.SIZE_RAW is {list(size_raw)}, the photographs are {size[0]} wide and {size[1]} high"
        + ("; width and height are swapped" if swapped else ""),
        f"Set INPUT.SIZE_RAW: [{size[0]}, {size[1]}]."))


def measure_geometry(report: Report, data: SceneData) -> None:
    """Measure the cloud's extent, spacing and duplicates, and the cameras' distances from it.

    Args:
        report: is added to.
        data: the scene.
    """
    points, centers = data.cloud.positions, data.cameras.cam_to_world[:, :3, 3].numpy()
    low, high = np.percentile(points, [1, 99], axis=0)
    duplicates = len(points) - len(np.unique(points, axis=0))
    distances = np.linalg.norm(centers - np.median(points, axis=0), axis=1)
    report.measures |= {
        "cloud_low": round_values(low), "cloud_high": round_values(high),
        "cloud_size": round_values(float((high - low).max())),
        "camera_distance": round_values([distances.min(), np.median(distances), distances.max()]),
        "point_spacing": round_values(point_spacing(points)), "duplicates": duplicates}
    if len(centers) > 1 and np.ptp(centers, axis=0).max() <= 1e-5 * max(distances.max(), np.abs(centers).max()):
        report.problems.append(Finding("one-place", f"all {len(centers)} cameras stand at one place, "
                                       f"({', '.join(f'{v:.4g}' for v in centers[0])})",
                                       "Write each camera's center as the last three numbers of its row in "
                                       "CamPose.inf; transposed matrices, for one, lose it."))
    if duplicates > 0.01 * len(points):
        report.remarks.append(Finding("duplicates", f"{duplicates} of {len(points)} points repeat another's position",
                                      "Remove them: they cost time and memory and are never seen."))
    rounding = rounding_in_pixels(points, data.cameras)
    if rounding > MAX_ROUNDING:
        report.problems.append(Finding(
            "far-from-origin", f"coordinates are so large that float32 misplaces points by {rounding:.2g} pixels",
            "Subtract an offset from cameras and cloud, before either is rounded to float32."))


def measure_views(report: Report, data: SceneData) -> bool:
    """Measure how many cameras have each point in their image.

    Args:
        report: is added to.
        data: the scene.

    Returns:
        Whether any camera has any point in its image.
    """
    cloud = torch.from_numpy(random_subset(data.cloud.positions, _MOST_POINTS))
    shares, views = [], torch.zeros(len(cloud), dtype=torch.int32)
    for i in range(len(data.cameras)):
        inside = _project_inside(cloud, data.cameras[i])[0]
        shares.append(float(inside.float().mean()))
        views += inside
    blind = [i + 1 for i, share in enumerate(shares) if share == 0]
    report.measures |= {"views_per_point": round_values(float(views.float().mean())),
                        "points_seen_by_no_camera": round_values(float((views == 0).float().mean())),
                        "cameras_that_see_nothing": blind}
    if len(blind) == len(shares):
        report.problems.append(Finding("nothing-seen", "no camera sees a single point of the cloud",
                                       "Cameras and cloud do not share axes, units or place; see below, if a cause "
                                       "was found."))
    elif blind:
        report.problems.append(Finding("blind-cameras", f"{len(blind)} of {len(shares)} cameras see no point: "
                                       + format_numbers(blind),
                                       "Mend or remove these cameras and their photographs."))
    unseen = report.measures["points_seen_by_no_camera"]
    if 0.02 < unseen < 1:
        report.remarks.append(Finding("unseen-points", f"{unseen:.1%} of the points are in no picture",
                                      "Crop the cloud to what the cameras see."))
    return len(blind) < len(shares)


def measure_mattes(report: Report, mattes: list[np.ndarray]) -> None:
    """Measure how much of the mattes is opaque, partial and empty, and find blank and inverted ones.

    Args:
        report: is added to.
        mattes: (h, w) uint8 each, all of one size.
    """
    opaque = [float((m > 250).mean()) for m in mattes]
    empty = [float((m < 5).mean()) for m in mattes]
    partial = [1 - o - e for o, e in zip(opaque, empty, strict=True)]
    blank = [i + 1 for i, m in enumerate(mattes) if not (m > 255 * SOLID).any()]
    border = np.mean([np.concatenate([m[0], m[-1], m[:, 0], m[:, -1]]).mean() / 255 for m in mattes])
    middle = np.mean([m[m.shape[0] // 3:-(m.shape[0] // 3), m.shape[1] // 3:-(m.shape[1] // 3)].mean() / 255
                      for m in mattes])
    report.measures |= {"matte_opaque": round_values(float(np.mean(opaque))),
                        "matte_partial": round_values(float(np.mean(partial))),
                        "matte_empty": round_values(float(np.mean(empty))),
                        "matte_border": round_values(float(border)), "blank_mattes": blank}
    if blank:
        report.problems.append(Finding("blank-mattes", f"{len(blank)} of {len(mattes)} mattes show nothing: "
                                       + format_numbers(blank),
                                       "Make these mattes anew (a mask of 0 and 1 must become 0 and 255)."))
    elif max(empty) == 0 and min(opaque) == 1:
        report.remarks.append(Finding("full-mattes", "every matte is opaque throughout",
                                      "Without mattes, set DATASETS.MASK: false."))
    elif border > 0.7 and middle < border - 0.2:
        report.problems.append(Finding("inverted-mattes", "the mattes are inverted: they are opaque where the object "
                                       "is not", "Write 255 - matte: the object is white, the background black."))


def measure_depth(report: Report, data: SceneData, near_far_size: Sequence[float], size_test: Sequence[int]) -> None:
    """Measure the points' depths, and compare splats with the gaps between projected points.

    Args:
        report: is added to; has the measures of `measure_geometry`.
        data: the scene; a camera sees a point.
        near_far_size: INPUT.NEAR_FAR_SIZE, [near, far, max_size].
        size_test: INPUT.SIZE_TEST, [width, height].
    """
    cameras = data.cameras.resized((int(size_test[0]), int(size_test[1])))
    cloud = torch.from_numpy(random_subset(data.cloud.positions, 20000))
    depths = torch.cat([depth[inside] for inside, depth, _ in
                        (_project_inside(cloud, cameras[i]) for i in range(len(cameras)))])
    low, median, high = (float(v) for v in np.percentile(depths.numpy(), [0.5, 50, 99.5]))
    near, far, max_size = near_far_size
    radius = max_size * min(max(1 - (median - near) / (far - near), 0), 1)
    splat = 2 * radius + 1  # covered are round(u - r)..round(u + r): so many pixels on average
    gap = float(cameras.intrinsics[:, 0, 0].median()) * report.measures["point_spacing"] / median
    report.measures |= {"near": near, "far": far, "depths": round_values([low, median, high]),
                        "splat_pixels": round_values(splat), "gap_pixels": round_values(gap)}
    advice = (f"Set INPUT.NEAR_FAR_SIZE: [{0.98 * low:.4g}, {2 * median:.4g}, ...]; {as_typed('npcr carve')} does for "
              "its cloud.")
    if not near < median < far:
        report.problems.append(Finding("near-far", f"near {near:g} and far {far:g} do not enclose the points' depths, "
                                       f"{low:.4g} to {high:.4g}: all splats have one size", advice))
    elif near < 0.5 * low or near > median or high > far * 1.02:
        report.remarks.append(Finding("near-far", f"near {near:g} and far {far:g} do not follow the points' depths, "
                                      f"{low:.4g} to {high:.4g}", advice))
    widths = f"splats are {splat:.2g} pixels wide, the points {gap:.2g} pixels apart"
    if gap > 1.7 * splat:
        report.remarks.append(Finding("splats-too-small", f"{widths}: what is behind shows through",
                                      "Raise the third number of INPUT.NEAR_FAR_SIZE, or use more points."))
    elif splat > 4 * max(gap, 1):
        report.remarks.append(Finding("splats-too-large", f"{widths}: fine detail is covered up",
                                      "Lower the third number of INPUT.NEAR_FAR_SIZE."))


def measure_silhouette_fit(report: Report, data: SceneData) -> None:
    """Measure the shares of the mattes covered, of points spilled, and of points outside all mattes.

    Args:
        report: is added to.
        data: the scene; it has mattes.
    """
    cameras, mattes = _matte_cameras(data)
    points = random_subset(data.cloud.positions, _MOST_POINTS)
    # Fewer points than there are cover less: the radius grows as their spacing does.
    radius = 2.0 * max(1.0, np.sqrt(float(np.mean([(m > 127).sum() for m in mattes])) / len(points)))
    covered = coverage(points, cameras, mattes, radius, SOLID)[0]
    spilled = coverage(points, cameras, mattes, radius, TRACE)[1]
    outside = torch.ones(len(points), dtype=torch.bool)
    cloud = torch.from_numpy(points)
    for i, matte in enumerate(mattes):
        inside, _, pixel = _project_inside(cloud, cameras[i])
        in_matte = torch.from_numpy(matte > 255 * TRACE)
        outside[inside] &= ~in_matte[pixel[inside, 1], pixel[inside, 0]]
    report.measures |= {"covered": round_values(covered), "spilled": round_values(spilled),
                        "points_outside_all_mattes": round_values(float(outside.float().mean()))}


def find_outlier_cameras(report: Report, data: SceneData) -> None:
    """Report single cameras in which the cloud hardly meets the matte, though it does in most.

    Args:
        report: is added to.
        data: the scene; it has mattes.
    """
    cameras, mattes = _matte_cameras(data)
    points = random_subset(data.cloud.positions, 10000)
    scores = []
    for i, matte in enumerate(mattes):
        covered, spilled = coverage(points, cameras[i], [matte], 4.0, TRACE)
        scores.append(covered * (1 - spilled))
    outliers = [i + 1 for i, score in enumerate(scores) if score < 0.5 * float(np.median(scores))]
    if outliers and len(outliers) < 0.34 * len(scores):
        report.problems.append(Finding("odd-cameras", f"{len(outliers)} of {len(scores)} cameras disagree with the "
                                       f"cloud, unlike the others: {format_numbers(outliers)}",
                                       "Look at their pictures; mend or remove these cameras and photographs."))


def _matte_cameras(data: SceneData) -> tuple[Cameras, list[np.ndarray]]:
    """The cameras at the mattes' size, and the mattes."""
    assert data.mattes is not None
    height, width = data.mattes[0].shape
    return data.cameras.resized((width, height)), data.mattes


def _project_inside(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) whether each point is in one camera's image; depth (N,); pixel (N, 2) int64 x and y, 0 outside."""
    pixels, depth = (result[0] for result in project(points[None], camera))
    inside = (depth > 0) & (pixels >= -0.5).all(1) & (pixels < torch.tensor(camera.size) - 0.5).all(1)
    return inside, depth, torch.where(inside[:, None], pixels, torch.zeros(())).add(0.5).floor().long()
