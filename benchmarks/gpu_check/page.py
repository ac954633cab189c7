# SPDX-License-Identifier: Apache-2.0
"""Tables of docs/gpu.md from results of the benchmarks, so that none of its numbers is typed by hand."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
from benchmarks.common import format_cell  # noqa: E402
from benchmarks.gpu_check.steps import script_of  # noqa: E402
from benchmarks.pages import fill_page  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.errors import ConfigError  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/gpu_check/page.py benchmarks/results/*_h200.json --page docs/gpu.md
  python benchmarks/gpu_check/page.py output/gpu_check/nvidia_h100_20261127-101502/*.json
"""
logger = logging.getLogger("npcr")

CHECK = "check"  # the result of the check itself, all others are a benchmark's
MARKER = "gpu:tables"

Row = Mapping[str, Any]
Column = tuple[str, Callable[[Row], object]]


class Table(NamedTuple):
    """How the rows of a benchmark are shown."""

    title: str
    columns: tuple[Column, ...]
    shown: Callable[[Row], bool] = lambda row: True


def _of(key: str) -> Callable[[Row], object]:
    return lambda row: row.get(key)


def _median(key: str, low: str = "low_ms", high: str = "high_ms") -> Callable[[Row], object]:
    """The median, and the quartiles beside it."""
    return lambda row: f"{format_cell(row[key])} ({format_cell(row[low])}–{format_cell(row[high])})"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _figures(row: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in (row.get("figures") or {}).items())


# By the benchmark's file, in the order of the page.
TABLES = {
    CHECK: Table("The check", (("step", _of("step")), ("", _of("status")), ("s", _of("seconds")), ("", _figures),
                               ("reason", _of("reason")))),
    "training_minute": Table("Training", (
        ("form", _of("form")), ("steps", _of("steps")), ("s", _of("seconds")), ("steps/s", _of("steps_per_s")),
        ("PSNR of held-out views, dB", lambda row: f"{row['psnr']:.2f}"), ("SSIM", _of("ssim")),
        ("alpha MAE", _of("alpha_mae")), ("peak memory, MiB", _of("peak_mb")))),
    "agreement": Table("Agreement with a CPU's float32", (
        ("form", _of("form")), ("precision", _of("precision")), ("picture, largest difference", _of("picture")),
        ("gradient, relative", _of("gradient")), ("same bits again", lambda row: _yes(row["same_again"])),
        ("with SOLVER.DETERMINISTIC", lambda row: _yes(row["same_deterministic"])))),
    "projection": Table("Projection", (
        ("points", _of("points")), ("layers", _of("layers")), ("peeling", _of("peeling")),
        ("kernel, ms", _median("median_ms"))), lambda row: row["method"] == "kernel"),
    "frame": Table("A frame of the layered form", (
        ("stage", _of("what")), ("ms", _median("median_ms")), ("of the frame", _of("share")),
        ("largest difference", _of("error")))),
    "blended": Table("The blended form", (
        ("layers", _of("layers")), ("stage", _of("stage")), ("ms", _median("median_ms")),
        ("of the torch reference's time", _of("of_twin")), ("largest difference", _of("error")))),
    "strands": Table("The strands form", (
        ("form", _of("form")), ("stage", _of("stage")), ("ms", _median("median_ms")),
        ("of the blended form's time", _of("of_blended")), ("of the torch reference's time", _of("of_reference")),
        ("largest difference", _of("error")), ("peak memory, MiB", _of("peak_mb")))),
    "blending": Table("Blending frames of a camera path", (
        ("stage", _of("stage")), ("ms", _median("median_ms")), ("of a frame", _of("share")))),
    "options": Table("Options", (
        ("form", _of("form")), ("variant", _of("variant")), ("frame, ms", _median("frame_ms")),
        ("first frame, s", _of("first_s")), ("with gradients, ms", _of("step_ms")),
        ("largest difference", _of("error")))),
    "render_script": Table("tools/render.py", (
        ("tree", _of("tree")), ("stage", _of("stage")), ("frames/s", _of("fps")), ("ms a frame", _median("ms")),
        ("processor time, ms", _of("cpu_ms")), ("of the baseline's speed", _of("of_baseline")))),
    "training_step": Table("A training step of the layered form", (
        ("variant", _of("variant")), ("ms", _median("median_ms")), ("speed", _of("time_ratio")),
        ("peak memory, MiB", _of("peak_mb")), ("gradient error", _of("gradient_error")))),
    "scaling": Table("Scaling", (
        ("points", _of("points")), ("pixels a side", _of("side")), ("layers", _of("layers")),
        ("projection, ms", _of("projection_ms")), ("frame, ms", _median("frame_ms", "frame_low_ms", "frame_high_ms")))),
}


