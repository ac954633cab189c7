# SPDX-License-Identifier: Apache-2.0
"""Show what became of many training runs: status, scores, steps and time, from their output folders."""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from npcr import cli
from npcr.io.files import atomic_write
from npcr.io.json_files import write_json
from npcr.training.run_summary import STATES, RunSummary, find_runs, format_table, summarize

EXAMPLES = """\
  npcr summary output
      every run in output and below
  npcr summary runs/cat runs/dog --only failed stopped
      those that need a look
  npcr summary runs --json runs.json --csv runs.csv
      for a program, for a spreadsheet
  npcr summary runs --only failed --names
      their folders alone, a line each, to start them again (docs/many-scenes.md)

status of a run:
  finished  SOLVER.MAX_EPOCHS or SOLVER.MAX_MINUTES were reached
  running   it gave a sign of life in the last 5 minutes
  stopped   by Ctrl-C, or its process is gone without a word (killed, or the machine went down)
  failed    with the message of its error
  unknown   it has a model, but no status.json: trained by an earlier version

Scores are those of the newest epoch that `npcr evaluate` has scored.
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.new_parser("summary", __doc__, EXAMPLES)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER",
                        help="output folders of training (OUTPUT_DIR), or folders that hold some")
    parser.add_argument("--only", nargs="+", choices=STATES, metavar="STATUS",
                        help=f"runs of these states alone: {', '.join(STATES)}")
    parser.add_argument("--names", action="store_true", help="print the runs' folders alone, a line each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the runs as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the runs as CSV")
    cli.add_quiet_option(parser)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Print the table, and write the files."""
    args = parse(arguments)
    runs = [summarize(folder) for folder in find_runs(args.folders)]
    runs = [run for run in runs if args.only is None or run.state in args.only]
    if args.json is not None:
        write_json(args.json, {"runs": [run.row() for run in runs]})
    if args.csv is not None:
        _write_csv(args.csv, runs)
    print("\n".join(run.folder for run in runs) if args.names else format_table(runs))


def _write_csv(path: Path, runs: list[RunSummary]) -> None:
    with atomic_write(path, "w") as file:
        table = csv.DictWriter(file, list(RunSummary("", "").row()))
        table.writeheader()
        table.writerows(run.row() for run in runs)
