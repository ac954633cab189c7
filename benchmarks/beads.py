# SPDX-License-Identifier: Apache-2.0
"""Stray hairs, beside the ray-traced truth: whether a form draws a line or a row of beads.

Trains each form for equal steps on a scene of tools/make_hair.py, and ray traces held-out views with free-standing
hair anew, three times larger, by the scene's own recipe. Models are rendered at both sizes without further training;
the blended form's splats get the sizes that INPUT.NEAR_FAR_SIZE has for the larger images. Hair is stray where the
photograph's matte is between 0.05 and 0.6, and below 0.2 in the mean of the 9 x 9 pixels around, which leaves out
fringes. There and two pixels to each side, three numbers are measured:

  along     how much of the matte's change lies along the hair. The structure tensor of the matte, its gradient's outer
            product smoothed over a few pixels, has two eigenvalues: change across the hair, and along it. The share of
            the smaller, over all stray pixels, is 0 for lines and one half for round dots.
  matte     mean absolute difference of the matte and the true one
  coverage  mean of the matte, of the true one's

What is finished in the output folder is kept: Ctrl-C stops, the same command continues.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from benchmarks.quality.variants import BLENDED  # noqa: E402
from benchmarks.steadiness import train  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.config import changed, load_config  # noqa: E402
from npcr.data.cloud_geometry import near_far_size  # noqa: E402
from npcr.data.samples import Sample  # noqa: E402
from npcr.data.scene import load_clouds  # noqa: E402
from npcr.errors import ConfigError  # noqa: E402
from npcr.factory import held_out_views, load_renderer, open_scene  # noqa: E402
from npcr.io.images import read_image, write_image  # noqa: E402
from npcr.renderers import Renderer  # noqa: E402
from npcr.synthetic.hair.cameras import scene_intrinsics  # noqa: E402
from npcr.synthetic.hair.model import build_model  # noqa: E402
from npcr.synthetic.hair.options import HairOptions  # noqa: E402
from npcr.synthetic.hair.recipe import RECIPE_FILE, has_recipe, make_recipe  # noqa: E402
from npcr.synthetic.hair.rendering import HairRenderer, write_model  # noqa: E402
from npcr.synthetic.hair.scene import to_straight_srgb  # noqa: E402
from npcr.visualization.captions import caption  # noqa: E402
from npcr.visualization.comparison import tiled  # noqa: E402

EXAMPLES = """examples:
  python benchmarks/beads.py datasets/bob
  python benchmarks/beads.py datasets/bob --epochs 10 --image docs/images/beads.jpg

writes, in --output:
  beads.json        the numbers
  beads.png         a place with stray hair: truth and forms, color over black and matte, at both sizes
  truth_img_….png   the ray-traced views
  FORM/…            the models
"""
# Keys of each form beside the scene's own.
FORMS = {"strands": ["MODEL.FORM", "strands"], "blended": [str(part) for pair in BLENDED.items() for part in pair]}
COLUMNS = ("size", "picture", "along", "matte", "coverage", "views", "pixels")
STRAY, BESIDE = (0.05, 0.6), 2  # of the matte; pixels to each side
AROUND, EMPTY = 9, 0.2  # the square around a stray pixel, a side of so many pixels, in which the mean matte is below
SMOOTHED = 2.0  # standard deviation of the structure tensor's window, pixels of the photograph
CROP, ENLARGED = 32, 9  # pixels of the photograph in the picture, and how much larger it shows them
LARGER = 3  # the size of the ray-traced views, in sizes of the photographs
Image = NDArray[np.float32]  # (H, W, 4) premultiplied RGBA, 0 to 1
Mask = NDArray[np.bool_]


class View(NamedTuple):
    """A held-out photograph and where hair strays in it."""

    sample: Sample
    photograph: Image
    stray: Mask


@dataclass
class Tally:
    """Sums over the stray pixels of several views."""

    along: float = 0.0
    change: float = 0.0
    difference: float = 0.0
    matte: float = 0.0
    true_matte: float = 0.0
    pixels: int = 0
    views: int = 0

    def add(self, image: Image, truth: Image, stray: Mask, scale: int) -> None:
        """Add a view, `scale` times as large as the photographs."""
        larger, smaller = eigenvalues(image[..., 3], SMOOTHED * scale)
        self.along += float(smaller[stray].sum())
        self.change += float((larger + smaller)[stray].sum())
        self.difference += float(np.abs(image - truth)[stray, 3].sum())
        self.matte += float(image[stray, 3].sum())
        self.true_matte += float(truth[stray, 3].sum())
        self.pixels += int(stray.sum())
        self.views += 1

    def row(self, size: int, picture: str) -> dict[str, Any]:
        """Return the means, as a row of the table."""
        return {"size": size, "picture": picture, "along": self.along / self.change,
                "matte": self.difference / self.pixels, "coverage": self.matte / self.true_matte,
                "views": self.views, "pixels": self.pixels}


def eigenvalues(matte: NDArray[np.float32], sigma: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the larger and the smaller eigenvalue of the structure tensor: change across a hair, and along it.

    Args:
        matte: (H, W).
        sigma: standard deviation of the tensor's Gaussian window, pixels.
    """
    x, y = cv2.Scharr(matte, cv2.CV_32F, 1, 0), cv2.Scharr(matte, cv2.CV_32F, 0, 1)
    xx, xy, yy = (np.asarray(cv2.GaussianBlur(product, (0, 0), sigma), np.float32) for product in (x * x, x * y, y * y))
    half, middle = np.sqrt((xx - yy) ** 2 / 4 + xy**2), (xx + yy) / 2
    return middle + half, np.maximum(middle - half, 0)


