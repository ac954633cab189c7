# SPDX-License-Identifier: Apache-2.0
"""Refine a trained model, so that it renders a moving camera's video more steadily (docs/refining.md)."""

import argparse
import logging
from collections.abc import Collection, Sequence
from pathlib import Path

from yacs.config import CfgNode

from npcr import cli, distributed
from npcr.checkpoints import choose_model, model_path
from npcr.config import dump_config
from npcr.errors import ConfigError
from npcr.out_of_memory import explain_out_of_memory
from npcr.refine.run import RefineRun, state_path
from npcr.refine.setup import build_run, log_folder
from npcr.rendering.path_inputs import PathInputs, load_path_inputs
from npcr.training.restarts import LAUNCH_FILE, note_launch, there_at_launch

logger = logging.getLogger("npcr")

EXAMPLES = """\
  npcr refine
      with models/config.yml, models/CamPose.inf, models/Intrinsic.inf and models/nr_model_{LOAD_EPOCH}.pth
  npcr render --checkpoint models/nr_model_0_refined.pth
      the path with the refined model
  npcr refine --config-file output/config.yml --checkpoint output/nr_model_99.pth REFINE.PATH random
      for every view around the object; the scene's own cameras say where that is
  npcr refine --resume
      go on after Ctrl-C
  torchrun --standalone --nproc_per_node 2 --no-python npcr refine --config-file output/config.yml \\
      --checkpoint output REFINE.PATH random
      in two processes, which share each step and the validation (docs/distributed.md)
  npcr refine REFINE.SCHEME published REFINE.PATH given REFINE.PASSES 20
      as published: one optimizer step for each walk over the path
  npcr refine LOSS.PERCEPTUAL 0 MODEL.DEVICE cpu
      without VGG-19, on the CPU

results:
  nr_model_{epoch}_refined.pth      beside the model, which stays as it is
  nr_model_{epoch}_refined.yml      the configuration as used
  nr_optimizer_{epoch}_refined.pth  what --resume needs; delete it when you are done
  OUTPUT_DIR/refine_{epoch}/        losses, flicker and PSNR of each pass, for TensorBoard
"""

LESS_MEMORY = ("A smaller INPUT.SIZE_TEST, INPUT.LAYER_NUM or REFINE.WINDOW, SOLVER.HALF_ACTIVATIONS True and "
               "SOLVER.RECOMPUTE_LAYERS True (one frame at a time) need less")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; `own_path` says whether cameras were named."""
    parser = cli.make_path_parser("refine", __doc__, EXAMPLES)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--overwrite", action="store_true", help="replace the result of an earlier refining")
    again.add_argument("--resume", action="store_true", help="go on with a refining that was stopped")
    args = parser.parse_args(arguments)
    args.own_path = any(getattr(args, name) != parser.get_default(name) for name in ("cam_pose", "intrinsics"))
    return args


def main(arguments: Sequence[str]) -> None:
    """Refine, and print where the result is and what it is."""
    args = parse(arguments)
    cfg, explicit = cli.config_from_args(args)
    with distributed.processes(cfg.SOLVER.TIMEOUT):
        _refine(cfg, explicit, args)


def _refine(cfg: CfgNode, explicit: Collection[str], args: argparse.Namespace) -> None:
    cam_pose, intrinsics = _choose_cameras(cfg, args)
    inputs = load_path_inputs(
        cfg, distributed.own_device(cli.resolve_device(cfg.MODEL.DEVICE)), explicit=explicit, cam_pose=cam_pose,
        intrinsics=intrinsics, frame=args.frame,
        checkpoint=choose_model(args.checkpoint, cli.MODELS, cfg.LOAD_EPOCH))
    destination = model_path(inputs.checkpoint.parent, inputs.epoch, refined=True)
    resume = distributed.from_writer(_choose_start(inputs, destination, args) if distributed.is_writer() else False)
    run = build_run(inputs, destination)
    try:
        with explain_out_of_memory("refining", inputs.cameras.size, LESS_MEMORY):
            best = run.run(resume)
    except KeyboardInterrupt:
        if distributed.is_writer():
            _report_stop(run)
        raise
    finally:
        if run.has_result and distributed.is_writer():
            dump_config(inputs.cfg, destination.with_suffix(".yml"))
    if not distributed.is_writer():
        return
    if run.progress.best_pass == 0:
        print("no pass was steadier within REFINE.PSNR_DROP; the result is the model as it was. More REFINE.STEPS "
              "or another REFINE.STEADINESS may help")
    print(f"refined model: {destination}: {best} (before: {run.start}); TensorBoard: {run.log}/")


def _choose_cameras(cfg: CfgNode, args: argparse.Namespace) -> tuple[Path, Path]:
    """Choose files of poses and intrinsics: for a random path without --cam-pose the scene's own."""
    if cfg.REFINE.PATH == "random" and cfg.DATASETS.TRAIN and not args.own_path:
        return Path(cfg.DATASETS.TRAIN) / "CamPose.inf", Path(cfg.DATASETS.TRAIN) / "Intrinsic.inf"
    return args.cam_pose, args.intrinsics


def _choose_start(inputs: PathInputs, destination: Path, args: argparse.Namespace) -> bool:
    """Whether to resume: as --resume says, and at a restart by torchrun where this launch wrote a state.

    What is there already is refused before the work begins.
    """
    if destination.resolve() == inputs.checkpoint.resolve():
        raise ConfigError(f"{destination}: would overwrite itself; copy it to another folder first")
    state, record = state_path(destination), log_folder(inputs) / LAUNCH_FILE
    written = {state.name: state.stat().st_mtime_ns} if state.exists() else {}
    before = there_at_launch(record)
    if before is not None:
        resume = args.resume or written not in ({}, before)
        logger.info("restart %d by torchrun: %s", distributed.restarts(),
                    f"going on from {state}" if resume else "nothing was written yet; beginning as before")
        return resume
    for file in (destination, state) if not args.resume else ():
        if file.exists() and not args.overwrite:
            hint = "; --resume goes on with it" if state.exists() else ""
            raise ConfigError(f"{file}: exists already; --overwrite replaces it{hint}")
    note_launch(record, written)
    return bool(args.resume)


def _report_stop(run: RefineRun) -> None:
    done = f"{run.progress.passes} of {run.settings.passes} passes"
    if run.has_result:
        print(f"{done}: {run.destination}, the best so far (pass {run.progress.best_pass})")
    if run.state_file.exists():
        print(f"{done}; --resume goes on")
