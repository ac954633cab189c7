# SPDX-License-Identifier: Apache-2.0
"""Ray-trace a scene of hair or fur: photographs with mattes, cameras, point cloud, scene.yml, a true video path."""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from npcr import cli
from npcr.progress import progress_bar
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.presets import PRESETS
from npcr.synthetic.hair.scene import make_hair_scene

EXAMPLES = """\
  npcr hair datasets/bob
  npcr hair datasets/curls --preset curly --melanin 3 --curl 0.08 --samples 128
  npcr hair datasets/small --preset fur --views 16 --size 96 --number 4000 --path-frames 0
  npcr hair datasets/real --hair straight.hair --up y --melanin 1.3 --number 20000
  npcr hair datasets/bunny --surface bunny.obj --up y --preset fur
Ctrl-C stops; the same command goes on with what is missing. Then:
  npcr train --config-file datasets/bob/scene.yml

lengths of procedural hair are in radii of the surface; docs/hair-scenes.md explains every option
"""
GROOM = (("number", int, "strands"), ("length", float, "length of a strand"),
         ("curl", float, "radius of the curls"), ("clump", float, "how far strands gather, 0 to 1"),
         ("frizz", float, "irregular waves, share of the length"), ("thickness", float, "diameter of a strand"),
         ("melanin", float, "eumelanin: 0.3 blond, 1.3 brown, 8 black"), ("redness", float, "pheomelanin"))
PICTURES = (("views", int, "photographs"), ("holdout_every", int, "of which every Nth is for evaluation; 0: none"),
            ("size", int, "width and height in pixels"),
            ("distance", float, "of the cameras; 0.5: views from half as far, with the same focal length"),
            ("samples", int, "light paths for each pixel"),
            ("truth_samples", int, "light paths for each pixel of what models are judged by: held-out views and path"),
            ("path_frames", int, "true frames of the video path; 0: no path"),
            ("path_degrees", float, "how far around the path leads"), ("points", int, "points of the cloud"),
            ("skin_share", float, "share of them that lies on the surface"), ("seed", int, "of all that is random"))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    defaults = HairOptions()
    parser = cli.new_parser("hair", __doc__, EXAMPLES)
    parser.add_argument("destination", type=Path, help="folder of the scene")
    parser.add_argument("--preset", choices=tuple(PRESETS), default=defaults.preset,
                        help="the groom; with --hair only its color and thickness (default: %(default)s)")
    parser.add_argument("--hair", metavar="FILE", help="strands from a .hair file (Cem Yuksel's format)")
    parser.add_argument("--surface", metavar="NAME", help="head, animal, none, or a mesh file (.obj, .ply …) "
                        "(default: the preset's; none with --hair)")
    parser.add_argument("--up", choices=("y", "z"), default=defaults.up,
                        help="the upward axis of those files (default: %(default)s)")
    parser.add_argument("--region-above", type=float, default=defaults.region_above, metavar="X",
                        help="share of a mesh file's height above which hair grows (default: %(default)s, everywhere)")
    for name, kind, text in GROOM:
        parser.add_argument(f"--{name}", type=kind, metavar="X", help=f"{text} (default: the preset's)")
    for name, kind, text in PICTURES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(defaults, name), metavar="N",
                            help=f"{text} (default: {_format_default(getattr(defaults, name))})")
    parser.add_argument("--cloud-colors", choices=("renders", "none"), default=defaults.cloud_colors,
                        help="color each point as the training photographs see it (default: %(default)s)")
    parser.add_argument("--format", choices=("png", "jpg"), default=defaults.format,
                        help="photographs as straight RGBA .png, or as premultiplied .jpg with a matte beside it, a "
                             "third of the size (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
                        help="rendering processes; changes no picture (default: %(default)s, one for each core)")
    parser.add_argument("--overwrite", action="store_true", help="begin anew where another scene is")
    cli.add_quiet_option(parser)
    args = parser.parse_args(arguments)
    if args.workers < 1:
        parser.error(f"--workers is {args.workers}; it must be at least 1")
    return args


def _format_default(default: float | None) -> str:
    return "as --samples" if default is None else f"{default}"


def main(arguments: Sequence[str]) -> None:
    """Make the scene and print where it is."""
    args = parse(arguments)
    options = HairOptions(**{field.name: getattr(args, field.name) for field in fields(HairOptions)})
    make_hair_scene(args.destination, options, workers=args.workers, overwrite=args.overwrite, progress=_bar)
    print(f"scene:  {args.destination}\nconfig: {args.destination / 'scene.yml'}")


def _bar(pictures: Iterable[Any], total: int, done: int) -> Iterable[Any]:
    return progress_bar(pictures, title="ray tracing", unit="view", total=total, initial=done)
