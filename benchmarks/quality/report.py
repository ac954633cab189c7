# SPDX-License-Identifier: Apache-2.0
"""Tables and images of the study's results, written between the markers of a page, so that no number is typed."""

from __future__ import annotations

import argparse
import csv
import io
import json
import logging
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
from benchmarks.pages import fill_page  # noqa: E402
from benchmarks.quality.scores import METRICS  # noqa: E402
from benchmarks.quality.variants import BASE, Question, all_variants, questions  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.errors import ConfigError, NpcrError  # noqa: E402
from npcr.evaluation.contact_sheet import write_contact_sheet  # noqa: E402
from npcr.io.files import atomic_write  # noqa: E402
from npcr.io.images import read_image, write_image  # noqa: E402

logger = logging.getLogger("npcr")

SHEET_VARIANTS = ("layered-1", "blended", "recommended", "splats-alone")  # on the contact sheet
EXAMPLES = """examples:
  python benchmarks/quality/report.py output/study/full/study.json
  python benchmarks/quality/report.py --answer heart benchmarks/results/quality_heart_*.json --page docs/quality.md
  python benchmarks/quality/report.py --answer form output/study/full/study.json --sheet docs/images/quality.jpg \\
      --page docs/quality.md
"""
# heading, factor, digits
COLUMNS = {"psnr": ("PSNR, dB ↑", 1, 2), "ssim": ("SSIM ↑", 1, 3), "flip": ("FLIP ↓", 1, 4),
           "alpha_mae": ("alpha MAE ↓", 1, 4), "alpha_sad": ("alpha SAD ↓", 1, 3), "perceptual": ("VGG ↓", 1, 3),
           "steps": ("steps", 1, 0), "seconds_per_step": ("ms a step", 1000, 0)}
CSV_COLUMNS = ("variant", "seed", *METRICS, "steps", "epochs", "layers", "all_layers", "points", "seconds_per_step",
               "training_seconds", "wall_seconds")


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """"28.31 ± 0.12": the mean, and half the range where there are several values; a dash where there is none."""
    if not values:
        return "–"
    mean = f"{statistics.mean(values):,.{digits}f}"
    return f"{mean} ± {(max(values) - min(values)) / 2:,.{digits}f}" if len(values) > 1 else mean


def question_table(question: Question, rows: Sequence[Mapping[str, Any]], command: str) -> str:
    """Format a markdown table with a line for each variant of the question that was run, and list the others."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(row["variant"], []).append(row)
    labeled_runs = [(label, by_name[variant.name]) for label, variant in question.rows if variant.name in by_name]
    missing = [label for label, variant in question.rows if variant.name not in by_name]
    question_command = f"`{command} --only {question.name}`"
    if all(variant is BASE or variant.name not in by_name for _, variant in question.rows):
        return f"*Not run yet:* {question_command}\n"
    columns = {name: column for name, column in COLUMNS.items()
               if any(row.get(name) is not None for _, runs in labeled_runs for row in runs)}
    lines = [["", *(heading for heading, _, _ in columns.values()), "runs"], ["---", *["---:"] * (len(columns) + 1)]]
    for label, runs in labeled_runs:
        cells = [mean_and_spread([factor * row[name] for row in runs if row.get(name) is not None], digits)
                 for name, (_, factor, digits) in columns.items()]
        lines.append([label + _unfinished_schedule(runs), *cells, str(len(runs))])
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    if missing:
        text += f"\nNot run: {'; '.join(missing)}.\n"
    return f"{text}\n{question_command}\n"


def about(results: Mapping[str, Any], chosen: str = "") -> str:
    """Format a list of the command, with the options `chosen`, the scene, the machine and the commits."""
    environment, machines = results["environment"], [row["machine"] for row in results["rows"]]
    study, scene = environment["study"], environment["study"]["scene"]
    width, height = study["picture"]
    loads = [machine["load_before"] for machine in machines if machine["load_before"] is not None]
    load = f"; load average before the runs up to {max(loads):.1f}" if loads else ""
    return (f"- `{study['command']}{chosen}`\n"
            f"- scene `{scene['name']}`: {scene['views']} views of which {scene['held_out']} are held out, "
            f"{scene['points']:,} points; images of {width}×{height}\n"
            f"- {_length(study)} a run on {_distinct(machines, 'processor')} "
            f"({_distinct(machines, 'device')}), {_distinct(machines, 'threads')} of "
            f"{_distinct(machines, 'cores')} threads{load}\n"
            f"- torch {_distinct(machines, 'torch')}; commit {_distinct(machines, 'commit')}; "
            f"{len(machines)} runs, {min(machine['time'] for machine in machines)[:10]} to "
            f"{max(machine['time'] for machine in machines)[:10]}\n")


def _length(study: Mapping[str, Any]) -> str:
    return f"{study['steps']:,} steps" if study.get("steps") else f"{study['minutes']:g} minutes of training"


def command(size: str, scene: Path | None = None, **options: object) -> str:
    """Return the command of a study, without absolute paths; options that are None are omitted."""
    given = {"scene": scene, **options}
    parts = ["python benchmarks/quality/study.py", f"--size {size}"]
    for name, value in given.items():
        if value is not None:
            text = (value.name if value.is_absolute() else value.as_posix()) if isinstance(value, Path) else value
            parts.append(f"--{name} {text}")
    return " ".join(parts)


def sections(results: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the page's sections by name: `about` and a table for each question; None: nothing was run yet."""
    study_command = results["environment"]["study"]["command"] if results else command("full")
    rows = results["rows"] if results else []
    filled = {"about": about(results) if results else f"*Not run yet:* `{study_command}`\n"}
    return filled | {question.name: question_table(question, rows, study_command) for question in questions()}


