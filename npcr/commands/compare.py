# SPDX-License-Identifier: Apache-2.0
"""Compare renderings with each other or with the ground truth: a labeled video, side by side, wiped, subtracted."""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from npcr import cli
from npcr.config import load_beside
from npcr.io.frame_source import FrameSource, open_frames
from npcr.io.images import write_image
from npcr.io.video import VideoWriter
from npcr.io.video_formats import FORMATS
from npcr.progress import progress_bar
from npcr.visualization.captions import Pixels
from npcr.visualization.comparison import (
    LAYOUTS,
    VIEWS,
    Comparison,
    composited_frames,
    divider_at,
    evenly_spaced,
    match_sources,
    tiled,
)

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr compare output/res_12 datasets/bob/path --labels rendered "ray traced"
      side by side, to comparison.mp4
  npcr compare output/res_12 datasets/bob/path --view wipe,difference --gain 8 --output wipe.webm
  npcr compare one/rgba two/rgba three/rgba --background checker --layout grid --zoom 120 80 40 40
  npcr compare before.mp4 after.mp4 --fit --trim --start 10 --end 90 --output preview.gif
  npcr compare output/res_12 datasets/bob/path --still sheet.png --still-frames 6

an input is a folder of numbered pictures (img_0001.png ...; RGBA lies over --background), a video, or an
animated GIF or WebP. Wipes and differences are taken against the last one. docs/video.md says more
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("compare", __doc__, EXAMPLES)
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="two or more folders or videos")
    parser.add_argument("--labels", nargs="+", metavar="TEXT", help="one for each input (default: their names)")
    parser.add_argument("--view", type=_views, default=("inputs",), metavar="VIEWS",
                        help=f"what to show, with commas between: {', '.join(VIEWS)} (default: inputs)")
    parser.add_argument("--layout", choices=LAYOUTS, default="row", help="of the panels (default: row)")
    parser.add_argument("--gain", type=float, default=4.0, metavar="X",
                        help="the difference is multiplied by this (default: 4)")
    parser.add_argument("--period", type=float, metavar="SECONDS",
                        help="in which a wipe goes there and back (default: the video's length)")
    parser.add_argument("--zoom", nargs=4, type=int, metavar=("X", "Y", "WIDTH", "HEIGHT"),
                        help="magnify this part, in pixels, in a corner of every panel")
    parser.add_argument("--fit", action="store_true", help="resize all to the first input's size")
    parser.add_argument("--trim", action="store_true", help="compare as many frames as the shortest input has")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="the video; its suffix gives the format: .mp4, .webm, .mov, .gif, .webp "
                             "(default: comparison.mp4; with --still none)")
    parser.add_argument("--codec", choices=tuple(FORMATS), help="the format, where the suffix is not enough: h265")
    parser.add_argument("--still", type=Path, metavar="FILE",
                        help="a contact sheet (.png, .jpg): the panels of some frames below each other")
    parser.add_argument("--still-frames", type=int, default=4, metavar="N",
                        help="frames on the sheet, evenly spread (default: 4)")
    cli.add_frame_options(parser)
    cli.add_quiet_option(parser)
    args = parser.parse_args(arguments)
    if len(args.inputs) < 2:
        parser.error("give at least two inputs to compare")
    if args.labels and len(args.labels) != len(args.inputs):
        parser.error(f"--labels has {len(args.labels)} texts for {len(args.inputs)} inputs")
    if args.gain <= 0 or args.still_frames < 1 or (args.period is not None and args.period <= 0):
        parser.error("--gain, --period and --still-frames must be above 0")
    if args.output is None and args.still is None:
        args.output = Path("comparison.mp4")
    return args


def main(arguments: Sequence[str]) -> None:
    """Read the inputs, write the video and the sheet."""
    args = parse(arguments)
    parts = [open_frames(path).select(args.start, args.end, args.step) for path in args.inputs]
    sources = match_sources(parts, args.fit, args.trim)
    settings = load_beside(args.inputs)
    fps = args.fps or next((each.fps for each in sources if each.fps), settings.RENDER.FPS / args.step)
    background = settings.BACKGROUND_GRAY if args.background is None else args.background
    if args.background is not None and (opaque := [str(each.path) for each in sources if not each.alpha]):
        logger.warning("no alpha, so that --background does not show: %s", ", ".join(opaque))
    comparison = Comparison(tuple(args.labels or _names(args.inputs)), args.view, args.gain,
                            args.zoom and tuple(args.zoom))
    period = args.period * fps if args.period else len(sources[0])
    frames = _panels(comparison, sources, background, period)
    _write(args, frames, len(sources[0]), fps)


def _panels(comparison: Comparison, sources: Sequence[FrameSource], background: float | str,
            period: float) -> Iterator[list[Pixels]]:
    for index, images in enumerate(composited_frames(sources, background)):
        yield comparison.panels(images, divider_at(index, period))


def _write(args: argparse.Namespace, frames: Iterator[list[Pixels]], count: int, fps: float) -> None:
    """Write the video and the sheet in one pass over the frames, in constant memory."""
    on_sheet = set(evenly_spaced(count, args.still_frames)) if args.still else set()
    rows: list[Pixels] = []
    with VideoWriter(args.output, fps, args.codec) if args.output else nullcontext() as video:
        for index, panels in enumerate(progress_bar(frames, total=count, title="compare", unit="frame")):
            if video is not None:
                video.write(tiled(panels, args.layout))
            if index in on_sheet:
                rows.append(tiled(panels, "row"))
            if video is None and len(rows) == len(on_sheet):
                break
    if args.still:
        write_image(args.still, tiled(rows, "column"))
    for what, path in (("video", args.output), ("sheet", args.still)):
        if path:
            print(f"{what}: {path}")


def _names(inputs: Sequence[Path]) -> list[str]:
    """The inputs' names, with as much of the path as tells them apart."""
    for parts in range(1, 1 + max(len(path.parts) for path in inputs)):
        names = ["/".join(path.with_suffix("").parts[-parts:]) for path in inputs]
        if len(set(names)) == len(names):
            break
    return names


def _views(text: str) -> tuple[str, ...]:
    views = tuple(text.split(","))
    if unknown := set(views) - set(VIEWS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is none of {', '.join(VIEWS)}")
    return views
