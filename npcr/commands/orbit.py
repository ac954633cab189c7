# SPDX-License-Identifier: Apache-2.0
"""Make a camera path out of one pose: an orbit around an axis, or random rotations."""

import argparse
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from npcr import cli
from npcr.camera_paths import AXES, look_at, orbit, random_views
from npcr.camera_spline import FIELD_OF_VIEW, field_of_view
from npcr.cameras import Cameras
from npcr.command_names import is_called_by_script
from npcr.errors import NpcrError
from npcr.installation import CLONE, shipped_file
from npcr.io.camera_files import read_cam_poses, read_intrinsics, write_cam_poses
from npcr.io.camera_path_files import CameraPath, make_cameras, read_camera_path, write_camera_path
from npcr.io.images import write_image
from npcr.io.points import PointCloud, read_points
from npcr.visualization.preview import draw_cameras

DEFAULT_FOV = 50.0  # degrees
PUBLISHED = "ExParamGen/CamPose.inf"
logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr orbit
      500 cameras around z, to models/CamPose.inf: the published path, 0 to 360 degrees
  npcr orbit --loop --count 120 --elevation-wave 15,2 --dolly 0.8
      a seamless loop that rises and sinks twice and comes nearer halfway, with the cloud in the preview
  npcr orbit --axis y --center 0 1.2 0 --degrees 90 --look-at-center
      a quarter turn around the vertical line through (0, 1.2, 0)
  npcr orbit --loop --cloud datasets/bob/pointclouds/frame1.ply --center cloud --look-at-center
      an orbit that keeps the object in the middle of the picture
  npcr orbit --loop --count 120 --output output/path.json --fov 30
      the same as nerfstudio's camera path, for other tools and npcr render --camera-path
  npcr orbit --random 50 --seed 3 --output output/random/CamPose.inf
      50 random rotations about the origin
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("orbit", __doc__, EXAMPLES)
    parser.add_argument("--input", type=Path, default=shipped_file(PUBLISHED), metavar="FILE",
                        help="the pose to start from: the first row of a CamPose.inf, or the first camera of a "
                             "camera path as JSON (default: the published one, of ExParamGen/CamPose.inf)")
    parser.add_argument("--output", type=Path, default=_models() / "CamPose.inf", metavar="FILE",
                        help="where the path goes: a CamPose.inf, or with the suffix .json nerfstudio's camera path "
                             "(default: models/CamPose.inf)")
    parser.add_argument("--count", type=int, default=500, help="cameras of the orbit (default: 500)")
    parser.add_argument("--axis", nargs="+", default=["z"], metavar="A",
                        help="axis of the orbit: x, y, z, or three numbers (default: z)")
    parser.add_argument("--center", nargs="+", default=["0", "0", "0"], metavar="X",
                        help="a point on the axis: three numbers, or the word cloud: the middle of --cloud's bounding"
                             " box (default: 0 0 0)")
    parser.add_argument("--degrees", type=float, default=360.0,
                        help="length of the arc, negative for the other way round; the last camera is at its end "
                             "(default: 360)")
    parser.add_argument("--loop", action="store_true",
                        help="leave the arc's end out, so that a full turn repeats without a double frame")
    parser.add_argument("--elevation-wave", type=_wave, default=(0.0, 1.0), metavar="DEGREES[,CYCLES]",
                        help="let the camera rise and sink by DEGREES, CYCLES times over the path (default: 0,1)")
    parser.add_argument("--dolly", type=float, default=1.0, metavar="FACTOR",
                        help="halfway the distance to the center is multiplied by this, smoothly (default: 1)")
    parser.add_argument("--look-at-center", action="store_true",
                        help="turn the first camera to look at the center, with the axis upwards in the picture")
    parser.add_argument("--random", type=int, metavar="N",
                        help="N random rotations about the center instead of an orbit")
    parser.add_argument("--seed", type=int, default=0, help="of --random (default: 0)")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 800), metavar=("WIDTH", "HEIGHT"),
                        help="of .json: pixels of the pictures (default: 800 800)")
    lens = parser.add_mutually_exclusive_group()
    lens.add_argument("--fov", type=float, metavar="DEGREES",
                      help="of .json: the vertical field of view (default: that of an --input as JSON, else 50)")
    lens.add_argument("--intrinsics", type=Path, metavar="FILE",
                      help="of .json: take the field of view from an Intrinsic.inf for pictures of --intrinsics-size")
    parser.add_argument("--intrinsics-size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"),
                        help="pixels of the pictures that --intrinsics is for: INPUT.SIZE_RAW of its scene (default: "
                             "--size)")
    parser.add_argument("--fps", type=float, default=30.0, help="of .json: frames a second (default: 30)")
    parser.add_argument("--preview", type=Path, metavar="FILE",
                        help="picture of the cameras (default: beside the output, ending in .png)")
    parser.add_argument("--cloud", type=Path, metavar="FILE", help="point cloud to show in the preview")
    cli.add_quiet_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Read the pose, make the path, write it and its preview."""
    args = parse(arguments)
    cloud = read_points(args.cloud) if args.cloud else None
    is_json = args.input.suffix.lower() == ".json"
    given = read_camera_path(args.input).cameras if is_json else None
    poses = read_cam_poses(args.input) if given is None else given.cam_to_world.double().numpy()
    if len(poses) > 1:
        logger.info("%s has %d poses; the path starts from the first", args.input, len(poses))
    path = _make_path(poses[0], args, _center(args.center, cloud))
    if args.output.suffix.lower() == ".json":
        write_camera_path(args.output, CameraPath(_cameras(path, args, given), args.fps, loop=args.loop))
    else:
        write_cam_poses(args.output, path)
    preview = args.preview or args.output.with_suffix(".png")
    points, colors = (cloud.positions, cloud.colors) if cloud is not None else (None, None)
    picture = draw_cameras(path, points=points, colors=colors, path=args.random is None)
    write_image(preview, picture)
    print(f"{len(path)} cameras: {args.output}\npicture:     {preview}")


def _cameras(path: np.ndarray, args: argparse.Namespace, given: Cameras | None) -> Cameras:
    """The path's cameras for pictures of --size, with the field of view that was asked for."""
    size = (args.size[0], args.size[1])
    for option, numbers in (("--size", size), ("--intrinsics-size", args.intrinsics_size or size),
                            ("--fps", [args.fps])):
        if not min(numbers) >= 1:
            raise NpcrError(f"{option} is {' '.join(f'{number:g}' for number in numbers)}; it must be at least 1")
    if args.intrinsics is not None:
        raw = args.intrinsics_size or size
        matrix = torch.from_numpy(read_intrinsics(args.intrinsics)[:1]).float()
        cameras = Cameras(torch.from_numpy(path).float(), matrix.expand(len(path), 3, 3), (raw[0], raw[1]))
        return cameras.resized(size)
    fov = args.fov if args.fov is not None else DEFAULT_FOV if given is None else (
        field_of_view(float(given.intrinsics[0, 1, 1]), given.size[1]))
    if not FIELD_OF_VIEW[0] <= fov <= FIELD_OF_VIEW[1]:
        raise NpcrError(f"--fov is {fov:g}; it must be from {FIELD_OF_VIEW[0]:g} to {FIELD_OF_VIEW[1]:g} degrees")
    return make_cameras(list(path), [fov] * len(path), size)


