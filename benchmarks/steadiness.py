# SPDX-License-Identifier: Apache-2.0
"""Temporal stability of videos with blending, with refining and with both, compared with ray-traced video.

For every scene: trains, refines by the published scheme and by the steady one, evaluates single frames, blending and
refining on the camera path with ground truth, on a fine orbit and on the held-out photographs, and writes one table.
Steps that are finished in the output folder are kept: Ctrl-C stops, the same command continues.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.common import environment, print_table, run_script, write_json  # noqa: E402
from benchmarks.pages import fill_page  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.checkpoints import find_epoch, model_path  # noqa: E402
from npcr.errors import CheckpointError, ConfigError  # noqa: E402
from npcr.io.images import read_image, write_image  # noqa: E402
from npcr.visualization.captions import caption  # noqa: E402

EXAMPLES = """examples:
  python tools/make_hair.py datasets/curly --preset curly --path-degrees 24 --truth-samples 128
  python benchmarks/steadiness.py datasets/curly
  python benchmarks/steadiness.py datasets/curly datasets/ponytail --minutes 5 --page docs/temporal.md
  python benchmarks/steadiness.py datasets/curly --methods "single frames" --minutes 0 --output output/curly_strands \
      --train SOLVER.MAX_EPOCHS 19 MODEL.FORM strands MODEL.DOTS 1
      the flicker of another form after 19 epochs, without refining

writes, in --output:
  steadiness.json   the rows of every scene
  SCENE/slices.png  one image row over time, for each model and blending
  SCENE/…           models, and the output of tools/evaluate.py for them
"""
# heading, key of a row, digits
COLUMNS = (("PSNR, dB ↑", "psnr", 2), ("worst frame", "worst_psnr_change", 2), ("SSIM ↑", "ssim", 3),
           ("`warp_error` ↓", "warp_error", 4), ("`second_difference_error` ↓", "second_difference_error", 4),
           ("`flow_error` ↓", "flow_error", 3), ("ColorVideoVDP ↑", "color_video_vdp", 3),
           ("`flicker`, path ↓", "flicker", 4), ("`flicker`, fine orbit ↓", "fine_flicker", 4),
           ("held-out PSNR ↑", "held_out_psnr", 2), ("blending, share of a frame's time", "blend_share", 3))

# Folders of a scene's output, and the titles of the models in them.
MODELS = {"trained": "Trained", "published": "Refined as published", "steady": "Refined"}


@dataclass(frozen=True)
class Method:
    """A way to render a video: a model, and the blending of its frames."""

    title: str
    model: str  # its folder in the scene's output
    blend: str  # TEMPORAL.BLEND


METHODS = (Method("single frames", "trained", "off"), Method("legacy blending", "trained", "legacy"),
           Method("default blending", "trained", "default"), Method("refined as published", "published", "off"),
           Method("refined", "steady", "off"), Method("refined, default blending", "steady", "default"))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=Path, metavar="SCENE", help="folders with a ground-truth path")
    parser.add_argument("--minutes", type=float, default=5, metavar="N",
                        help="training time (default: %(default)g); 0: no limit but --train SOLVER.MAX_EPOCHS")
    parser.add_argument("--train", nargs="+", default=[], metavar="KEY VALUE",
                        help="configuration keys for training, such as MODEL.FORM strands MODEL.DOTS 1")
    parser.add_argument("--methods", nargs="+", choices=[method.title for method in METHODS], metavar="METHOD",
                        default=[method.title for method in METHODS],
                        help="the rows of the table; a model that none of them needs is not refined (of "
                             f"{', '.join(method.title for method in METHODS)}; default: all)")
    parser.add_argument("--refine", nargs="+", default=[], metavar="KEY VALUE",
                        help="configuration keys for the steady refining, such as REFINE.STEADINESS 80")
    parser.add_argument("--vgg", type=Path, metavar="FILE",
                        help="VGG-19 weights for the published refining; without them it uses the squared error alone")
    parser.add_argument("--output", type=Path, default=Path("output/steadiness"), metavar="FOLDER",
                        help="default: %(default)s")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="write the table to a page with the marker <!-- SECTION -->")
    parser.add_argument("--section", default="steadiness", metavar="SECTION", help="of --page (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.minutes < 0 or (args.minutes == 0 and "SOLVER.MAX_EPOCHS" not in args.train):
        parser.error(f"--minutes is {args.minutes:g}; it must be above 0, or 0 beside --train SOLVER.MAX_EPOCHS N")
    if args.vgg and not args.vgg.is_file():
        parser.error(f"--vgg: {args.vgg} is not a file")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing steps of each scene, then write the table."""
    args = parse(arguments)
    for scene in args.scenes:
        if not (scene / "path" / "CamPose.inf").exists():
            raise ConfigError(f"{scene}: has no path/CamPose.inf; tools/make_hair.py {scene} makes one")
    rows = [row for scene in args.scenes for row in evaluate_scene(scene, args)]
    described = environment(cli.resolve_device(args.device)) | {"command": command(args)}
    write_json(args.output / "steadiness.json", rows, described)
    print_table(rows, ("scene", "way", *(key for _, key, _ in COLUMNS)))
    if args.page:
        fill_page(args.page, {args.section: tables(rows, described)})
    print(f"{len(rows)} rows: {args.output}/steadiness.json" + (f", {args.page}" if args.page else ""))


