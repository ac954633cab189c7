# SPDX-License-Identifier: Apache-2.0
"""What the CPU kernels of the layered form's network are worth: a frame and a training step with and without them.

    python benchmarks/network_kernels.py
    python benchmarks/network_kernels.py --layers 6 --size 600 600 --repeats 5

All variants are timed in turns in one process; only the network differs.

Variants:
    kernels   npcr as it runs on a CPU (npcr/renderers/cpu)
    torch     plain torch: both convolutions of a gated layer in one call, channels_last
    compiled  that form through torch.compile, as MODEL.COMPILE runs it

A step is projection, gather, network, compositing, squared error, gradients, Adam. "of_first" is the time relative to
that of the first variant. "first_s" is the time of the first call, in which "compiled" compiles, or finds compiled code
on disk. "error" is the largest difference of color and alpha from the first variant's frame, and the difference of the
first step's loss, relative to it. Weights are random.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.common import environment, measure_in_turns, print_table, write_json  # noqa: E402
from benchmarks.frame import make  # noqa: E402
from npcr.renderers import LayeredRenderer  # noqa: E402

VARIANTS = ("kernels", "torch", "compiled")
CPU = torch.device("cpu")
COLUMNS = ("what", "variant", "median_ms", "low_ms", "high_ms", "runs", "of_first", "first_s", "error")

Run = Callable[[], Tensor]


def renderer_of(variant: str, options: argparse.Namespace) -> tuple[LayeredRenderer, Any]:
    """Return a variant's renderer, with the same weights at each call, and the camera."""
    renderer, camera = make(options, CPU)
    renderer.network.backend = "compiled" if variant == "kernels" else "torch"  # "compiled" never falls back on torch
    if variant == "compiled":
        renderer.runner.compile(renderer.network)
    return renderer, camera


def frame_of(renderer: LayeredRenderer, camera: Any) -> Run:
    """Return a function that renders a frame, and returns its color and alpha."""
    def frame() -> Tensor:
        with torch.no_grad():
            output = renderer.eval()(camera)
        return torch.cat([output.color, output.alpha], dim=1)

    return frame


def step_of(renderer: LayeredRenderer, camera: Any) -> Run:
    """Return a function that takes a training step, and returns its loss."""
    optimizer = torch.optim.Adam(renderer.parameters(), 1e-4)
    target = torch.full((1, 4, *reversed(camera.size)), 0.5)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        output = renderer.train()(camera)
        loss = torch.nn.functional.mse_loss(torch.cat([output.color, output.alpha], dim=1), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def measured_rows(what: str, runs: dict[str, Run], repeats: int) -> list[dict[str, Any]]:
    """Measure the runs of all variants in turns, and compare what each gives first; return their rows."""
    rows = []
    expected: Tensor | None = None
    for variant, run in runs.items():
        begun = time.perf_counter()
        result = run()
        row = {"what": what, "variant": variant, "first_s": time.perf_counter() - begun}
        if expected is None:
            expected = result
        else:
            row["error"] = ((result - expected).abs().max() / (expected if what == "step" else 1)).item()
        rows.append(row)
    timings = measure_in_turns(runs, rounds=repeats, device=CPU)
    for row in rows:
        timing = timings[row["variant"]]
        row |= {"median_ms": timing.median, "low_ms": timing.low, "high_ms": timing.high, "best_ms": timing.best,
                "runs": timing.runs, "of_first": timing.median / timings[rows[0]["variant"]].median}
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--points", type=lambda text: int(float(text)), default=90_000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[200, 200], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--norm", choices=("instance", "batch", "none"), default="instance")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "network_kernels.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    described = environment(CPU, options)
    renderers = {variant: renderer_of(variant, options) for variant in options.variants}
    rows = []
    for what, run_of in (("frame", frame_of), ("step", step_of)):
        rows += measured_rows(what, {variant: run_of(*each) for variant, each in renderers.items()}, options.repeats)
        print(f"{what}: measured", file=sys.stderr)
    if "compiled" in renderers and renderers["compiled"][0].runner.compiled is None:
        raise SystemExit("torch.compile does not work here; leave it out: --variants kernels torch")
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
