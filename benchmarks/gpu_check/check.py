# SPDX-License-Identifier: Apache-2.0
"""Build for this machine's GPU, run every test, parity, sanitizer and benchmark that uses it, train each form a minute.

One command, without network, in the time that --minutes gives; what does not fit is left out, and said. Each step has a
limit of its own, and one that fails does not end the rest. Ctrl-C keeps what there is.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks.gpu_check.packages import PackagesError, doubtful, provide, requirements  # noqa: E402

EXAMPLES = """examples:
  make gpu-check
  make gpu-check PYTHON=python3 ARGS="--wheels wheels"     with the packages of that python, and these wheels
  python benchmarks/gpu_check/check.py --only projection memcheck
  python benchmarks/gpu_check/check.py --device cpu --quick     to see that the check itself works

writes to a new folder in --output, named after card and time, with an archive FOLDER.tar.gz of it:
  check.json       environment; each step with status, time, figures and the end of its output
  STEP.json        the results of each benchmark
  STEP.log         all that a step printed
  tables.md        the tables of docs/gpu.md; --write-docs puts them there

exit status: 0; 1 where a step failed; 2 where the check cannot start; 130 after Ctrl-C
"""
_ENDING_S = 5.0  # of the time, for tables and archive


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, metavar="N", help="for everything (default: %(default)g)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="only these steps; a wrong name lists all there are")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install missing packages from wheels in FOLDER")
    parser.add_argument("--write-docs", action="store_true", help="put the tables into docs/gpu.md, too")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="sizes and times that say nothing about speed")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "gpu_check", metavar="FOLDER",
                        help="default: output/gpu_check")
    args = parser.parse_args(arguments)
    if args.device == "cpu" and not args.quick:
        parser.error("--device cpu needs --quick: at full size the steps take hours on a CPU")
    if args.minutes <= 0:
        parser.error(f"--minutes is {args.minutes:g}; it must be above 0")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check; return its exit status."""
    args = parse(arguments)
    began = time.monotonic()
    try:
        wanted = requirements(ROOT / "pyproject.toml")
        provide(wanted, args.wheels, args.output / "packages")
        for sentence in doubtful(wanted):
            print(sentence, file=sys.stderr)
    except PackagesError as error:
        return _refuse(str(error))

    import torch  # only now is it known to be there

    from npcr.errors import NpcrError

    if args.device == "cuda" and not torch.cuda.is_available():
        return _refuse(f"torch {torch.__version__} finds no CUDA device here; `--device cpu --quick` shows on a CPU "
                       "that the check itself works")
    try:
        return _run(args, began)
    except NpcrError as error:
        return _refuse(str(error))


def _run(args: argparse.Namespace, began: float) -> int:
    import torch

    from benchmarks.common import environment, write_json
    from benchmarks.gpu_check.runner import Runner
    from benchmarks.gpu_check.steps import plan
    from npcr.renderers import FORMS

    device = torch.device(args.device)
    arch = "".join(map(str, torch.cuda.get_device_capability(device))) if device.type == "cuda" else ""
    described = environment(device) | {"arch": arch or None, "minutes": args.minutes, "quick": args.quick}
    folder = _folder(args.output, described)
    stages = _chosen(plan(args.device, args.quick, folder, list(FORMS), arch), args.only)
    folder.mkdir(parents=True)
    runner = Runner(folder, args.minutes * 60 - _ENDING_S - (time.monotonic() - began), ROOT, _say)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, runner.stop)
    _say(f"{described.get('gpu') or described['processor']}, torch {described['torch']}, commit {described['commit']}: "
         f"{sum(map(len, stages))} steps in at most {args.minutes:g} minutes; results go to {folder}")
    interrupted = False
    try:
        for stage in stages:
            runner.run(stage)
            write_json(folder / "check.json", runner.rows, described)  # what there is, should the machine go away
    except KeyboardInterrupt:
        interrupted = True
        _say("interrupted; what there is is kept")
    write_json(folder / "check.json", runner.rows, described)
    _write_tables(folder, args.write_docs)
    archive = _archive(folder)
    return _report(runner.rows, folder, archive, interrupted)


def _chosen(stages: list[list[Any]], only: Sequence[str] | None) -> list[list[Any]]:
    """The stages with the steps of --only alone."""
    from npcr.errors import ConfigError

    names = [step.name for stage in stages for step in stage]
    unknown = [name for name in only or () if name not in names]
    if unknown:
        raise ConfigError(f"--only {' '.join(unknown)}: no such step; steps: {', '.join(names)}")
    return [chosen for stage in stages if (chosen := [step for step in stage if not only or step.name in only])]


def _folder(output: Path, described: dict[str, Any]) -> Path:
    card = re.sub(r"\W+", "_", str(described.get("gpu") or "cpu")).strip("_").lower()
    return output.resolve() / f"{card}_{time.strftime('%Y%m%d-%H%M%S')}"


def _write_tables(folder: Path, to_docs: bool) -> None:
    from benchmarks.gpu_check.page import MARKER, kind_of, tables
    from benchmarks.pages import fill_page

    text = tables([file for file in sorted(folder.glob("*.json")) if kind_of(file)])
    (folder / "tables.md").write_text(text, encoding="utf-8")
    if to_docs:
        fill_page(ROOT / "docs" / "gpu.md", {MARKER: text})


def _archive(folder: Path) -> Path:
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    return archive


def _report(rows: Sequence[dict[str, Any]], folder: Path, archive: Path, interrupted: bool) -> int:
    """Say how it ended; return the exit status."""
    by_status: dict[str, list[str]] = {}
    for row in rows:
        by_status.setdefault(row["status"], []).append(row["step"])
    for status, steps in by_status.items():
        _say(f"{len(steps)} {status}: {', '.join(steps)}")
    _say(f"results: {folder}\narchive: {archive}")
    if interrupted:
        return 130
    return 1 if by_status.keys() & {"failed", "timed out"} or not by_status.keys() & {"passed"} else 0


def _refuse(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