def _make_path(pose: np.ndarray, args: argparse.Namespace, center: tuple[float, ...]) -> np.ndarray:
    """Make the path that the command line describes: (B, 4, 4) camera-to-world."""
    axis = _axis(args.axis)
    if args.look_at_center:
        pose = look_at(pose[:3, 3], center, up=axis)
    if args.random is not None:
        return random_views(pose, args.random, center=center, seed=args.seed)
    return orbit(pose, args.count, axis=axis, center=center, degrees=args.degrees,
                 elevation_wave=args.elevation_wave, dolly=args.dolly, endpoint=not args.loop)


def _models() -> Path:
    """The clone's folder for a script, wherever it is called from; the current folder's for `npcr`."""
    return (CLONE or Path()) / cli.MODELS if is_called_by_script() else cli.MODELS


def _axis(words: list[str]) -> tuple[float, ...]:
    if len(words) == 1 and words[0].lower() in AXES:
        return AXES[words[0].lower()]
    return _three_numbers("--axis", words, "x, y, z, or three numbers")


def _center(words: list[str], cloud: PointCloud | None) -> tuple[float, ...]:
    if words != ["cloud"]:
        return _three_numbers("--center", words, "three numbers, or the word cloud")
    if cloud is None:
        raise NpcrError("--center is cloud; name the cloud with --cloud FILE")
    middle = (cloud.positions.min(axis=0).astype(float) + cloud.positions.max(axis=0)) / 2
    return tuple(middle.tolist())


def _three_numbers(option: str, words: list[str], needed: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(word) for word in words)
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise NpcrError(f"{option} is {' '.join(words)}; it needs {needed}")
    return numbers


def _wave(text: str) -> tuple[float, float]:
    height, _, cycles = text.partition(",")
    return float(height), float(cycles or 1)
