# SPDX-License-Identifier: Apache-2.0
"""Time of the stages of a frame: projection, gather, network, compositing, writing; and of the plain implementation.

    python benchmarks/frame.py
    python benchmarks/frame.py --layers 1 --repeats 9
    python benchmarks/frame.py --norm batch --points 1e5 --size 300 300

"plain" projects the whole cloud once per layer, and runs each layer separately through the network of
benchmarks/plain_network.py, with two convolutions for a gated one. Its image is compared with ours (column "error",
largest difference of color and alpha). Both render the ball of benchmarks/projection.py; weights are random.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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
from benchmarks.plain_network import plain_copy  # noqa: E402
from benchmarks.projection import SETTINGS, cloud, plain  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.cameras import Cameras, view_directions  # noqa: E402
from npcr.ops import gather_features, rasterize  # noqa: E402
from npcr.renderers import LayeredRenderer, composite  # noqa: E402
from npcr.rendering.frame_writer import FrameWriter  # noqa: E402
from npcr.rendering.frames import FramePixels, render_path  # noqa: E402

COLUMNS = ("what", "median_ms", "low_ms", "high_ms", "runs", "share", "error")


def make(options: argparse.Namespace, device: torch.device) -> tuple[LayeredRenderer, Cameras]:
    """Return a renderer with random weights for the ball of points, and its camera."""
    points, pose, intrinsics = cloud(options.points, tuple(options.size), device)
    torch.manual_seed(0)
    splat = (SETTINGS["near"], SETTINGS["far"], SETTINGS["max_size"])
    renderer = LayeredRenderer([points], layers=options.layers, splat=splat, norm=options.norm)
    return renderer.eval().to(device), Cameras(pose, intrinsics, tuple(options.size))


def plain_frame(renderer: LayeredRenderer, network: torch.nn.Module, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Render the frame layer by layer, with nothing shared between layers; return color and alpha."""
    fragments = plain(renderer.points(0), cameras.cam_to_world, cameras.intrinsics, cameras.size, renderer.layers)
    index = fragments.index[0].long()
    directions = view_directions(cameras)[0]
    layers = []
    for k in range(renderer.layers):
        visible = index[k] >= 0
        features = renderer.features[0][index[k].clamp_min(0)]
        features = torch.where(visible[..., None], features, renderer.default_feature)
        layers.append(network(torch.cat([features.movedim(-1, 0), directions * visible])[None])[0])
    return composite(torch.stack(layers)[None], fragments.depth, 0.0, legacy=False)


def stages(renderer: LayeredRenderer, cameras: Cameras, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return each stage as a function, on the inputs that it has in a frame."""
    near, far, max_size = renderer.splat
    images, fragments = renderer.feature_images(cameras)
    layer_rgba = renderer.network(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    pixels = next(iter(render_path(renderer, cameras, gray=1.0, blender=None)))
    return {
        "projection": lambda: rasterize(renderer.points(0), cameras.cam_to_world, cameras.intrinsics, cameras.size,
                                        near=near, far=far, max_size=max_size, layers=renderer.layers),
        "gather": lambda: gather_features(renderer.features[0], renderer.default_feature, fragments.index),
        "network": lambda: renderer.network(images.flatten(0, 1)),
        "compositing": lambda: composite(layer_rgba, fragments.depth, 0.0, legacy=False),
        "write": lambda: _write(folder, pixels),
        "frame": lambda: renderer(cameras),
    }


def _write(folder: Path, pixels: FramePixels) -> None:
    """Write the image files and a video of one frame; in rendering, a thread does this during the next frame."""
    with FrameWriter(folder, fps=30, raw=False) as writer:
        writer.write(pixels)


def measured_rows(options: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """Measure each stage, the whole frame, and the plain implementation; return their rows."""
    renderer, cameras = make(options, device)
    plain_network = plain_copy(renderer.network, renderer.network.in_channels, options.norm)
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        runs = stages(renderer, cameras, Path(folder))
        ours = renderer(cameras)
        rgb, alpha = plain_frame(renderer, plain_network, cameras)
        error = max((ours.color - rgb).abs().max().item(), (ours.alpha - alpha).abs().max().item())
        runs["plain frame"] = lambda: plain_frame(renderer, plain_network, cameras)
        for stage, run in runs.items():
            repeats = options.plain_repeats if stage.startswith("plain") else options.repeats
            timing = measure(run, repeats=repeats, device=device, warm_up=0 if stage.startswith("plain") else 2)
            rows.append({"what": stage, "median_ms": timing.median, "low_ms": timing.low, "high_ms": timing.high,
                         "best_ms": timing.best, "runs": timing.runs})
            print(f"{stage}: {timing.median:.4g} ms", file=sys.stderr)
    whole = next(row for row in rows if row["what"] == "frame")
    for row in rows:
        row["share"] = row["median_ms"] / whole["median_ms"]
    rows[-1]["error"] = error
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=lambda text: int(float(text)), default=10**6)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--size", type=int, nargs=2, default=[600, 600], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--norm", choices=("instance", "batch", "none"), default="instance")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--plain-repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "frame.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON file."""
    options = parse(arguments)
    device = torch.device(options.device)
    described = environment(device, options)
    rows = measured_rows(options, device)
    print_table(rows, COLUMNS)
    frame, plain_row = rows[-2], rows[-1]
    print(f"the frame takes 1/{plain_row['median_ms'] / frame['median_ms']:.2f} of the plain implementation's time")
    write_json(options.output, rows, described)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    cli.run(lambda: sys.exit(main()))  # float32 as in the scripts, without TF32
