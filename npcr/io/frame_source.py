# SPDX-License-Identifier: Apache-2.0
"""Reading of frames, one at a time, from a folder of numbered images, a video, or an animated image."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from npcr.errors import MissingExtraError, NpcrError
from npcr.io import ffmpeg
from npcr.io.images import SUFFIXES, inspect_image, read_image, read_matte

Pixels = NDArray[np.uint8]
ANIMATION_SUFFIXES = (".gif", ".webp")
_TIMED_FRAMES = 24  # frames of an animation whose mean duration gives the frame rate
_NUMBERED = re.compile(r"(.*?)(\d+)")
# ffmpeg's native decoders of these ignore alpha.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_ALPHA_FORMATS = re.compile("yuva|gbrap|rgba|bgra|argb|abgr|ya|pal8")


@dataclass(frozen=True)
class FrameSource:
    """Frames of one size, (H, W, 3) uint8 RGB or (H, W, 4) straight RGBA."""

    path: Path
    size: tuple[int, int]  # width, height
    frames: range  # indices of the selected frames, from 0
    fps: float | None  # of the selected frames; None: the source has no frame rate
    alpha: bool  # whether frames are RGBA
    read: Callable[[range], Iterator[Pixels]]  # reads frames by index

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Pixels]:
        """Read the frames; raises `NpcrError` where one cannot be read."""
        expected = (self.size[1], self.size[0])
        frames = self.read(self.frames)
        for number in self.frames:
            pixels = next(frames, None)
            if pixels is None:
                raise NpcrError(f"{self.path}: ends before frame {number + 1}; it may be cut short")
            if pixels.shape[:2] != expected:
                raise NpcrError(f"{self.path}: frame {number + 1} is {pixels.shape[1]}x{pixels.shape[0]}, the first "
                                f"is {self.size[0]}x{self.size[1]}")
            yield pixels

    def select(self, start: int, end: int | None, step: int) -> FrameSource:
        """Select a range of frames.

        Args:
            start: number of the first, from 1.
            end: number of the last, included; None for all.
            step: 1 for all frames in the range, 2 for every second one, and so on.

        Returns:
            The selected frames; the frame rate is divided by `step`.

        Raises:
            NpcrError: the range is empty or exceeds the frames.
        """
        last = len(self.frames) if end is None else end
        if not (1 <= start <= last <= len(self.frames)):
            raise NpcrError(f"{self.path}: has frames 1 to {len(self.frames)}; frames {start} to {last} were asked for")
        if step < 1:
            raise NpcrError(f"{self.path}: every {step}th frame was asked for; the step must be at least 1")
        return replace(self, frames=self.frames[start - 1:last:step], fps=self.fps and self.fps / step)


def open_frames(path: str | Path) -> FrameSource:
    """Open a source of frames.

    Args:
        path: a folder of numbered images (with mattes, NAME_alpha.png, beside them), a video file, or an animated GIF
            or WebP.

    Returns:
        All its frames.

    Raises:
        NpcrError: there is no such source, or it cannot be read.
        MissingExtraError: a video needs imageio-ffmpeg.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.exists():
        raise NpcrError(f"{path}: no such folder of pictures or video")
    return _open_animation(path) if path.suffix.lower() in ANIMATION_SUFFIXES else _open_video(path)


def _open_folder(folder: Path) -> FrameSource:
    """Open images in the order of their numbers; img_0001_alpha.png is the matte of img_0001.jpg."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]
    mattes = {file.stem.removesuffix("_alpha"): file for file in files if file.stem.endswith("_alpha")}
    series: dict[str, dict[int, Path]] = {}
    for file in files:
        if numbered := _NUMBERED.fullmatch(file.stem):
            name = f"{numbered[1]}*{file.suffix}"
            series.setdefault(name, {})[int(numbered[2])] = file
    chosen = [name for name in series if name.startswith("img_")] or list(series)
    if len(chosen) != 1:
        found = f"several series of them: {', '.join(sorted(chosen))}" if chosen else "none (jpg, jpeg, png)"
        raise NpcrError(f"{folder}: needs one series of numbered pictures such as img_0001.png; found {found}")
    pictures = [file for _, file in sorted(series[chosen[0]].items())]
    size, alpha = inspect_image(pictures[0])

    def read(frames: range) -> Iterator[Pixels]:
        return (_with_matte(pictures[index], mattes.get(pictures[index].stem)) for index in frames)

    return FrameSource(folder, size, range(len(pictures)), None, alpha or bool(mattes), read)


def _with_matte(picture: Path, matte: Path | None) -> Pixels:
    pixels = read_image(picture)
    if matte is None:
        return pixels
    alpha = read_matte(matte)
    if alpha.shape != pixels.shape[:2]:
        raise NpcrError(f"{matte}: is {alpha.shape[1]}x{alpha.shape[0]}, its picture "
                        f"{pixels.shape[1]}x{pixels.shape[0]}")
    return np.dstack([pixels[..., :3], alpha])


def _open_animation(path: Path) -> FrameSource:
    try:
        with Image.open(path) as image:
            count, size = getattr(image, "n_frames", 1), image.size
            durations = []
            for index in range(min(count, _TIMED_FRAMES)):
                image.seek(index)
                image.load()  # transparency and duration are known only then
                durations.append(image.info.get("duration", 0))
            alpha = image.has_transparency_data
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise NpcrError(f"{path}: cannot be read: {error}") from None

    def read(frames: range) -> Iterator[Pixels]:
        with Image.open(path) as image:
            for index in frames:
                image.seek(index)
                yield np.array(image.convert("RGBA" if alpha else "RGB"))

    fps = 1000 * len(durations) / sum(durations) if any(durations) else None
    return FrameSource(path, size, range(count), fps, alpha, read)


def _open_video(path: Path) -> FrameSource:
    try:
        program = ffmpeg.find_ffmpeg()
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError(f"{path}: reading videos needs ffmpeg ({error}); pip install imageio-ffmpeg") from None
    decoder: list[str] = []
    header = ffmpeg.read_header(program, path)
    if header.codec in _ALPHA_DECODERS:
        decoder = ["-c:v", _ALPHA_DECODERS[header.codec]]
        header = ffmpeg.read_header(program, path, decoder)
    alpha = bool(_ALPHA_FORMATS.match(header.pixel_format))
    channels, (width, height) = 4 if alpha else 3, header.size

    def read(frames: range) -> Iterator[Pixels]:
        raw = ffmpeg.read_raw(program, path, decoder, "rgba" if alpha else "rgb24", width * height * channels)
        with closing(raw):
            for data in islice(raw, frames.start, frames.stop, frames.step):
                yield np.frombuffer(data, np.uint8).reshape(height, width, channels)

    return FrameSource(path, header.size, range(ffmpeg.count_frames(program, path)), header.fps, alpha, read)
