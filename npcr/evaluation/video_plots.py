# SPDX-License-Identifier: Apache-2.0
"""Plots of a video's steadiness: measures over the frames, and slices, which show one image row over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from npcr.evaluation.video import GROUND_TRUTH, VideoScores
from npcr.io.images import write_image
from npcr.visualization.captions import BACKGROUND, TEXT_COLOR, Pixels, caption

PANEL = (640, 170)  # pixels, width and height of one measure's curves
MARGIN = (64, 12, 8, 22)  # pixels left, right, above, below the curves
COLORS = {"off": (230, 120, 60), "legacy": (150, 150, 150), "default": (60, 170, 230), GROUND_TRUTH: (110, 200, 110)}
SMALLEST_SLICE = 120  # pixels, height of a slice; each frame's row is repeated until it has that


def plot_scores(path: str | Path, scores: VideoScores) -> None:
    """Write a PNG with a panel for every measure: its value (upwards) over the frames, a curve for each blending.

    Args:
        path: the file.
        scores: of a path.
    """
    metrics = list(dict.fromkeys(metric for values in scores.per_frame.values() for metric in values))
    panels = []
    for metric in metrics:
        curves = {name: values[metric] for name, values in scores.per_frame.items() if metric in values}
        panels += [caption(PANEL[0], [(0, f"{metric}, frames 1 to {scores.frames}")]), _panel(curves)]
    names = list(scores.per_frame)
    legend = caption(PANEL[0], [(i * PANEL[0] // len(names) + 16, name) for i, name in enumerate(names)])
    for i, name in enumerate(names):
        x = i * PANEL[0] // len(names)
        cv2.rectangle(legend, (x + 4, 8), (x + 14, 14), _color(name), -1)
    write_image(path, np.concatenate([legend, *panels]))


def write_slices(path: str | Path, pictures: Mapping[str, Sequence[Pixels]], row: int | None = None) -> int:
    """Write the x-t slices of videos, below each other with their names, as a PNG.

    A slice is one image row, x to the right, over time, downwards: flicker appears as ragged edges and speckle, smear
    as blur.

    Args:
        path: the file.
        pictures: of each video, the frames; all of one size.
        row: the image row; default: the one in which the first video varies most along x.

    Returns:
        The row.
    """
    first = np.stack(next(iter(pictures.values())))  # (N, H, W, 3)
    if row is None:
        row = int(np.abs(np.diff(first.astype(np.int16), axis=2)).mean(axis=(0, 2, 3)).argmax())
    repeat = max(1, -(-SMALLEST_SLICE // len(first)))
    scale = max(1, round(600 / first.shape[2]))
    parts = []
    for name, frames in pictures.items():
        lines = np.stack([frame[row] for frame in frames])  # (N, W, 3)
        image = lines.repeat(repeat, axis=0).repeat(scale, axis=1)
        parts += [caption(image.shape[1], [(0, f"{name}: row {row} over {len(frames)} frames")]), image]
    write_image(path, np.concatenate(parts))
    return row


def _panel(curves: Mapping[str, Sequence[float | None]]) -> Pixels:
    """(h, w, 3): curves over the frames on one scale, which reaches from the lowest value to the highest."""
    width, height = PANEL
    left, right, above, below = MARGIN
    panel = np.full((height, width, 3), BACKGROUND, np.uint8)
    known = [value for values in curves.values() for value in values if value is not None and np.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span = (high - low) or 1.0
    count = max(len(values) for values in curves.values())
    for share in (0.0, 0.5, 1.0):
        y = round(above + (1 - share) * (height - above - below))
        cv2.line(panel, (left, y), (width - right, y), (80, 80, 80), 1)
        cv2.putText(panel, f"{low + share * span:.4g}", (4, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, TEXT_COLOR, 1,
                    cv2.LINE_AA)
    for name, values in curves.items():
        points = [(left + round(i / max(count - 1, 1) * (width - left - right)),
                   round(above + (high - value) / span * (height - above - below)))
                  for i, value in enumerate(values) if value is not None and np.isfinite(value)]
        line: NDArray[np.int32] = np.array(points, np.int32).reshape(-1, 1, 2)
        cv2.polylines(panel, [line], False, _color(name), 1, cv2.LINE_AA)
    return panel


def _color(name: str) -> tuple[int, int, int]:
    return COLORS.get(name, TEXT_COLOR)
