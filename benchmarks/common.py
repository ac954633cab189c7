# SPDX-License-Identifier: Apache-2.0
"""Shared code of the benchmarks: timing with median and quartiles, description of the machine, table and JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import npcr.entry_point  # noqa: F401  before torch is loaded

# isort: split
from npcr.errors import NpcrError

# isort: split
import torch

ROOT = Path(__file__).resolve().parent.parent
_NOT_MEASURED = ("output", "quiet")  # options without influence on what is measured


class Timing(NamedTuple):
    """Milliseconds of repeated runs."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    best: float
    runs: int


def measure(
    run: Callable[[], object], *, repeats: int, device: torch.device, warm_up: int = 2, limit_s: float = 30.0
) -> Timing:
    """Time a function repeatedly after warming up.

    Args:
        run: the function; the device is synchronized before and after each call.
        repeats: largest number of timed calls.
        device: of the computation.
        warm_up: calls before the first timed one.
        limit_s: seconds after which timing ends, but not before three calls.

    Returns:
        Median, quartiles and best time.
    """
    for _ in range(warm_up):
        run()
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < repeats and (len(times) < 3 or time.perf_counter() - begun < limit_s):
        _synchronize(device)
        start = time.perf_counter()
        run()
        _synchronize(device)
        times.append((time.perf_counter() - start) * 1e3)
    return _timing(times)


def measure_in_turns(runs: Mapping[str, Callable[[], object]], *, rounds: int,
                     device: torch.device) -> dict[str, Timing]:
    """Time functions in turns, so that what else the machine does slows them all alike.

    Args:
        runs: the functions by name. At each turn one is called once untimed, to find its data and threads as it leaves
            them, then timed.
        rounds: timed calls of each.
        device: of the computation.

    Returns:
        The times by name.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(measure(run, repeats=1, device=device, warm_up=1).median)
    return {name: _timing(each) for name, each in times.items()}


def _timing(times: list[float]) -> Timing:
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    return Timing(median, low, high, min(times), len(times))


class PeakMemory:
    """The most memory that this process has in use from now on, over what it has now (on a CPU: Linux only).

    The system's ru_maxrss would not do: a process starts with that of the one that began it.

    Args:
        device: whose memory; for a GPU what torch has given out, and all of it, for what is there belongs to the run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            self.before = _resident_mb("VmRSS")

    def mb(self) -> float:
        """Return it in MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        return _resident_mb("VmHWM") - self.before


def _resident_mb(kind: str) -> float:
    """VmRSS, what is in use, or VmHWM, its peak since a reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.split(f"{kind}:")[1].split()[0]) / 2**10  # of kB


def environment(device: torch.device, options: argparse.Namespace | None = None) -> dict[str, Any]:
    """Describe the hardware, versions, commit and, where they are given, the options of a measurement."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "device": str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "commit": _commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    if device.type == "cuda":
        described["gpu"] = torch.cuda.get_device_name(device)
        described["cuda"] = torch.version.cuda
        described["driver"] = _driver()
    if options is not None:
        described["options"] = {name: _without_machine(value) if isinstance(value, Path) else value
                                for name, value in vars(options).items() if name not in _NOT_MEASURED}
    return described


def _without_machine(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def write_json(path: Path, rows: Sequence[dict[str, Any]], described: dict[str, Any]) -> None:
    """Write the rows and the `environment` they were measured in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"environment": described, "rows": list(rows)}, indent=2) + "\n")


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Print the columns of the rows, aligned; numbers with three significant digits."""
    cells = [list(columns), *([format_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for number, line in enumerate(cells):
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
        if number == 0:
            print("  ".join("-" * width for width in widths))


def run_script(script: str, *arguments: str) -> None:
    """Run one of the repository's scripts. `NpcrError` where it fails; `KeyboardInterrupt` where Ctrl-C ended it."""
    status = subprocess.run([sys.executable, str(ROOT / script), *arguments], check=False).returncode
    if status == 130:
        raise KeyboardInterrupt
    if status:
        raise NpcrError(f"python {script} failed with status {status}; see its message above")


def format_cell(value: object) -> str:
    """Format a cell of a table: floats with three significant digits, from a thousand on without any."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e3 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _driver() -> str | None:
    """The version of NVIDIA's driver; None where nvidia-smi does not tell."""
    try:
        told = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.splitlines()[0].strip() if told.stdout else None


def _commit() -> str | None:
    """The commit, with "+" where the working tree has changes; None outside a repository."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        changes = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
