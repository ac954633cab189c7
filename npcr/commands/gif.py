# SPDX-License-Identifier: Apache-2.0
"""Make a GIF, an animated WebP or another video out of a folder of pictures or a video."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from npcr import cli
from npcr.config import load_beside
from npcr.errors import NpcrError
from npcr.io.frame_source import FrameSource, Pixels, open_frames
from npcr.io.pixels import checkerboard, fit_size, over, resized
from npcr.io.video import VideoWriter
from npcr.io.video_formats import FORMATS, VideoFormat
from npcr.progress import progress_bar

EXAMPLES = """\
  npcr gif output/res_12
      output/res_12.gif, 480 pixels wide or high at most
  npcr gif output/res_12 --size 320 --step 2 --end 120
      smaller: every second of the first 120 frames, as fast as before
  npcr gif output/res_12/rgba --output cat.webp
      with alpha
  npcr gif orbit.mp4 --boomerang --plays 3 --output swing.gif
      forwards and back, three times
  npcr gif output/res_12/rgba --output cat.mov --size 0
      a folder of pictures as a video with alpha, in full size
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("gif", __doc__, EXAMPLES)
    parser.add_argument("input", type=Path, metavar="INPUT",
                        help="a folder of numbered pictures, a video, an animated GIF or WebP")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="its suffix gives the format: .gif, .webp, .mp4, .webm, .mov (default: INPUT.gif)")
    parser.add_argument("--codec", choices=tuple(FORMATS), help="the format, where the suffix is not enough: h265")
    parser.add_argument("--size", type=int, default=480, metavar="N",
                        help="pixels of the longer side at most, 0: as it is (default: 480)")
    parser.add_argument("--plays", type=int, default=0, metavar="N",
                        help="how often a GIF or WebP is shown, 0: for ever (default: 0)")
    parser.add_argument("--boomerang", action="store_true",
                        help="forwards and back, so that a path that does not close loops; keeps the frames in memory")
    cli.add_frame_options(parser)
    cli.add_quiet_option(parser)
    args = parser.parse_args(arguments)
    if args.size < 0 or not 0 <= args.plays <= 65535:
        parser.error("--size must be at least 0, --plays from 0 to 65535")
    args.output = args.output or _default_output(args.input)
    return args


def main(arguments: Sequence[str]) -> None:
    """Read the frames and write the animation."""
    args = parse(arguments)
    source = open_frames(args.input).select(args.start, args.end, args.step)
    if os.path.realpath(args.output) == os.path.realpath(args.input):
        raise NpcrError(f"{args.output}: is the input itself; give another --output")
    settings = load_beside([args.input])
    fps = args.fps or source.fps or settings.RENDER.FPS / args.step
    background = settings.BACKGROUND_GRAY if args.background is None else args.background
    with VideoWriter(args.output, fps, args.codec, args.plays) as video:
        frames = _prepare(source, args.size, None if _keeps_alpha(video.format, args) else background)
        count = len(source)
        if args.boomerang:
            frames, count = _play_back_and_forth(frames), max(1, 2 * count - 2)
        for pixels in progress_bar(frames, total=count, title=video.format.name, unit="frame"):
            video.write(pixels)
    print(f"{count} frames at {fps:g} a second: {args.output} ({args.output.stat().st_size / 2**20:.1f} MiB)")


def _default_output(source: Path) -> Path:
    name = Path(os.path.abspath(source))
    return name.with_name(f"{name.name if source.is_dir() else name.stem}.gif")


def _keeps_alpha(video_format: VideoFormat, args: argparse.Namespace) -> bool:
    """Return whether the output has alpha: the format can, and no background was given."""
    return video_format.alpha and args.background is None


def _prepare(source: FrameSource, longest: int, background: float | str | None) -> Iterator[Pixels]:
    """Yield resized frames, composited over the background unless it is None."""
    size = fit_size(source.size, longest) if longest else source.size
    backdrop = checkerboard(size) if isinstance(background, str) else background
    for pixels in source:
        smaller = resized(pixels, size)
        yield smaller if backdrop is None else over(smaller, backdrop)


def _play_back_and_forth(frames: Iterator[Pixels]) -> Iterator[Pixels]:
    """Yield the frames, then those between the last and the first in reverse."""
    kept = []
    for pixels in frames:
        kept.append(pixels)
        yield pixels
    yield from kept[-2:0:-1]
