# SPDX-License-Identifier: Apache-2.0
"""The video formats that can be written, and their arguments of ffmpeg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from npcr.errors import NpcrError

# Colors are converted to BT.709 and tagged so, since players otherwise guess the matrix from the image size.
_BT709 = ("-vf", "scale=out_color_matrix=bt709:out_range=tv,"
          "setparams=range=tv:colorspace=bt709:color_primaries=bt709:color_trc=bt709")
_FAST_START = ("-movflags", "+faststart")  # players can start before the whole file is loaded


@dataclass(frozen=True)
class VideoFormat:
    """One way to write a video."""

    name: str  # as in RENDER.VIDEO
    suffix: str  # of the file
    encoder: str  # of ffmpeg
    arguments: tuple[str, ...]  # of ffmpeg, after the encoder
    pixel_format: str  # of frames without alpha
    alpha_pixel_format: str = ""  # of frames with straight alpha; empty: the format has no alpha
    subsamples_chroma: bool = False  # chroma has half the resolution, so that sides must be even
    fills_transparent: bool = False  # transparent pixels take their neighbors' color (`pixels.fill_transparent`)
    preview: bool = False  # an animated image: loops, and is better kept small

    @property
    def alpha(self) -> bool:
        """Whether frames can have alpha."""
        return bool(self.alpha_pixel_format)


_ALL = (
    VideoFormat("h264", ".mp4", "libx264", ("-crf", "17", *_BT709, *_FAST_START), "yuv420p", subsamples_chroma=True),
    # hvc1 is the tag by which Apple's players recognize H.265.
    VideoFormat("h265", ".mp4", "libx265", ("-crf", "18", "-tag:v", "hvc1", "-x265-params", "log-level=error", *_BT709,
                                            *_FAST_START), "yuv420p", subsamples_chroma=True),
    VideoFormat("vp9", ".webm", "libvpx-vp9", ("-crf", "16", "-b:v", "0", "-row-mt", "1", "-deadline", "good",
                                               "-cpu-used", "4", *_BT709),
                "yuv420p", "yuva420p", subsamples_chroma=True, fills_transparent=True),
    VideoFormat("prores", ".mov", "prores_ks", ("-profile:v", "4444", "-vendor", "apl0", *_BT709),
                "yuv444p10le", "yuva444p10le", fills_transparent=True),
    VideoFormat("gif", ".gif", "gif", (), "rgb24", preview=True),
    # libwebp converts the colors itself, to the matrix that WebP prescribes.
    VideoFormat("webp", ".webp", "libwebp_anim", ("-quality", "85", "-compression_level", "4"), "bgra", "bgra",
                preview=True),
)
FORMATS = {each.name: each for each in _ALL}


def format_of(path: Path) -> VideoFormat:
    """Return the format of a file's suffix; .mp4 is h264.

    Args:
        path: the video file.

    Returns:
        One of `FORMATS`.

    Raises:
        NpcrError: no format has the suffix.
    """
    for each in _ALL:
        if each.suffix == path.suffix.lower():
            return each
    known = ", ".join(f"{each.suffix} ({each.name})" for each in _ALL if each.name != "h265")
    raise NpcrError(f"{path}: the name must end in a video's suffix: {known}")
