# SPDX-License-Identifier: Apache-2.0
"""What a minute of training gives: steps a second and scores of the held-out views, for each form of the renderer.

    python benchmarks/training_minute.py --device cuda
    python benchmarks/training_minute.py --forms blended --minutes 8

Trains on datasets/bob at 200x200 with the settings of configs/demo.yml, the layered form with those of the quality
study ("layered, tuned, 1 layer"). Start, compilation of kernels and evaluation do not count as training.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from benchmarks.quality.variants import BLENDED, LAYERED  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.config import load_config  # noqa: E402
from npcr.errors import ConfigError  # noqa: E402
from npcr.evaluation.views import evaluate_views, mean_scores  # noqa: E402
from npcr.renderers import FORMS  # noqa: E402
from npcr.training.trainer import Trainer  # noqa: E402

CONFIG = ROOT / "configs" / "demo.yml"
ENDLESS = 100_000  # epochs: time ends the training
COLUMNS = ("form", "steps", "seconds", "steps_per_s", "psnr", "ssim", "alpha_mae", "peak_mb")


def keys_of(form: str, options: argparse.Namespace, output: str) -> list[str]:
    """Return the KEY VALUE pairs with which a form is trained for so many minutes, saved and evaluated at the end."""
    pairs = {"layered": LAYERED, "blended": BLENDED}.get(form, {"MODEL.FORM": form}) | {
        "DATASETS.TRAIN": options.scene, "OUTPUT_DIR": output, "MODEL.DEVICE": options.device,
        "SOLVER.MAX_MINUTES": options.minutes, "SOLVER.MAX_EPOCHS": ENDLESS, "SOLVER.CHECKPOINT_PERIOD": ENDLESS,
        "TEST.PERIOD": 0}
    return [str(part) for pair in pairs.items() for part in pair]


def measured_row(form: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Train a form, evaluate it; return its row."""
    with tempfile.TemporaryDirectory() as folder:
        cfg = load_config(CONFIG, keys_of(form, options, folder))
        trainer = Trainer(cfg, device)
        trainer.run()
    if trainer.held_out is None:
        raise ConfigError(f"--scene {options.scene}: no view is held out (DATASETS.HOLDOUT_EVERY), none can be scored")
    dataset, views = trainer.held_out
    scores = evaluate_views(trainer.renderer, dataset, views, batch=cfg.TEST.IMS_PER_BATCH, device=device)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    return {"form": form, "steps": trainer.iteration, "seconds": trainer.seconds,
            "steps_per_s": trainer.iteration / trainer.seconds, **mean_scores(scores), "peak_mb": peak}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", choices=tuple(FORMS), nargs="+", default=list(FORMS))
    parser.add_argument("--minutes", type=float, default=1.0, metavar="N", help="for each form (default: %(default)g)")
    parser.add_argument("--scene", type=Path, default=ROOT / "datasets" / "bob", metavar="FOLDER",
                        help="a copy or a variant of datasets/bob, which is the default")
    cli.add_quiet_option(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "training_minute.json")
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error(f"--minutes is {options.minutes:g}; it must be above 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and measure each form, print the table, write the JSON file."""
    options = parse(arguments)
    device = cli.resolve_device(options.device)
    described = environment(device, options)
    rows = []
    for form in options.forms:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        rows.append(measured_row(form, options, device))
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(main)