def stray_pixels(matte: NDArray[np.float32]) -> Mask:
    """Return where a photograph's matte (H, W) is thin and what surrounds it mostly empty, and the pixels beside."""
    around = cv2.blur(matte, (AROUND, AROUND), borderType=cv2.BORDER_CONSTANT)
    thin = (matte >= STRAY[0]) & (matte <= STRAY[1]) & (around < EMPTY)
    side = 2 * BESIDE + 1
    return np.asarray(cv2.dilate(thin.astype(np.uint8), np.ones((side, side))), np.bool_)


def busiest(view: View) -> tuple[float, tuple[int, int]]:
    """Return worth and top left corner (y, x) of the square of `CROP` pixels with most stray hair and little else."""
    cost = 2 * (2 * BESIDE + 1) / CROP  # a full square costs as much as two hairs across it are worth
    worth = view.stray - cost * view.photograph[..., 3]
    limits = np.array(worth.shape) - CROP
    sums = cv2.boxFilter(worth.astype(np.float32), -1, (CROP, CROP), anchor=(0, 0), normalize=False,
                         borderType=cv2.BORDER_CONSTANT)[:limits[0] + 1, :limits[1] + 1]
    y, x = np.unravel_index(sums.argmax(), sums.shape)
    hair = np.argwhere(view.stray[y:y + CROP, x:x + CROP])
    middle = hair.mean(0) if len(hair) else np.full(2, CROP / 2)
    top, left = np.clip(np.rint(middle - CROP / 2).astype(int) + (y, x), 0, limits)
    return float(sums.max()), (int(top), int(left))


def ray_trace(scene: Path, camera: int, pose: NDArray[np.float64], scale: int, samples: int, file: Path) -> Image:
    """Ray trace a scene's camera `scale` times as large into a file, unless it is there; return the image."""
    if not file.exists():
        options = HairOptions(**json.loads((scene / RECIPE_FILE).read_text(encoding="utf-8"))["options"])
        has_recipe(scene, make_recipe(options))  # raises where today's hair would be another
        model = build_model(options)
        larger = scene_intrinsics(model, replace(options, size=scale * options.size))
        with tempfile.TemporaryDirectory(prefix="npcr-beads-") as work:
            write_model(Path(work), model.body, model.strands)
            print(f"ray tracing camera {camera} at {larger.width}x{larger.height}, {samples} paths a pixel", flush=True)
            write_image(file, to_straight_srgb(HairRenderer(Path(work), larger).render(pose, camera, samples)))
    straight = read_image(file).astype(np.float32) / 255
    return np.concatenate([straight[..., :3] * straight[..., 3:], straight[..., 3:]], axis=2)


def load(file: Path, scene: Path, scale: int, device: torch.device) -> Renderer:
    """Load a model for images `scale` times as large."""
    cfg = load_config(file.parent / "config.yml", ["DATASETS.TRAIN", str(scene)])
    opened = open_scene(cfg, cfg.DATASETS.TRAIN)
    width, height = cfg.INPUT.SIZE_TEST
    points = load_clouds(scene, cfg.DATASETS.FRAME_NUM)[0].positions
    sizes = near_far_size(points, opened.cameras.resized((scale * width, scale * height)))
    return load_renderer(changed(cfg, INPUT__NEAR_FAR_SIZE=sizes), file, device, explicit=["INPUT.NEAR_FAR_SIZE"])[0]


@torch.no_grad()
def render(renderer: Renderer, cameras: Cameras) -> Image:
    """Render one camera."""
    output = renderer(cameras)
    rgba = torch.cat([output.color, output.alpha], dim=1)[0].clamp(0, 1)
    return rgba.permute(1, 2, 0).cpu().numpy()


