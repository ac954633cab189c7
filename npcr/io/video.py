# SPDX-License-Identifier: Apache-2.0
"""Writing of videos: H.264, H.265, VP9, ProRes, GIF, WebP; OpenCV's MPEG-4 without imageio-ffmpeg."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from npcr.errors import MissingExtraError, NpcrError
from npcr.io import ffmpeg
from npcr.io.ffmpeg import Write
from npcr.io.files import atomic_path
from npcr.io.pixels import fill_transparent
from npcr.io.video_formats import FORMATS, VideoFormat, format_of

if TYPE_CHECKING:
    import cv2

logger = logging.getLogger("npcr")

# Browsers play a GIF whose frames last less than 2/100 s five times too slowly.
MAX_GIF_FPS = 50


class VideoWriter(AbstractContextManager["VideoWriter"]):
    """Writes frames of one size to a video file, which appears, complete, when the block ends without an error.

    Frames with alpha make a video with alpha, in formats that have it. Where a format subsamples chroma, the last
    column or row of an odd width or height is repeated. Without frames no file is written.

    Args:
        path: the video file.
        fps: frames a second.
        video_format: a name of `video_formats.FORMATS`; None for that of the suffix.
        plays: how often a GIF or WebP is played; 0 for endlessly.

    Raises:
        NpcrError: the suffix is another format's, or the encoder is missing.
        MissingExtraError: neither imageio-ffmpeg nor OpenCV can write the format.
        OSError: in the block or at its end: the file cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, video_format: str | None = None, plays: int = 0) -> None:
        self.path = Path(path)
        self.fps = fps
        self.format = FORMATS[video_format] if video_format else format_of(self.path)
        if self.path.suffix.lower() != self.format.suffix:
            raise NpcrError(f"{path}: {video_format} goes into a file whose name ends in {self.format.suffix}")
        self._plays = plays
        self._program = _find_program(self.path, self.format)
        self._stack = ExitStack()
        self._write: Write | None = None
        self._shape: tuple[int, ...] = ()

    def write(self, pixels: NDArray[np.uint8]) -> None:
        """Append a frame, (H, W, 3) uint8 RGB, or (H, W, 4) straight RGBA where `format.alpha`."""
        channels = (3, 4) if self.format.alpha else (3,)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in channels or pixels.size == 0:
            raise ValueError(f"VideoWriter.write: frame must be (H, W, {' or '.join(map(str, channels))}) uint8, "
                             f"is {pixels.shape} {pixels.dtype}")
        if self._write is not None and pixels.shape != self._shape:
            raise ValueError(f"VideoWriter.write: frame is {pixels.shape}, the first one was {self._shape}")
        shape = self._shape = pixels.shape
        if self.format.subsamples_chroma:
            pixels = np.pad(pixels, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
        if self.format.fills_transparent and shape[2] == 4:
            pixels = fill_transparent(pixels)
        if self._write is None:
            self._write = self._stack.enter_context(self._open((pixels.shape[1], pixels.shape[0]), shape[2]))
        self._write(np.ascontiguousarray(pixels))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, trace)

    def _open(self, size: tuple[int, int], channels: int) -> AbstractContextManager[Write]:
        if not self._program:
            return _mpeg4(self.path, self.fps, size)
        source = ffmpeg.raw_input_arguments(size, channels, self.fps)
        if self.format.name == "gif":
            return _gif(self._program, source, self.path, self.fps, self._plays)
        return _video(self._program, [*source, *_encoding(self.format, channels, self._plays)], self.path)


def _find_program(path: Path, video_format: VideoFormat) -> str:
    """Find ffmpeg; "" where OpenCV replaces it. Raises `NpcrError` where neither can write the format."""
    try:
        program = ffmpeg.find_ffmpeg()
    except (ImportError, RuntimeError) as error:  # RuntimeError: no ffmpeg for this platform
        missing = str(error)
    else:
        ffmpeg.require_encoder(program, path, video_format)
        return program
    if video_format.name != "h264":
        raise MissingExtraError(f"{path}: {video_format.name} needs ffmpeg ({missing}); pip install imageio-ffmpeg")
    try:
        import cv2  # noqa: F401
    except ImportError:
        raise MissingExtraError(f"{path}: no video encoder ({missing}); pip install imageio-ffmpeg") from None
    logger.warning("video: %s; OpenCV writes MPEG-4 part 2 instead, which browsers may not play. "
                   "pip install imageio-ffmpeg brings H.264", missing)
    return ""


def _encoding(video_format: VideoFormat, channels: int, plays: int) -> list[str]:
    pixel_format = video_format.alpha_pixel_format if channels == 4 else video_format.pixel_format
    loop = ["-loop", str(plays)] if video_format.preview else []
    return ["-c:v", video_format.encoder, "-pix_fmt", pixel_format, *video_format.arguments, *loop]


@contextmanager
def _video(program: str, arguments: list[str], path: Path) -> Iterator[Write]:
    with atomic_path(path) as temporary, ffmpeg.open_encoder(program, [*arguments, str(temporary)], path) as write:
        yield write


@contextmanager
def _gif(program: str, source: list[str], path: Path, fps: float, plays: int) -> Iterator[Write]:
    """Write a GIF with one palette for all frames, so that colors do not change from frame to frame.

    The palette is known after the last frame. Until then frames are kept, losslessly, in a file beside `path`, so that
    memory does not grow. Dithering is ordered and faint: error diffusion flickers, and a stronger pattern is visible on
    a uniform background.
    """
    loop = {0: 0, 1: -1}.get(plays, plays - 1)  # GIF counts repetitions after the first play
    split = f"fps={min(fps, MAX_GIF_FPS):g},split[frames][copy];[copy]palettegen=reserve_transparent=0[palette]"
    with (atomic_path(path) as temporary,
          tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=temporary.parent) as folder):
        frames, palette = f"{folder}/frames.mkv", f"{folder}/palette.png"
        arguments = [*source, "-filter_complex", split, "-map", "[frames]", "-c:v", "ffv1", frames,
                     "-map", "[palette]", "-update", "1", palette]
        with ffmpeg.open_encoder(program, arguments, path) as write:
            yield write
        ffmpeg.run(program, ["-i", frames, "-i", palette, "-filter_complex", "paletteuse=dither=bayer:bayer_scale=5",
                             "-loop", str(loop), str(temporary)], path)


def _mpeg4(path: Path, fps: float, size: tuple[int, int]) -> AbstractContextManager[Write]:
    import cv2

    mpeg4 = cv2.VideoWriter.fourcc(*"mp4v")
    return _opencv(path, lambda temporary: cv2.VideoWriter(str(temporary), mpeg4, fps, size))


@contextmanager
def _opencv(path: Path, open_writer: Callable[[Path], cv2.VideoWriter]) -> Iterator[Write]:
    with atomic_path(path) as temporary:
        writer = open_writer(temporary)
        try:
            if not writer.isOpened():
                raise MissingExtraError(f"{path}: OpenCV has no MPEG-4 here; pip install imageio-ffmpeg")
            yield lambda rgb: writer.write(np.ascontiguousarray(rgb[..., ::-1]))
        finally:
            writer.release()
