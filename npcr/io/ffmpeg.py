# SPDX-License-Identifier: Apache-2.0
"""The ffmpeg program of imageio-ffmpeg: its encoders, writing of raw frames to it, reading of frames from it."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.io.video_formats import FORMATS, VideoFormat

Write = Callable[[NDArray[np.uint8]], Any]

_STREAM = re.compile(r"Stream #.*Video: (\w+)[^,]*, (\w+).*?, (\d+)x(\d+)")
_RATE = re.compile(r"Stream #.*Video: .*, ([\d.]+) fps")
_PREFIX = re.compile(r"^\[.*?\] ")  # of messages: the component of ffmpeg, and an address
_ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")


class VideoHeader(NamedTuple):
    """Properties of the first video stream of a file."""

    codec: str
    pixel_format: str
    size: tuple[int, int]  # width, height as displayed
    fps: float | None


def find_ffmpeg() -> str:
    """Find the ffmpeg program.

    Returns:
        Its path.

    Raises:
        ImportError: imageio-ffmpeg is not installed.
        RuntimeError: imageio-ffmpeg has no program for this platform.
    """
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def require_encoder(program: str, path: Path, video_format: VideoFormat) -> None:
    """Check that ffmpeg has the encoder of a format.

    Args:
        program: ffmpeg's path.
        path: the video to write, for the message.
        video_format: its format.

    Raises:
        NpcrError: the encoder is missing; the message names the formats that can be written.
    """
    available = _encoders(program)
    if video_format.encoder not in available:
        writable = ", ".join(name for name, each in FORMATS.items() if each.encoder in available) or "none"
        raise NpcrError(f"{path}: {video_format.name} needs the encoder {video_format.encoder}, which {program} "
                        f"was built without; formats that it can write: {writable}")


@lru_cache
def _encoders(program: str) -> frozenset[str]:
    output = _run_captured(program, ["-encoders"]).stdout
    return frozenset(words[1] for line in output.splitlines() if len(words := line.split()) > 1)


def raw_input_arguments(size: tuple[int, int], channels: int, fps: float) -> list[str]:
    """Return ffmpeg's arguments for raw frames from standard input.

    Args:
        size: (width, height).
        channels: 3 for RGB, 4 for straight RGBA.
        fps: frames a second.

    Returns:
        Input arguments.
    """
    return ["-f", "rawvideo", "-pix_fmt", "rgba" if channels == 4 else "rgb24", "-s", f"{size[0]}x{size[1]}",
            "-r", f"{fps:g}", "-i", "-", "-an"]


@contextmanager
def open_encoder(program: str, arguments: Sequence[str], path: Path) -> Iterator[Write]:
    """Start an ffmpeg process that reads raw frames; it is finished when the block ends.

    Args:
        program: ffmpeg's path.
        arguments: of ffmpeg, with those of `raw_input_arguments`.
        path: the video, for messages.

    Yields:
        A function that writes one frame.

    Raises:
        OSError: ffmpeg failed; the message gives its reason.
    """
    with tempfile.TemporaryFile() as messages:
        # In a session of its own: else a terminal's Ctrl-C would end ffmpeg before it has closed the video.
        process = subprocess.Popen([program, "-y", "-v", "error", *arguments], stdin=subprocess.PIPE,
                                   stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True)
        assert process.stdin is not None
        try:
            pipe = process.stdin
            yield lambda pixels: pipe.write(pixels.data)
            process.stdin.close()
            status = process.wait()
        except BrokenPipeError:
            status = process.wait() or 1
        except BaseException:
            process.kill()
            process.wait()
            raise
        _check(status, messages, path)


def run(program: str, arguments: Sequence[str], path: Path) -> None:
    """Run ffmpeg without frames on standard input.

    Args:
        program: ffmpeg's path.
        arguments: of ffmpeg.
        path: the video, for messages.

    Raises:
        OSError: ffmpeg failed; the message gives its reason.
    """
    with tempfile.TemporaryFile() as messages:
        done = subprocess.run([program, "-y", "-v", "error", *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True, check=False)
        _check(done.returncode, messages, path)


def read_header(program: str, path: Path, decoder: Sequence[str] = ()) -> VideoHeader:
    """Read the header of a video file.

    Args:
        program: ffmpeg's path.
        path: the video.
        decoder: arguments that select a decoder, such as -c:v libvpx-vp9.

    Returns:
        Properties of the first video stream.

    Raises:
        NpcrError: the file has no video that can be read.
    """
    output = _run_captured(program, [*decoder, "-i", str(path)]).stderr
    found = _STREAM.search(output)
    if found is None:  # ffmpeg's last message is that opening failed; the reason precedes it
        reasons = [line for line in output.splitlines() if "rror" in line or "nvalid" in line] or ["no pictures in it"]
        raise NpcrError(f"{path}: is no video that can be read: {_PREFIX.sub('', reasons[0].strip())}")
    width, height = int(found[3]), int(found[4])
    rate, rotation = _RATE.search(output), _ROTATION.search(output)
    transposed = rotation is not None and round(float(rotation[1])) % 180 == 90
    return VideoHeader(found[1], found[2], (height, width) if transposed else (width, height),
                  float(rate[1]) if rate else None)


def count_frames(program: str, path: Path) -> int:
    """Count the frames of a video without decoding them.

    Args:
        program: ffmpeg's path.
        path: the video.

    Returns:
        Number of frames.

    Raises:
        NpcrError: they cannot be counted.
    """
    # A line for each frame, below a header. ffmpeg's own count is left out by version 7.0 where nothing is decoded.
    arguments = ["-i", str(path), "-map", "0:v:0", "-c", "copy", "-f", "framecrc", "-"]
    lines = _run_captured(program, arguments).stdout.splitlines()
    if not lines:
        raise NpcrError(f"{path}: its frames cannot be counted")
    return sum(not line.startswith("#") for line in lines)


def read_raw(program: str, path: Path, decoder: Sequence[str], pixel_format: str,
             frame_bytes: int) -> Generator[bytes, None, None]:
    """Decode the frames of a video, one at a time.

    Args:
        program: ffmpeg's path.
        path: the video.
        decoder: arguments that select a decoder; empty for ffmpeg's choice.
        pixel_format: of the result, as ffmpeg names it.
        frame_bytes: size of a frame in that format.

    Yields:
        Raw frames, `frame_bytes` each.

    Raises:
        NpcrError: a frame cannot be decoded.
    """
    command = [program, "-v", "error", *decoder, "-i", str(path), "-map", "0:v:0", "-f", "rawvideo",
               "-pix_fmt", pixel_format, "-fps_mode", "passthrough", "-"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages,
                                   start_new_session=True)
        assert process.stdout is not None
        try:
            while len(frame := process.stdout.read(frame_bytes)) == frame_bytes:
                yield frame
            if frame or process.wait():
                raise NpcrError(f"{path}: cannot be decoded, it may be cut short: {_last_line(messages)}")
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


def _run_captured(program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Capture ffmpeg's output, whether or not it succeeds: without an output file it prints a header, but fails."""
    return subprocess.run([program, "-hide_banner", *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", check=False)


def _check(status: int, messages: IO[bytes], path: Path) -> None:
    if status:
        raise OSError(f"{path}: ffmpeg failed: {_last_line(messages) or f'status {status}'}")


def _last_line(messages: IO[bytes]) -> str:
    """Return the last line that ffmpeg wrote."""
    messages.seek(0)
    return (messages.read().decode(errors="replace").strip().splitlines() or [""])[-1]
