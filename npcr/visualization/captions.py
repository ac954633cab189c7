# SPDX-License-Identifier: Apache-2.0
"""Lines of text above images, and the colors and gaps of sheets that are composed of images."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

CAPTION_HEIGHT = 22  # pixels
GAP = 4  # pixels between images
BACKGROUND, TEXT_COLOR = 32, (230, 230, 230)


def caption(width: int, texts: Sequence[tuple[int, str]], height: int = CAPTION_HEIGHT) -> Pixels:
    """Draw a line of texts, each as small as it takes to fit before the next.

    Args:
        width: pixels, of the line.
        texts: x where each begins, and the text, from left to right.
        height: pixels, of the line.

    Returns:
        (height, width, 3) RGB.
    """
    line = np.full((height, width, 3), BACKGROUND, np.uint8)
    starts = [x for x, _ in texts] + [width]
    for (x, text), end in zip(texts, starts[1:], strict=True):
        (needed, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
        scale = min(0.45 * height / CAPTION_HEIGHT, (end - x - 8) / max(needed, 1))
        cv2.putText(line, text, (x + 4, height - height * 7 // CAPTION_HEIGHT), cv2.FONT_HERSHEY_SIMPLEX, scale,
                    TEXT_COLOR, max(1, height // CAPTION_HEIGHT), cv2.LINE_AA)
    return line
