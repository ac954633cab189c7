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
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import npcr.entry_point  # noqa: F401  before torch is loaded

# isort: split
import torch

from npcr import cli
from npcr.checkpoints import find_epoch, model_path
from npcr.config import explicit_keys
from npcr.errors import CheckpointError, NpcrError
from npcr.progress import is_quiet

logger = logging.getLogger("npcr")

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "demo.yml"
GPU_MINUTES = 1
EXAMPLES = """examples:
  make demo
  python tools/demo.py
  python tools/demo.py --frames 24 SOLVER.MAX_MINUTES 1 REFINE.PASSES 1      a quick look, not a good picture
"""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, default=CONFIG, metavar="FILE",
                        help="default: configs/demo.yml")
    parser.add_argument("--scene", type=Path, default=ROOT / "datasets" / "bob", metavar="FOLDER",
                        help="a scene; the default one is part of the repository, and ray-traced anew (some 12 minutes "
                             "on 2 cores, extra hair) where it is missing")
    parser.add_argument("--output", type=Path, default=Path("output/demo"), metavar="FOLDER",
                        help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="of the orbit (default: %(default)s)")
    cli.add_quiet_option(parser)
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="KEY VALUE",
                        help="configuration keys to override")
    return parser.parse_args()


def python(script: str, *arguments: str | Path) -> None:
    """Show a command as a user would type it, and run it."""
    command = [script, *(["--quiet"] if is_quiet() else []), *map(str, arguments)]
    print(f"\n$ python {shlex.join(command)}", flush=True)
    status = subprocess.run([sys.executable, str(ROOT / script), *command[1:]], check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise NpcrError(f"python {script} failed with status {status}; its message stands above")


def has_checkpoint(folder: Path) -> bool:
    try:
        return find_epoch(folder, -1, resume=True) > 0
    except CheckpointError:
        return False


def main() -> None:
    args = parse()
    began = time.monotonic()
    scene, output = args.scene, args.output
    options = ["DATASETS.TRAIN", str(scene), "OUTPUT_DIR", str(output), *training_time(args), *args.options]
    config = ["--config-file", args.config_file]
    if not (scene / "scene.yml").exists():
        python("tools/make_hair.py", scene, "--format", "jpg", "--path-frames", "0")
    resume = ["RESUME", "True"] if has_checkpoint(output) else []
    python("tools/train.py", *config, *options, *resume)
    model = model_path(output, find_epoch(output, -1))
    python("tools/evaluate.py", *config, "--checkpoint", model, "--output", output / "evaluation", *options)

    path = output / "CamPose.inf"
    python("ExParamGen/exgen.py", *orbit_arguments(scene, path, args.frames))
    walk = [*config, "--cam-pose", path, "--intrinsics", scene / "Intrinsic.inf"]
    python("tools/render.py", *walk, "--checkpoint", model, "--output", output / "orbit", *options)
    refined = model.with_name(f"{model.stem}_refined.pth")
    python("tools/refine.py", *walk, "--checkpoint", model, "--overwrite", *options)
    python("tools/render.py", *walk, "--checkpoint", refined, "--output", output / "orbit_refined", *options)
    report(output, time.monotonic() - began)


def training_time(args: argparse.Namespace) -> list[str]:
    """Return the option for less training where a GPU does it, and say so; none where the user chose the time."""
    cfg, _ = cli.config_from_args(args)
    chosen = args.config_file != CONFIG or "SOLVER.MAX_MINUTES" in explicit_keys(options=args.options)
    if chosen or cfg.MODEL.DEVICE == "cpu" or not torch.cuda.is_available():
        return []
    logger.info("on a GPU the demo trains for %d minute, not %g; longer: python tools/demo.py SOLVER.MAX_MINUTES %g",
                GPU_MINUTES, cfg.SOLVER.MAX_MINUTES, cfg.SOLVER.MAX_MINUTES)
    return ["SOLVER.MAX_MINUTES", str(GPU_MINUTES)]


def orbit_arguments(scene: Path, path: Path, frames: int) -> list[str | Path]:
    """Return exgen's arguments for a seamless orbit that keeps the scene's object in the picture."""
    return ["--input", scene / "CamPose.inf", "--output", path, "--count", str(frames), "--loop",
            "--cloud", scene / "pointclouds" / "frame1.ply", "--center", "cloud", "--look-at-center"]


def report(output: Path, seconds: float) -> None:
    scores = json.loads((output / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))["mean"]
    print(f"\nDone in {seconds / 60:.1f} minutes. Held-out views: "
          + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    for what, where in (("orbit", "orbit/video.mp4"), ("orbit, refined", "orbit_refined/video.mp4"),
                        ("contact sheet", "evaluation/contact_sheet.png"),
                        ("numbers", "evaluation/evaluation.json"), ("model", "nr_model_*.pth"),
                        ("cutouts with alpha", "orbit/rgba/"), ("cameras", "CamPose.png")):
        print(f"  {what + ':':20}{output / where}")


if __name__ == "__main__":
    cli.run(main)
