# SPDX-License-Identifier: Apache-2.0
"""Render a camera path: pictures, mattes and a video."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from npcr import cli, distributed
from npcr.checkpoints import choose_model
from npcr.config import dump_config
from npcr.factory import build_blender, prepare_rendering
from npcr.progress import progress_bar
from npcr.rendering import shared_path
from npcr.rendering.frame_writer import PathVideos, build_writer
from npcr.rendering.frames import render_path
from npcr.rendering.path_inputs import PathInputs, load_path_inputs
from npcr.training.agreement import refuse_different_settings

EXAMPLES = """\
  npcr render
      with models/config.yml, models/CamPose.inf, models/Intrinsic.inf and models/nr_model_{LOAD_EPOCH}.pth
  npcr render LOAD_EPOCH -1 MODEL.DEVICE cpu
      the newest model in models/, on the CPU
  npcr render --config-file output/config.yml --checkpoint output/nr_model_99.pth --output orbit
  npcr render --camera-path path.json
      the path, size and rate of nerfstudio's viewer or of npcr orbit; poses in the coordinates of the scene
  npcr render RENDER.RAW True TEMPORAL.BLEND off
      every frame by itself, and its numbers as float32
  npcr render RENDER.EXR half
      EXR files for compositing, scene-linear; RENDER.EXR_COLOR stored leaves color as rendered
  npcr render RENDER.VIDEO h264,prores,gif
      three videos: to watch, with alpha to edit, to show on a page
  npcr render RENDER.PRECISION float16 RENDER.CUDA_GRAPHS True
      faster on a GPU; what that costs: docs/performance.md
  npcr render INPUT.SIZE_TEST "[4096, 4096]" RENDER.TILE 1024
      a picture larger than memory, in tiles (docs/sizes.md)
  torchrun --standalone --nproc_per_node 4 --no-python npcr render --config-file output/config.yml --checkpoint output
      in four processes, each a stretch of the path; after a stop the same command renders what is missing

results, in --output:
  img_0001.jpg ...       over BACKGROUND_GRAY
  rgba/img_0001.png ...  straight alpha
  exr/img_0001.exr ...   with RENDER.EXR half or float: premultiplied R, G, B, A and depth Z, for compositing
  raw/img_0001.npz ...   with RENDER.RAW True: rgb, alpha, depth, neither blended nor clamped
  video.mp4              at RENDER.FPS; in the formats that RENDER.VIDEO names (docs/video.md):
                         video.mp4 (h264), video_h265.mp4, video.webm (vp9), video.mov (prores), .gif, .webp
  config.yml             the configuration as used

TEMPORAL.BLEND is legacy for a legacy model (a published checkpoint) unless it is set. It steadies the
pictures over the background alone; rgba/ then holds the frames as rendered.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_path_parser("render", __doc__, EXAMPLES)
    parser.add_argument("--camera-path", type=Path, metavar="FILE",
                        help="in place of --cam-pose and --intrinsics: a camera path as JSON, of nerfstudio's viewer "
                             "or of npcr orbit; its size and frame rate hold unless INPUT.SIZE_TEST and RENDER.FPS are "
                             "given here")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="where results go (default: OUTPUT_DIR/res_{epoch}; of a refined model "
                             "OUTPUT_DIR/res_{epoch}_refined)")
    args = parser.parse_args(arguments)
    other = [name for name in ("cam_pose", "intrinsics") if getattr(args, name) != parser.get_default(name)]
    if args.camera_path is not None and other:
        parser.error(f"--camera-path has poses and intrinsics; leave out --{other[0].replace('_', '-')}")
    return args


def main(arguments: Sequence[str]) -> None:
    """Render and write the frames, and print where they are."""
    args = parse(arguments)
    cfg, explicit = cli.config_from_args(args)
    with distributed.processes(shared_path.WAIT):
        inputs = load_path_inputs(
            cfg, distributed.own_device(cli.resolve_device(cfg.MODEL.DEVICE)), explicit=explicit,
            cam_pose=args.cam_pose, intrinsics=args.intrinsics, camera_path=args.camera_path, frame=args.frame,
            checkpoint=choose_model(args.checkpoint, cli.MODELS, cfg.LOAD_EPOCH))
        prepare_rendering(inputs.renderer, inputs.cfg)
        output = args.output or _default_output(inputs)
        if distributed.world_size() > 1 or (output / shared_path.FOLDER).exists():
            _render_shared(inputs, output)
        else:
            _render_alone(inputs, output)


def _render_alone(inputs: PathInputs, output: Path) -> None:
    writer = build_writer(inputs.cfg, output)
    dump_config(inputs.cfg, output / "config.yml")
    frames = render_path(inputs.renderer, inputs.cameras, gray=inputs.cfg.BACKGROUND_GRAY / 255,
                         blender=build_blender(inputs.cfg), frame=inputs.frames, raw=inputs.cfg.RENDER.RAW,
                         floats=inputs.cfg.RENDER.EXR != "off")
    try:
        with writer:
            for frame in progress_bar(frames, total=len(inputs.cameras), title="render", unit="frame"):
                writer.write(frame)
    finally:  # after Ctrl-C or a full disk, too: what there is can be looked at
        print(f"{writer.count} of {len(inputs.cameras)} frames: {_places(inputs, output)}")


def _render_shared(inputs: PathInputs, output: Path) -> None:
    count = len(inputs.cameras)
    refuse_different_settings(inputs.cfg, inputs.renderer.device)
    if distributed.is_writer():
        dump_config(inputs.cfg, output / "config.yml")
    try:
        shared_path.render_shared(inputs, output)
    except BaseException:  # Ctrl-C, a full disk, a process that is gone
        missing = len(shared_path.UnfinishedPath(output, inputs).missing())
        if distributed.is_writer():
            print(f"{count - missing} of {count} frames are finished; the same command renders the others")
        raise
    if distributed.is_writer():
        print(f"{count} of {count} frames: {_places(inputs, output)}")


def _places(inputs: PathInputs, output: Path) -> str:
    videos = PathVideos.paths_of(output, inputs.cfg.RENDER.VIDEO)
    return ", ".join([f"{output}/img_*.jpg", f"{output}/rgba/",
                      *([f"{output}/exr/"] if inputs.cfg.RENDER.EXR != "off" else []), *map(str, videos)])


def _default_output(inputs: PathInputs) -> Path:
    refined = "_refined" if inputs.checkpoint.stem.endswith("_refined") else ""
    return Path(inputs.cfg.OUTPUT_DIR) / f"res_{inputs.epoch}{refined}"
