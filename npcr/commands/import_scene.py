# SPDX-License-Identifier: Apache-2.0
"""Turn a capture in another layout into a scene with a scene.yml that is ready to train."""

import argparse
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from npcr import cli
from npcr.command_names import as_typed
from npcr.config import load_config
from npcr.importers import Option, find_importer, import_capture, importers
from npcr.importers.matting import Matting
from npcr.progress import progress_bar
from npcr.reconstruction.point_filters import PointFilters

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr import colmap captures/fox datasets/fox --downscale 2 --densify 200000
  npcr import transforms captures/dino datasets/dino
  npcr import transforms captures/lego datasets/lego --downscale 2
  npcr import metashape captures/cat/cameras.xml datasets/cat --points cat.ply --masks mattes
  npcr import nhr captures/basketball datasets/basketball
then, where the capture has no point cloud:
  npcr carve datasets/dino
  npcr train --config-file datasets/dino/scene.yml
An import that was stopped goes on where it was when the same command is given again.
docs/your-own-data.md goes through whole captures.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line, which has a sub-command for each importer."""
    parser = cli.new_parser("import", __doc__, EXAMPLES)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for importer in importers():
        kind = kinds.add_parser(importer.name, help=importer.summary, description=importer.description,
                                epilog=parser.epilog, formatter_class=argparse.RawDescriptionHelpFormatter)
        _add_common_options(kind)
        for option in importer.options:
            _add_option(kind, option)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Read the capture, write the scene, print what comes next."""
    args = parse(arguments)
    matting = None
    if args.background is not None or args.trimap is not None:
        matting = Matting(args.background, tuple(args.tolerance), args.trimap)
    filters = PointFilters(args.crop and tuple(args.crop), args.outliers, args.voxel, args.max_points)
    importer = find_importer(args.kind)
    capture = importer.read(args.source, **{option.name: getattr(args, option.name) for option in importer.options})
    if capture.missing:
        logger.warning("%s: %d of %d photographs do not exist and are left out, the first is %s",
                       capture.file, len(capture.missing), len(capture.missing) + len(capture.views),
                       capture.missing[0])
    if args.points is not None:
        capture = replace(capture, clouds=[args.points], cloud_remarks=[])
    for remark in capture.cloud_remarks:
        logger.warning("%s", remark)
    cameras = import_capture(capture, args.destination, downscale=args.downscale, mask=args.mask, matting=matting,
                             filters=filters, densify_to=args.densify, overwrite=args.overwrite, workers=args.workers,
                             progress=_bar)
    print(f"scene:  {args.destination}, {len(cameras)} photographs of {cameras.size[0]}x{cameras.size[1]}")
    print(f"config: {args.destination / 'scene.yml'}")
    if not capture.clouds:
        print(f"next:   {_cloud_advice(args.destination)}")


def _cloud_advice(scene: Path) -> str:
    """Where the cloud of a scene without one may come from."""
    if load_config(scene / "scene.yml").DATASETS.MASK:
        return f"the capture has no point cloud; {as_typed('npcr carve')} {scene} makes one from the mattes"
    return ("the capture has no point cloud, and the scene no mattes to carve one from; import it again, with a cloud "
            "(--points), or with mattes (RGBA photographs or masks for all, --background or --trimap) for "
            + as_typed("npcr carve"))


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every kind of source has."""
    parser.add_argument("source", type=Path, help="the capture: a folder, or the file that describes it")
    parser.add_argument("destination", type=Path, help="folder of the new scene")
    parser.add_argument("--downscale", type=float, default=1.0, metavar="F",
                        help="make the photographs smaller by this factor (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
    cli.add_quiet_option(parser)
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), metavar="N",
                        help="photographs worked on at once (default: the machine's cores, at most 8)")
    mattes = parser.add_argument_group("mattes")
    mattes.add_argument("--mask", action=argparse.BooleanOptionalAction, default=None,
                        help="keep mattes (an error where a photograph has none), or leave them out "
                             "(default: keep them where every photograph has one)")
    mattes.add_argument("--background", type=_color, metavar="R,G,B",
                        help="no mattes, but this color behind the object: key it out")
    mattes.add_argument("--tolerance", type=float, nargs=2, default=(20.0, 60.0), metavar=("LOW", "HIGH"),
                        help="distances from that color (of 255) up to which a pixel is background, and from which it "
                             "is object (default: 20 60)")
    mattes.add_argument("--trimap", type=Path, metavar="FOLDER",
                        help="no mattes, but trimaps x.png: black background, white object, gray to be solved for "
                             "(needs pip install 'npcr[matting]')")
    cloud = parser.add_argument_group("point cloud")
    cloud.add_argument("--points", type=Path, metavar="FILE",
                       help="take this cloud (ply, obj, xyz, npy, las, laz) instead of the source's own")
    cloud.add_argument("--crop", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
                       help="keep the points in this box")
    cloud.add_argument("--outliers", type=float, metavar="S",
                       help="leave out points whose neighbors are farther away than average by S standard deviations; "
                            "2 is a good start")
    cloud.add_argument("--voxel", type=float, metavar="SIDE", help="keep one point for each cube of this side")
    cloud.add_argument("--max-points", type=int, metavar="N", help="keep at most N points, drawn at random")
    cloud.add_argument("--densify", type=int, default=0, metavar="N",
                       help="search the photographs for more points (plane-sweeping stereo) until there are about N")


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    """Add an option of one importer."""
    flag = f"--{option.name.replace('_', '-')}"
    if option.is_flag:
        parser.add_argument(flag, action="store_true", help=option.help)
    else:
        parser.add_argument(flag, type=option.type, default=option.default, choices=option.choices,
                            metavar=option.metavar, help=option.help)


def _color(text: str) -> tuple[int, ...]:
    values = tuple(int(word) for word in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError("three numbers R,G,B are needed")
    return values


def _bar(jobs: Iterable[Any], count: int, name: str) -> Iterable[Any]:
    return progress_bar(jobs, total=count, title=name, unit="picture")
