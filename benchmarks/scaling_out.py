# SPDX-License-Identifier: Apache-2.0
"""Training by several processes of torchrun: time of a step, efficiency, and bytes that each process sends.

    python benchmarks/scaling_out.py
    python benchmarks/scaling_out.py --processes 1 2 4 8 --device cuda --forms strands
    python benchmarks/scaling_out.py --processes 1 --views 8

Each process has one view of a step (--views: more), so that N of them make a step of N views; efficiency is the time
of one process's step relative to theirs. On a CPU each has one core; with more processes than cores the times say
nothing. The columns of gradients are counted: all of them, dense, as they are sent; and of the points' tables only rows
that some process's view saw, with a byte a row to agree on these, which is what the alternative would send. The last
table is a model, not a measurement: what the dense gradients of a ring cost on links of some speeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import statistics  # noqa: E402

import torch  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from benchmarks.quality.variants import BLENDED, LAYERED  # noqa: E402
from npcr import cli, distributed  # noqa: E402
from npcr.config import load_config  # noqa: E402
from npcr.errors import NpcrError  # noqa: E402
from npcr.renderers import FORMS  # noqa: E402
from npcr.training.batches import samples_from  # noqa: E402
from npcr.training.trainer import Trainer  # noqa: E402

CONFIG = ROOT / "configs" / "demo.yml"
WARM_UP = 2  # steps
COLUMNS = ("form", "processes", "median_ms", "low_ms", "high_ms", "efficiency", "gradients_mb", "sent_mb", "rows_seen",
           "gradients_of_rows_mb")
LINKS = {"1 Gbit/s": 0.125e9, "10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "PCIe 4 x16": 25e9, "NVLink 4": 400e9}  # B/s


def sent(gradients: float, processes: int) -> float:
    """Bytes that each of N processes sends in a ring's all-reduce: twice (N - 1) / N of the gradients."""
    return 2 * gradients * (processes - 1) / processes


def run_worker(options: argparse.Namespace) -> dict[str, Any]:
    """Make steps in this process and the others of torchrun; the row of their number."""
    form, processes = options.worker, distributed.world_size()
    with tempfile.TemporaryDirectory() as folder:
        pairs = {"layered": LAYERED, "blended": BLENDED}.get(form, {"MODEL.FORM": form}) | {
            "DATASETS.TRAIN": options.scene, "OUTPUT_DIR": folder, "MODEL.DEVICE": options.device,
            "SOLVER.IMS_PER_BATCH": processes * options.views, "INPUT.SIZE_TRAIN": f"[{options.size}, {options.size}]"}
        cfg = load_config(CONFIG, [str(part) for pair in pairs.items() for part in pair])
        device = distributed.own_device(cli.resolve_device(cfg.MODEL.DEVICE))
        trainer = Trainer(cfg, device)
        batches = samples_from(trainer.order, 0, trainer.dataset, cfg.DATASETS)
        times = []
        for number in range(WARM_UP + options.steps):
            batch = next(batches)
            distributed.barrier()
            begun = time.perf_counter()
            trainer.step(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARM_UP:
                times.append((time.perf_counter() - begun) * 1e3)
            trainer.iteration += 1
    low, median, high = statistics.quantiles(times, n=4)
    return {"form": form, "processes": processes, "median_ms": median, "low_ms": low, "high_ms": high,
            "runs": len(times), **_count_gradients(trainer)}


def _count_gradients(trainer: Trainer) -> dict[str, float]:
    """Megabytes of the last step's gradients, all and with only the rows of points that some view saw."""
    points = {len(cloud) for cloud in trainer.clouds}
    all_, of_rows, rows, seen = 0, 0, 0, 0
    for parameter in trainer.renderer.parameters():
        if parameter.grad is None:
            continue
        size = parameter.grad.numel() * parameter.grad.element_size()
        all_ += size
        if len(parameter) not in points:
            of_rows += size
            continue
        some = int((parameter.grad.flatten(1) != 0).any(1).sum())
        rows, seen = rows + len(parameter), seen + some
        of_rows += size * some // len(parameter)
    of_rows += max(points)
    processes = distributed.world_size()
    return {"gradients_mb": all_ / 1e6, "sent_mb": sent(all_, processes) / 1e6, "rows_seen": seen / max(rows, 1),
            "gradients_of_rows_mb": of_rows / 1e6}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", choices=tuple(FORMS), nargs="+", default=list(FORMS))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--views", type=int, default=1, help="of a step, for each process (default: %(default)s)")
    parser.add_argument("--size", type=int, default=200, help="side of the pictures, pixels (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="that are timed (default: %(default)s)")
    parser.add_argument("--scene", type=Path, default=ROOT / "datasets" / "bob", metavar="FOLDER",
                        help="a copy or a variant of datasets/bob, which is the default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", choices=tuple(FORMS), help=argparse.SUPPRESS)  # a process of torchrun
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "scaling_out.json")
    return parser.parse_args(arguments)


def _run_together(form: str, processes: int, arguments: Sequence[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               __file__, *arguments, "--worker", form]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, check=False,
                          env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise NpcrError(f"{processes} processes of the form {form} failed; see their message above")
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure each number of processes, print the tables, write the JSON file."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse(arguments)
    if options.worker:
        with distributed.processes():
            row = run_worker(options)
            if distributed.is_writer():
                print(json.dumps(row))
        return 0
    described = environment(torch.device(options.device), options)
    rows = []
    for form in options.forms:
        first = len(rows)
        for processes in options.processes:
            rows.append(_run_together(form, processes, arguments))
            rows[-1]["efficiency"] = rows[first]["median_ms"] / rows[-1]["median_ms"]
            print(f"{form}, {processes}: {rows[-1]['median_ms']:.4g} ms", file=sys.stderr)
            for link, speed in LINKS.items():
                rows[-1][link] = rows[-1]["sent_mb"] * 1e9 / speed
    print_table(rows, COLUMNS)
    print("\na model: ms of sending the gradients on links of these speeds")
    print_table([row for row in rows if row["processes"] > 1], ("form", "processes", *LINKS))
    write_json(options.output, rows, described)
    print(f"efficiency is relative to the first of --processes; written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))
