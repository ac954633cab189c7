# SPDX-License-Identifier: Apache-2.0
"""Ablation study of image quality: trains many variants equally long and compares their held-out views.

Every run trains the recommended settings (npcr/config/recommended.py) with a few keys changed. Runs that are finished
in the output folder are kept: Ctrl-C stops, the same command continues. Runs have equal time, for which the machine
must be otherwise idle, or equal steps (--steps).
"""

from __future__ import annotations

import argparse
import logging
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from benchmarks.common import environment, print_table, run_script, write_json  # noqa: E402
from benchmarks.quality import report  # noqa: E402
from benchmarks.quality.clouds import open_scene  # noqa: E402
from benchmarks.quality.runs import Job, Study, finished, remove, run  # noqa: E402
from benchmarks.quality.scores import METRICS, load_flip  # noqa: E402
from benchmarks.quality.variants import BASE, Variant, all_variants, questions, select  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.config import KEYS  # noqa: E402
from npcr.data.scene_config import FILE_NAME  # noqa: E402
from npcr.errors import ConfigError, NpcrError  # noqa: E402
from npcr.progress import progress_bar  # noqa: E402
from npcr.renderers.losses import VggFeatures  # noqa: E402

logger = logging.getLogger("npcr")

SIZES = {"small": (100, 1.0), "full": (200, 15.0)}  # longest side in pixels, minutes of training
DEFAULT_SCENE = Path("datasets/bob")
EXAMPLES = """examples:
  python benchmarks/quality/study.py --list
  python benchmarks/quality/study.py --size small
  python benchmarks/quality/study.py --size full --vgg vgg19.safetensors
  python benchmarks/quality/study.py --size full --only layers noise-1 --seeds 3
  python benchmarks/quality/study.py --size full --only strands --steps 960 --output output/study/steps
  python benchmarks/quality/report.py output/study/full/study.json --page docs/quality.md

writes, in --output:
  study.json, study.csv  every run with its settings, seed, commit and machine
  study.md               the tables, mean and spread over seeds
  contact_sheet.png      one held-out view of selected variants (--show)
  runs/                  a folder for each run
"""


