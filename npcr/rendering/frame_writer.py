# SPDX-License-Identifier: Apache-2.0
"""Writing of a rendered path: images, mattes, raw numbers, and a video in each format that RENDER.VIDEO names."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.io.files import atomic_write, remove_leftovers, reraise_with_path
from npcr.io.images import write_image
from npcr.io.pixels import fit_size, resized
from npcr.io.video import VideoWriter
from npcr.io.video_formats import FORMATS
from npcr.rendering.frames import FramePixels

logger = logging.getLogger("npcr")

# Frames that may wait for the disk; more would let memory grow with a slow one.
WRITE_AHEAD = 4
# Pixels of a preview's longer side at most: a GIF of many large frames is larger than all other results.
PREVIEW_SIDE = 480


class FrameWriter:
    """Writes the frames of a path into a folder; a context manager.

    It writes `img_0001.jpg`, `rgba/img_0001.png`, perhaps `raw/img_0001.npz`, and videos (`PathVideos`). A thread
    compresses and writes while the next frame is rendered. Leaving the context, also by an exception or Ctrl-C, writes
    the frames that were handed over and closes the videos, so that they can be played.

    Args:
        folder: is made where it is missing.
        fps: frames per second of the videos.
        raw: whether to write raw color, alpha and depth, as float32.
        videos: formats, as RENDER.VIDEO names them.

    Raises:
        NpcrError: an encoder is missing; later, from `write` or on leaving: a file cannot be written.
    """

    def __init__(self, folder: Path, fps: float, raw: bool, videos: Sequence[str] = ("h264",)) -> None:
        self.folder = folder
        self.count = 0  # of frames handed over
        self.videos = PathVideos(folder, fps, videos)
        self._raw = raw
        for sub in ("", "rgba", *(["raw"] if raw else [])):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder / sub)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frame-writer")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> FrameWriter:
        return self

    def write(self, frame: FramePixels) -> None:
        """Hand over the path's next frame."""
        if len(self._pending) >= WRITE_AHEAD:
            self._pending.popleft().result()
        self.count += 1
        self._pending.append(self._thread.submit(self._save, frame, f"img_{self.count:04d}"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        failures = [reason for future in self._pending if (reason := future.exception())]
        failures.extend(self.videos.close())
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            logger.warning("%s", failure)

    def _save(self, frame: FramePixels, name: str) -> None:
        picture, matte = self.folder / f"{name}.jpg", self.folder / "rgba" / f"{name}.png"
        with reraise_with_path(picture):
            write_image(picture, frame.picture)
        with reraise_with_path(matte):
            write_image(matte, frame.rgba)
        if self._raw:
            raw = self.folder / "raw" / f"{name}.npz"
            with reraise_with_path(raw):
                _write_raw(raw, frame)
        self.videos.write(frame.picture, frame.rgba)


class PathVideos:
    """Writes several videos of one path, each in a format of its own.

    Formats with alpha get straight RGBA, the others the picture over the background, previews reduced in size. When one
    video cannot be written the others are; `close` returns the reason.

    Args:
        folder: for `video.mp4`, `video.webm` and so on; `video_h265.mp4`, since H.264 has the first name.
        fps: frames per second.
        formats: as RENDER.VIDEO names them; may be empty.

    Raises:
        NpcrError: an encoder is missing.
    """

    def __init__(self, folder: Path, fps: float, formats: Sequence[str]) -> None:
        self._writers = [VideoWriter(folder / _file_name(name), fps, name) for name in formats]
        self._failures: dict[Path, OSError] = {}

    @property
    def paths(self) -> list[Path]:
        """Where the videos are, or will be once closed."""
        return [writer.path for writer in self._writers]

    def write(self, picture: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> None:
        """Append a frame.

        Args:
            picture: (H, W, 3) over the background.
            rgba: (H, W, 4) with straight alpha.
        """
        for writer in self._writers:
            if writer.path not in self._failures:
                pixels = rgba if writer.format.alpha else picture
                if writer.format.preview:
                    pixels = resized(pixels, fit_size((pixels.shape[1], pixels.shape[0]), PREVIEW_SIDE))
                try:
                    writer.write(pixels)
                except OSError as error:
                    self._failures[writer.path] = error

    def close(self) -> list[NpcrError]:
        """Finish the videos, and return the reason for each that could not be written."""
        reasons = []
        for writer in self._writers:
            try:
                with reraise_with_path(writer.path):
                    self._close(writer)
            except NpcrError as reason:
                reasons.append(reason)
        return reasons

    def _close(self, writer: VideoWriter) -> None:
        """Close a writer; one that is given the error of a failed write raises the encoder's own reason for it."""
        failure = self._failures.get(writer.path)
        writer.__exit__(type(failure) if failure else None, failure, None)
        if failure:
            raise failure


def _file_name(name: str) -> str:
    return f"video{'_h265' if name == 'h265' else ''}{FORMATS[name].suffix}"


def _write_raw(path: Path, frame: FramePixels) -> None:
    with atomic_write(path) as file:
        np.savez(file, rgb=frame.rgb, alpha=frame.alpha, depth=frame.depth)
