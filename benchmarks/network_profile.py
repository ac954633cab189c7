# SPDX-License-Identifier: Apache-2.0
"""Where the layered form's network spends its time: torch.profiler's table of a frame's network and of a step.

    python benchmarks/network_profile.py --device cuda
    python benchmarks/network_profile.py --device cuda --precisions float16x2 --whats step --rows 40

A frame is the network alone; a step is the network and the gradients of the mean of its squares. Rows are kernels on a
GPU, operations on a CPU, the longest first; "all" is everything. Weights are random.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from benchmarks.frame import make  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.numerics import PRECISIONS, autocast, tf32  # noqa: E402

COLUMNS = ("what", "precision", "kernel", "ms", "calls")


def profiled(run: Callable[[], object], device: torch.device) -> list[tuple[str, float, int]]:
    """Run twice, the second time watched; return name, milliseconds and calls of each kernel, the longest first."""
    run()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as watched:
        run()
        if on_gpu:
            torch.cuda.synchronize()
    found = [(event.key, (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3, event.count)
             for event in watched.key_averages()]
    return sorted((row for row in found if row[1] > 0), key=lambda row: -row[1])


def rows_of(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Profile each precision; return the rows."""
    renderer, cameras = make(options, device)
    renderer.network.backend = options.backend
    with torch.no_grad():
        images = renderer.feature_images(cameras)[0].flatten(0, 1)
    rows = []
    for precision in options.precisions:
        for what in options.whats:
            def run(precision: str = precision, what: str = what) -> None:
                renderer.zero_grad(set_to_none=True)
                with torch.set_grad_enabled(what == "step"), tf32(precision == "tf32"):
                    with autocast(precision, device):
                        result = renderer.network(images)
                    if what == "step":
                        result.square().mean().backward()

            found = profiled(run, device)
            described = {"what": what, "precision": precision}
            rows.append({**described, "kernel": "all", "ms": sum(row[1] for row in found),
                         "calls": sum(row[2] for row in found)})
            rows += [{**described, "kernel": name, "ms": ms, "calls": calls}
                     for name, ms, calls in found[:options.rows]]
            print(f"{what}, {precision}: {rows[-len(found[:options.rows]) - 1]['ms']:.4g} ms", file=sys.stderr)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", choices=tuple(PRECISIONS), nargs="+",
                        default=["tf32", "float32", "float16", "float16x2"])
    parser.add_argument("--whats", choices=("frame", "step"), nargs="+", default=["frame", "step"])
    parser.add_argument("--backend", choices=("auto", "torch"), default="auto", help="as PROJECTION.BACKEND")
    parser.add_argument("--points", type=lambda text: int(float(text)), default=10**6)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=[600, 600], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--norm", choices=("instance", "batch", "none"), default="instance")
    parser.add_argument("--rows", type=int, default=25, help="kernels of each table")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "network_profile.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Profile, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    described = environment(device, options)
    rows = rows_of(options, device)
    print_table([{**row, "kernel": row["kernel"][:90]} for row in rows], COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
