#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turn a capture in another layout into a scene with a scene.yml that is ready to train."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from npcr import cli
from npcr.importers.base import Capture
from npcr.importers.colmap import read_colmap
from npcr.importers.matting import Matting
from npcr.importers.metashape import read_metashape
from npcr.importers.nhr import read_nhr
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms_json import read_transforms
from npcr.reconstruction.point_filters import PointFilters

logger = logging.getLogger("npcr")

EXAMPLES = """examples:
  python tools/import_scene.py colmap captures/fox datasets/fox --downscale 2 --densify 200000
  python tools/import_scene.py transforms captures/dino datasets/dino
  python tools/import_scene.py transforms captures/lego datasets/lego --downscale 2
  python tools/import_scene.py metashape captures/cat/cameras.xml datasets/cat --points cat.ply --masks mattes
  python tools/import_scene.py nhr captures/basketball datasets/basketball
then, where the capture has no point cloud:
  python tools/carve_hull.py datasets/dino
  python tools/train.py --config-file datasets/dino/scene.yml
docs/your-own-data.md goes through whole captures.
"""

COLMAP = """\
A COLMAP workspace: its sparse model (sparse/0, binary or text, any perspective camera model), its images/ and, where
there is one, masks/ (x.jpg.png as COLMAP names them, or x.png). Photographs are undistorted here. The cloud is the
sparse one; --points dense/0/fused.ply takes the dense one. Needs pip install 'npcr[colmap]'.
"""
TRANSFORMS = """\
transforms.json of nerfstudio, instant-ngp or NeRF-synthetic: intrinsics for all or for each photograph (fl_x, fl_y,
cx, cy, w, h, or camera_angle_x), lens distortion (undistorted here), RGBA photographs or mask_path, ply_file_path.
A folder's transforms_train, _val and _test.json keep their splits: the test views become the scene
DESTINATION/test, which DATASETS.TEST names. Photographs that do not exist are counted and left out.
"""
NHR = """\
The layout of NHR and ConvNeRF, or NPCR's own: CamPose.inf, Intrinsic.inf, img/FRAME/img_0000.jpg numbered from 0 or
1, mattes as img_0000_alpha.png or mask/img_0000.jpg, pointclouds/frame1.obj; several frames.
"""
METASHAPE = """\
Agisoft Metashape's cameras.xml (File, Export, Export Cameras): frame and fisheye sensors with distortion, affinity
and skew, which are undone here. Disabled and unaligned cameras are left out. The cloud is exported separately
(--points), in local coordinates, so that it fits the cameras.
"""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    colmap = _kind(kinds, "colmap", "COLMAP's sparse model", COLMAP, lambda args: read_colmap(
        args.source, model=args.model, images=args.images, masks=args.masks))
    colmap.add_argument("--model", type=Path, metavar="FOLDER", help="the sparse model (default: sparse/0 or sparse)")
    colmap.add_argument("--images", type=Path, metavar="FOLDER", help="the photographs (default: images or input)")
    colmap.add_argument("--masks", type=Path, metavar="FOLDER", help="their mattes (default: masks beside images)")

    transforms = _kind(kinds, "transforms", "transforms.json (nerfstudio, instant-ngp, NeRF-synthetic)", TRANSFORMS,
                       lambda args: read_transforms(args.source, pixel_origin=args.pixel_origin,
                                                    undo_applied=args.undo_applied_transform))
    transforms.add_argument("--pixel-origin", choices=("corner", "center"), default="corner",
                            help="what cx and cy count from: the outer corner of the first pixel, as nerfstudio and "
                                 "COLMAP do (default), or its center, as OpenCV's calibration does")
    transforms.add_argument("--undo-applied-transform", action="store_true",
                            help="take the cameras back to before nerfstudio's applied_transform, to fit a cloud "
                                 "(--points) that was not moved with them, such as COLMAP's fused.ply")

    nhr = _kind(kinds, "nhr", "layouts of NHR and ConvNeRF", NHR,
                lambda args: read_nhr(args.source, frames=args.frames))
    nhr.add_argument("--frames", type=int, metavar="N", help="use the first N frames (default: all)")

    metashape = _kind(kinds, "metashape", "Agisoft Metashape's cameras.xml", METASHAPE, lambda args: read_metashape(
        args.source, images=args.images, masks=args.masks, chunk_space=args.chunk_space))
    metashape.add_argument("--images", type=Path, metavar="FOLDER",
                           help="the photographs, searched through (default: images beside the file, else its folder)")
    metashape.add_argument("--masks", type=Path, metavar="FOLDER", help="their mattes, as x.png or x.jpg.png")
    metashape.add_argument("--chunk-space", action="store_true",
                           help="keep the chunk's inner coordinates instead of applying its transform")
    return parser.parse_args()


def main() -> None:
    """Read the capture, write the scene, say what comes next."""
    args = parse()
    matting = None
    if args.background is not None or args.trimap is not None:
        matting = Matting(args.background, tuple(args.tolerance), args.trimap)
    edit = PointFilters(args.crop and tuple(args.crop), args.outliers, args.voxel, args.max_points)
    capture: Capture = args.read(args)
    if capture.missing:
        logger.warning("%s: %d of %d photographs (or masks) do not exist and are left out, the first is %s",
                       capture.file, len(capture.missing), len(capture.missing) + len(capture.views),
                       capture.missing[0])
    if args.points is not None:
        capture = replace(capture, clouds=[args.points])
    cameras = import_capture(capture, args.destination, downscale=args.downscale, mask=args.mask, matting=matting,
                             edit=edit, densify_to=args.densify, overwrite=args.overwrite, workers=args.workers,
                             progress=_bar)
    print(f"scene:  {args.destination}, {len(cameras)} photographs of {cameras.size[0]}x{cameras.size[1]}")
    print(f"config: {args.destination / 'scene.yml'}")
    if not capture.clouds:
        print(f"next:   the capture has no point cloud; python tools/carve_hull.py {args.destination} makes one "
              "from the mattes")


def _kind(kinds: Any, name: str, summary: str, description: str,
          read: Callable[[argparse.Namespace], Capture]) -> argparse.ArgumentParser:
    """A sub-command with the arguments that every kind of source has."""
    parser: argparse.ArgumentParser = kinds.add_parser(
        name, help=summary, description=description, epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(read=read)
    parser.add_argument("source", type=Path, help="the capture: a folder, or the file that describes it")
    parser.add_argument("destination", type=Path, help="folder of the new scene")
    parser.add_argument("--downscale", type=float, default=1.0, metavar="F",
                        help="make the photographs smaller by this factor (default: 1)")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
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
    return parser


def _color(text: str) -> tuple[int, ...]:
    values = tuple(int(word) for word in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError("three numbers R,G,B are needed")
    return values


def _bar(jobs: Iterable[Any], count: int, name: str) -> Iterable[Any]:
    return tqdm(jobs, total=count, desc=name, unit="picture")


if __name__ == "__main__":
    cli.run(main)
