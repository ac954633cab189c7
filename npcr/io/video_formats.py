# SPDX-License-Identifier: Apache-2.0
"""The video formats that can be written, and what each needs of ffmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from npcr.errors import NpcrError

# The color matrix is converted to and named, for players otherwise guess it by the picture's size.
_BT709 = ("-vf", "scale=out_color_matrix=bt709:out_range=tv,"
          "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709")
_STREAMED = ("-movflags", "+faststart")  # players may begin before all is there


@dataclass(frozen=True)
class VideoFormat:
    """One way to write a video."""

    name: str  # as RENDER.VIDEO has it
    suffix: str  # of the file
    encoder: str  # ffmpeg's
    arguments: tuple[str, ...]  # ffmpeg's, after the encoder
    opaque: str  # pixel format of pictures without alpha
    translucent: str = ""  # pixel format of pictures with straight alpha; empty: the format has none
    halves_color: bool = False  # color has half the resolution, so that sides must be even
    fills_hidden: bool = False  # invisible pixels take their neighbors' color (`pixels.fill_hidden`)
    preview: bool = False  # an animated picture: loops, and is better kept small

    @property
    def alpha(self) -> bool:
        """Whether it holds a matte."""
        return bool(self.translucent)


_ALL = (
    VideoFormat("h264", ".mp4", "libx264", ("-crf", "17", *_BT709, *_STREAMED), "yuv420p", halves_color=True),
    # hvc1 is the tag by which Apple's players know H.265.
    VideoFormat("h265", ".mp4", "libx265", ("-crf", "18", "-tag:v", "hvc1", "-x265-params", "log-level=error", *_BT709,
                                            *_STREAMED), "yuv420p", halves_color=True),
    VideoFormat("vp9", ".webm", "libvpx-vp9", ("-crf", "16", "-b:v", "0", "-row-mt", "1", "-deadline", "good",
                                               "-cpu-used", "4", *_BT709),
                "yuv420p", "yuva420p", halves_color=True, fills_hidden=True),
    VideoFormat("prores", ".mov", "prores_ks", ("-profile:v", "4444", "-vendor", "apl0", *_BT709),
                "yuv444p10le", "yuva444p10le", fills_hidden=True),
    VideoFormat("gif", ".gif", "gif", (), "rgb24", preview=True),
    # libwebp converts the colors itself, to the matrix that WebP prescribes.
    VideoFormat("webp", ".webp", "libwebp_anim", ("-quality", "85", "-compression_level", "4"), "bgra", "bgra",
                preview=True),
)
FORMATS = {each.name: each for each in _ALL}


def format_of(path: Path) -> VideoFormat:
    """The format that a file's suffix means; .mp4 is h264. Raises `NpcrError` on another suffix."""
    for each in _ALL:
        if each.suffix == path.suffix.lower():
            return each
    known = ", ".join(f"{each.suffix} ({each.name})" for each in _ALL if each.name != "h265")
    raise NpcrError(f"{path}: the name must end in a video's suffix: {known}")
