# SPDX-License-Identifier: Apache-2.0
"""The report of a scene's check, for reading."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from npcr.scene_check.check import Finding, Report


def as_text(report: Report, pictures: Sequence[Path] = ()) -> str:
    """Measurements, remarks, problems and pictures, a line each; docs/checking-a-scene.md explains them."""
    lines = [f"{name + ':':12s}{text}" for name, text in _measures(report.measures)]
    for kind, findings in (("remark", report.remarks), ("PROBLEM", report.problems)):
        for finding in findings:
            lines += _wrapped(kind, finding)
    if pictures:
        lines.append(f"{'pictures:':12s}{pictures[0].parent}: {', '.join(p.name for p in pictures[:2])} and "
                     f"{len(pictures) - 2} more")
    count = len(report.problems)
    lines.append(f"{count} problem{'s' if count != 1 else ''} found" if count else "nothing wrong was found")
    return "\n".join(lines)


def _measures(m: dict[str, Any]) -> list[tuple[str, str]]:
    size = "x".join(map(str, m["picture"]))
    lines = [
        ("scene", m["scene"]),
        ("cameras", f"{m['cameras']}, pictures of {size}, {'with' if m['mattes'] else 'without'} mattes"),
        ("cloud", f"{m['points']} points {'with' if m['point_colors'] else 'without'} colors, "
                  f"{m['duplicates']} duplicates, spaced {m['point_spacing']:g}"),
        ("extent", f"{_triple(m['cloud_low'])} to {_triple(m['cloud_high'])} (without the outermost hundredth), "
                   f"longest side {m['cloud_size']:g}"),
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


def _wrapped(kind: str, finding: Finding) -> list[str]:
    text = f"{kind}: {finding.name}: {finding.text}."
    fix = [f"  fix: {finding.fix}"] if finding.fix else []
    return [line for part in (text, *fix) for line in textwrap.wrap(part, 118, subsequent_indent="    ")]


def _triple(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
