# SPDX-License-Identifier: Apache-2.0
"""Make a scene's point cloud from its mattes: carve the visual hull, sample its surface evenly.

Writes SCENE/pointclouds/frame1.ply and a picture of it, and sets NEAR_FAR_SIZE and CENTER in SCENE/scene.yml.
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

from npcr import cli
from npcr.cameras import project
from npcr.config import load_config
from npcr.data.scene_config import FILE_NAME, point_settings, update_scene_config
from npcr.errors import SceneError
from npcr.io.images import read_image, write_image
from npcr.io.points import PointCloud, write_points
from npcr.progress import Progress, titled
from npcr.reconstruction.mattes import coverage, fill_holes
from npcr.reconstruction.point_colors import color_points
from npcr.reconstruction.silhouette_field import SilhouetteField
from npcr.reconstruction.silhouettes import Silhouettes, check_silhouettes, load_silhouettes
from npcr.reconstruction.visual_hull import carve, estimate_bounds, fewest_views, reached_walls, sample_surface
from npcr.visualization.preview import contact_sheet, draw_cameras, draw_projection

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr carve datasets/dino
      100,000 points; the object's bounds are found from the cameras and the mattes
  npcr carve datasets/cat --points 300000 --fuzz 0.02 --threshold 0.3
      hair: half of the points lie in a layer outside the hull, a fiftieth of the object's size thick
  npcr carve datasets/dino --bounds -0.07 -0.03 -0.06 0.02 0.07 0.02 --resolution 512

The bounds found are the hull's own: starting from the point nearest to the rays through the middles of the
mattes, a coarse hull is carved in a cube that grows until the hull no longer touches its walls.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("carve", __doc__, EXAMPLES)
    parser.add_argument("scene", type=Path, help="folder of the scene")
    parser.add_argument("--points", type=int, default=100000, metavar="N", help="points (default: 100000)")
    parser.add_argument("--bounds", type=float, nargs=6, metavar=("X0", "Y0", "Z0", "X1", "Y1", "Z1"),
                        help="lowest and highest corner of the object's box (default: found from the mattes)")
    parser.add_argument("--resolution", type=int, default=256, metavar="N",
                        help="cells along the box's longest side (default: 256), rounded up to 8, 16, 32, ...; mattes "
                             "are reduced to 4 N pixels")
    parser.add_argument("--threshold", type=float, default=0.5,
                        help="matte value, 0 to 1, from which a pixel is the object (default: 0.5)")
    parser.add_argument("--fuzz", type=float, default=0.0, metavar="SHARE",
                        help="put half of the points into a layer outside the hull, as thick as this share of the "
                             "object's size, where all mattes show at least a trace (default: 0)")
    parser.add_argument("--min-views", type=int, metavar="N",
                        help="views that must have a say on a point (default: a quarter of them, at least 2; more "
                             "where mattes touch the borders of their pictures and the hull has loose ends)")
    parser.add_argument("--tolerate", type=int, default=0, metavar="N",
                        help="so many mattes may be wrong about a point; above 0 the hull gets looser (default: 0)")
    parser.add_argument("--fill-holes", type=float, default=0.01, metavar="SHARE",
                        help="close holes within a matte that are smaller than this share of its area, often "
                             "shadows taken for background (default: 0.01; 0 keeps all)")
    parser.add_argument("--colors", action=argparse.BooleanOptionalAction, default=True,
                        help="color each point from the photograph that sees it best (default: yes)")
    parser.add_argument("--frame", type=int, default=1, metavar="N", help="frame of the scene, from 1 (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: 0)")
    parser.add_argument("--preview", type=Path, metavar="FILE",
                        help="picture of the cloud over photographs (default: SCENE/carved.png)")
    parser.add_argument("--overwrite", action="store_true", help="replace a point cloud that is already there")
    cli.add_quiet_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Carve, sample, write, and print how well the cloud fills the mattes."""
    args = parse(arguments)
    _check(args)
    target = _target(args.scene, args.frame, args.overwrite)
    cfg = load_config(args.scene / FILE_NAME) if (args.scene / FILE_NAME).is_file() else None
    silhouettes = load_silhouettes(args.scene, args.frame, 4 * args.resolution)
    cloud, normals = _carved(silhouettes, args)
    colors = color_points(cloud, normals, silhouettes, progress=_bar("colors")) if args.colors else None
    write_points(target, PointCloud(cloud, colors))
    covered, spilled = coverage(cloud, silhouettes.matte_cameras, silhouettes.mattes, threshold=args.threshold)
    print(f"points:  {len(cloud)} in {target}")
    print(f"covered: {covered:.2%} of the mattes' pixels lie within 2 pixels of a projected point")
    print(f"spilled: {spilled:.2%} of the projected points fall outside the mattes")
    preview = args.preview or args.scene / "carved.png"
    write_image(preview, _picture(cloud, colors, silhouettes))
    print(f"picture: {preview}")
    _configure(args.scene / FILE_NAME, cfg, cloud, silhouettes)


