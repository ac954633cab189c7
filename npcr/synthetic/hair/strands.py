# SPDX-License-Identifier: Apache-2.0
"""Strands of hair as arrays, and the cubic B-splines by which they are rendered and sampled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Strands:
    """N strands with P points in all, strand by strand; each has at least two points."""

    points: np.ndarray  # (P, 3) float64, from root to tip
    radii: np.ndarray  # (P,) of the strand at each point, world units
    counts: np.ndarray  # (N,) points of each strand
    pigment: np.ndarray  # (N, 2) concentrations of eumelanin (brown to black) and pheomelanin (red)

    def __post_init__(self) -> None:
        n, total = len(self.counts), int(self.counts.sum())
        if self.points.shape != (total, 3) or self.radii.shape != (total,) or self.pigment.shape != (n, 2):
            raise ValueError(f"Strands: {n} strands with {total} points do not fit arrays of {self.points.shape}, "
                             f"{self.radii.shape}, {self.pigment.shape}")
        if n == 0 or self.counts.min() < 2:
            raise ValueError("Strands: needs at least one strand, and two points for each")

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def starts(self) -> np.ndarray:
        """(N,) index of each strand's root in `points`."""
        return np.cumsum(self.counts) - self.counts

    def subset(self, strands: np.ndarray) -> Strands:
        """Return the strands of the indices `strands` (M,), in that order."""
        index = _ranges(self.starts[strands], self.counts[strands])
        return Strands(self.points[index], self.radii[index], self.counts[strands], self.pigment[strands])

    def transformed(self, scale: float, offset: np.ndarray) -> Strands:
        """Return the strands with points `scale * x + offset`."""
        return Strands(scale * self.points + offset, scale * self.radii, self.counts, self.pigment)


@dataclass(frozen=True)
class BSplines:
    """Uniform cubic B-splines of strands; strand i has `counts[i] - 3` segments.

    The strand's points are the control points, with one more before the root and after the tip, so that the curve
    begins and ends at these.
    """

    controls: np.ndarray  # (Q, 4): x, y, z and radius
    counts: np.ndarray  # (N,) control points of each strand

    @property
    def segments(self) -> tuple[np.ndarray, np.ndarray]:
        """(S,) index of the first control point and (S,) index of the strand of every segment."""
        starts = np.cumsum(self.counts) - self.counts
        return _ranges(starts, self.counts - 3), np.repeat(np.arange(len(self.counts)), self.counts - 3)

    def evaluate(self, first: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate segments.

        Args:
            first: (M,) index of each segment's first control point.
            u: (M,) parameter within the segment, 0 to 1.

        Returns:
            Position and radius, (M, 4), and their derivatives by u, (M, 4).
        """
        controls = self.controls[first[:, None] + np.arange(4)]
        u = u[:, None]
        weights = np.stack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3], 1) / 6
        slopes = np.stack([-(1 - u) ** 2, 3 * u**2 - 4 * u, -3 * u**2 + 2 * u + 1, u**2], 1) / 2
        return (controls * weights).sum(1), (controls * slopes).sum(1)


def to_splines(strands: Strands) -> BSplines:
    """Convert strands to B-splines.

    Args:
        strands: N strands.

    Returns:
        The splines of the strands, in the same order; radii are at least 0.
    """
    values = np.concatenate([strands.points, strands.radii[:, None]], axis=1)
    first, last = strands.starts, strands.starts + strands.counts - 1
    before, after = 2 * values[first] - values[first + 1], 2 * values[last] - values[last - 1]
    starts, counts = strands.starts + 2 * np.arange(len(strands)), strands.counts + 2
    controls = np.empty((len(values) + 2 * len(strands), 4))
    controls[_ranges(starts + 1, strands.counts)] = values
    controls[starts], controls[starts + counts - 1] = before, after
    controls[:, 3] = np.maximum(controls[:, 3], 0)
    return BSplines(controls, counts)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges starts[i], …, starts[i] + lengths[i] - 1."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
