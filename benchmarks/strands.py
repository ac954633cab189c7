# SPDX-License-Identifier: Apache-2.0
"""Time of the strands form beside the blended form, on the same points in turns: splats, network, frame, training step.

    python benchmarks/strands.py
    python benchmarks/strands.py --size 800 800 --points 1e6 --repeats 5 --reference

"splats" is all before a network: projection, colors, shared ones too, compositing. A training step has the recommended
loss and optimizer. Column "of_blended" is the ratio to the blended form's time; with `--reference`, "of_reference" that
to the time of the torch reference, and "error" the largest difference of the two pictures. On a GPU a frame with a
network is also timed with RENDER.CUDA_GRAPHS, and "peak_mb" is the most memory in use. The points are strands on a
sphere.
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

from benchmarks import blended  # noqa: E402
from benchmarks.common import Timing, environment, measure_in_turns, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.config import from_dict  # noqa: E402
from npcr.config.recommended import RECOMMENDED  # noqa: E402
from npcr.factory import build_loss  # noqa: E402
from npcr.renderers import Renderer, StrandsRenderer  # noqa: E402
from npcr.renderers.cuda_graphs import GraphReplay  # noqa: E402
from npcr.training.optimizers import build_optimizer  # noqa: E402

COLUMNS = ("form", "stage", "median_ms", "low_ms", "high_ms", "runs", "of_blended", "of_reference", "error",
           "peak_mb")
Stages = dict[str, Callable[[], Any]]


def make_strands(options: argparse.Namespace, other: Renderer, device: torch.device) -> StrandsRenderer:
    """Return a renderer of the points, colors and strands of a blended one."""
    spacing = (12.57 / int(options.points)) ** 0.5
    renderer = StrandsRenderer([other.points(0).cpu()], [spacing], feature_dim=options.features, width=options.width,
                               halvings=options.halvings, field_nodes=options.field_nodes)
    renderer.to(device)
    with torch.no_grad():
        renderer.colors[0].copy_(other.colors[0])
        renderer.strands[0].copy_(0.5 * other.strands[0])  # its ends to a standard deviation
    return renderer


def stages(renderer: Renderer, camera: Cameras, splats: Callable[[], tuple[torch.Tensor, ...]],
           channels: int) -> Stages:
    """Return the measured functions, by name; `channels` are those that the network takes, 0 without one."""
    device = renderer.device
    width, height = camera.size
    image = torch.rand(1, max(1, channels), height, width, device=device)
    target = torch.rand(1, 5, height, width, device=device)
    learned = [p for name, p in renderer.named_parameters() if not name.startswith("network")]
    cfg = from_dict(RECOMMENDED, "recommended")
    loss, optimizer = build_loss(cfg).to(device), build_optimizer(cfg, renderer)

    def splats_grad() -> None:
        torch.autograd.grad(sum(part.square().sum() for part in splats() if part.requires_grad), learned,
                            allow_unused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        output = renderer(camera)
        loss(output.trained_color, output.alpha, output.depth, target)["total"].backward()
        optimizer.step()

    graph = GraphReplay() if device.type == "cuda" and channels else None

    def replay() -> None:
        renderer.runner.graph = graph
        try:
            renderer(camera)
        finally:
            renderer.runner.graph = None

    replayed = {"frame, network as a CUDA graph": blended.no_grad(replay)} if graph else {}
    return {
        "splats": blended.no_grad(splats),
        "splats, with gradients": splats_grad,
        **({"network": blended.no_grad(lambda: renderer.network(image))} if channels else {}),
        "frame": blended.no_grad(lambda: renderer(camera)),
        **replayed,
        "training step": step,
    }


def rows_for(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure both forms; return the rows."""
    blended_options = argparse.Namespace(**vars(options), dots=5)
    blended_options.width = 16
    other, camera = blended.make(blended_options, options.layers, device)
    renderer = make_strands(options, other, device)
    forms: dict[str, Stages] = {
        "blended": stages(other, camera, lambda: other._compose(camera, other._project(camera, 0), 0),
                          other.network.in_channels),
        "strands": stages(renderer, camera, lambda: renderer._composite(camera, 0),
                          renderer.network.in_channels if renderer.has_network else 0)}
    error = None
    if options.reference:
        forms["reference"] = {name: _in_torch(renderer, run) for name, run in forms["strands"].items()}
        color = blended.no_grad(lambda: renderer(camera).color)
        error = float((_in_torch(renderer, color)() - color()).abs().max())
    rows = []
    for stage in forms["strands"]:
        timings = measure_in_turns({form: runs[stage] for form, runs in forms.items()}, rounds=options.repeats,
                                   device=device)
        rows += [_row(form, stage, timings, error) | {"peak_mb": _peak_mb(forms[form][stage], device)}
                 for form in timings]
    return rows


def _row(form: str, stage: str, timings: dict[str, Timing], error: float | None) -> dict[str, Any]:
    timing, ours = timings[form], form == "strands"
    return {"form": form, "stage": stage, "median_ms": timing.median, "low_ms": timing.low, "high_ms": timing.high,
            "runs": timing.runs, "of_blended": timing.median / timings["blended"].median if ours else None,
            "of_reference": timing.median / timings["reference"].median if ours and "reference" in timings else None,
            "error": error if ours and stage == "frame" else None}


def _peak_mb(run: Callable[[], Any], device: torch.device) -> float | None:
    """The most memory in use on a GPU while a function runs; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return torch.cuda.max_memory_allocated(device) / 2**20


def _in_torch(renderer: StrandsRenderer, run: Callable[[], Any]) -> Callable[[], Any]:
    def in_torch() -> Any:
        renderer.backend = "torch"
        try:
            return run()
        finally:
            renderer.backend = "auto"

    return in_torch


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=float, default=90_000, metavar="N", help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=(200, 200), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--layers", type=int, default=64, metavar="K",
                        help="of the blended form (default: %(default)s)")
    parser.add_argument("--features", type=int, default=4, metavar="C",
                        help="MODEL.FEATURE_DIM of the strands form (default: %(default)s)")
    parser.add_argument("--width", type=int, default=0, metavar="C",
                        help="MODEL.WIDTH of the strands form, 0 without a network, as new scenes are (default: "
                             "%(default)s); of the blended form it is 16")
    parser.add_argument("--field-nodes", type=int, default=4,
                        help="MODEL.FIELD_NODES of the strands form (default: %(default)s)")
    parser.add_argument("--halvings", type=int, choices=(0, 1), default=1,
                        help="MODEL.NETWORK_HALVINGS of the strands form (default: %(default)s)")
    parser.add_argument("--reference", action="store_true", help="also time the torch reference")
    parser.add_argument("--repeats", type=int, default=15, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "strands.json", metavar="FILE",
                        help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    described = environment(device, options)
    rows = rows_for(options, device)
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
