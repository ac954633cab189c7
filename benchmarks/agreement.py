# SPDX-License-Identifier: Apache-2.0
"""How far a device's pictures and gradients are from a CPU's in float32, for each form of the renderer and precision.

    python benchmarks/agreement.py --device cuda
    python benchmarks/agreement.py --forms layered --minutes 1

Each form is trained for a moment on datasets/bob, on the device, as in benchmarks/training_minute.py. Then, with these
parameters, one view that training did not see is rendered (RENDER.PRECISION), and the training loss there is
differentiated (SOLVER.PRECISION). "picture" is the largest difference of color and alpha, "gradient" the distance of
the gradient of all parameters relative to its norm. "same_again" says whether a second gradient has the same bits,
"same_deterministic" whether it has them with SOLVER.DETERMINISTIC.

For GPUs: a CPU computes the layered form's gradients in half types for minutes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
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
from torch import Tensor  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from benchmarks.training_minute import CONFIG, keys_of  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.config import load_config  # noqa: E402
from npcr.data.samples import Sample  # noqa: E402
from npcr.numerics import PRECISIONS, autocast, deterministic, tf32  # noqa: E402
from npcr.renderers import FORMS, Renderer  # noqa: E402
from npcr.renderers.losses import RenderLoss  # noqa: E402
from npcr.training.trainer import Trainer  # noqa: E402

COLUMNS = ("form", "precision", "picture", "gradient", "same_again", "same_deterministic")
SCALE = 1024.0  # of the loss, as torch's GradScaler does: small gradients vanish in float16


def picture(renderer: Renderer, sample: Sample, precision: str) -> Tensor:
    """Render a sample's view in a precision; return color and alpha, on the CPU."""
    renderer.eval().runner.prepare_rendering(precision, False, renderer.device)
    with torch.no_grad():
        output = renderer(sample.cameras, sample.frame)
    return torch.cat([output.color, output.alpha], dim=1).float().cpu()


def gradient(renderer: Renderer, loss: RenderLoss, sample: Sample, precision: str) -> Tensor:
    """Differentiate the training loss in a precision; return the gradient of all parameters, on the CPU."""
    renderer.train().zero_grad(set_to_none=True)
    with tf32(precision == "tf32"):
        with autocast(precision, renderer.device):
            output = renderer(sample.cameras, sample.frame)
            total = loss(output.trained_color, output.alpha, output.depth, sample.target[None])["total"]
        (total * SCALE).backward()
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() / SCALE
                      for p in renderer.parameters()]).cpu()


def measured_rows(form: str, options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Train a form for a moment, compare it with itself on a CPU; return a row for each precision."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(load_config(CONFIG, keys_of(form, options, folder)), device)
        trainer.run()
    assert trainer.held_out is not None  # configs/demo.yml holds out views
    dataset, views = trainer.held_out
    sample = dataset.sample(*views[0])
    on_cpu = dataclasses.replace(sample, cameras=sample.cameras.to("cpu"), target=sample.target.cpu())
    renderer, loss = trainer.renderer, trainer.loss
    reference, its_loss = copy.deepcopy(renderer).cpu(), copy.deepcopy(loss).cpu()
    expected, slope = picture(reference, on_cpu, "float32"), gradient(reference, its_loss, on_cpu, "float32")
    rows = []
    for precision in options.precisions:
        first, second = (gradient(renderer, loss, sample, precision) for _ in range(2))
        with deterministic(True):
            repeated = [gradient(renderer, loss, sample, precision) for _ in range(2)]
        rows.append({"form": form, "precision": precision,
                     "picture": (picture(renderer, sample, precision) - expected).abs().max().item(),
                     "gradient": ((first - slope).norm() / slope.norm()).item(),
                     "same_again": torch.equal(first, second), "same_deterministic": torch.equal(*repeated)})
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", choices=tuple(FORMS), nargs="+", default=list(FORMS))
    parser.add_argument("--precisions", choices=tuple(PRECISIONS), nargs="+", default=list(PRECISIONS))
    parser.add_argument("--minutes", type=float, default=0.1, metavar="N", help="of training (default: %(default)g)")
    parser.add_argument("--scene", type=Path, default=ROOT / "datasets" / "bob", metavar="FOLDER",
                        help="a copy or a variant of datasets/bob, which is the default")
    cli.add_quiet_option(parser)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "agreement.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare each form in each precision, print the table, write the JSON file."""
    options = parse(arguments)
    device = cli.resolve_device(options.device)
    described = environment(device, options)
    rows = [row for form in options.forms for row in measured_rows(form, options, device)]
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
