#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generate a small scene of a furry animal: photographs with mattes, cameras, point cloud, scene.yml."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import npcr.entry_point  # noqa: F401  before torch is loaded

# isort: split
import argparse
from functools import partial

from npcr import cli
from npcr.progress import progress_bar
from npcr.synthetic.creature_scene import FuzzyOptions, make_fuzzy_scene

EXAMPLES = """examples:
  python tools/make_fuzzy_scene.py datasets/demo
  python tools/make_fuzzy_scene.py datasets/large --views 120 --size 512 --strands 30000 --points 300000
then:
  python tools/train.py --config-file datasets/demo/scene.yml
"""


def parse() -> argparse.Namespace:
    """Parse the command line."""
    defaults = FuzzyOptions()
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("destination", type=Path, help="folder of the new scene")
    for name, text in (("views", "photographs"), ("size", "their width and height in pixels"),
                       ("strands", "strands of fur"), ("points", "points of the cloud"),
                       ("path_views", "cameras of the video path, CamPose_path.inf"), ("seed", "of everything random")):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name), metavar="N",
                            help=f"{text} (default: {getattr(defaults, name)})")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
    cli.add_quiet_option(parser)
    return parser.parse_args()


def main() -> None:
    """Make the scene and print where it is."""
    args = parse()
    options = FuzzyOptions(args.views, args.size, args.strands, args.points, args.path_views, args.seed)
    make_fuzzy_scene(args.destination, options, overwrite=args.overwrite,
                     progress=partial(progress_bar, total=args.views, title="photographs", unit="view"))
    print(f"scene:  {args.destination}\nconfig: {args.destination / 'scene.yml'}")


if __name__ == "__main__":
    cli.run(main)
