# SPDX-License-Identifier: Apache-2.0
"""The videos of a camera path: one in each format that RENDER.VIDEO names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.io.files import reraise_with_path
from npcr.io.pixels import fitting, resized
from npcr.io.video import VideoWriter
from npcr.io.video_formats import FORMATS

# Pixels of a preview's longer side at most: a GIF of many large frames is larger than all other results.
PREVIEW_SIDE = 480


class PathVideos:
    """`video.mp4`, `video.webm` and so on in `folder`, `video_h265.mp4` since H.264 has the first name.

    Formats with alpha get straight RGBA, the others the picture over the background, previews shrunk. A video
    that cannot be written does not keep the others from being; the reason is told on closing.
    Raises `NpcrError` where an encoder is missing.
    """

    def __init__(self, folder: Path, fps: float, formats: Sequence[str]) -> None:
        self._writers = [VideoWriter(folder / _file_name(name), fps, name) for name in formats]
        self._failures: dict[Path, OSError] = {}

    @property
    def paths(self) -> list[Path]:
        """Where the videos are, or will be once closed."""
        return [writer.path for writer in self._writers]

    def write(self, picture: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> None:
        """Append a frame: (H, W, 3) over the background, and (H, W, 4) with straight alpha."""
        for writer in self._writers:
            if writer.path not in self._failures:
                pixels = rgba if writer.format.alpha else picture
                if writer.format.preview:
                    pixels = resized(pixels, fitting((pixels.shape[1], pixels.shape[0]), PREVIEW_SIDE))
                try:
                    writer.write(pixels)
                except OSError as error:
                    self._failures[writer.path] = error

    def close(self) -> list[NpcrError]:
        """Finish the videos; gives the reason for each that could not be written."""
        reasons = []
        for writer in self._writers:
            try:
                reraise_with_path(writer.path, lambda writer=writer: self._close(writer))  # type: ignore[misc]
            except NpcrError as reason:
                reasons.append(reason)
        return reasons

    def _close(self, writer: VideoWriter) -> None:
        """Told of a failed write, the encoder gives its own reason for it."""
        failure = self._failures.get(writer.path)
        writer.__exit__(type(failure) if failure else None, failure, None)
        if failure:
            raise failure


def _file_name(name: str) -> str:
    return f"video{'_h265' if name == 'h265' else ''}{FORMATS[name].suffix}"
