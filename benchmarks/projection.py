# SPDX-License-Identifier: Apache-2.0
"""Time of the projection: compiled kernel, torch reference, the plain algorithm, and a memory copy.

    python benchmarks/projection.py
    python benchmarks/projection.py --points 1e6 --layers 1 6 --methods kernel plain
    python benchmarks/projection.py --device cuda --points 1e6 1e8 --methods kernel copy

Methods:
    kernel     npcr.ops.rasterize, compiled
    reference  the same in torch (npcr.ops.reference)
    plain      docs/conventions.md, "Projection", step by step in torch: for every layer project the whole cloud, fill
               a z-buffer, remove the visible points (point peeling only)
    copy       a copy of as many bytes as any method must read (the points) and write (index and depth)

The cloud is a ball of uniformly distributed points that fills most of the image of one camera. The column "equal" is
true where the result of a method equals the kernel's in every pixel.
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
from npcr.ops import Fragments, compiled_available, rasterize  # noqa: E402
from npcr.ops.reference import EMPTY, project  # noqa: E402

METHODS = ("kernel", "reference", "plain", "copy")
SETTINGS: dict[str, Any] = {"near": 3.0, "far": 5.0, "max_size": 1.0}
COLUMNS = (
    "points",
    "layers",
    "peeling",
    "method",
    "median_ms",
    "low_ms",
    "high_ms",
    "best_ms",
    "runs",
    "equal",
)


def cloud(points: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return points of a unit ball, a pose four units away, and intrinsics with almost the whole ball in the image."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(points, 3, generator=generator), dim=1)
    ball = directions * torch.rand(points, 1, generator=generator) ** (1 / 3)
    cam_to_world = torch.eye(4)[None].clone()
    cam_to_world[:, 2, 3] = -4.0
    focal = 1.7 * min(size)
    intrinsics = torch.tensor([[[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]])
    return ball.to(device), cam_to_world.to(device), intrinsics.to(device)


def plain(points: Tensor, cam_to_world: Tensor, intrinsics: Tensor, size: tuple[int, int], layers: int) -> Fragments:
    """Rasterize by point peeling, with a mask of the removed points as the only state between layers."""
    width, height = size
    index, depth = [], []
    removed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for _ in range(layers):
        splats = project(points, cam_to_world[0], intrinsics[0], width, height, *SETTINGS.values())
        splats = splats.select(~removed[splats.key & 0xFFFFFFFF])
        keys = torch.full((height * width,), EMPTY, device=points.device)
        for down in range(int((splats.y1 - splats.y0).max()) + 1 if len(splats.key) else 0):
            for right in range(int((splats.x1 - splats.x0).max()) + 1):
                x, y = splats.x0 + right, splats.y0 + down
                covered = (x <= splats.x1) & (y <= splats.y1)
                keys.scatter_reduce_(0, (y * width + x)[covered], splats.key[covered], "amin")
        covered_pixels = keys != EMPTY
        visible = torch.where(covered_pixels, keys & 0xFFFFFFFF, -1)
        removed[visible[covered_pixels]] = True
        index.append(visible.int().reshape(height, width))
        bits = torch.where(covered_pixels, keys >> 32, 0).int()
        depth.append(bits.view(torch.float32).reshape(height, width))
    return Fragments(torch.stack(index)[None], torch.stack(depth)[None])


def copy(points: int, layers: int, size: tuple[int, int], device: torch.device) -> Callable[[], object]:
    """Return a function that copies as many bytes as the points, indices and depths have together."""
    moved = 12 * points + 8 * layers * size[0] * size[1]
    source = torch.zeros(moved // 2, dtype=torch.uint8, device=device)  # a copy reads and writes
    target = torch.zeros_like(source)
    return lambda: target.copy_(source)


def rows(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure every combination of the options; return the rows."""
    size = (options.size[0], options.size[1])
    result = []
    for count in options.points:
        scene = cloud(count, size, device)
        for layers in options.layers:
            for peeling in options.peelings:
                result += _rows_of_setting(options, device, scene, size, layers, peeling)
    return result


def _rows_of_setting(
    options: argparse.Namespace,
    device: torch.device,
    scene: tuple[Tensor, Tensor, Tensor],
    size: tuple[int, int],
    layers: int,
    peeling: str,
) -> list[dict[str, Any]]:
    points = len(scene[0])

    def rasterize_on(backend: str) -> Callable[[], Fragments]:
        return lambda: rasterize(*scene, size, **SETTINGS, layers=layers, peeling=peeling, backend=backend)

    runs: dict[str, Callable[[], object]] = {
        "kernel": rasterize_on("compiled"),
        "reference": rasterize_on("torch"),
        "plain": lambda: plain(*scene, size, layers),
        "copy": copy(points, layers, size, device),
    }
    result = []
    for method in options.methods:
        slow = method in ("reference", "plain")
        if (method == "plain" and peeling == "pixel") or (slow and points > options.slow_up_to):
            continue
        equal = None
        if slow and "kernel" in options.methods:
            first, second = runs[method](), runs["kernel"]()
            assert isinstance(first, Fragments)
            assert isinstance(second, Fragments)
            equal = torch.equal(first.index, second.index) and torch.equal(first.depth, second.depth)
        timing = measure(
            runs[method],
            repeats=options.repeats,
            device=device,
            warm_up=0 if slow else 3,
            limit_s=options.limit,
        )
        result.append(
            {
                "points": points,
                "layers": layers,
                "peeling": peeling,
                "size": list(size),
                "method": method,
                "median_ms": timing.median,
                "low_ms": timing.low,
                "high_ms": timing.high,
                "best_ms": timing.best,
                "runs": timing.runs,
                "equal": equal,
            }
        )
        print(
            f"{points:,} points, {layers} layers, {peeling}, {method}: {timing.median:.3g} ms",
            file=sys.stderr,
        )
    return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=lambda text: int(float(text)), nargs="+", default=[10**4, 10**5, 10**6, 10**7])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 6])
    parser.add_argument("--peelings", choices=("point", "pixel"), nargs="+", default=["point", "pixel"])
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--size", type=int, nargs=2, default=[600, 600], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds a row may take")
    parser.add_argument("--slow-up-to", type=lambda text: int(float(text)), default=10**6, metavar="POINTS",
                        help="leave reference and plain out above this many points")  # fmt: skip
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "projection.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    if "kernel" in options.methods and not compiled_available(device):
        print(f"no compiled kernel for {device}: run 'python -m pcpr_ext.build'", file=sys.stderr)
        return 2
    described = environment(device, options)
    measured = rows(options, device)
    print_table(measured, COLUMNS)
    write_json(options.output, measured, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
