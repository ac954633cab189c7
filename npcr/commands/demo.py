# SPDX-License-Identifier: Apache-2.0
"""The whole way on ray-traced hair: training, evaluation, orbit, refined orbit.

Every step is a command that is printed before it runs; run them yourself with your own scene. A second call
goes on where the first one stopped. On a GPU it trains for one minute, unless SOLVER.MAX_MINUTES is given.
"""

import argparse
import json
import logging
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from npcr import cli
from npcr.checkpoints import find_epoch, model_path
from npcr.command_names import as_typed, to_start
from npcr.config import explicit_keys
from npcr.errors import CheckpointError, NpcrError
from npcr.installation import from_clone, shipped_file
from npcr.progress import is_quiet

logger = logging.getLogger("npcr")

CONFIG = shipped_file("configs/demo.yml")
SCENE = from_clone("datasets/bob")
GPU_MINUTES = 1
QUICK_FRAMES, FRAMES = 24, 60
QUICK = ("SOLVER.MAX_MINUTES", "1", "REFINE.PASSES", "1")
EXAMPLES = """\
  npcr demo
  npcr demo --quick
      not a good picture, but in minutes and without ray tracing: a small furry animal, trained for one minute
  npcr demo --frames 24 --output output/long SOLVER.MAX_MINUTES 30
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; `config_file`, `scene`, `output` and `frames` are set as --quick wants them."""
    parser = cli.new_parser("demo", __doc__, EXAMPLES)
    parser.add_argument("--quick", action="store_true",
                        help="generate the scene in seconds, train and refine little, render fewer frames")
    parser.add_argument("--config-file", type=Path, metavar="FILE",
                        help="default: configs/demo.yml; with --quick the scene's scene.yml")
    parser.add_argument("--scene", type=Path, metavar="FOLDER",
                        help="a scene (default: datasets/bob, which a clone contains; where it is missing it is "
                             "ray-traced, some 12 minutes on 2 cores, extra hair)")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="default: output/demo; with --quick output/quick, and the scene within")
    parser.add_argument("--frames", type=int, metavar="N",
                        help=f"of the orbit (default: {FRAMES}; with --quick {QUICK_FRAMES})")
    cli.add_quiet_option(parser)
    cli.add_config_options(parser)
    args = parser.parse_args(arguments)
    if args.quick and args.scene:
        parser.error("--quick generates its scene; leave --scene out")
    args.output = args.output or Path("output/quick" if args.quick else "output/demo")
    args.scene = args.scene or (args.output / "scene" if args.quick else SCENE)
    args.config_file = args.config_file or (args.scene / "scene.yml" if args.quick else CONFIG)
    args.frames = args.frames or (QUICK_FRAMES if args.quick else FRAMES)
    return args


def main(arguments: Sequence[str]) -> None:
    """Run every step as a command, and print where the results are and how long each step took."""
    args = parse(arguments)
    steps = Steps()
    scene, output = args.scene, args.output
    if not (scene / "scene.yml").exists():
        _generate(steps, scene, args.quick)
    options = ["DATASETS.TRAIN", str(scene), "OUTPUT_DIR", str(output), *_training_time(args), *args.options]
    config = ["--config-file", args.config_file]
    steps.run("train", *config, *options, *(["RESUME", "True"] if _has_checkpoint(output) else []))
    model = model_path(output, find_epoch(output, -1))
    steps.run("evaluate", *config, "--checkpoint", model, "--output", output / "evaluation", *options)

    path = output / "CamPose.inf"
    steps.run("orbit", *orbit_arguments(scene, path, args.frames))
    walk = [*config, "--cam-pose", path, "--intrinsics", scene / "Intrinsic.inf"]
    steps.run("render", *walk, "--checkpoint", model, "--output", output / "orbit", *options)
    refined = model.with_name(f"{model.stem}_refined.pth")
    steps.run("refine", *walk, "--checkpoint", model, "--overwrite", *options)
    steps.run("render", *walk, "--checkpoint", refined, "--output", output / "orbit_refined", *options)
    _report(output)
    print(steps.report())


