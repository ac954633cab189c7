# SPDX-License-Identifier: Apache-2.0
"""Writing of a rendered path: images, mattes, raw numbers, and a video in each format that RENDER.VIDEO names."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from yacs.config import CfgNode

from npcr.errors import NpcrError
from npcr.extras import import_extra
from npcr.io.exr import ExrFormat, write_exr
from npcr.io.files import atomic_write, remove_leftovers, reraise_with_path
from npcr.io.images import write_image
from npcr.io.pixels import fit_size, resized
from npcr.io.video import VideoWriter
from npcr.io.video_formats import FORMATS
from npcr.rendering.frames import FramePixels, RawPixels

logger = logging.getLogger("npcr")

# Threads that compress images and wait for the disk; on a machine of many cores more would have nothing to do.
ENCODERS = min(4, 1 + (os.cpu_count() or 1))
# Frames that may be in work or wait for the disk; more would let memory grow with a slow one.
WRITE_AHEAD = 6
# Pixels of a preview's longer side at most: a GIF of many large frames is larger than all other results.
PREVIEW_SIDE = 480


class FrameWriter:
    """Writes the frames of a path into a folder; a context manager.

    It writes `img_0001.jpg`, `rgba/img_0001.png`, perhaps `raw/img_0001.npz` and `exr/img_0001.exr`, and videos
    (`PathVideos`). Threads compress and write while the next frames are rendered. Leaving the context, also by an
    exception or Ctrl-C, writes the frames that were handed over and closes the videos, so that they can be played.

    Args:
        folder: is made where it is missing.
        fps: frames per second of the videos.
        raw: whether frames bring raw color, alpha and depth, which are then written as float32.
        videos: formats, as RENDER.VIDEO names them.
        exr: whether frames bring `floats`, and what is written of them as EXR; None: nothing.
        tidy: remove what killed writers left in the folder. Where several processes write, one does before the others
            begin: it cannot tell whether a process of another machine lives.
        on_written: called in a thread once the images of a frame are on disk, with its number from 1 and the frame.

    Raises:
        NpcrError: an encoder or the OpenEXR library is missing; later, from `write` or on leaving: a file cannot be
            written.
    """

    def __init__(self, folder: Path, fps: float, raw: bool, videos: Sequence[str] = ("h264",),
                 exr: ExrFormat | None = None, *, tidy: bool = True,
                 on_written: Callable[[int, FramePixels], None] | None = None) -> None:
        if exr is not None:
            import_extra("OpenEXR", "RENDER.EXR")
        self.folder = folder
        self.count = 0  # of frames handed over
        self.videos = PathVideos(folder, fps, videos)
        self._exr = exr
        self._on_written = on_written
        for sub in ("", "rgba", *(["raw"] if raw else []), *(["exr"] if exr else [])):
            (folder / sub).mkdir(parents=True, exist_ok=True)
            if tidy:
                remove_leftovers(folder / sub)
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="frame-writer")
        self._pending: deque[list[Future[None]]] = deque()  # by frame

    def __enter__(self) -> FrameWriter:
        return self

    def write(self, frame: FramePixels, number: int | None = None) -> None:
        """Hand over the path's next frame; or, where there is no video, that of a number from 1."""
        if len(self._pending) >= WRITE_AHEAD:
            for future in self._pending.popleft():
                future.result()
        self.count += 1
        self._pending.append([self._encoders.submit(self._save, frame, number or self.count),
                              *self.videos.write(frame.picture, frame.rgba)])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._encoders.shutdown(wait=True)
        unwritten = self.videos.close()
        failures = [reason for futures in self._pending for future in futures if (reason := future.exception())]
        failures.extend(unwritten)
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            logger.warning("%s", failure)

    def _save(self, frame: FramePixels, number: int) -> None:
        name = frame_name(number)
        picture, matte = self.folder / f"{name}.jpg", self.folder / "rgba" / f"{name}.png"
        with reraise_with_path(picture):
            write_image(picture, frame.picture)
        with reraise_with_path(matte):
            write_image(matte, frame.rgba)
        if frame.raw is not None:
            numbers = self.folder / "raw" / f"{name}.npz"
            with reraise_with_path(numbers):
                _write_raw(numbers, frame.raw)
        if frame.floats is not None and self._exr is not None:
            exr = self.folder / "exr" / f"{name}.exr"
            with reraise_with_path(exr):
                write_exr(exr, *frame.floats, self._exr)
        if self._on_written is not None:
            self._on_written(number, frame)