def evaluate_scene(scene: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train, refine and evaluate one scene; return a row for the ground truth and for each of the methods."""
    folder = args.output / scene.resolve().name
    methods = [method for method in METHODS if method.title in args.methods]
    models = [name for name in MODELS if name == "trained" or name in {method.model for method in methods}]
    model = train(scene, folder / "trained", args)
    if "published" in models:
        perceptual = ["1", "PERCEPTUAL.CHECKPOINT", str(args.vgg)] if args.vgg else ["0"]
        refine(model, scene, folder / "published", [
            "--cam-pose", str(scene / "path" / "CamPose.inf"), "--intrinsics", str(scene / "path" / "Intrinsic.inf"),
            "REFINE.SCHEME", "published", "REFINE.PATH", "given", "REFINE.LR", "0.0001", "LOSS.MSE", "1",
            "LOSS.PERCEPTUAL", *perceptual])
    if "steady" in models:
        refine(model, scene, folder / "steady", ["REFINE.SCHEME", "steady", "REFINE.PATH", "random", *args.refine])
    for name in models:
        blends = ["off", *(method.blend for method in methods if method.model == name and method.blend != "off")]
        evaluate(model if name == "trained" else folder / name / refined_path(model).name, folder / name, blends,
                 read_row(folder / "trained"))
    slices = [add_title(MODELS[name], read_image(folder / name / "video" / "slices.png")) for name in models]
    write_image(folder / "slices.png", np.concatenate(slices))
    rows = [{"scene": scene.resolve().name, "way": method.title} | read_metrics(folder / method.model, method.blend)
            for method in methods]
    singles = read_frame_metric(folder / "trained", "off", "psnr")
    for row, method in zip(rows, methods, strict=True):
        values = read_frame_metric(folder / method.model, method.blend, "psnr")
        row["worst_psnr_change"] = min(b - a for a, b in zip(singles, values, strict=True))
    truth = read_report(folder / "trained")["path"]["mean"]["truth"]
    return [{"scene": scene.resolve().name, "way": "true frames"} | truth, *rows]


def train(scene: Path, folder: Path, args: argparse.Namespace) -> Path:
    """Train a scene, unless that is finished; return the model's file."""
    done = folder / "trained.json"
    options = {"minutes": args.minutes, "train": args.train}
    if done.exists():
        finished = {"train": []} | json.loads(done.read_text(encoding="utf-8"))
        if finished != options:
            raise ConfigError(f"{folder}: was trained with {finished}, not {options}; give another --output")
    else:
        resume = ["RESUME", "True"] if newest_epoch(folder, resume=True) else []
        python("tools/train.py", "--config-file", scene / "scene.yml", "DATASETS.TRAIN", scene, "OUTPUT_DIR", folder,
               "SOLVER.MAX_MINUTES", f"{args.minutes:g}", "SOLVER.MAX_EPOCHS", "100000", "SOLVER.CHECKPOINT_PERIOD",
               "100000", "TEST.PERIOD", "0", "MODEL.DEVICE", args.device, *args.train, *resume)
        done.write_text(json.dumps(options) + "\n")
    return model_path(folder, newest_epoch(folder))


def refine(model: Path, scene: Path, folder: Path, options: Sequence[str]) -> None:
    """Refine `model` into `folder`, unless that is finished."""
    copy, result = folder / model.name, folder / refined_path(model).name
    done = folder / "refined.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(model.read_bytes())
    state = result.with_name(result.name.replace("nr_model_", "nr_optimizer_", 1))
    python("tools/refine.py", "--config-file", model.parent / "config.yml", "--checkpoint", copy,
           "--resume" if state.exists() else "--overwrite", *options, "OUTPUT_DIR", folder)
    done.write_text(json.dumps({"options": list(options)}) + "\n")


def evaluate(model: Path, folder: Path, blends: Sequence[str], row: int | None) -> None:
    """Evaluate held-out views and video of a model by tools/evaluate.py; `row`: the image row of the slices."""
    config = ["--config-file", folder.parent / "trained" / "config.yml", "--checkpoint", model]
    if not (folder / "held_out" / "evaluation.json").exists():
        python("tools/evaluate.py", *config, "--output", folder / "held_out")
    if not set(blends) <= evaluated_blends(folder):
        at_row = [] if row is None else ["--row", str(row)]
        python("tools/evaluate.py", *config, "--output", folder / "video", "--video", "--blend", *blends, *at_row)


def evaluated_blends(folder: Path) -> set[str]:
    """Return the blendings that a model's video was evaluated with; none before that."""
    return set(read_report(folder)["path"]["mean"]) if (folder / "video" / "video.json").exists() else set()


def add_title(title: str, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the image under a bar with its title."""
    return np.concatenate([caption(image.shape[1], [(0, title)]), image])


def read_metrics(folder: Path, blend: str) -> dict[str, Any]:
    """Read the metrics of one blending of one model, as `evaluate` wrote them.

    blend_share: the time of blending, relative to that of a single frame, rendered and composited over its background.
    """
    report = read_report(folder)
    held_out = json.loads((folder / "held_out" / "evaluation.json").read_text(encoding="utf-8"))["mean"]
    seconds = [part["seconds"] for part in report.values()]
    blended, single = (sum(one["blend"][name] for one in seconds) for name in (blend, "off"))
    share = (blended - single) / (sum(one["render"] for one in seconds) + single)
    return report["path"]["mean"][blend] | {
        "fine_flicker": report["fine orbit"]["mean"][blend]["flicker"],
        "held_out_psnr": held_out["psnr"] if blend == "off" else None,
        "blend_share": None if blend == "off" else share}


def read_frame_metric(folder: Path, blend: str, metric: str) -> list[float]:
    """Read a metric of each frame of the path."""
    values: list[float] = read_report(folder)["path"]["each"][blend][metric]
    return values


def read_report(folder: Path) -> dict[str, Any]:
    """Read the paths of a model's video.json."""
    paths: dict[str, Any] = json.loads((folder / "video" / "video.json").read_text(encoding="utf-8"))["paths"]
    return paths


def read_row(folder: Path) -> int | None:
    """Read the image row of the first model's slices; None before they are written."""
    file = folder / "video" / "video.json"
    return int(json.loads(file.read_text(encoding="utf-8"))["row"]) if file.exists() else None


def tables(rows: Sequence[dict[str, Any]], described: dict[str, Any]) -> str:
    """Format a markdown table for each scene, without the columns that no row has."""
    columns = [column for column in COLUMNS if any(row.get(column[1]) is not None for row in rows)]
    text = f"`{described['command']}`, {described['processor']} ({described['device']}), commit {described['commit']}\n"
    for scene in dict.fromkeys(row["scene"] for row in rows):
        lines = [["", *(heading for heading, _, _ in columns)], ["---", *["---:"] * len(columns)]]
        lines += [[row["way"], *(cell(row.get(key), digits) for _, key, digits in columns)]
                  for row in rows if row["scene"] == scene]
        text += f"\n**`{scene}`**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text


def cell(value: float | None, digits: int) -> str:
    """Format a number of a table; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def command(args: argparse.Namespace) -> str:
    """Return the command line, without options that do not change the results."""
    extra = ["--vgg", args.vgg.name] if args.vgg else []
    extra += ["--train", *args.train] if args.train else []
    extra += ["--refine", *args.refine] if args.refine else []
    extra += ["--methods", *args.methods] if len(args.methods) < len(METHODS) else []
    scenes = [f"datasets/{scene.resolve().name}" for scene in args.scenes]
    return shlex.join(["python", "benchmarks/steadiness.py", *scenes, "--minutes", f"{args.minutes:g}", *extra])


def python(script: str, *arguments: str | Path) -> None:
    """Print a command as a user would type it, and run it."""
    line = [script, *map(str, arguments)]
    print(f"\n$ python {shlex.join(line)}", flush=True)
    run_script(*line)


def refined_path(model: Path) -> Path:
    """Return the file that tools/refine.py writes for a model."""
    return model.with_name(f"{model.stem}_refined.pth")


def newest_epoch(folder: Path, *, resume: bool = False) -> int:
    """Return the newest epoch in `folder`, 0 where there is none."""
    try:
        return find_epoch(folder, -1, resume=resume)
    except CheckpointError:
        return 0


if __name__ == "__main__":
    cli.run(main)