def orbit_arguments(scene: Path, path: Path, frames: int) -> list[str | Path]:
    """Choose the arguments of `npcr orbit` for a seamless orbit that keeps the scene's object in the picture.

    Args:
        scene: its folder.
        path: the file of poses to write.
        frames: of the orbit.

    Returns:
        What follows the command's name.
    """
    return ["--input", scene / "CamPose.inf", "--output", path, "--count", str(frames), "--loop",
            "--cloud", scene / "pointclouds" / "frame1.ply", "--center", "cloud", "--look-at-center"]


class Steps:
    """The demo's commands, one after the other, and how long each took."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._took: list[tuple[str, float]] = []  # command as typed, seconds

    def run(self, name: str, *arguments: str | Path) -> None:
        """Show a command as a user would type it, and run it.

        Args:
            name: of the command.
            arguments: of the command.

        Raises:
            KeyboardInterrupt: it was stopped by Ctrl-C.
            NpcrError: it failed.
        """
        words = [*(["--quiet"] if is_quiet() else []), *map(str, arguments)]
        typed = as_typed(f"npcr {name}")
        print(f"\n$ {typed} {shlex.join(words)}", flush=True)
        began = time.monotonic()
        status = subprocess.run([*to_start(name), *words], check=False).returncode
        self._took.append((typed, time.monotonic() - began))
        if status == 130:
            raise KeyboardInterrupt
        if status:
            raise NpcrError(f"{typed} failed with status {status}; its message stands above")

    def report(self) -> str:
        """Tell how long all took, and in a line each how long each command took.

        Returns:
            The text, without a last line end.
        """
        width = max(len(typed) for typed, _ in self._took)
        lines = [f"  {typed:{width}} {seconds:6.0f} s" for typed, seconds in self._took]
        return "\n".join([f"Took {(time.monotonic() - self._began) / 60:.1f} minutes:", *lines])


def _generate(steps: Steps, scene: Path, quick: bool) -> None:
    if quick:
        steps.run("fuzzy", scene)
        return
    try:
        steps.run("hair", scene, "--format", "jpg", "--path-frames", "0")
    except NpcrError as error:
        raise NpcrError(f"{error}. {as_typed('npcr demo')} --quick generates a scene without ray tracing") from error


def _has_checkpoint(folder: Path) -> bool:
    try:
        return find_epoch(folder, -1, resume=True) > 0
    except CheckpointError:
        return False


def _training_time(args: argparse.Namespace) -> list[str]:
    """Return --quick's options, or the one for less training where a GPU does it, which is said; none where the user
    chose the time.
    """
    if args.quick:
        return list(QUICK)
    cfg, _ = cli.config_from_args(args)
    chosen = args.config_file != CONFIG or "SOLVER.MAX_MINUTES" in explicit_keys(options=args.options)
    if chosen or cfg.MODEL.DEVICE == "cpu" or not torch.cuda.is_available():
        return []
    logger.info("on a GPU the demo trains for %d minute, not %g; longer: %s SOLVER.MAX_MINUTES %g",
                GPU_MINUTES, cfg.SOLVER.MAX_MINUTES, as_typed("npcr demo"), cfg.SOLVER.MAX_MINUTES)
    return ["SOLVER.MAX_MINUTES", str(GPU_MINUTES)]


def _report(output: Path) -> None:
    scores = json.loads((output / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))["mean"]
    print("\nHeld-out views: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    for what, where in (("orbit", "orbit/video.mp4"), ("orbit, refined", "orbit_refined/video.mp4"),
                        ("contact sheet", "evaluation/contact_sheet.png"),
                        ("numbers", "evaluation/evaluation.json"), ("model", "nr_model_*.pth"),
                        ("cutouts with alpha", "orbit/rgba/"), ("cameras", "CamPose.png")):
        print(f"  {what + ':':20}{output / where}")