def _carved(silhouettes: Silhouettes, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) of the hull and their outward normals (N, 3)."""
    _check_views(args, len(silhouettes.mattes))
    check_silhouettes(silhouettes, args.threshold, args.tolerate)
    mattes = [fill_holes(matte, args.fill_holes, args.threshold) for matte in silhouettes.mattes]
    filled = sum(not np.array_equal(*pair) for pair in zip(mattes, silhouettes.mattes, strict=True))
    if filled:
        print(f"filled:  small holes of {filled} of {len(mattes)} mattes (--fill-holes 0 keeps them)")
    cameras = silhouettes.matte_cameras
    field = SilhouetteField.from_mattes(mattes, cameras, threshold=args.threshold, min_views=args.min_views,
                                        tolerated=args.tolerate)
    if args.min_views is None:
        field = replace(field, min_views=fewest_views(field, mattes, args.threshold))
    views = {"min_views": field.min_views, "tolerated": args.tolerate}
    cut = [image for image, sides in zip(silhouettes.images, field.open_sides, strict=True) if sides.any()]
    if cut:
        print(f"views:   {field.min_views} of {len(mattes)} must agree on a point. {len(cut)} mattes touch the border "
              f"of their picture, first {cut[0].name}; if the hull has loose ends there, raise --min-views or name "
              "--bounds")
    if args.bounds:
        bounds = np.array(args.bounds[:3]), np.array(args.bounds[3:])
    else:
        bounds = estimate_bounds(cameras, mattes, threshold=args.threshold, **views)
    print(f"bounds:  {' '.join(f'{v:.4g}' for v in bounds[0])} to {' '.join(f'{v:.4g}' for v in bounds[1])}")
    outer = SilhouetteField.from_mattes(mattes, cameras, threshold=0.02, **views) if args.fuzz else None
    cells, side = carve(field, bounds, args.resolution, progress=_bar("carving"))
    walls = reached_walls(field, bounds)
    if walls:
        logger.warning("the hull reaches the bounds at %s; what lies beyond is left out. %s", ", ".join(walls),
                       "Widen --bounds" if args.bounds else "Name the object's box with --bounds"
                       + (f", or raise --min-views above {field.min_views}" if cut and field.min_views < len(mattes)
                          else ""))
    return sample_surface(field, cells, side, args.points, seed=args.seed, outer=outer,
                          fuzz=args.fuzz * float((bounds[1] - bounds[0]).max()), progress=_bar("sampling"))


def _picture(cloud: np.ndarray, colors: np.ndarray | None, silhouettes: Silhouettes) -> np.ndarray:
    """Five cameras with the cloud over their photographs, and cameras around the cloud."""
    cameras = silhouettes.matte_cameras
    tiles = []
    for i in np.unique(np.linspace(0, len(cameras) - 1, 5).round().astype(int)).tolist():
        pixels, depth = project(torch.from_numpy(cloud)[None], cameras[i])
        tiles.append(draw_projection(read_image(silhouettes.images[i]), pixels[0].numpy(), depth[0].numpy(),
                                     size=cameras.size))
    angle = np.degrees(2 * np.arctan(0.5 * cameras.size[0] / cameras.intrinsics[:, 0, 0].numpy()))
    tiles.append(draw_cameras(cameras.cam_to_world.numpy(), field_of_view=angle, points=cloud, colors=colors,
                              path=False))
    return contact_sheet(tiles, columns=3)


def _configure(file: Path, cfg: CfgNode | None, cloud: np.ndarray, silhouettes: Silhouettes) -> None:
    """Set the values that follow from the cloud in scene.yml, or print them where there is none."""
    if cfg is None:
        width, height = silhouettes.cameras.size
        settings = point_settings(cloud, silhouettes.cameras, [width, height])
        print(f"no {file}; for your configuration: INPUT.NEAR_FAR_SIZE {settings['INPUT']['NEAR_FAR_SIZE']} "
              f"DATASETS.CENTER {settings['DATASETS']['CENTER']}")
        return
    update_scene_config(file, point_settings(cloud, silhouettes.cameras, list(cfg.INPUT.SIZE_TEST)))
    print(f"config:  {file} (NEAR_FAR_SIZE, CENTER)")


def _target(scene: Path, frame: int, overwrite: bool) -> Path:
    target = scene / "pointclouds" / f"frame{frame}.ply"
    existing = sorted((scene / "pointclouds").glob(f"frame{frame}.*"))
    if existing and not (overwrite and existing == [target]):
        advice = "--overwrite replaces it" if existing == [target] else "move it away first"
        raise SceneError(f"{existing[0]}: is there already; {advice}")
    return target


def _check(args: argparse.Namespace) -> None:
    for name, low, high in (("points", 1, 1e8), ("resolution", 8, 4096), ("threshold", 0.0, 0.999), ("fuzz", 0.0, 1.0),
                            ("min_views", 1, 1e6), ("tolerate", 0, 100), ("fill_holes", 0.0, 1.0), ("frame", 1, 1e9)):
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise SceneError(f"--{name.replace('_', '-')} is {value:g}; it must be from {low:g} to {high:g}")
    if args.bounds and not (np.isfinite(args.bounds).all() and (np.array(args.bounds[3:]) > args.bounds[:3]).all()):
        raise SceneError(f"--bounds are {args.bounds}; the first corner must be below the second in x, y and z")


def _check_views(args: argparse.Namespace, count: int) -> None:
    if (args.min_views or 0) > count:
        raise SceneError(f"--min-views is {args.min_views}; the scene has {count} views")
    if args.tolerate >= count:
        raise SceneError(f"--tolerate is {args.tolerate}; the scene has {count} mattes, and some must be right")


def _bar(name: str) -> Progress:
    return titled(name, delay=1)
