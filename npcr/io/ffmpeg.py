# SPDX-License-Identifier: Apache-2.0
"""The ffmpeg program that imageio-ffmpeg brings: what it can encode, feeding it frames, reading frames."""

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
_PREFIX = re.compile(r"^\[.*?\] ")  # the part of ffmpeg that speaks, and an address
_ROTATION = re.compile(r"rotation of (-?[\d.]+) degrees")


class Header(NamedTuple):
    """What a video file says of its first stream of pictures."""

    codec: str
    pixel_format: str
    size: tuple[int, int]  # width, height as shown
    fps: float | None


def find_ffmpeg() -> str:
    """The program's path. Raises `ImportError` without imageio-ffmpeg, `RuntimeError` where it has no program."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def require_encoder(program: str, path: Path, video_format: VideoFormat) -> None:
    """Raise `NpcrError`, naming what there is, where `program` cannot encode `path` in that format."""
    there = _encoders(program)
    if video_format.encoder not in there:
        writable = ", ".join(name for name, each in FORMATS.items() if each.encoder in there) or "none"
        raise NpcrError(f"{path}: {video_format.name} needs the encoder {video_format.encoder}, which {program} "
                        f"was built without; formats that it can write: {writable}")


@lru_cache
def _encoders(program: str) -> frozenset[str]:
    listed = _asked(program, ["-encoders"]).stdout
    return frozenset(words[1] for line in listed.splitlines() if len(words := line.split()) > 1)


def frames_in(size: tuple[int, int], channels: int, fps: float) -> list[str]:
    """Input arguments for raw frames of `size` (width, height) with 3 or 4 channels, from standard input."""
    return ["-f", "rawvideo", "-pix_fmt", "rgba" if channels == 4 else "rgb24", "-s", f"{size[0]}x{size[1]}",
            "-r", f"{fps:g}", "-i", "-", "-an"]


@contextmanager
def feeding(program: str, arguments: Sequence[str], path: Path) -> Iterator[Write]:
    """An ffmpeg process that takes raw frames; ended and waited for when the block ends.

    Raises `OSError` with ffmpeg's own reason where it fails. `path` names the video in messages.
    """
    with tempfile.TemporaryFile() as messages:
        # In a session of its own: a terminal's Ctrl-C would end ffmpeg before it has closed the video.
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
    """Run ffmpeg to its end; like `feeding` without frames."""
    with tempfile.TemporaryFile() as messages:
        done = subprocess.run([program, "-y", "-v", "error", *arguments], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=messages, start_new_session=True, check=False)
        _check(done.returncode, messages, path)


def read_header(program: str, path: Path, decoder: Sequence[str] = ()) -> Header:
    """What `decoder` (arguments, such as -c:v libvpx-vp9) finds in a file. Raises `NpcrError` on no video."""
    told = _asked(program, [*decoder, "-i", str(path)]).stderr
    found = _STREAM.search(told)
    if found is None:  # what ffmpeg says last is that the whole opening failed; the reason stands before
        reasons = [line for line in told.splitlines() if "rror" in line or "nvalid" in line] or ["no pictures in it"]
        raise NpcrError(f"{path}: is no video that can be read: {_PREFIX.sub('', reasons[0].strip())}")
    width, height = int(found[3]), int(found[4])
    rate, rotation = _RATE.search(told), _ROTATION.search(told)
    sideways = rotation is not None and round(float(rotation[1])) % 180 == 90
    return Header(found[1], found[2], (height, width) if sideways else (width, height),
                  float(rate[1]) if rate else None)


def count_frames(program: str, path: Path) -> int:
    """The number of frames in a video, counted without decoding them."""
    told = _asked(program, ["-i", str(path), "-map", "0:v:0", "-c", "copy", "-progress", "-", "-f", "null", "-"]).stdout
    counts = re.findall(r"^frame=(\d+)", told, re.MULTILINE)
    if not counts:
        raise NpcrError(f"{path}: its frames cannot be counted")
    return int(counts[-1])


def read_raw(program: str, path: Path, decoder: Sequence[str], pixel_format: str,
             size: int) -> Generator[bytes, None, None]:
    """The frames of a video, `size` bytes each, one at a time. Raises `NpcrError` where one cannot be decoded."""
    command = [program, "-v", "error", *decoder, "-i", str(path), "-map", "0:v:0", "-f", "rawvideo",
               "-pix_fmt", pixel_format, "-fps_mode", "passthrough", "-"]
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages,
                                   start_new_session=True)
        assert process.stdout is not None
        try:
            while len(frame := process.stdout.read(size)) == size:
                yield frame
            if frame or process.wait():
                raise NpcrError(f"{path}: cannot be decoded, it may be cut short: {_reason(messages)}")
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


def _asked(program: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """What ffmpeg writes, whether or not it succeeds: asked about a file, it complains of a missing output."""
    return subprocess.run([program, "-hide_banner", *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", check=False)


def _check(status: int, messages: IO[bytes], path: Path) -> None:
    if status:
        raise OSError(f"{path}: ffmpeg failed: {_reason(messages) or f'status {status}'}")


def _reason(messages: IO[bytes]) -> str:
    """The last line that ffmpeg wrote."""
    messages.seek(0)
    return (messages.read().decode(errors="replace").strip().splitlines() or [""])[-1]
