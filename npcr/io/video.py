# SPDX-License-Identifier: Apache-2.0
"""H.264 videos that every browser plays; OpenCV's MPEG-4 where imageio-ffmpeg is not installed."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npcr.errors import MissingExtraError
from npcr.io.files import atomic_path

if TYPE_CHECKING:
    import cv2

logger = logging.getLogger("npcr")

_Write = Callable[[NDArray[np.uint8]], Any]


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Writes frames of one size to an .mp4 file, which appears, whole, when the block ends without an error.

    An odd width or height grows by one repeated column or row, since yuv420p halves both. Without frames
    no file is written. Raises `MissingExtraError` where neither imageio-ffmpeg nor OpenCV can encode,
    `OSError` where the encoder fails.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        self.fps = fps
        self._stack = ExitStack()
        self._write: _Write | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, rgb: NDArray[np.uint8]) -> None:
        """Append one frame, (H, W, 3) uint8."""
        if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
            raise ValueError(f"VideoWriter.write: frame must be (H, W, 3) uint8, is {rgb.shape} {rgb.dtype}")
        even = np.pad(rgb, ((0, rgb.shape[0] % 2), (0, rgb.shape[1] % 2), (0, 0)), mode="edge")
        if self._write is None:
            self._write = self._stack.enter_context(
                _open_encoder(self.path, self.fps, (even.shape[1], even.shape[0])))
            self._shape = rgb.shape
        if rgb.shape != self._shape:
            raise ValueError(f"VideoWriter.write: frame is {rgb.shape}, the first one was {self._shape}")
        self._write(np.ascontiguousarray(even))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)


def _open_encoder(path: Path, fps: float, size: tuple[int, int]) -> AbstractContextManager[_Write]:
    try:
        import imageio_ffmpeg

        return _ffmpeg(imageio_ffmpeg.get_ffmpeg_exe(), path, fps, size)
    except (ImportError, RuntimeError) as error:  # RuntimeError: no ffmpeg for this platform
        missing = str(error)
    try:
        import cv2
    except ImportError:
        raise MissingExtraError(f"{path}: no video encoder ({missing}); pip install imageio-ffmpeg") from None
    mpeg4 = cv2.VideoWriter.fourcc(*"mp4v")
    logger.warning("video: %s; OpenCV writes MPEG-4 part 2 instead, which browsers may not play. "
                   "pip install imageio-ffmpeg brings H.264", missing)
    return _opencv(path, lambda temporary: cv2.VideoWriter(str(temporary), mpeg4, fps, size))


@contextmanager
def _ffmpeg(program: str, path: Path, fps: float, size: tuple[int, int]) -> Iterator[_Write]:
    """An ffmpeg process that takes raw frames."""
    # The colour matrix is converted to and named, for players otherwise guess it by the picture's size.
    color = ["-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709",
             "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
    command = [program, "-y", "-v", "error",
               "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}", "-r", f"{fps:g}",
               "-i", "-", "-an", "-c:v", "libx264", "-crf", "17", "-pix_fmt", "yuv420p", *color,
               "-movflags", "+faststart"]
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as messages:
        # In a session of its own: a terminal's Ctrl-C would end ffmpeg before it has closed the video.
        process = subprocess.Popen([*command, str(temporary)], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True)
        assert process.stdin is not None
        try:
            pipe = process.stdin
            yield lambda rgb: pipe.write(rgb.data)
            process.stdin.close()
            status = process.wait()
        except BrokenPipeError:
            status = process.wait() or 1
        except BaseException:
            process.kill()
            process.wait()
            raise
        if status:
            messages.seek(0)
            reason = messages.read().decode(errors="replace").strip() or f"status {status}"
            raise OSError(f"{path}: ffmpeg failed: {reason.splitlines()[-1]}")


@contextmanager
def _opencv(path: Path, open_writer: Callable[[Path], cv2.VideoWriter]) -> Iterator[_Write]:
    with atomic_path(path) as temporary:
        writer = open_writer(temporary)
        try:
            if not writer.isOpened():
                raise MissingExtraError(f"{path}: OpenCV has no MPEG-4 here; pip install imageio-ffmpeg")
            yield lambda rgb: writer.write(np.ascontiguousarray(rgb[..., ::-1]))
        finally:
            writer.release()