def read_views(scene: Path, model: Path, device: torch.device) -> list[View]:
    """Read the held-out views, those whose stray hair stands freest first."""
    cfg = load_config(model.parent / "config.yml", ["DATASETS.TRAIN", str(scene)])
    held_out = held_out_views(cfg, open_scene(cfg, cfg.DATASETS.TRAIN), device)
    if held_out is None:
        raise ConfigError(f"{scene}: no view is held out")
    views = []
    for frame, camera in held_out[1]:
        sample = held_out[0].sample(frame, camera)
        image = torch.cat([sample.color, sample.target[3:4]]).permute(1, 2, 0).contiguous().cpu().numpy()
        views.append(View(sample, image, stray_pixels(image[..., 3])))
    return sorted(views, key=lambda view: -busiest(view)[0])


def draw(images: dict[tuple[int, str], Image], corner: tuple[int, int], size: int) -> NDArray[np.uint8]:
    """Draw the crop of images by (size, name): a row of colors and one of mattes for each size."""
    rows = []
    for pixels in dict.fromkeys(pixels for pixels, _ in images):
        scale = pixels // size
        y, x, side = corner[0] * scale, corner[1] * scale, CROP * scale
        for part in ("color", "matte"):
            panels = []
            for name in (name for other, name in images if other == pixels):
                crop = images[pixels, name][y:y + side, x:x + side]
                shown = crop[..., :3] if part == "color" else crop[..., 3:].repeat(3, axis=2)
                large = np.rint(255 * shown).astype(np.uint8).repeat(ENLARGED // scale, 0).repeat(ENLARGED // scale, 1)
                panels.append(np.concatenate([caption(large.shape[1], [(0, f"{name}, {part}, {pixels} px")]), large]))
            rows.append(tiled(panels, "row"))
    return tiled(rows, "column")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, metavar="SCENE", help="of tools/make_hair.py")
    parser.add_argument("--epochs", type=int, default=10, metavar="N", help="of training (default: %(default)s)")
    parser.add_argument("--views", type=int, default=1, metavar="N",
                        help="to ray trace larger (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=64, metavar="N",
                        help="light paths for each of their pixels (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("output/beads"), metavar="FOLDER",
                        help="default: %(default)s")
    parser.add_argument("--image", type=Path, metavar="FILE", help="the picture as a JPEG, too")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    args = parser.parse_args(arguments)
    if min(args.epochs, args.views, args.samples) < 1:
        parser.error("--epochs, --views and --samples must be at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, ray trace, measure, draw."""
    args = parse(arguments)
    device = cli.resolve_device(args.device)
    if not (args.scene / RECIPE_FILE).exists():
        raise ConfigError(f"{args.scene}: has no {RECIPE_FILE}; tools/make_hair.py {args.scene} makes a scene with one")
    files = {form: train(args.scene, args.output / form, argparse.Namespace(
        minutes=0.0, device=args.device, train=["SOLVER.MAX_EPOCHS", str(args.epochs), *keys]))
        for form, keys in FORMS.items()}
    views = read_views(args.scene, files["strands"], device)
    size = views[0].photograph.shape[1]
    tallies: dict[tuple[int, str], Tally] = {}
    pictures: list[dict[tuple[int, str], Image]] = []
    for scale, chosen in ((1, views), (LARGER, views[:args.views])):
        models = {form: load(file, args.scene, scale, device) for form, file in files.items()}
        for view in chosen:
            cameras = view.sample.cameras
            truth = view.photograph if scale == 1 else ray_trace(
                args.scene, view.sample.camera, cameras.cam_to_world[0].double().cpu().numpy(), scale, args.samples,
                args.output / f"truth_{Path(view.sample.name).stem}.png")
            larger = cameras.resized((size * scale, truth.shape[0]))
            images = {"truth": truth} | {form: render(model, larger) for form, model in models.items()}
            stray = view.stray.repeat(scale, 0).repeat(scale, 1)
            for name, image in images.items():
                tallies.setdefault((size * scale, name), Tally()).add(image, truth, stray, scale)
            pictures.append({(size * scale, name): image for name, image in images.items()})
    rows = [tally.row(*key) for key, tally in tallies.items()]
    described = environment(device) | {"command": command(args), "views": [view.sample.name for view in views]}
    write_json(args.output / "beads.json", rows, described)
    print_table(rows, COLUMNS)
    corner = busiest(views[0])[1]
    drawn = draw(pictures[0] | pictures[len(views)], corner, size)
    write_image(args.output / "beads.png", drawn)
    if args.image:
        write_image(args.image, drawn, quality=90)
    print(f"{args.output}/beads.json, beads.png: {views[0].sample.name} at {corner[::-1]}")


def command(args: argparse.Namespace) -> str:
    """Return the command line, without options that do not change the results."""
    return shlex.join(["python", "benchmarks/beads.py", f"datasets/{args.scene.resolve().name}", "--epochs",
                       str(args.epochs), "--views", str(args.views), "--samples", str(args.samples)])


if __name__ == "__main__":
    cli.run(main)
