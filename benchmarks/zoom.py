# SPDX-License-Identifier: Apache-2.0
"""Models at another resolution and from nearer than they were trained at, beside models that were trained there.

Ray traces one groom four times, with one cloud: at a size, at half and at double of it, and from half the distance.
Each form is trained on all four; the first model is then judged on the held-out views of the other three, beside the
model that was trained on them for as many steps. Steps that are finished in the output folder are kept: Ctrl-C stops,
the same command continues.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from benchmarks.pages import fill_page  # noqa: E402
from benchmarks.quality.variants import BLENDED, NETWORK  # noqa: E402
from benchmarks.steadiness import newest_epoch, python  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.checkpoints import model_path  # noqa: E402
from npcr.config import explicit_keys, load_config  # noqa: E402
from npcr.data.scene import load_clouds  # noqa: E402
from npcr.errors import NpcrError  # noqa: E402
from npcr.evaluation.views import ViewPictures, ViewScore, evaluate_views, mean_scores  # noqa: E402
from npcr.factory import held_out_views, load_renderer, open_scene, prepare_rendering  # noqa: E402
from npcr.io.images import read_image, write_image  # noqa: E402
from npcr.visualization.captions import BACKGROUND, GAP, Pixels, caption  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/zoom.py
  python benchmarks/zoom.py --forms strands network --variants half near
  python benchmarks/zoom.py --forms strands --train DATASETS.SHIFT 10
  python benchmarks/zoom.py --page docs/strands-form.md --image docs/images/zoom.jpg
  python benchmarks/zoom.py --size 64 --epochs 2 --output output/try --samples 8 --scene "--preset fur --views 30"

writes, in --output:
  zoom.json       a row for each form and variant
  zoom.jpg        a part of a held-out view: truth, trained elsewhere, trained there
  scenes/, FORM/  scenes, models, scores and pictures
"""
SCENE = "--preset bob --seed 3 --melanin 0.4 --views 40 --points 40000 --path-frames 0"
BASE = "base"  # the scene at --size, from the usual distance


@dataclass(frozen=True)
class Variant:
    """A scene, relative to that on which the first model is trained."""

    title: str
    size: float = 1.0
    distance: float = 1.0
    samples: float = 1.0  # light paths for each pixel of a photograph: where a strand covers more pixels, fewer do
    truth_samples: float = 4.0  # of a held-out one


FIRST = Variant("as trained")
VARIANTS = {"half": Variant("half the resolution", size=0.5),
            "near": Variant("half the distance", distance=0.5, samples=0.5, truth_samples=2),
            "double": Variant("double the resolution", size=2, samples=0.25, truth_samples=2)}
FORMS = {form: tuple(str(part) for pair in keys.items() for part in pair)
         for form, keys in (("strands", {"MODEL.FORM": "strands"}), ("network", {"MODEL.FORM": "strands"} | NETWORK),
                            ("blended", BLENDED))}
KEPT = "NEAR_FAR_SIZE as trained"  # the other way to use a model of the blended form
RECORDED = ("size", "epochs", "samples", "scene")  # options on which finished steps depend
METRICS = ("psnr", "ssim", "alpha_mae")
COLUMNS = ("form", "variant", "use", "psnr", "psnr_there", "change", "ssim", "ssim_there", "alpha_mae",
           "alpha_mae_there")
HEADINGS = ("form", "variant", "PSNR, dB", "of a model trained there", "difference", "SSIM", "trained there",
            "alpha MAE", "trained there")
