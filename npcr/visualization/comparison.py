# SPDX-License-Identifier: Apache-2.0
"""Pictures of a comparison: inputs side by side, a wipe between two, their difference, a magnified part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.io.frame_source import FrameSource
from npcr.io.pixels import checkerboard, over, resized
from npcr.visualization.captions import BACKGROUND, CAPTION_HEIGHT, GAP, caption

Pixels = NDArray[np.uint8]

VIEWS = ("inputs", "wipe", "difference")
LAYOUTS = ("row", "column", "grid")
SWING = 0.45  # of the width: how far a wipe's divider goes to each side of the middle
LARGEST_INSET = 0.45  # of a picture's sides
FRAME, MARK = (255, 255, 255), (255, 190, 40)  # around the inset and of the divider; around what it shows


@dataclass(frozen=True)
class Comparison:
    """What is shown. The last input is the reference of wipes and differences."""

    labels: tuple[str, ...]  # of the inputs
    views: tuple[str, ...] = ("inputs",)
    layout: str = "row"
    gain: float = 4.0  # of the difference
    zoom: tuple[int, int, int, int] | None = None  # x, y, width, height of the part to magnify, in pixels

    def panels(self, pictures: Sequence[Pixels], divider: float) -> list[Pixels]:
        """Labeled panels of one size, for `pictures` (H, W, 3), one of each input; divider: share of the width."""
        width = pictures[0].shape[1]
        *others, reference = zip(pictures, self.labels, strict=True)
        panels: list[tuple[Pixels, list[tuple[int, str]]]] = []
        if "inputs" in self.views:
            panels += [(picture, [(0, label)]) for picture, label in zip(pictures, self.labels, strict=True)]
        if "wipe" in self.views:
            panels += [(wipe(picture, reference[0], divider), [(0, f"< {label}"), (width // 2, f"{reference[1]} >")])
                       for picture, label in others]
        if "difference" in self.views:
            panels += [(difference(picture, reference[0], self.gain), [(0, self._name_of_difference(label))])
                       for picture, label in others]
        height = CAPTION_HEIGHT * max(1, round(pictures[0].shape[0] / 600))
        return [np.concatenate([caption(width, texts, height), self._magnified(panel)]) for panel, texts in panels]

    def picture(self, pictures: Sequence[Pixels], divider: float) -> Pixels:
        """The panels joined, (h, w, 3)."""
        return tiled(self.panels(pictures, divider), self.layout)

    def _name_of_difference(self, label: str) -> str:
        which = f"{label} - {self.labels[-1]}" if len(self.labels) > 2 else "difference"
        return f"|{which}| x{self.gain:g}"

    def _magnified(self, panel: Pixels) -> Pixels:
        return panel if self.zoom is None else with_inset(panel, self.zoom)


def wipe(left: Pixels, right: Pixels, share: float) -> Pixels:
    """`left` up to a dividing line at `share` of the width, `right` beyond it."""
    width = left.shape[1]
    edge = round(np.clip(share, 0, 1) * width)
    result = np.concatenate([left[:, :edge], right[:, edge:]], axis=1)
    half = max(1, width // 400)
    result[:, max(0, edge - half):edge + half] = FRAME
    return result


def divider_at(index: int, period: float) -> float:
    """Where a wipe's divider stands at a frame, 0-1: from the middle to the right, the left, and back in `period`."""
    return 0.5 + SWING * math.sin(2 * math.pi * index / period)


def difference(first: Pixels, second: Pixels, gain: float) -> Pixels:
    """|first - second| of each channel times `gain`, clipped."""
    return np.clip(np.abs(first.astype(np.float32) - second) * gain, 0, 255).round().astype(np.uint8)


