# SPDX-License-Identifier: Apache-2.0
"""Time of blending a frame of a camera path with its neighbors, beside that of rendering it, in turns.

    python benchmarks/blending.py
    python benchmarks/blending.py --size 800 800 --points 1e6 --history 5 --device cuda

Frames of the strands form on an orbit in steps of a quarter of a degree. "frame" is its rendering, from a camera to
RGBA; "blending" what TEMPORAL.BLEND default adds to each; on a CPU "blending in torch" the same without its kernel.
Column "share" is the ratio to a frame's time. The points are strands on a sphere.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import torch  # noqa: E402

from benchmarks import blended, strands  # noqa: E402
from benchmarks.common import environment, measure_in_turns, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras  # noqa: E402
from npcr.config import KEYS  # noqa: E402
from npcr.temporal import DefaultBlender, RenderedFrame  # noqa: E402

COLUMNS = ("stage", "median_ms", "low_ms", "high_ms", "runs", "share")
FRAMES = 8


def orbit(camera: Cameras) -> list[Cameras]:
    """Return cameras around the vertical axis through the origin, a quarter of a degree apart."""
    result = []
    for index in range(FRAMES):
        angle = math.radians(index / 4)
        turn = torch.eye(4, device=camera.cam_to_world.device)
        turn[0, 0] = turn[2, 2] = math.cos(angle)
        turn[0, 2], turn[2, 0] = math.sin(angle), -math.sin(angle)
        result.append(replace(camera, cam_to_world=turn @ camera.cam_to_world))
    return result


def stages(options: argparse.Namespace, device: torch.device) -> dict[str, Callable[[], object]]:
    """Return what is measured, by name: each of `FRAMES` frames."""
    other, camera = blended.make(argparse.Namespace(**{**vars(options), "width": 16}), 1, device)
    renderer, cameras = strands.make_strands(options, other, device), orbit(camera)

    def render() -> list[RenderedFrame]:
        outputs = [renderer(one) for one in cameras]
        return [RenderedFrame(torch.cat([output.color, output.alpha], dim=1), output.depth, one)
                for output, one in zip(outputs, cameras, strict=True)]

    def blend(backend: str) -> Callable[[], object]:
        tolerances = (KEYS[f"TEMPORAL.{name}"].default for name in ("COLOR_TOLERANCE", "DEPTH_TOLERANCE", "ANGLE"))
        blender = DefaultBlender(options.history, *tolerances, backend=backend)
        return blended.no_grad(lambda: list(blender.blend(frames)))

    frames = blended.no_grad(render)()
    chosen = {"frame": blended.no_grad(render), "blending": blend("auto")}
    return chosen | ({} if device.type == "cuda" else {"blending in torch": blend("torch")})


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=float, default=90_000, help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=(200, 200), metavar=("W", "H"), help="default: 200 200")
    parser.add_argument("--history", type=float, default=KEYS["TEMPORAL.HISTORY"].default,
                        help="TEMPORAL.HISTORY (default: %(default)g)")
    parser.add_argument("--repeats", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "blending.json",
                        metavar="FILE", help="default: %(default)s")
    parser.set_defaults(features=4, width=0, halvings=0, field_nodes=4, dots=5)  # as new scenes have them
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    timings = measure_in_turns(stages(options, device), rounds=options.repeats, device=device)
    frame = timings["frame"].median
    rows = [{"stage": name, "median_ms": timing.median / FRAMES, "low_ms": timing.low / FRAMES,
             "high_ms": timing.high / FRAMES, "runs": timing.runs, "share": timing.median / frame}
            for name, timing in timings.items()]
    print_table(rows, COLUMNS)
    write_json(options.output, rows, environment(device, options))
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
