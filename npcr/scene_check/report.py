# SPDX-License-Identifier: Apache-2.0
"""The report of a check: its text, and images of the cloud over photographs and of the cameras around the cloud."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from npcr.cameras import project
from npcr.io.images import read_image, write_image
from npcr.progress import Progress, no_progress
from npcr.reconstruction.mattes import coverage
from npcr.scene_check.consistency import TRACE
from npcr.scene_check.findings import Finding, Report
from npcr.scene_check.scene_data import SceneData
from npcr.visualization.preview import contact_sheet, draw_cameras, draw_projection

_DIRECTIONS = {"front": (0.62, -1.0, 0.62), "side": (1.0, 0.05, 0.1), "top": (0.02, -0.05, 1.0)}
_LONGEST_SIDE = 1200  # pixels, of an image
_MOST_POINTS = 60000


def format_report(report: Report, images: Sequence[Path] = ()) -> str:
    """Write a report as text (docs/checking-a-scene.md explains its lines).

    Args:
        report: of the check.
        images: files of `write_images`, which are named too.

    Returns:
        Measurements, remarks, problems and images, a line each.
    """
    lines = [f"{name + ':':12s}{text}" for name, text in _format_measures(report.measures)]
    for kind, findings in (("remark", report.remarks), ("PROBLEM", report.problems)):
        for finding in findings:
            lines += _format_finding(kind, finding)
    if images:
        lines.append(f"{'pictures:':12s}{images[0].parent}: {', '.join(p.name for p in images[:2])} and "
                     f"{len(images) - 2} more")
    count = len(report.problems)
    lines.append(f"{count} problem{'s' if count != 1 else ''} found" if count else "nothing wrong was found")
    return "\n".join(lines)


def write_images(folder: Path, data: SceneData, views: int, *, progress: Progress = no_progress) -> list[Path]:
    """Write contact_sheet.png, cameras.png, and camera_NNNN.png of some cameras.

    Args:
        folder: of the files.
        data: the scene.
        views: number of cameras, which are evenly chosen.
        progress: wraps the iteration over the cameras.

    Returns:
        The files in this order.
    """
    points = data.cloud.positions
    chosen = np.sort(np.random.default_rng(0).permutation(len(points))[:_MOST_POINTS])
    points = points[chosen]
    count = len(data.cameras)
    numbers = np.unique(np.linspace(0, count - 1, min(views, count)).round().astype(int)).tolist()
    files, tiles = [], []
    for i in progress(numbers, len(numbers)):
        tiles.append(_draw_over_photograph(data, points, i))
        files.append(folder / f"camera_{i + 1:04d}.png")
        write_image(files[-1], tiles[-1])
    cameras = data.cameras
    angle = np.degrees(2 * np.arctan(0.5 * cameras.size[0] / cameras.intrinsics[:, 0, 0].numpy()))
    colors = None if data.cloud.colors is None else data.cloud.colors[chosen]
    perspectives = [draw_cameras(cameras.cam_to_world.numpy(), field_of_view=angle, points=points, colors=colors,
                                 path=False, direction=direction) for direction in _DIRECTIONS.values()]
    for name, image in zip(_DIRECTIONS, perspectives, strict=True):
        cv2.putText(image, f"from the {name}", (12, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (90, 90, 90), 2, cv2.LINE_AA)
    sheets = [folder / "contact_sheet.png", folder / "cameras.png"]
    write_image(sheets[0], contact_sheet(tiles, min(4, len(tiles))))
    write_image(sheets[1], contact_sheet(perspectives, 3, 960))
    return sheets + files


def _format_measures(m: dict[str, Any]) -> list[tuple[str, str]]:
    size = "x".join(map(str, m["picture"]))
    lines = [
        ("scene", m["scene"]),
        ("cameras", f"{m['cameras']}, pictures of {size}, {'with' if m['mattes'] else 'without'} mattes"),
        ("cloud", f"{m['points']} points {'with' if m['point_colors'] else 'without'} colors, "
                  f"{m['duplicates']} duplicates, spaced {m['point_spacing']:g}"),
        ("extent", f"{_format_point(m['cloud_low'])} to {_format_point(m['cloud_high'])} (without the outermost "
                   f"hundredth), longest side {m['cloud_size']:g}"),
        ("distance", "cameras stand {:g} to {:g} (median {:g}) from the cloud's middle".format(
            m["camera_distance"][0], m["camera_distance"][2], m["camera_distance"][1])),
        ("seen", f"a point is in {m['views_per_point']:.1f} pictures; {m['points_seen_by_no_camera']:.2%} are in none; "
                 f"{len(m['cameras_that_see_nothing'])} cameras see nothing")]
    if "near" in m:
        lines += [("depth", "{:.4g} to {:.4g} (median {:.4g}); configured near {:g}, far {:g}".format(
            m["depths"][0], m["depths"][2], m["depths"][1], m["near"], m["far"])),
                  ("splats", f"{m['splat_pixels']:.2f} pixels wide, points {m['gap_pixels']:.2f} pixels apart, "
                             "at the median depth and SIZE_TEST")]
    if m["mattes"]:
        lines.append(("mattes", f"{m['matte_opaque']:.1%} opaque, {m['matte_partial']:.1%} partial, "
                                f"{m['matte_empty']:.1%} empty"))
    if "covered" in m:
        lines.append(("fit", f"points cover {m['covered']:.2%} of the mattes, {m['spilled']:.2%} of them spill, "
                             f"{m['points_outside_all_mattes']:.2%} lie outside all mattes"))
    if "points_within_all_mattes" in m:
        lines.append(("agreement", f"{m['points_within_all_mattes']:.1%} of the points lie within (nearly) all mattes "
                                   f"and cover {m['covered_by_them']:.1%} of them"))
    if "color_correlation" in m:
        lines.append(("agreement", f"colors where points fall correlate by {m['color_correlation']:.2f}"))
    return lines


def _format_finding(kind: str, finding: Finding) -> list[str]:
    text = f"{kind}: {finding.name}: {finding.text}."
    fix = [f"  fix: {finding.fix}"] if finding.fix else []
    return [line for part in (text, *fix) for line in textwrap.wrap(part, 118, subsequent_indent="    ")]


def _format_point(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"


def _draw_over_photograph(data: SceneData, points: np.ndarray, i: int) -> np.ndarray:
    """The cloud over the i-th photograph, with the matte's outline and what it covers."""
    width, height = data.cameras.size
    scale = min(1.0, _LONGEST_SIDE / max(width, height))
    camera = data.cameras[i].resized((round(width * scale), round(height * scale)))
    pixels, depth = (result[0].numpy() for result in project(torch.from_numpy(points)[None], camera))
    front = depth > 0
    caption, matte = f"{i + 1}: {data.images[i].name}", None
    if data.mattes is not None:
        matte = data.mattes[i]
        reduced = data.cameras[i].resized((matte.shape[1], matte.shape[0]))
        covered = coverage(points, reduced, [matte])[0]
        spilled = coverage(points, reduced, [matte], threshold=TRACE)[1]
        caption += f"  covered {covered:.1%}  spilled {spilled:.1%}"
    photograph = read_image(data.images[i])[..., :3]
    return draw_projection(photograph, pixels[front], depth[front], size=camera.size, matte=matte, caption=caption)
