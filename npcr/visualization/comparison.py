# SPDX-License-Identifier: Apache-2.0
"""Images that compare inputs: side by side, a wipe between two, their difference, a magnified region."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from npcr.errors import NpcrError
from npcr.io.frame_source import FrameSource
from npcr.io.pixels import checkerboard, over, resized
from npcr.visualization.captions import BACKGROUND, CAPTION_HEIGHT, GAP, Pixels, caption

VIEWS = ("inputs", "wipe", "difference")
LAYOUTS = ("row", "column", "grid")
SWING = 0.45  # of the width: how far a wipe's divider goes to each side of the middle
LARGEST_INSET = 0.45  # of an image's sides
FRAME_COLOR, REGION_COLOR = (255, 255, 255), (255, 190, 40)  # of the inset's frame and the divider; of the region's


@dataclass(frozen=True)
class Comparison:
    """The views of a comparison. The last input is the reference of wipes and differences."""

    labels: tuple[str, ...]  # of the inputs
    views: tuple[str, ...] = ("inputs",)  # of VIEWS
    gain: float = 4.0  # of the difference
    region: tuple[int, int, int, int] | None = None  # x, y, width, height to magnify, in pixels

    def panels(self, images: Sequence[Pixels], divider: float) -> list[Pixels]:
        """Draw the labeled panels of a frame.

        Args:
            images: (H, W, 3), one of each input.
            divider: where a wipe's divider stands, 0 to 1 of the width.

        Returns:
            (h, W, 3) each, of one size, in the order of VIEWS.
        """
        width = images[0].shape[1]
        *others, (reference, reference_label) = zip(images, self.labels, strict=True)
        panels: list[tuple[Pixels, list[tuple[int, str]]]] = []
        if "inputs" in self.views:
            panels += [(image, [(0, label)]) for image, label in zip(images, self.labels, strict=True)]
        if "wipe" in self.views:
            panels += [(wipe(image, reference, divider), [(0, f"< {label}"), (width // 2, f"{reference_label} >")])
                       for image, label in others]
        if "difference" in self.views:
            panels += [(difference(image, reference, self.gain), [(0, self._difference_label(label))])
                       for image, label in others]
        height = CAPTION_HEIGHT * max(1, round(images[0].shape[0] / 600))
        return [np.concatenate([caption(width, texts, height), self._with_inset(panel)]) for panel, texts in panels]

    def _difference_label(self, label: str) -> str:
        operands = f"{label} - {self.labels[-1]}" if len(self.labels) > 2 else "difference"
        return f"|{operands}| x{self.gain:g}"

    def _with_inset(self, panel: Pixels) -> Pixels:
        return panel if self.region is None else with_inset(panel, self.region)


def wipe(left: Pixels, right: Pixels, share: float) -> Pixels:
    """Join two images at a vertical divider.

    Args:
        left: (H, W, 3), seen left of the divider.
        right: (H, W, 3), seen right of it.
        share: where the divider stands, 0 to 1 of the width.

    Returns:
        (H, W, 3).
    """
    width = left.shape[1]
    edge = round(np.clip(share, 0, 1) * width)
    result = np.concatenate([left[:, :edge], right[:, edge:]], axis=1)
    half = max(1, width // 400)
    result[:, max(0, edge - half):edge + half] = FRAME_COLOR
    return result


def divider_at(index: int, period: float) -> float:
    """Compute where a wipe's divider stands: from the middle to the right, to the left, and back.

    Args:
        index: of the frame, from 0.
        period: frames until it comes back.

    Returns:
        0 to 1 of the width.
    """
    return 0.5 + SWING * math.sin(2 * math.pi * index / period)


def difference(first: Pixels, second: Pixels, gain: float) -> Pixels:
    """Compute the absolute difference of each channel, amplified.

    Args:
        first: (H, W, 3).
        second: (H, W, 3).
        gain: factor.

    Returns:
        (H, W, 3), clipped.
    """
    return np.clip(np.abs(first.astype(np.float32) - second) * gain, 0, 255).round().astype(np.uint8)


def with_inset(image: Pixels, region: tuple[int, int, int, int]) -> Pixels:
    """Frame a region and magnify it in the corner farthest from it.

    It is magnified a whole number of times, so that its pixels can be judged one by one.

    Args:
        image: (H, W, 3).
        region: x, y, width, height in pixels.

    Returns:
        (H, W, 3), a copy.

    Raises:
        NpcrError: the region does not lie in the image or is too large to magnify.
    """
    x, y, width, height = region
    rows, columns = image.shape[:2]
    factor = int(min(columns * LARGEST_INSET / max(width, 1), rows * LARGEST_INSET / max(height, 1)))
    if min(x, y) < 0 or min(width, height) < 1 or x + width > columns or y + height > rows or factor < 2:
        raise NpcrError(f"the part to magnify is {width}x{height} at ({x}, {y}); it must lie within the pictures of "
                        f"{columns}x{rows} and measure at most {int(columns * LARGEST_INSET / 2)}x"
                        f"{int(rows * LARGEST_INSET / 2)}")
    inset = image[y:y + height, x:x + width].repeat(factor, axis=0).repeat(factor, axis=1)
    inset[[0, -1], :] = inset[:, [0, -1]] = FRAME_COLOR
    result = image.copy()
    _draw_outline(result, x - 1, y - 1, x + width, y + height)
    top = 0 if 2 * y + height > rows else rows - inset.shape[0]
    left = 0 if 2 * x + width > columns else columns - inset.shape[1]
    result[top:top + inset.shape[0], left:left + inset.shape[1]] = inset
    return result


def _draw_outline(image: Pixels, left: int, top: int, right: int, bottom: int) -> None:
    """Draw a frame of one pixel, where it lies within the image."""
    rows, columns = image.shape[:2]
    across, down = slice(max(left, 0), right + 1), slice(max(top, 0), bottom + 1)
    for y in {top, bottom} & set(range(rows)):
        image[y, across] = REGION_COLOR
    for x in {left, right} & set(range(columns)):
        image[down, x] = REGION_COLOR


def tiled(panels: Sequence[Pixels], layout: str) -> Pixels:
    """Join panels, with gaps between them.

    Args:
        panels: (H, W, 3) each, of one size.
        layout: "row", "column", or "grid" of about as many rows as columns.

    Returns:
        (h, w, 3).
    """
    columns = {"row": len(panels), "column": 1}.get(layout, math.ceil(math.sqrt(len(panels))))
    empty = np.full_like(panels[0], BACKGROUND)
    filled = [*panels, *[empty] * (-len(panels) % columns)]
    rows = [_join(filled[start:start + columns], axis=1) for start in range(0, len(filled), columns)]
    return _join(rows, axis=0)


def _join(images: Sequence[Pixels], axis: int) -> Pixels:
    gap = [(0, 0), (0, 0), (0, 0)]
    gap[axis] = (GAP, 0)
    rest = [np.pad(image, gap, constant_values=BACKGROUND) for image in images[1:]]
    return np.concatenate([images[0], *rest], axis=axis)


def match_sources(sources: Sequence[FrameSource], fit: bool, trim: bool) -> list[FrameSource]:
    """Bring inputs to one number of frames, and check their sizes.

    Args:
        sources: of the frames.
        fit: allow sizes to differ; `composited_frames` resizes to the first's.
        trim: cut the sources to the shortest.

    Returns:
        The sources, all as long as the shortest.

    Raises:
        NpcrError: sizes differ without `fit`, or the numbers of frames without `trim`.
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


def composited_frames(sources: Sequence[FrameSource], background: float | str) -> Iterator[list[Pixels]]:
    """Read the sources frame by frame, resized to the first source's size and composited over a background.

    Args:
        sources: of equally many frames.
        background: gray of 0 to 255, or "checker".

    Yields:
        (H, W, 3) of each source.
    """
    size = sources[0].size
    backdrop = checkerboard(size) if isinstance(background, str) else background
    for frames in zip(*sources, strict=True):
        yield [over(resized(pixels, size), backdrop) for pixels in frames]


def evenly_spaced(count: int, chosen: int) -> list[int]:
    """Choose evenly spaced indices, the first and the last among them.

    Args:
        count: number of things to choose from.
        chosen: number of indices, at most.

    Returns:
        Indices below `count`, rising.
    """
    return sorted({round(index) for index in np.linspace(0, count - 1, min(chosen, count))})
