# SPDX-License-Identifier: Apache-2.0
"""Time of a frame by points, pixels, and layers or coverage; prints a table and draws a plot.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --form blended --layers 1 8 32
    python benchmarks/scaling.py --form strands
    python benchmarks/scaling.py --vary layers --repeats 3
    python benchmarks/scaling.py --device cuda --points 1e5 1e6 1e7 1e8 --sides 300 600 1200 --layers 1 2 4 8

One of the three is varied at a time, the others are 1e5 points, 300x300 pixels and 2 layers. Each row has the times of
the projection and of the whole frame. In the layered form the projection is rasterization and gather, for the ball of
benchmarks/projection.py; in the blended form it is rasterization and compositing, for the ball of strands of
benchmarks/blended.py, which has 5 dots a point.

The strands form has no layers. Its third quantity is the coverage, the mean number of pixels in which a splat is drawn:
its splats are made as large as that, else they are as a model starts with. Beside it, in turns, is timed a frame of the
blended form as recommended, of the same points and 64 layers, but not for the coverage, for its dots have theirs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import blended, frame, strands  # noqa: E402
from benchmarks.common import Timing, environment, measure, measure_in_turns, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.ops import project_gaussians  # noqa: E402
from npcr.renderers import StrandsRenderer  # noqa: E402

POINTS = {"layered": [10**4, 10**5, 10**6, 10**7], "blended": [10**4, 10**5, 10**6], "strands": [10**4, 10**5, 10**6]}
BASE = {"points": 10**5, "side": 300, "layers": 2}
BASE_OF_STRANDS = {"points": 10**5, "side": 300, "coverage": 0}  # 0: as a model starts with
LAYERS_BESIDE = 64
COLUMNS = ("vary", "points", "side", "layers", "coverage", "projection_ms", "frame_ms", "frame_low_ms", "frame_high_ms",
           "blended_ms")
LINES = {"frame_ms": ("frame (black)", (0, 0, 0)), "projection_ms": ("projection (blue)", (200, 80, 0)),
         "blended_ms": ("blended frame (red)", (40, 40, 200))}
PLOT_WIDTH, PLOT_HEIGHT, PLOT_EDGE = 420, 320, 56
Stages = dict[str, Callable[[], Any]]


def layered_stages(settings: argparse.Namespace, device: torch.device) -> Stages:
    """Return projection and whole frame of the layered form as functions."""
    renderer, cameras = frame.make(settings, device)
    return {"projection": lambda: renderer.feature_images(cameras), "frame": lambda: renderer(cameras)}


def blended_stages(settings: argparse.Namespace, device: torch.device) -> Stages:
    """Return projection and whole frame of the blended form as functions."""
    renderer, camera = blended.make(settings, settings.layers, device)
    return {"projection": lambda: renderer._compose(camera, renderer._project(camera, 0), 0),
            "frame": lambda: renderer(camera)}


def strands_stages(settings: argparse.Namespace, device: torch.device) -> tuple[Stages, float]:
    """Return splats and whole frame of the strands form, a frame of the blended form; and the coverage."""
    other, camera = blended.make(settings, LAYERS_BESIDE, device)
    network = argparse.Namespace(points=settings.points, features=4, width=8, halvings=0, field_nodes=0)
    renderer = strands.make_strands(network, other, device)
    stages: Stages = {"projection": lambda: renderer._composite(camera, 0), "frame": lambda: renderer(camera)}
    if settings.coverage:
        cover(renderer, camera, settings.coverage)
    else:
        stages["blended"] = lambda: other(camera)
    return stages, coverage(renderer, camera)


@torch.no_grad()
def coverage(renderer: StrandsRenderer, camera: Cameras) -> float:
    """Return in how many pixels a splat is drawn, in the mean over those that are."""
    ellipses = project_gaussians(*renderer.gaussians(0), camera.cam_to_world[0], camera.intrinsics[0], camera.size)
    drawn = ellipses[ellipses[:, 7] > 0]
    return float((torch.pi * drawn[:, 7].square() / (drawn[:, 2] * drawn[:, 4])).mean())


def cover(renderer: StrandsRenderer, camera: Cameras, pixels: float) -> None:
    """Make all splats larger or smaller, so that they cover so many pixels; as many as they can where that is less."""
    low, high = (factor * renderer.spacing[0] for factor in (0.01, 100))
    for _ in range(20):
        renderer.spacing = [(low * high) ** 0.5]
        if coverage(renderer, camera) < pixels:
            low, = renderer.spacing
        else:
            high, = renderer.spacing


def measured_row(options: argparse.Namespace, vary: str, value: int, device: torch.device) -> dict[str, Any]:
    """Measure the median times with one quantity at `value`; return the row."""
    row: dict[str, Any] = {**(BASE_OF_STRANDS if options.form == "strands" else BASE), vary: value}
    settings = argparse.Namespace(**row, norm=options.norm, size=[row["side"]] * 2, dots=5, width=16)
    timings: dict[str, Timing]
    with torch.inference_mode():
        if options.form == "strands":
            stages, row["coverage"] = strands_stages(settings, device)
            timings = measure_in_turns(stages, rounds=options.repeats, device=device)
        else:
            stages = (blended_stages if options.form == "blended" else layered_stages)(settings, device)
            timings = {name: measure(run, repeats=options.repeats, device=device, warm_up=1)
                       for name, run in stages.items()}
    whole = timings["frame"]
    print(f"{vary} {value:,}: {whole.median:.4g} ms", file=sys.stderr)
    return {"vary": vary, **row, **{f"{name}_ms": timing.median for name, timing in timings.items()},
            "frame_low_ms": whole.low, "frame_high_ms": whole.high, "runs": whole.runs}


def draw(rows: Sequence[dict[str, Any]], file: Path) -> None:
    """Plot one panel per varied quantity, both axes logarithmic, with the lines of `LINES`."""
    kinds = list(dict.fromkeys(row["vary"] for row in rows))
    panels = [_panel(kind, [row for row in rows if row["vary"] == kind]) for kind in kinds]
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.hstack(panels))


def _panel(kind: str, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    image = np.full((PLOT_HEIGHT, PLOT_WIDTH, 3), 255, np.uint8)
    x = np.log10([row[kind] for row in rows])
    lines = {name: color for name, (_, color) in LINES.items() if name in rows[0]}
    y = {name: np.log10([row[name] for row in rows]) for name in lines}
    low, high = min(map(np.min, y.values())), max(map(np.max, y.values()))

    def place(a: float, b: float) -> tuple[int, int]:
        across = (a - x.min()) / max(np.ptp(x), 1e-9)
        up = (b - low) / max(high - low, 1e-9)
        return (int(PLOT_EDGE + across * (PLOT_WIDTH - 2 * PLOT_EDGE)),
                int(PLOT_HEIGHT - PLOT_EDGE - up * (PLOT_HEIGHT - 2 * PLOT_EDGE)))

    def write(text: str, at: tuple[int, int], color: tuple[int, int, int] = (0, 0, 0)) -> None:
        cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.4, color, 1, cv2.LINE_AA)

    for name, color in lines.items():
        dots = [place(a, b) for a, b in zip(x, y[name], strict=True)]
        cv2.polylines(image, [np.array(dots, np.int32)], False, color, 1, cv2.LINE_AA)
        for dot, row in zip(dots, rows, strict=True):
            cv2.circle(image, dot, 3, color, -1, cv2.LINE_AA)
            write(f"{row[name]:,.0f}" if row[name] >= 100 else f"{row[name]:.3g}", (dot[0] - 12, dot[1] - 8), color)
    for a, row in zip(x, rows, strict=True):
        label = f"{row[kind]:.0e}".replace("e+0", "e") if row[kind] >= 1e4 else f"{row[kind]:.3g}"
        write(label, (place(a, low)[0] - 14, PLOT_HEIGHT - 24))
    unit = {"points": "points", "side": "pixels a side", "layers": "layers", "coverage": "pixels a splat"}[kind]
    write(f"{unit}; ms of {', '.join(LINES[name][0] for name in lines)}", (8, 18))
    return image


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=tuple(POINTS), default="layered")
    parser.add_argument("--vary", choices=tuple(BASE | BASE_OF_STRANDS), nargs="+",
                        help="default: points, side, and layers or, for the strands form, coverage")
    parser.add_argument("--points", type=lambda text: int(float(text)), nargs="+",
                        help="default: 1e4 1e5 1e6, and for the layered form 1e7")
    parser.add_argument("--coverages", type=float, nargs="+", default=[8, 16, 32, 64, 128], metavar="PIXELS",
                        help="of a splat of the strands form (default: %(default)s)")
    parser.add_argument("--sides", type=int, nargs="+", default=[150, 300, 600], help="of the square image, pixels")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--norm", choices=("instance", "batch", "none"), default="instance")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "scaling.json",
                        help="the plot lies beside it, as .png")
    options = parser.parse_args(arguments)
    quantities = BASE_OF_STRANDS if options.form == "strands" else BASE
    options.vary = options.vary or list(quantities)
    if unknown := [name for name in options.vary if name not in quantities]:
        parser.error(f"the {options.form} form has no {unknown[0]} to vary")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file and the plot."""
    options = parse(arguments)
    device = torch.device(options.device)
    described = environment(device, options)
    values = {"points": options.points or POINTS[options.form], "side": options.sides, "layers": options.layers,
              "coverage": options.coverages}
    rows = [measured_row(options, vary, value, device) for vary in options.vary for value in values[vary]]
    print_table(rows, [name for name in COLUMNS if name in rows[0]])
    write_json(options.output, rows, described)
    draw(rows, options.output.with_suffix(".png"))
    print(f"written to {options.output} and {options.output.with_suffix('.png')}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
