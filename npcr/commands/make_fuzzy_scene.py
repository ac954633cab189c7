# SPDX-License-Identifier: Apache-2.0
"""Generate a small scene of a furry animal: photographs with mattes, cameras, point cloud, scene.yml."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from npcr import cli
from npcr.progress import progress_bar
from npcr.synthetic.creature_scene import FuzzyOptions, make_fuzzy_scene

EXAMPLES = """\
  npcr fuzzy datasets/demo
  npcr fuzzy datasets/large --views 120 --size 512 --strands 30000 --points 300000
then:
  npcr train --config-file datasets/demo/scene.yml
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    defaults = FuzzyOptions()
    parser = cli.new_parser("fuzzy", __doc__, EXAMPLES)
    parser.add_argument("destination", type=Path, help="folder of the new scene")
    for name, text in (("views", "photographs"), ("size", "their width and height in pixels"),
                       ("strands", "strands of fur"), ("points", "points of the cloud"),
                       ("path_views", "cameras of the video path, CamPose_path.inf"), ("seed", "of everything random")):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name), metavar="N",
                            help=f"{text} (default: {getattr(defaults, name)})")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
    cli.add_quiet_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Make the scene and print where it is."""
    args = parse(arguments)
    options = FuzzyOptions(args.views, args.size, args.strands, args.points, args.path_views, args.seed)
    make_fuzzy_scene(args.destination, options, overwrite=args.overwrite,
                     progress=partial(progress_bar, total=args.views, title="photographs", unit="view"))
    print(f"scene:  {args.destination}\nconfig: {args.destination / 'scene.yml'}")
