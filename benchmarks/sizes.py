# SPDX-License-Identifier: Apache-2.0
"""Memory and time over points, pixels and tiles, beside the formulas of docs/sizes.md.

    python benchmarks/sizes.py
    python benchmarks/sizes.py --only tiles --size 4096 4096 --tile 1024

Each measurement is a process of its own, whose peak memory is what it had at its largest less what it had just before
the renderer was made (on a GPU torch's own count; else it needs Linux, which tells a process's peak since a reset).
"tiles": a frame of the strands form whole and in tiles, and the largest difference of their numbers. "frames" and
"steps": one without gradients, one of training (Adam), by points and by pixels; column "formula_mb" is what
docs/sizes.md says, "of_formula" the ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402

from benchmarks.common import PeakMemory, environment, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.renderers import StrandsRenderer  # noqa: E402
from npcr.renderers.tiles import render_pictures  # noqa: E402

COLUMNS = ("kind", "points", "width", "height", "tile", "seconds", "peak_mb", "formula_mb", "of_formula", "error")
FEATURES, WIDTH, DEGREE = 4, 8, 2  # of the recommended strands form
NUMBERS = 3 + 3 * (DEGREE + 1) ** 2 + 3 + 3 + 2 + FEATURES  # of a point: cloud, color, place, strand, two, features


def formula_mb(kind: str, points: int, pixels: int, tile_pixels: int) -> float:
    """Return docs/sizes.md's memory in MiB, of a frame or a training step of the strands form."""
    maps = FEATURES + 7  # what the network sees of a pixel
    if kind == "step":
        values = points * (4 * NUMBERS + 8 + 2 * (FEATURES + 4) + 30) + pixels * (2 * maps + 22 * WIDTH)
    else:
        values = points * (NUMBERS + 8 + 2 * (FEATURES + 4) + 16) + 5 * pixels
        values += (tile_pixels or pixels) * (3 * maps + 7 * WIDTH)
    return 4 * values / 2**20


def make(points: int, size: tuple[int, int], device: torch.device) -> tuple[StrandsRenderer, Cameras]:
    """Return strands on a ball that fills most of the picture, and a camera."""
    torch.manual_seed(0)
    cloud = torch.nn.functional.normalize(torch.randn(points, 3), dim=1)
    spacing = (12.57 / points) ** 0.5
    renderer = StrandsRenderer([cloud], [spacing], torch.rand(points, 3).split(points), feature_dim=FEATURES,
                               width=WIDTH, degree=DEGREE, strands=False)
    with torch.no_grad():
        renderer.opacity[0].fill_(2.0)
        for parameter in renderer.network.parameters():  # as trained: its last layer starts at 0
            if parameter.ndim == 4:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    pose = torch.eye(4)[None].clone()
    pose[0, 2, 3] = -3.0
    focal = 1.2 * min(size)
    intrinsics = torch.tensor([[[focal, 0, size[0] / 2 - 0.5], [0, focal, size[1] / 2 - 0.5], [0, 0, 1]]])
    return renderer.to(device), Cameras(pose, intrinsics, size).to(device)


def measure_here(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one thing in this process."""
    device, size = torch.device(options.device), tuple(options.size)
    make(1000, (64, 64), device)[0](*make(1000, (64, 64), device)[1:])  # libraries, and threads
    peak = PeakMemory(device)
    renderer, camera = make(int(options.points), size, device)
    start = time.perf_counter()
    if options.kind == "step":
        optimizer = torch.optim.Adam(renderer.parameters(), lr=1e-3)
        renderer.train()(camera).color.square().mean().backward()
        optimizer.step()
    else:
        renderer.eval().tile = options.tile
        with torch.no_grad():
            output = render_pictures(renderer, camera)
        numbers = torch.cat([output.color, output.alpha, output.depth[:, None]], 1)
    if device.type == "cuda":
        torch.cuda.synchronize()
    row = {"kind": options.kind, "points": int(options.points), "width": size[0], "height": size[1],
           "tile": options.tile or None, "seconds": time.perf_counter() - start, "peak_mb": peak.mb()}
    if options.keep is not None:  # after the peak was read
        torch.save(numbers.cpu(), options.keep)
    return row


def measure(options: argparse.Namespace, kind: str, points: float, size: Sequence[int], tile: int = 0,
            keep: Path | None = None) -> dict[str, Any]:
    """Measure one thing in a process of its own."""
    command = [sys.executable, __file__, "--kind", kind, "--points", str(points), "--size", *map(str, size), "--tile",
               str(tile), "--device", options.device, *([] if keep is None else ["--keep", str(keep)])]
    text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    row: dict[str, Any] = json.loads(text.splitlines()[-1])
    seen = min(tile + 156, size[0]) * min(tile + 156, size[1]) if tile else 0  # with the overlap
    row["formula_mb"] = formula_mb(kind, int(points), size[0] * size[1], seen)
    row["of_formula"] = row["peak_mb"] / row["formula_mb"]
    return row


def rows_for(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all that is asked for."""
    rows = []
    if options.only in (None, "tiles"):
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("whole.pt", "tiles.pt")]
            for file, tile in zip(files, (0, options.tile), strict=True):
                rows.append(measure(options, "frame", options.points, options.size, tile, file))
            whole, tiled = (torch.load(file, weights_only=True) for file in files)
            rows[-1]["error"] = float((whole - tiled).abs().max())
    for kind in ("frame", "step"):
        if options.only in (None, f"{kind}s"):
            rows += [measure(options, kind, points, (512, 512)) for points in (1e5, 1e6, 3e6)]
            rows += [measure(options, kind, 1e5, (side, side)) for side in (1024, 1536)]
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("tiles", "frames", "steps"), help="one part (default: all)")
    parser.add_argument("--points", type=float, default=200_000, metavar="N", help="of tiles (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(4096, 4096), metavar=("WIDTH", "HEIGHT"),
                        help="of tiles (default: 4096 4096)")
    parser.add_argument("--tile", type=int, default=1024, metavar="N", help="default: %(default)s")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "sizes.json", metavar="FILE",
                        help="default: %(default)s")
    parser.add_argument("--kind", choices=("frame", "step"), help=argparse.SUPPRESS)  # measure it in this process
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    if options.kind is not None:
        print(json.dumps(measure_here(options)))
        return 0
    described = environment(torch.device(options.device), options)
    rows = rows_for(options)
    print_table(rows, COLUMNS)
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
