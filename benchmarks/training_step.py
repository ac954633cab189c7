# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of a training step: ours, in variants that need less memory, and the plain implementation.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --layers 1 --size 200 200 --variants plain ours

A step is projection, gather, network, compositing, squared error, gradients, Adam. Each variant runs in a separate
process, so that its memory can be measured: on a CPU the peak of resident memory during the steps, less the resident
memory before the first, on a GPU torch's peak of allocated memory.

Variants:
    plain      the network of benchmarks/plain_network.py, two convolutions for a gated one, one layer at a time
    ours       npcr as it trains
    half       ours with SOLVER.HALF_ACTIVATIONS: activations are kept as float16 for the gradients
    recompute  ours with SOLVER.RECOMPUTE_LAYERS: the activations of a layer are computed again for its gradients
    both       ours with both
    reference  ours with the torch reference (fused gates, channels_last), as on a GPU in float32
    tf32, bfloat16, float16, float16x2
               ours with this SOLVER.PRECISION, on a GPU; "+recompute" after it with SOLVER.RECOMPUTE_LAYERS, too

Column "gradient_error": after the steps, the distance of the gradient of all parameters from the one in float32 with
float32 activations, relative to its norm.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402

from benchmarks.common import PeakMemory, environment, measure, print_table, write_json  # noqa: E402
from benchmarks.frame import make  # noqa: E402
from benchmarks.plain_network import plain_copy  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.numerics import PRECISIONS, autocast, tf32  # noqa: E402
from npcr.renderers.half_activations import half_activations  # noqa: E402

REDUCED = tuple(precision for precision in PRECISIONS if precision != "float32")
DEFAULT_VARIANTS = ("plain", "ours", "half", "recompute", "both")
VARIANTS = (*DEFAULT_VARIANTS, "reference", *REDUCED, *(f"{precision}+recompute" for precision in REDUCED))
COLUMNS = ("variant", "median_ms", "low_ms", "high_ms", "runs", "peak_mb", "time_ratio", "memory_ratio",
           "gradient_error")


def run_variant(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one variant in this process; return its row."""
    device = torch.device(options.device)
    renderer, cameras = make(options, device)
    renderer.train()
    renderer.recompute_layers = options.variant == "both" or options.variant.endswith("recompute")
    reduced = options.variant.removesuffix("+recompute")
    precision = reduced if reduced in REDUCED else "float32"
    if options.variant == "plain":
        renderer.network = plain_copy(renderer.network, renderer.network.in_channels, options.norm)
    elif options.variant == "reference":
        renderer.network.backend = "torch"
    optimizer = torch.optim.Adam(renderer.parameters(), 1e-4)
    target = torch.full((4, *reversed(cameras.size)), 0.5, device=device)
    losses = []
    half = options.variant in ("half", "both")

    def differentiate(half: bool, precision: str) -> float:
        optimizer.zero_grad(set_to_none=True)
        with tf32(precision == "tf32"):
            with half_activations(half), autocast(precision, device):
                output = renderer(cameras)
                loss = torch.nn.functional.mse_loss(torch.cat([output.color, output.alpha], 1)[0], target)
            loss.backward()
        return loss.item()

    def step() -> None:
        losses.append(differentiate(half, precision))
        optimizer.step()

    def gradient(half: bool, precision: str) -> torch.Tensor:
        differentiate(half, precision)
        return torch.cat([p.grad.flatten() for p in renderer.parameters() if p.grad is not None])

    peak = PeakMemory(device)
    timing = measure(step, repeats=options.repeats, device=device, warm_up=1, limit_s=120)
    row = {"variant": options.variant, "median_ms": timing.median, "low_ms": timing.low, "high_ms": timing.high,
           "best_ms": timing.best, "runs": timing.runs, "peak_mb": peak.mb(), "losses": losses[:3]}
    if half or precision != "float32":
        exact = gradient(False, "float32")
        row["gradient_error"] = ((gradient(half, precision) - exact).norm() / exact.norm()).item()
    return row


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=lambda text: int(float(text)), default=10**5)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[300, 300], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--norm", choices=("instance", "batch", "none"), default="instance")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=DEFAULT_VARIANTS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)  # the process of one row
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "training_step.json")
    return parser.parse_args(arguments)


def _run_in_subprocess(variant: str, arguments: Sequence[str]) -> dict[str, Any]:
    process = subprocess.run([sys.executable, __file__, *arguments, "--variant", variant], check=True, text=True,
                          stdout=subprocess.PIPE)
    row: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.variant:
        print(json.dumps(run_variant(options)))
        return 0
    described = environment(torch.device(options.device), options)
    rows = []
    for variant in options.variants:
        begun = time.perf_counter()
        rows.append(_run_in_subprocess(variant, arguments))
        print(f"{variant}: {rows[-1]['median_ms']:.4g} ms, {time.perf_counter() - begun:.0f} s in all", file=sys.stderr)
    for row in rows:
        row["time_ratio"] = rows[0]["median_ms"] / row["median_ms"]
        row["memory_ratio"] = row["peak_mb"] / rows[0]["peak_mb"]
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"ratios are to {rows[0]['variant']}; written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
