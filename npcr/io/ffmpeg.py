# SPDX-License-Identifier: Apache-2.0
"""The ffmpeg program that imageio-ffmpeg brings: what it can encode, and feeding it frames."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from npcr.errors import NpcrError
from npcr.io.video_formats import FORMATS, VideoFormat

Write = Callable[[NDArray[np.uint8]], Any]


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
    listed = subprocess.run([program, "-hide_banner", "-encoders"], stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, errors="replace", check=False).stdout
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


def _check(status: int, messages: IO[bytes], path: Path) -> None:
    if status:
        messages.seek(0)
        reason = messages.read().decode(errors="replace").strip() or f"status {status}"
        raise OSError(f"{path}: ffmpeg failed: {reason.splitlines()[-1]}")