@dataclass
class RemainingTime:
    """Estimates the time of the remaining runs."""

    expected_s: float
    durations_s: list[float] = field(default_factory=list)

    def format(self, runs: int, begun: float) -> str:
        """Format the time of `runs` runs, of which the first began at `begun` (time.monotonic)."""
        mean = statistics.mean(self.durations_s) if self.durations_s else self.expected_s
        return str(timedelta(seconds=round(max(0.0, runs * mean - (time.monotonic() - begun)))))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", type=Path, default=DEFAULT_SCENE, metavar="FOLDER",
                        help="with scene.yml and held-out views (default: %(default)s, which tools/make_hair.py "
                        "generates where it is missing)")
    parser.add_argument("--size", choices=tuple(SIZES), default="small",
                        help="; ".join(f"{name}: {side} pixels, {minutes:g} minutes a run"
                                       for name, (side, minutes) in SIZES.items()) + " (default: %(default)s)")
    parser.add_argument("--side", type=int, metavar="N", help="longest side of the images, instead of --size's")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, metavar="N", help="training time of a run, instead of --size's")
    length.add_argument("--steps", type=int, metavar="N", help="whole epochs of so many optimizer steps in place of a "
                        "time")
    parser.add_argument("--seeds", type=int, default=2, metavar="N", help="runs of each variant (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="variants and questions, see --list")
    parser.add_argument("--list", action="store_true", help="list questions and variants, and run nothing")
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="VGG-19 weights (.safetensors, .pth): adds the "
                        "perceptual distance, and the variants that train with it")
    parser.add_argument("--show", nargs="+", default=list(report.SHEET_VARIANTS), metavar="NAME",
                        help=f"variants on the contact sheet (default: {' '.join(report.SHEET_VARIANTS)})")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: output/study/SIZE")
    parser.add_argument("--redo", action="store_true", help="repeat runs that exist with other settings")
    parser.add_argument("--keep-models", action="store_true", help="keep checkpoints, tens of megabytes a run")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    cli.add_quiet_option(parser)
    args = parser.parse_args(arguments)
    side, minutes = SIZES[args.size]
    args.side = side if args.side is None else args.side
    if args.steps is None and args.minutes is None:
        args.minutes = minutes
    args.output = args.output or Path("output/study") / args.size
    least = int(KEYS["INPUT.SIZE_TRAIN"].range[0])
    for name, value, limit in (("side", args.side, least), ("seeds", args.seeds, 1), ("steps", args.steps, 1)):
        if value is not None and value < limit:
            parser.error(f"--{name} is {value}; it must be at least {limit}")
    if args.minutes is not None and args.minutes <= 0:
        parser.error(f"--minutes is {args.minutes:g}; it must be above 0")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing jobs, then write results, tables and contact sheet."""
    args = parse(arguments)
    unknown = [name for name in args.show if name not in all_variants()]
    if unknown:
        raise ConfigError(f"--show {unknown[0]}: no such variant; see --list")
    variants = select(args.only)
    if args.list:
        print_list(variants, args)
        return
    study = make_study(args)
    variants = _runnable(variants, study)
    jobs = [Job(study, variant, seed) for seed in range(args.seeds) for variant in variants]
    missing = [job for job in jobs if not _is_finished(job, args.redo)]
    failures: list[NpcrError] = []
    try:
        run_all(missing, done=len(jobs) - len(missing), failures=failures)
    finally:
        write_results(study, args)
    if failures:
        messages = "\n".join(f"  {failure}" for failure in failures)
        raise NpcrError(f"{len(failures)} of {len(missing)} runs failed; the same command tries them again:\n"
                        f"{messages}")


def make_study(args: argparse.Namespace) -> Study:
    """Return the settings that the runs share, checked before the first one begins."""
    load_flip()
    if args.scene == DEFAULT_SCENE and not (args.scene / FILE_NAME).exists():
        run_script("tools/make_hair.py", str(args.scene))
    vgg = VggFeatures(str(args.vgg)) if args.vgg else None
    scene, device = open_scene(args.scene), cli.resolve_device(args.device)
    if args.steps is None:
        return Study(scene, args.output, args.side, args.minutes, device, args.vgg, vgg, args.keep_models)
    epochs, rest = divmod(args.steps, scene.steps_per_epoch)
    if rest:
        raise ConfigError(f"--steps is {args.steps}; it must be a multiple of {scene.steps_per_epoch}, the steps of an "
                          f"epoch of {args.scene}")
    return Study(scene, args.output, args.side, 0.0, device, args.vgg, vgg, args.keep_models, epochs)


def run_all(jobs: Sequence[Job], done: int, failures: list[NpcrError]) -> None:
    """Run the jobs one after another; errors are appended to `failures`, and the next job begins."""
    if not jobs:
        return
    remaining = RemainingTime(jobs[0].study.expected_s)
    with progress_bar(total=len(jobs) + done, initial=done, unit="run", smoothing=0,
                      bar_format="{desc}{n_fmt}/{total_fmt} |{bar}| {elapsed}{postfix}") as bar:
        for number, job in enumerate(jobs):
            begun = time.monotonic()

            def tick(left: int = len(jobs) - number, begun: float = begun) -> None:
                bar.set_postfix_str(f"about {remaining.format(left, begun)} left")

            bar.set_description(job.name)
            try:
                result = run(job, tick)
            except NpcrError as error:
                failures.append(error)
                logger.error("error: %s", error)
            else:
                remaining.durations_s.append(time.monotonic() - begun)
                logger.info("%s: %s", job.name, ", ".join(f"{name} {result[name]:.4g}" for name in METRICS
                                                          if result[name] is not None))
            bar.update()
        bar.set_postfix_str("")


def write_results(study: Study, args: argparse.Namespace) -> None:
    """Write study.json and .csv of every finished run in the output folder, study.md, and the contact sheet."""
    found = [result for variant in all_variants().values() for seed in _seeds(study.output, variant)
             if (result := _finished_or_none(Job(study, variant, seed))) is not None]
    if not found:
        return
    if study.vgg is not None and any(result["perceptual"] is None for result in found):
        logger.warning("some runs were finished without --vgg; the tables lack their perceptual distance")
    base = Job(study, BASE, 0).settings
    rows = [_brief(result, base) for result in found]
    scene = {"name": study.scene.folder.resolve().name, "digest": study.scene.digest,
             "views": len(study.scene.cameras), "held_out": len(found[0]["each"]),
             "points": sum(map(len, study.scene.clouds))}
    described = environment(study.device) | {"study": {
        "scene": scene, "size": args.size, "picture": study.image_size, "minutes": args.minutes, "steps": args.steps,
        "command": _command(args),
        "recommended": base}}
    write_json(study.output / "study.json", rows, described)
    report.write_csv(study.output / "study.csv", rows)
    report.write_tables(study.output / "study.md", {"environment": described, "rows": rows})
    sheet = report.write_sheet(study.output, args.show)
    print_table(rows, ("variant", "seed", *METRICS, "steps", "seconds_per_step"))
    print(f"{len(rows)} runs: {study.output}/study.json, study.csv, study.md{', contact_sheet.png' if sheet else ''}")


def _command(args: argparse.Namespace) -> str:
    """The command of this study, without options that only select among its runs."""
    side, minutes = SIZES[args.size]
    return report.command(args.size, scene=args.scene if args.scene != DEFAULT_SCENE else None,
                          side=args.side if args.side != side else None,
                          minutes=f"{args.minutes:g}" if args.minutes not in (None, minutes) else None,
                          steps=args.steps, vgg=args.vgg)


def _brief(result: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """A run's result with its settings as differences from `base`, and without the scores of each view."""
    changed = {key: value for key, value in result["settings"].items() if base.get(key) != value}
    return {key: value for key, value in result.items() if key not in ("settings", "each")} | {"changed": changed}