def with_inset(picture: Pixels, part: tuple[int, int, int, int]) -> Pixels:
    """`picture` with the part (x, y, width, height) framed and, whole times larger, in the corner farthest from it.

    Pixels are repeated, so that they can be judged one by one. Raises `NpcrError` where the part does not lie in
    the picture or cannot be magnified.
    """
    x, y, width, height = part
    rows, columns = picture.shape[:2]
    factor = int(min(columns * LARGEST_INSET / max(width, 1), rows * LARGEST_INSET / max(height, 1)))
    if min(x, y) < 0 or min(width, height) < 1 or x + width > columns or y + height > rows or factor < 2:
        raise NpcrError(f"the part to magnify is {width}x{height} at ({x}, {y}); it must lie within the pictures of "
                        f"{columns}x{rows} and measure at most {int(columns * LARGEST_INSET / 2)}x"
                        f"{int(rows * LARGEST_INSET / 2)}")
    inset = picture[y:y + height, x:x + width].repeat(factor, axis=0).repeat(factor, axis=1)
    inset[[0, -1], :] = inset[:, [0, -1]] = FRAME
    result = picture.copy()
    _outline(result, x - 1, y - 1, x + width, y + height)
    top = 0 if 2 * y + height > rows else rows - inset.shape[0]
    left = 0 if 2 * x + width > columns else columns - inset.shape[1]
    result[top:top + inset.shape[0], left:left + inset.shape[1]] = inset
    return result


def _outline(picture: Pixels, left: int, top: int, right: int, bottom: int) -> None:
    """Draw a frame of one pixel, where it lies within the picture."""
    rows, columns = picture.shape[:2]
    across, down = slice(max(left, 0), right + 1), slice(max(top, 0), bottom + 1)
    for y in {top, bottom} & set(range(rows)):
        picture[y, across] = MARK
    for x in {left, right} & set(range(columns)):
        picture[down, x] = MARK


def tiled(panels: Sequence[Pixels], layout: str) -> Pixels:
    """Panels of one size side by side, below each other, or in a grid of about as many rows as columns."""
    columns = {"row": len(panels), "column": 1}.get(layout, math.ceil(math.sqrt(len(panels))))
    empty = np.full_like(panels[0], BACKGROUND)
    filled = [*panels, *[empty] * (-len(panels) % columns)]
    rows = [_joined(filled[start:start + columns], axis=1) for start in range(0, len(filled), columns)]
    return _joined(rows, axis=0)


def _joined(pictures: Sequence[Pixels], axis: int) -> Pixels:
    """Pictures with gaps between them."""
    gap = [(0, 0), (0, 0), (0, 0)]
    gap[axis] = (GAP, 0)
    rest = [np.pad(picture, gap, constant_values=BACKGROUND) for picture in pictures[1:]]
    return np.concatenate([pictures[0], *rest], axis=axis)


def check_alike(sources: Sequence[FrameSource], fit: bool, trim: bool) -> list[FrameSource]:
    """The sources, cut to the shortest with `trim`. Raises `NpcrError` where their sizes or counts differ.

    fit: sizes may differ, for `pictures_of` resizes to the first's.
    """
    sizes = [f"{source.path} {source.size[0]}x{source.size[1]}" for source in sources]
    if not fit and len({source.size for source in sources}) > 1:
        raise NpcrError(f"the sizes differ: {', '.join(sizes)}; --fit resizes to the first's")
    shortest = min(len(source) for source in sources)
    if not trim and len({len(source) for source in sources}) > 1:
        counts = ", ".join(f"{source.path} {len(source)}" for source in sources)
        raise NpcrError(f"the numbers of frames differ: {counts}; --trim compares the first {shortest}, "
                        "--start, --end and --step choose frames")
    return [source.select(1, shortest, 1) for source in sources]


def pictures_of(sources: Sequence[FrameSource], background: float | str) -> Iterator[list[Pixels]]:
    """Of each frame the sources' pictures (H, W, 3), of the first's size, over a gray (0-255) or a `checker`."""
    size = sources[0].size
    behind = checkerboard(size) if isinstance(background, str) else background
    for frames in zip(*sources, strict=True):
        yield [over(resized(pixels, size), behind) for pixels in frames]


def evenly(count: int, chosen: int) -> list[int]:
    """`chosen` of the numbers 0 to `count` - 1, evenly spread, the first and the last among them."""
    return sorted({round(index) for index in np.linspace(0, count - 1, min(chosen, count))})
