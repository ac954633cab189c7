# SPDX-License-Identifier: Apache-2.0
"""Compare renderings with the photographs of views that training did not see, or judge a video (--video)."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from yacs.config import CfgNode

import npcr
from npcr import cli, distributed
from npcr.checkpoints import choose_model, load_model
from npcr.config import dump_config, to_dict
from npcr.data.samples import SceneDataset
from npcr.evaluation import views as evaluator
from npcr.evaluation.contact_sheet import sheet_row, write_contact_sheet
from npcr.evaluation.video_report import BLENDS, PathSelection, evaluate_paths
from npcr.factory import build_dataset, held_out_views, load_renderer, open_scene, prepare_rendering
from npcr.installation import commit
from npcr.io.json_files import write_json
from npcr.rendering import shared_path
from npcr.training.agreement import refuse_different_scenes, refuse_different_settings, weights_checksum
from npcr.visualization.captions import Pixels

logger = logging.getLogger("npcr")

MOST_ROWS = 12  # of the contact sheet, spread evenly over the views
HOW = ("PSNR and SSIM (Wang et al. 2004) of color over black, in the whole frame, in [0, 1]; alpha MAE; "
       "alpha SAD in thousands")
EXAMPLES = """\
  npcr evaluate --config-file output/config.yml
      the newest checkpoint in OUTPUT_DIR
  npcr evaluate --config-file models/config.yml --checkpoint models/nr_model_0.pth --all
  npcr evaluate --config-file output/config.yml --output scores LOAD_EPOCH 99 MODEL.DEVICE cpu
  torchrun --standalone --nproc_per_node 4 --no-python npcr evaluate --config-file output/config.yml
      the views shared out among four processes; with --video the frames of the path
  npcr evaluate --config-file output/config.yml --video
      how steady the path in DATASETS.TRAIN/path comes out: single frames, legacy and default blending
  npcr evaluate --config-file output/config.yml --video --cam-pose models/CamPose.inf \\
      --intrinsics models/Intrinsic.inf

writes, in --output:
  evaluation.json    scores of each view and their means, with configuration, epoch, commit and versions
  contact_sheet.png  photograph, rendering, both mattes and error of up to 12 views
  config.yml         the configuration as used
with --video (docs/temporal.md says what is measured):
  video.json         every measure of every frame, the means, and seconds a frame
  curves.png         the measures over the frames of the path
  slices.png         one picture row over time: flicker shows as ragged edges, smear as blur
  config.yml         the configuration as used
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser("evaluate", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", type=Path, metavar="FILE",
                        help="the model, or a folder with it (default: OUTPUT_DIR/nr_model_{LOAD_EPOCH}.pth)")
    parser.add_argument("--output", type=Path, metavar="FOLDER",
                        help="where results go (default: OUTPUT_DIR/evaluation_{epoch})")
    parser.add_argument("--all", action="store_true",
                        help="every view of DATASETS.TRAIN, not only the held-out ones")
    parser.add_argument("--video", action="store_true",
                        help="judge a camera path instead: single frames, legacy and default blending side by side")
    parser.add_argument("--cam-pose", type=Path, metavar="FILE",
                        help="--video: the path's poses; true frames and geometry are looked for beside them "
                             "(default: DATASETS.TRAIN/path/CamPose.inf)")
    parser.add_argument("--intrinsics", type=Path, metavar="FILE",
                        help="--video: intrinsics in pixels of INPUT.SIZE_RAW (default: Intrinsic.inf beside them)")
    parser.add_argument("--frame", type=int, metavar="N",
                        help="--video: the frame of the scene (pose of the object) to show (default: 1)")
    parser.add_argument("--blend", nargs="+", choices=BLENDS, metavar="KIND",
                        help=f"--video: kinds of blending to judge, of {', '.join(BLENDS)} (default: all)")
    parser.add_argument("--row", type=int, metavar="Y", help="--video: the picture row of slices.png")
    args = parser.parse_args(arguments)
    for option in ("all",) if args.video else ("cam_pose", "intrinsics", "frame", "blend", "row"):
        if getattr(args, option) is not None and getattr(args, option) is not False:
            parser.error(f"--{option.replace('_', '-')} {'does not go' if args.video else 'only goes'} with --video")
    return args


def main(arguments: Sequence[str]) -> None:
    """Evaluate views or a video, write the results, and print where they are."""
    args = parse(arguments)
    with distributed.processes(shared_path.WAIT):
        _evaluate(args)