def print_list(variants: Sequence[Variant], args: argparse.Namespace) -> None:
    """Print the questions with their variants, and the estimated time of all runs."""
    names = {variant.name for variant in variants}
    width = max(map(len, names))
    for question in questions():
        rows = [(label, variant) for label, variant in question.rows if variant.name in names]
        if all(variant == BASE for _, variant in rows):
            continue
        print(f"{question.name}: {question.title}")
        for label, variant in rows:
            print(f"  {variant.name:{width}}  {label}")
    runs = len(variants) * args.seeds
    each = f"{len(variants)} variants, {args.seeds} seeds, "
    if args.steps is None:
        print(f"{each}{args.minutes:g} min of training each: about {runs * (args.minutes + 1 / 3) / 60:.1f} hours")
    else:
        print(f"{each}{args.steps} steps each")


def _runnable(variants: Sequence[Variant], study: Study) -> list[Variant]:
    """The variants, without those that need VGG where it is not given, with a warning."""
    if study.vgg is not None:
        return list(variants)
    left_out = [variant.name for variant in variants if variant.needs_vgg]
    logger.warning("no --vgg FILE: the perceptual distance is not measured%s",
                   f"; skipped, because they train with it: {', '.join(left_out)}" if left_out else "")
    return [variant for variant in variants if not variant.needs_vgg]


def _is_finished(job: Job, redo: bool) -> bool:
    try:
        return finished(job) is not None
    except ConfigError:
        if not redo:
            raise
        remove(job)
        return False


def _finished_or_none(job: Job) -> dict[str, Any] | None:
    """The result of a finished run; one with other settings belongs to another study and is skipped with a warning."""
    try:
        return finished(job)
    except ConfigError as error:
        logger.warning("%s: not among the results", error)
        return None


def _seeds(output: Path, variant: Variant) -> list[int]:
    """The seeds of a variant's finished runs in `output`."""
    names = (path.parent.name.removeprefix(f"{variant.name}-seed")
             for path in (output / "runs").glob(f"{variant.name}-seed*/result.json"))
    return sorted(int(name) for name in names if name.isdecimal())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that training is stopped too
    cli.run(main)