def frame_name(number: int) -> str:
    """Name the files of a frame.

    Args:
        number: of the frame in its path, from 1.

    Returns:
        The name, without suffix.
    """
    return f"img_{number:04d}"


def build_writer(cfg: CfgNode, folder: Path, *, videos: bool = True, tidy: bool = True,
                 on_written: Callable[[int, FramePixels], None] | None = None) -> FrameWriter:
    """Make the writer that the RENDER section describes.

    Args:
        cfg: the configuration.
        folder: for the files.
        videos: whether it writes those of RENDER.VIDEO.
        tidy, on_written: as of `FrameWriter`.

    Returns:
        The writer; with RENDER.RAW and RENDER.EXR it expects frames with `raw` and `floats`.

    Raises:
        NpcrError: an encoder or the OpenEXR library is missing.
    """
    render = cfg.RENDER
    exr = None if render.EXR == "off" else ExrFormat(render.EXR == "half", render.EXR_COLOR == "linear")
    return FrameWriter(folder, render.FPS, render.RAW, render.VIDEO if videos else [], exr, tidy=tidy,
                       on_written=on_written)


class PathVideos:
    """Writes several videos of one path, each in a format of its own.

    Formats with alpha get straight RGBA, the others the picture over the background, previews reduced in size. Each
    video has a thread of its own, which writes its frames in order. When one video cannot be written the others are;
    `close` returns the reason.

    Args:
        folder: for `video.mp4`, `video.webm` and so on; `video_h265.mp4`, since H.264 has the first name.
        fps: frames per second.
        formats: as RENDER.VIDEO names them; may be empty.

    Raises:
        NpcrError: an encoder is missing.
    """

    def __init__(self, folder: Path, fps: float, formats: Sequence[str]) -> None:
        self._feeds = [_VideoFeed(VideoWriter(path, fps, name))
                       for path, name in zip(self.paths_of(folder, formats), formats, strict=True)]

    @staticmethod
    def paths_of(folder: Path, formats: Sequence[str]) -> list[Path]:
        """Where the videos of these formats lie in a folder."""
        return [folder / _file_name(name) for name in formats]

    @property
    def paths(self) -> list[Path]:
        """Where the videos are, or will be once closed."""
        return [feed.path for feed in self._feeds]

    def write(self, picture: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> list[Future[None]]:
        """Hand over a frame, which must not change until it is written.

        Args:
            picture: (H, W, 3) over the background.
            rgba: (H, W, 4) with straight alpha.

        Returns:
            For each video what is done when it has the frame.
        """
        return [feed.write(picture, rgba) for feed in self._feeds]

    def close(self) -> list[NpcrError]:
        """Finish the videos, and return the reason for each that could not be written."""
        return [reason for closing in [feed.close() for feed in self._feeds] if (reason := closing.result())]


class _VideoFeed:
    """One video, and the thread that hands its encoder the frames: no video waits for another, nor for the images."""

    def __init__(self, writer: VideoWriter) -> None:
        self.path = writer.path
        self._writer = writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="video-writer")
        self._failure: OSError | None = None

    def write(self, picture: NDArray[np.uint8], rgba: NDArray[np.uint8]) -> Future[None]:
        """Append a frame after those before, unless one of them could not be written."""
        return self._thread.submit(self._append, rgba if self._writer.format.alpha else picture)

    def close(self) -> Future[NpcrError | None]:
        """Finish the video after its last frame; the result is the reason where it could not be written."""
        closing = self._thread.submit(self._finish)
        self._thread.shutdown(wait=False)
        return closing

    def _append(self, pixels: NDArray[np.uint8]) -> None:
        if self._failure is not None:
            return
        if self._writer.format.preview:
            pixels = resized(pixels, fit_size((pixels.shape[1], pixels.shape[0]), PREVIEW_SIDE))
        try:
            self._writer.write(pixels)
        except OSError as error:
            self._failure = error

    def _finish(self) -> NpcrError | None:
        """Close the writer; one that is given the error of a failed write raises the encoder's own reason for it."""
        failure = self._failure
        try:
            with reraise_with_path(self.path):
                self._writer.__exit__(type(failure) if failure else None, failure, None)
                if failure:
                    raise failure
        except NpcrError as reason:
            return reason
        return None


def _file_name(name: str) -> str:
    return f"video{'_h265' if name == 'h265' else ''}{FORMATS[name].suffix}"


def _write_raw(path: Path, raw: RawPixels) -> None:
    with atomic_write(path) as file:
        np.savez(file, **raw._asdict())
