# SPDX-License-Identifier: Apache-2.0
"""Speedup by MODEL.COMPILE, RENDER.PRECISION, RENDER.CUDA_GRAPHS and RENDER.MARGIN on this machine, for both forms.

    python benchmarks/options.py
    python benchmarks/options.py --forms blended --size 600 600 --variants plain compiled --steps
    python benchmarks/options.py --forms layered --norm none --variants plain margin --zoom 0.4 --size 300 300
    python benchmarks/options.py --device cuda --variants plain compiled bfloat16 graphs graphs+bfloat16 --size 600 600

A variant is "plain" or options joined by "+": compiled, tf32, bfloat16, float16, graphs (on a GPU), margin
(RENDER.MARGIN 16; the layered form, on a CPU, with --norm none or batch). "first_s" is the time of the first frame, in
which the network is compiled or captured; "error" the largest difference of color and alpha from the first variant's
frame (empty for margin, which leaves the pixels outside it transparent); "step_ms", with --steps, the time of a frame
with gradients, which only compiled changes. The ball of points fills 0.85 --zoom of the image's side. Weights are
random.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks import blended, frame  # noqa: E402
from benchmarks.common import environment, measure, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.numerics import PRECISIONS  # noqa: E402
from npcr.renderers import Renderer  # noqa: E402

REDUCED = tuple(precision for precision in PRECISIONS if precision != "float32")
OPTIONS = ("compiled", *REDUCED, "graphs", "margin")
MARGIN = 16
COLUMNS = ("form", "variant", "frame_ms", "low_ms", "high_ms", "runs", "of_first", "first_s", "step_ms", "error")


def make(options: argparse.Namespace, form: str, device: torch.device) -> tuple[Renderer, Cameras]:
    """Return the form's renderer and camera, with the same weights at each call."""
    renderer: Renderer
    if form == "layered":
        renderer, camera = frame.make(options, device)
    else:
        torch.manual_seed(0)
        renderer, camera = blended.make(options, options.layers, device)
        torch.nn.init.normal_(renderer.network.out.weight, std=0.1)  # it is initialized to zero
    camera.intrinsics[:, 0, 0] *= options.zoom
    camera.intrinsics[:, 1, 1] *= options.zoom
    return renderer.eval(), camera


def apply_variant(renderer: Renderer, variant: str) -> None:
    """Switch on the options in the name of the variant."""
    names = [] if variant == "plain" else variant.split("+")
    if "margin" in names:
        renderer.margin = MARGIN
    if "compiled" in names:
        renderer.runner.compile(renderer.network)
    precision = next((name for name in names if name in REDUCED), "float32")
    renderer.runner.prepare_rendering(precision, "graphs" in names, renderer.device)


def measured_row(options: argparse.Namespace, form: str, variant: str, device: torch.device,
                 reference: Tensor | None) -> tuple[dict[str, Any], Tensor]:
    """Measure a variant; return its row, and its frame (B, 4, H, W)."""
    renderer, camera = make(options, form, device)
    apply_variant(renderer, variant)
    with torch.no_grad():
        begun = time.perf_counter()
        first = renderer(camera)
        image = torch.cat([first.color, first.alpha], dim=1).cpu()
        first_s = time.perf_counter() - begun
        timing = measure(lambda: renderer(camera), repeats=options.repeats, device=device)
    if "compiled" in variant and renderer.runner.compiled is None:
        raise SystemExit("torch.compile does not work here; leave the compiled variants out with --variants")
    row = {"form": form, "variant": variant, "frame_ms": timing.median, "low_ms": timing.low, "high_ms": timing.high,
           "best_ms": timing.best, "runs": timing.runs, "first_s": first_s,
           "error": None if reference is None or "margin" in variant else (image - reference).abs().max().item()}
    if options.steps:
        def step() -> None:
            renderer.zero_grad(set_to_none=True)
            renderer(camera).layer_rgba.square().mean().backward()

        row["step_ms"] = measure(step, repeats=options.repeats, device=device).median
    return row, image


def measured_rows(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure each form and variant; return the rows."""
    rows = []
    for form in options.forms:
        first: dict[str, Any] | None = None
        reference = None
        for variant in options.variants:
            row, image = measured_row(options, form, variant, device, reference)
            first, reference = first or row, image if reference is None else reference
            row["of_first"] = row["frame_ms"] / first["frame_ms"]
            rows.append(row)
            print(f"{form}, {variant}: {row['frame_ms']:.4g} ms", file=sys.stderr)
    return rows


def variant_name(text: str) -> str:
    """Check the name of a variant on the command line, and return it."""
    names = text.split("+")
    if text != "plain" and (len(set(names)) < len(names) or not set(names) <= set(OPTIONS)
                            or len(set(names) & set(REDUCED)) > 1):
        raise argparse.ArgumentTypeError(f"{text!r} is neither plain nor joins {', '.join(OPTIONS)} by +")
    return text


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", choices=("layered", "blended"), nargs="+", default=["layered", "blended"])
    parser.add_argument("--variants", type=variant_name, nargs="+", default=["plain", "compiled"], metavar="VARIANT")
    parser.add_argument("--steps", action="store_true", help="also time a frame with its gradients")
    parser.add_argument("--points", type=lambda text: int(float(text)), default=90_000)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=[200, 200], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--zoom", type=float, default=1.0, help="factor on the focal length (default 1)")
    parser.add_argument("--norm", choices=("instance", "batch", "none"), default="instance", help="layered: MODEL.NORM")
    parser.add_argument("--dots", type=int, default=5, help="blended: MODEL.DOTS")
    parser.add_argument("--width", type=int, default=16, help="blended: MODEL.WIDTH")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "options.json")
    options = parser.parse_args(arguments)
    if any("margin" in variant for variant in options.variants) and "blended" in options.forms:
        parser.error("margin is the layered form's: --forms layered")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    described = environment(device, options)
    rows = measured_rows(options, device)
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