def headline(results: Mapping[str, Any]) -> str:
    """Format one table of every variant that was run, in the order of the questions: for a study of few, long runs."""
    labels: dict[str, str] = {}
    for question in questions():
        for label, variant in question.rows:
            full_label = f"{question.title}: {label}" if label[0].isdigit() else label
            labels.setdefault(variant.name, f"{full_label} (`{variant.name}`)")
    variants_run = {row["variant"] for row in results["rows"]}
    rows = tuple((labels[name], variant) for name, variant in all_variants().items() if name in variants_run)
    table = question_table(Question("", "", rows), results["rows"], "").partition("\n\n")[0]
    seeds = len({row["seed"] for row in results["rows"]})
    return f"{about(results, f' --seeds {seeds} --only ' + ' '.join(variant.name for _, variant in rows))}\n{table}\n"


def write_tables(path: Path, results: Mapping[str, Any]) -> None:
    """Write all tables under the titles of their questions."""
    filled = sections(results)
    text = f"# Results\n\n{filled['about']}"
    for question in questions():
        text += f"\n## {question.title}\n\n{filled[question.name]}"
    with atomic_write(path, "w") as file:
        file.write(text)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write a line for each run, with empty cells where a metric was not measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path, "w") as file:
        file.write(text.getvalue())


def write_sheet(output: Path, names: Sequence[str], path: Path | None = None) -> Path | None:
    """Write one held-out view of each named variant's first seed, one below the other, to OUTPUT/contact_sheet.png.

    Args:
        output: folder of the study.
        names: of the variants, from top to bottom; those that were not run are skipped.
        path: a second file for the sheet.

    Returns:
        The last file written; None where none of the variants was run.
    """
    files = [output / "runs" / f"{name}-seed0" / "row.png" for name in names]
    rows = [read_image(file) for file in files if file.exists()]
    if not rows:
        return None
    sheet = output / "contact_sheet.png"
    write_contact_sheet(sheet, rows)
    if path is None:
        return sheet
    write_image(path, read_image(sheet), quality=90)
    return path


def read_results(path: Path) -> dict[str, Any]:
    """Read a study.json. `ConfigError` where it is missing or has no results."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; benchmarks/quality/study.py writes it") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(results, dict) or not results.get("rows") or "study" not in results.get("environment", {}):
        raise ConfigError(f"{path}: holds no results of a study (environment.study and rows)")
    return results


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", metavar="FILE", help="a study.json, whose tables are printed")
    parser.add_argument("--page", type=Path, metavar="FILE", help="a page with markers, such as docs/quality.md, for "
                        "what --answer and --sheet make; without, it is printed")
    parser.add_argument("--answer", nargs="+", action="append", default=[], metavar=("QUESTION", "FILE"),
                        help="study.json of any scenes, times and machines: one table for each, as the answer to a "
                        "question that `study.py --list` names")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="write the contact sheet there, from the runs "
                        "beside the first of --answer or FILE, and link it on the page")
    parser.add_argument("--show", nargs="+", default=list(SHEET_VARIANTS), metavar="NAME",
                        help=f"variants on the sheet (default: {' '.join(SHEET_VARIANTS)})")
    args = parser.parse_args(arguments)
    known = [question.name for question in questions()]
    for name, *files in args.answer:
        if name not in known:
            parser.error(f"--answer {name}: no such question; questions: {', '.join(known)}")
        if not files:
            parser.error(f"--answer {name}: give a study.json, too")
    args.answer = {name: [Path(file) for file in files] for name, *files in args.answer}
    if not (args.results or args.answer):
        parser.error("no results are given")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables or fill the page."""
    args = parse(arguments)
    if args.results:
        print("\n".join(sections(read_results(args.results)).values()))
    filled = {name: "\n".join(headline(read_results(file)) for file in files) for name, files in args.answer.items()}
    if args.sheet:
        folder = next(file for file in (*(file for files in args.answer.values() for file in files), args.results)
                      if file).parent
        if write_sheet(folder, args.show, args.sheet) is None:
            raise NpcrError(f"{folder / 'runs'}: none of {', '.join(args.show)} was run with seed 0")
        link = Path(os.path.relpath(args.sheet, args.page.parent if args.page else ".")).as_posix()
        filled["sheet"] = (f"![One held-out view: target, rendering, target matte, matte, error]({link})\n\n"
                           f"*From top to bottom: {', '.join(args.show)}.*\n")
    if args.page is None:
        print("\n".join(filled.values()))
        return
    fill_page(args.page, {f"study:{name}": section for name, section in filled.items()})
    print(f"{args.page}: {len(filled)} sections filled")


def _distinct(machines: Sequence[Mapping[str, Any]], name: str) -> str:
    """The values of the runs' environments, each once."""
    return ", ".join(dict.fromkeys(str(machine[name]) for machine in machines))


def _unfinished_schedule(rows: Sequence[Mapping[str, Any]]) -> str:
    """A note where training ended before the schedule had added all layers."""
    least = min(rows, key=lambda row: row["layers"] - row["all_layers"])
    return "" if least["layers"] >= least["all_layers"] else f" (reached {least['layers']} of {least['all_layers']})"


if __name__ == "__main__":
    cli.run(main)