CELL, SHARE = 256, 0.5  # of a picture: pixels, and the part of the view that it shows


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=["strands", "blended"],
                        help="network: strands, finished by one (default: strands blended)")
    parser.add_argument("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS),
                        help="default: all")
    parser.add_argument("--size", type=int, default=128, metavar="N", help="pixels (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=15, metavar="N", help="of each training (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=32, metavar="N",
                        help="light paths for each pixel of the first scene's photographs (default: %(default)s)")
    parser.add_argument("--scene", default=SCENE, metavar="OPTIONS",
                        help='other options of tools/make_hair.py (default: "%(default)s")')
    parser.add_argument("--train", nargs="+", default=[], metavar="KEY VALUE",
                        help="configuration keys for every training, such as DATASETS.SHIFT 10")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="that ray trace (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/zoom"), metavar="FOLDER",
                        help="default: %(default)s")
    parser.add_argument("--image", type=Path, metavar="FILE", help="the picture (default: zoom.jpg in --output)")
    parser.add_argument("--page", type=Path, metavar="FILE",
                        help="write the table to a page with the marker <!-- zoom -->")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    args = parser.parse_args(arguments)
    for name, least in (("size", 48), ("epochs", 1), ("samples", 1), ("workers", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the missing steps, then write table and picture."""
    args = parse(arguments)
    check_options(args)
    for name in (BASE, *args.variants):
        make_scene(name, args)
    for form in args.forms:
        train(form, BASE, args)
    rows = [row for form in args.forms for variant in args.variants for row in compare(form, variant, args)]
    described = environment(cli.resolve_device(args.device)) | {
        "command": command(args), "base": {form: score(form, BASE, BASE, args) for form in args.forms}}
    write_json(args.output / "zoom.json", rows, described)
    image = args.image or args.output / "zoom.jpg"
    write_image(image, picture(args), quality=88)
    print_table(rows, COLUMNS)
    if args.page:
        fill_page(args.page, {"zoom": table(rows, described)})
    print(f"{len(rows)} rows: {args.output}/zoom.json, {image}" + (f", {args.page}" if args.page else ""))


def check_options(args: argparse.Namespace) -> None:
    """Record what finished steps depend on; `NpcrError` where the output folder was begun otherwise."""
    file, options = args.output / "options.json", {name: getattr(args, name) for name in RECORDED}
    if not file.exists():
        args.output.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(options) + "\n")
    begun = json.loads(file.read_text(encoding="utf-8"))
    changed = [f"--{name} {begun[name]!r}, not {value!r}" for name, value in options.items() if begun[name] != value]
    if changed:
        raise NpcrError(f"{args.output}: was begun with {'; '.join(changed)}; name another --output")


def make_scene(name: str, args: argparse.Namespace) -> None:
    """Ray trace a scene, unless that is finished; its cloud must be that of the first scene."""
    folder, variant = scene_folder(name, args), VARIANTS.get(name, FIRST)
    if not (folder / "scene.yml").exists():
        python("tools/make_hair.py", folder, *shlex.split(args.scene), "--size", str(round(variant.size * args.size)),
               "--distance", f"{variant.distance:g}", "--samples", str(math.ceil(variant.samples * args.samples)),
               "--truth-samples", str(math.ceil(variant.truth_samples * args.samples)), "--workers", str(args.workers))
    first, cloud = (load_clouds(place, 1)[0].positions for place in (scene_folder(BASE, args), folder))
    if not np.array_equal(first, cloud):
        raise NpcrError(f"{folder}: has another cloud than {scene_folder(BASE, args)}; remove both")


def train(form: str, scene: str, args: argparse.Namespace) -> Path:
    """Train a form on a scene, unless that is finished; return the model's file."""
    folder = model_folder(form, scene, args)
    done = folder / "trained.json"
    if not done.exists():
        resume = ["RESUME", "True"] if newest_epoch(folder, resume=True) else []
        python("tools/train.py", "--config-file", scene_folder(scene, args) / "scene.yml", *FORMS[form], *args.train,
               "OUTPUT_DIR", folder, "SOLVER.MAX_EPOCHS", str(args.epochs), "SOLVER.CHECKPOINT_PERIOD", "100000",
               "TEST.PERIOD", "0", "MODEL.DEVICE", args.device, *resume)
        done.write_text(json.dumps({"epochs": args.epochs}) + "\n")
    return model_path(folder, newest_epoch(folder))


def compare(form: str, variant: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Score both models of a form on a variant; return a row for each way to use the first."""
    there = score(form, variant, variant, args)
    rows = []
    for use in ("", KEPT) if form == "blended" else ("",):
        scores = score(form, BASE, variant, args, use)
        rows.append({"form": form, "variant": variant, "use": use, "change": scores["psnr"] - there["psnr"]}
                    | {name: scores[name] for name in METRICS} | {f"{name}_there": there[name] for name in METRICS})
    return rows


def score(form: str, trained: str, shown: str, args: argparse.Namespace, use: str = "") -> dict[str, float]:
    """Judge a model on the held-out views of a scene, unless that is done; return the mean scores.

    The configuration is that of the shown scene, with its image size and its INPUT.NEAR_FAR_SIZE, but for `KEPT`.
    """
    model, folder = train(form, trained, args), picture_folder(form, trained, shown, args, use)
    done = folder / "scores.json"
    if not done.exists():
        config = scene_folder(shown, args) / "scene.yml"
        keys = [*FORMS[form], *args.train, "MODEL.DEVICE", args.device]
        if use == KEPT:
            keys += ["INPUT.NEAR_FAR_SIZE", str(list(load_config(scene_folder(trained, args) / "scene.yml")
                                                     .INPUT.NEAR_FAR_SIZE))]
        folder.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps(evaluate(model, config, keys, folder)) + "\n")
    scores: dict[str, float] = json.loads(done.read_text(encoding="utf-8"))
    return scores


def evaluate(model: Path, config: Path, keys: Sequence[str], folder: Path) -> dict[str, float]:
    """Render the held-out views of a scene, write them and their truths to `folder`; return the mean scores."""
    device = cli.resolve_device(keys[keys.index("MODEL.DEVICE") + 1])
    renderer, cfg, _ = load_renderer(load_config(config, keys), model, device, explicit=explicit_keys(config, keys))
    prepare_rendering(renderer, cfg)
    held_out = held_out_views(cfg, open_scene(cfg, cfg.DATASETS.TRAIN), device)
    if held_out is None:
        raise NpcrError(f"{config}: no view is held out (--holdout-every)")
    dataset, views = held_out

    def keep(score: ViewScore, pictures: ViewPictures) -> None:
        for name, image in (("truth", pictures.target), ("rendered", pictures.rendered)):
            write_image(folder / f"{name}_{score.camera:03d}.png", image.clamp(0, 1).permute(1, 2, 0).numpy())

    return mean_scores(evaluate_views(renderer, dataset, views, batch=cfg.TEST.IMS_PER_BATCH, device=device,
                                      on_view=keep))


def picture(args: argparse.Namespace) -> Pixels:
    """Show, for each variant, a part of the middle held-out view: truth, and both models of each form.

    The part is that in which the pictures together differ most from the truth, so that a difference can be seen.
    """
    rows = []
    for variant in args.variants:
        pairs = [(form, trained) for form in args.forms for trained in (BASE, variant)]
        folders = [picture_folder(form, trained, variant, args) for form, trained in pairs]
        files = sorted(folders[0].glob("truth_*.png"))
        view = files[len(files) // 2].name
        images = [read_image(folders[0] / view),
                  *(read_image(folder / view.replace("truth", "rendered")) for folder in folders)]
        texts = [f"{VARIANTS[variant].title}: truth", *(
            f"{form}, trained {'there' if trained == variant else 'before'}" for form, trained in pairs)]
        rows.append(picture_row(images, texts))
    return np.concatenate(rows)


def picture_row(images: Sequence[Pixels], texts: Sequence[str]) -> Pixels:
    """Magnify the part of the images where all but the first differ most from the first; with captions above."""
    side = round(SHARE * images[0].shape[0])
    error = np.mean([np.abs(image.astype(np.float32) - images[0]).mean(-1) for image in images[1:]], axis=0)
    top, left = worst_square(error, side)
    gap = ((0, GAP), (0, GAP), (0, 0))
    cells = [np.pad(np.asarray(cv2.resize(image[top:top + side, left:left + side], (CELL, CELL),
                                          interpolation=cv2.INTER_NEAREST), np.uint8),
                    gap, constant_values=BACKGROUND) for image in images]
    body = np.concatenate(cells, axis=1)
    return np.concatenate([caption(body.shape[1], [(i * (CELL + GAP), text) for i, text in enumerate(texts)]), body])


def worst_square(error: NDArray[np.float32], side: int) -> tuple[int, int]:
    """Return top and left of the square of that side, within the image (H, W), over which the sum is largest."""
    sums = np.pad(error.astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    within = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(within.argmax(), within.shape)
    return int(top), int(left)


def table(rows: Sequence[dict[str, Any]], described: dict[str, Any]) -> str:
    """Format a markdown table."""
    bases = ", ".join(f"{form} {scores['psnr']:.2f} dB" for form, scores in described["base"].items())
    text = (f"`{described['command']}`, {described['processor']} ({described['device']}), commit "
            f"{described['commit']}. PSNR where they were trained: {bases}.\n\n")
    lines = [list(HEADINGS), [*["---"] * 2, *["---:"] * (len(HEADINGS) - 2)]]
    for row in rows:
        form = row["form"] + (f", {row['use']}" if row["use"] else "")
        numbers = [f"{row['psnr']:.2f}", f"{row['psnr_there']:.2f}", f"{row['change']:+.2f}", f"{row['ssim']:.3f}",
                   f"{row['ssim_there']:.3f}", f"{row['alpha_mae']:.4f}", f"{row['alpha_mae_there']:.4f}"]
        lines.append([form, VARIANTS[row["variant"]].title, *numbers])
    return text + "".join(f"| {' | '.join(line)} |\n" for line in lines)


def command(args: argparse.Namespace) -> str:
    """Return the command line, without options that do not change the results."""
    default, given = vars(parse([])), vars(args)
    extra: list[str] = []
    for name in ("forms", "variants", *RECORDED, "train"):
        if given[name] != default[name]:
            extra += [f"--{name}", *(given[name] if isinstance(given[name], list) else [str(given[name])])]
    return shlex.join(["python", "benchmarks/zoom.py", *extra])


def scene_folder(name: str, args: argparse.Namespace) -> Path:
    """Return the folder of a scene."""
    return Path(args.output) / "scenes" / name


def model_folder(form: str, scene: str, args: argparse.Namespace) -> Path:
    """Return the folder of a model trained on a scene."""
    return Path(args.output) / "_".join((form, *args.train)) / scene


def picture_folder(form: str, trained: str, shown: str, args: argparse.Namespace, use: str = "") -> Path:
    """Return the folder of a model's scores and pictures of the held-out views of a scene."""
    return model_folder(form, trained, args) / (f"on {shown}" + (f", {use}" if use else ""))


if __name__ == "__main__":
    cli.run(main)
