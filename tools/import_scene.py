#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turn a capture in another layout into a scene with a scene.yml that is ready to train."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import logging
import os
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from npcr import cli
from npcr.data.importing import import_capture
from npcr.data.transforms_json import Capture, read_transforms

logger = logging.getLogger("npcr")

EXAMPLES = """examples:
  python tools/import_scene.py transforms captures/dino datasets/dino
  python tools/import_scene.py transforms captures/lego/transforms_train.json datasets/lego --downscale 2
then, where the capture has no point cloud:
  python tools/carve_hull.py datasets/dino
  python tools/train.py --config-file datasets/dino/scene.yml
"""

TRANSFORMS = """\
transforms.json of nerfstudio, instant-ngp or NeRF-synthetic: intrinsics for all or for each photograph (fl_x, fl_y,
cx, cy, w, h, or camera_angle_x), lens distortion (undistorted here), RGBA photographs or mask_path, ply_file_path.
Photographs that it names and that do not exist are counted and left out.
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    sources = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    transforms = sources.add_parser("transforms", help="transforms.json (nerfstudio, instant-ngp, NeRF-synthetic)",
                                    description=TRANSFORMS, epilog=EXAMPLES,
                                    formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_common(transforms)
    transforms.add_argument("--pixel-origin", choices=("corner", "center"), default="corner",
                            help="what cx and cy count from: the outer corner of the first pixel, as nerfstudio and "
                                 "COLMAP do (default), or its centre, as OpenCV's calibration does")
    transforms.set_defaults(read=lambda args: read_transforms(args.source, pixel_origin=args.pixel_origin))
    return parser.parse_args()


def main() -> None:
    """Read the capture, write the scene, say what comes next."""
    args = parse()
    capture: Capture = args.read(args)
    if capture.missing:
        logger.warning("%s: %d of %d photographs (or masks) do not exist and are left out, the first is %s",
                       capture.file, len(capture.missing), len(capture.missing) + len(capture.views),
                       capture.missing[0])
    cameras = import_capture(capture, args.destination, downscale=args.downscale, mask=args.mask,
                             overwrite=args.overwrite, workers=args.workers, progress=_bar)
    print(f"scene:  {args.destination}, {len(cameras)} photographs of {cameras.size[0]}x{cameras.size[1]}")
    print(f"config: {args.destination / 'scene.yml'}")
    if capture.cloud is None:
        print(f"next:   the capture has no point cloud; python tools/carve_hull.py {args.destination} makes one "
              "from the mattes")


def _add_common(parser: argparse.ArgumentParser) -> None:
    """Arguments that every kind of source has."""
    parser.add_argument("source", type=Path, help="the capture: a folder, or the file that describes it")
    parser.add_argument("destination", type=Path, help="folder of the new scene")
    parser.add_argument("--downscale", type=float, default=1.0, metavar="F",
                        help="make the photographs smaller by this factor (default: 1)")
    parser.add_argument("--mask", action=argparse.BooleanOptionalAction, default=None,
                        help="keep mattes (an error where a photograph has none), or leave them out "
                             "(default: keep them where every photograph has one)")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), metavar="N",
                        help="photographs worked on at once (default: the machine's cores, at most 8)")


def _bar(jobs: Iterable[Any], count: int) -> Iterable[Any]:
    return tqdm(jobs, total=count, desc="photographs", unit="picture")


if __name__ == "__main__":
    cli.run(main)
