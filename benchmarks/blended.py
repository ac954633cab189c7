# SPDX-License-Identifier: Apache-2.0
"""Time of the stages of the blended form, forward and with gradients: projection, compositing, network, whole frame.

    python benchmarks/blended.py
    python benchmarks/blended.py --size 600 600 --points 1e6 --layers 8 32 --repeats 5

Compositing is measured with the compiled kernel and with its torch reference: column "of_twin" is the ratio of their
times, "error" the largest difference of their images. The points are strands on a sphere, with `--dots` soft dots each.
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
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.common import environment, measure, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.renderers import BlendedRenderer  # noqa: E402

# "twin" is the torch reference; the keys are those of the files in results/.
COLUMNS = ("layers", "stage", "median_ms", "low_ms", "high_ms", "runs", "of_twin", "error")
SPLAT = (3.0, 7.0, 0.45)


def make(options: argparse.Namespace, layers: int, device: torch.device) -> tuple[BlendedRenderer, Cameras]:
    """Return a renderer of strands on a sphere, and the camera in front of it."""
    generator = torch.Generator().manual_seed(0)
    count = int(options.points)
    centers = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    strands = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    spacing = (12.57 / count) ** 0.5
    renderer = BlendedRenderer([centers], [torch.rand(count, 3, generator=generator)], layers=layers, splat=SPLAT,
                               dots=options.dots, spacing=[spacing], width=options.width)
    renderer.orient_strands(0, strands)
    pose = torch.eye(4)[None].clone()
    pose[:, 2, 3] = -4.0
    width, height = options.size
    focal = 1.6 * min(options.size)
    intrinsics = torch.tensor([[[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]])
    return renderer.to(device), Cameras(pose, intrinsics, (width, height)).to(device)


def stages(renderer: BlendedRenderer, camera: Cameras) -> dict[str, Callable[[], Any]]:
    """Return the measured functions, by name."""
    fragments = renderer._project(camera, 0)
    values, alpha, _ = renderer._compose(camera, fragments, 0)
    image = torch.cat([values, alpha[None], values[:3]])[None].detach().requires_grad_()
    learned = [p for name, p in renderer.named_parameters() if not name.startswith("network")]

    def compose() -> Tensor:
        values, alpha, _ = renderer._compose(camera, fragments, 0)
        return values.square().sum() + alpha.sum()

    def compose_grad() -> None:
        torch.autograd.grad(compose(), learned, allow_unused=True)

    def step() -> None:
        renderer.zero_grad(set_to_none=True)
        renderer(camera).layer_rgba.square().mean().backward()

    return {
        "projection": lambda: renderer._project(camera, 0),
        "compositing": no_grad(compose),
        "compositing, with gradients": compose_grad,
        "network": no_grad(lambda: renderer.network(image)),
        "network, with gradients": lambda: renderer.network(image).square().mean().backward(),
        "frame": no_grad(lambda: renderer(camera)),
        "step without optimizer": step,
    }


def no_grad(run: Callable[[], Any]) -> Callable[[], Any]:
    """Return `run` without gradients."""
    return torch.no_grad()(run)


def rows_for(options: argparse.Namespace, layers: int, device: torch.device) -> list[dict[str, Any]]:
    """Measure each stage with so many layers; return the rows."""
    renderer, camera = make(options, layers, device)
    with torch.no_grad():
        ours = renderer(camera).color
        renderer.backend = "torch"
        error = float((renderer(camera).color - ours).abs().max())
        renderer.backend = "auto"
    rows = []
    for stage, run in stages(renderer, camera).items():
        timing = measure(run, repeats=options.repeats, device=device)
        row = {"layers": layers, "stage": stage, "median_ms": timing.median, "low_ms": timing.low,
               "high_ms": timing.high, "runs": timing.runs}
        if stage.startswith("compositing"):
            renderer.backend = "torch"
            row["twin_ms"] = measure(run, repeats=options.repeats, device=device).median
            renderer.backend = "auto"
            row["of_twin"], row["error"] = timing.median / row["twin_ms"], error
        rows.append(row)
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=float, default=90_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=(200, 200), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 8, 32, 64], metavar="K",
                        help="default: %(default)s")
    parser.add_argument("--dots", type=int, default=5, metavar="M", help="default: %(default)s")
    parser.add_argument("--width", type=int, default=16, metavar="C", help="MODEL.WIDTH (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "blended.json", metavar="FILE",
                        help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    described = environment(device, options)
    rows = [row for layers in options.layers for row in rows_for(options, layers, device)]
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