def kind_of(file: Path) -> str:
    """Name the table for a result.

    Args:
        file: named after its benchmark, with something after it.

    Returns:
        A key of `TABLES`; empty where there is none for it.
    """
    kind = CHECK if file.stem == CHECK else script_of(file.stem)
    return kind if kind in TABLES else ""


def command(kind: str, described: Row) -> str:
    """Write the command that measured a result, from the options that its environment holds.

    Args:
        kind: the benchmark.
        described: the environment.

    Returns:
        The command, without the file it wrote; empty where the options were not kept.
    """
    if kind == CHECK:
        return "make gpu-check"
    if "options" not in described:
        return ""
    parts = ["python", f"benchmarks/{kind}.py"]
    for name, value in described["options"].items():
        if value is None or value is False:
            continue
        values = [] if value is True else value if isinstance(value, list) else [value]
        parts += [f"--{name.replace('_', '-')}", *(f"{each:g}" if isinstance(each, float) else str(each)
                                                  for each in values)]
    return shlex.join(parts)


def tables(files: Sequence[Path]) -> str:
    """Format the results: a section for each card and commit, in it a table for each file.

    Args:
        files: results of benchmarks and of the check; others are left out, with a warning.

    Returns:
        Markdown.

    Raises:
        ConfigError: a file holds no results, or there is none with a table.
    """
    sections: dict[tuple[str, str], list[tuple[str, str, Row]]] = {}
    unknown = []
    for file in files:
        kind = kind_of(file)
        if not kind:
            unknown.append(file.name)
            continue
        results = _read(file)
        described = results["environment"]
        place = (described.get("gpu") or described["processor"], str(described["commit"]))
        sections.setdefault(place, []).append((kind, file.stem, results))
    if unknown:
        logger.warning("%d files left out, as benchmarks/gpu_check/page.py has no table for them: %s", len(unknown),
                       ", ".join(unknown))
    if not sections:
        raise ConfigError(f"no table for any of {len(files)} files; name results of {', '.join(TABLES)}")
    return "\n".join(_section(place, found) for place, found in sections.items())


def _section(place: tuple[str, str], found: list[tuple[str, str, Row]]) -> str:
    order = list(TABLES)
    described = found[0][2]["environment"]
    about = [f"{described['processor']} with {described['cores']} cores", f"Python {described['python']}",
             f"torch {described['torch']}"]
    about += [f"driver {described['driver']}"] if described.get("driver") else []
    text = f"### {place[0]}, commit {place[1]}\n{', '.join(about)}; {described['time'][:10]}. Times are medians and " \
           "quartiles.\n"
    for kind, stem, results in sorted(found, key=lambda each: (order.index(each[0]), each[1])):
        text += f"\n**{TABLES[kind].title}** (`{stem}.json`){_measured_by(kind, results['environment'])}:\n\n"
        text += _table(TABLES[kind], results["rows"])
    return text


def _measured_by(kind: str, described: Row) -> str:
    line = command(kind, described)
    return f", `{line}`" if line else ""


def _table(table: Table, rows: Sequence[Row]) -> str:
    shown = [[format_cell(value(row)) for _, value in table.columns] for row in rows if table.shown(row)]
    kept = [i for i in range(len(table.columns)) if any(line[i] for line in shown)]  # no column without a value
    lines = [[table.columns[i][0] for i in kept], ["---"] * len(kept), *([line[i] for i in kept] for line in shown)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _read(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON: {error}") from None
    if not isinstance(results, dict) or not results.get("rows") or "processor" not in results.get("environment", {}):
        raise ConfigError(f"{file}: holds no results of a benchmark (environment and rows)")
    return results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", metavar="FILE", help="JSON files, named after their benchmark")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help=f"a page with the marker <!-- {MARKER} -->; without, the tables are printed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables or fill the page."""
    args = parse(arguments)
    text = tables(args.results)
    if args.page is None:
        print(text)
    else:
        fill_page(args.page, {MARKER: text})
        print(f"{args.page}: tables of {len(args.results)} files")


if __name__ == "__main__":
    cli.run(main)