def _evaluate(args: argparse.Namespace) -> None:
    given, explicit = cli.config_from_args(args)
    device = distributed.own_device(cli.resolve_device(given.MODEL.DEVICE))
    checkpoint = choose_model(args.checkpoint, given.OUTPUT_DIR, given.LOAD_EPOCH)
    renderer, cfg, epoch = load_renderer(given, checkpoint, device, explicit=explicit)
    refuse_different_settings(cfg, device)
    distributed.refuse_differences({"the checksum of the model's weights": weights_checksum(renderer)})
    prepare_rendering(renderer, cfg)
    facts = {"checkpoint": str(checkpoint), "epoch": epoch, "config": to_dict(cfg), "commit": commit(),
             "versions": _versions(), "device": str(device)}
    if args.video:
        output = args.output or Path(cfg.OUTPUT_DIR) / f"video_{epoch}"
        selection = PathSelection(args.cam_pose, args.intrinsics, 1 if args.frame is None else args.frame, args.row,
                                  tuple(args.blend or BLENDS))
        evaluate_paths(renderer, cfg, selection, output, facts, checkpoint)
        return
    views, which, kind = _choose_views(cfg, device, args.all)
    if kind == "held out":
        _warn_of_training_views(cfg, load_model(checkpoint).config, checkpoint)

    spread = np.linspace(0, len(which) - 1, min(MOST_ROWS, len(which))).round().astype(int)
    shown = {which[i] for i in spread}
    rows: dict[tuple[int, int], Pixels] = {}

    def keep_row(score: evaluator.ViewScore, pictures: evaluator.ViewPictures) -> None:
        if (score.frame, score.camera) in shown:
            rows[score.frame, score.camera] = sheet_row(score, pictures)

    refuse_different_scenes(views.scene, [])
    own = evaluator.evaluate_views(renderer, views, distributed.share(which), batch=cfg.TEST.IMS_PER_BATCH,
                                   device=device, on_view=keep_row, progress=distributed.is_writer())
    scores = distributed.gather_shares(own)
    for others in distributed.gather(rows):
        rows.update(others)
    if not distributed.is_writer():
        return
    output = args.output or Path(cfg.OUTPUT_DIR) / f"evaluation_{epoch}"
    dump_config(cfg, output / "config.yml")
    write_contact_sheet(output / "contact_sheet.png", [rows[view] for view in which if view in rows])
    report = {**facts, "views": kind, "scene": str(views.scene.folder), "size": list(views.size), "how": HOW,
              "mean": evaluator.mean_scores(scores), "each": [dataclasses.asdict(score) for score in scores]}
    write_json(output / "evaluation.json", report)
    print(evaluator.format_scores(scores))
    print(f"{len(scores)} views ({kind}) of {views.scene.folder}, epoch {epoch}: {output}/evaluation.json, "
          "contact_sheet.png")


def _choose_views(cfg: CfgNode, device: torch.device,
                 everything: bool) -> tuple[SceneDataset, list[tuple[int, int]], str]:
    """Views to evaluate as (frame, camera), and what they are to training, in words."""
    scene = open_scene(cfg, cfg.DATASETS.TRAIN)
    if not everything:
        held_out = held_out_views(cfg, scene, device)
        if held_out is not None:
            return *held_out, "held out"
        logger.warning("no view is held out (DATASETS.HOLDOUT_EVERY 0, no DATASETS.TEST): evaluating on the "
                       "training views, which flatters the model")
    which = [(frame, camera) for frame in range(len(scene.frames)) for camera in range(len(scene.cameras))]
    kind = "training" if not cfg.DATASETS.HOLDOUT_EVERY else "training and held out"
    return build_dataset(cfg, scene, cfg.INPUT.SIZE_TEST, device), which, kind


def _warn_of_training_views(cfg: CfgNode, trained: dict[str, Any], checkpoint: Path) -> None:
    """The model may have been trained on what the configuration now holds out."""
    before = trained.get("DATASETS", {}).get("HOLDOUT_EVERY")
    if not cfg.DATASETS.TEST and before != cfg.DATASETS.HOLDOUT_EVERY:
        logger.warning("%s was trained with DATASETS.HOLDOUT_EVERY %s, the configuration says %s: some of "
                       "these views may be training views", checkpoint,
                       "unknown" if before is None else before, cfg.DATASETS.HOLDOUT_EVERY)


def _versions() -> dict[str, str]:
    return {"npcr": npcr.__version__, "python": platform.python_version(), "torch": torch.__version__,
            "numpy": np.__version__}
