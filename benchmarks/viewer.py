# SPDX-License-Identifier: Apache-2.0
"""Latency of the viewer's server: from a camera's move to the encoded picture, quick frames and full ones.

A camera moves around the object, one request after the other, as a browser sends them: `moving` is the time from the
request to the JPEG of the quick frame, at the scale that the viewer has settled on; `still` from the end of the move
to the PNG of the full frame, of which `scheduler.SETTLE` seconds are waiting. The network and the browser come on top.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Hashable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from yacs.config import CfgNode  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.camera_paths import look_at  # noqa: E402
from npcr.checkpoints import choose_model  # noqa: E402
from npcr.config import changed  # noqa: E402
from npcr.errors import NpcrError  # noqa: E402
from npcr.factory import build_renderer, load_renderer, prepare_rendering  # noqa: E402
from npcr.io.points import PointCloud  # noqa: E402
from npcr.renderers import Renderer  # noqa: E402
from npcr.viewer.pictures import Engine, View  # noqa: E402
from npcr.viewer.scheduler import FrameScheduler, QuickScale  # noqa: E402

EXAMPLES = """\
  python benchmarks/viewer.py --config-file output/beads/strands/config.yml MODEL.DEVICE cpu
  python benchmarks/viewer.py --splats 90000 --output output/benchmarks/viewer_gpu.json MODEL.DEVICE cuda
      without a model or a scene: a ball of random splats; on a GPU at 800x800, too
"""


class Timed:
    """Renders and encodes for one browser, and tells when each frame was ready."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.scale = engine, QuickScale()
        self.ready = {True: threading.Event(), False: threading.Event()}
        self.error: Exception | None = None

    def render(self, _: Hashable, view: View, quick: bool) -> None:
        """As `ViewerApp` does."""
        shown = self.engine.show(view, self.scale.scale if quick else 1.0)
        if quick:
            self.scale.learn(shown.seconds)
        cv2.imencode(".jpg" if quick else ".png", shown.picture[..., ::-1])
        self.ready[quick].set()

    def fail(self, _: Hashable, error: Exception) -> None:
        """Let who waits for the frame know."""
        self.error = error
        for event in self.ready.values():
            event.set()

    def milliseconds(self, scheduler: FrameScheduler[View], view: View, quick: bool) -> float:
        """Ask for a view, and time its quick or its full frame."""
        self.ready[quick].clear()
        start = time.perf_counter()
        scheduler.submit("browser", view)
        self.ready[quick].wait()
        if self.error is not None:
            raise NpcrError(f"a frame of {view.size[0]}x{view.size[1]} failed: {self.error}")
        return 1000 * (time.perf_counter() - start)


def measure(engine: Engine, side: int, moves: int) -> dict[str, Any]:
    """Time moves of a square window's camera, in milliseconds."""
    points = engine.renderer.points(0).cpu().numpy()
    center, radius = points.mean(axis=0), 2.5 * float(points.std(axis=0).max())
    views = [View(look_at(center + 2.5 * radius * np.array([np.cos(a), np.sin(a), 0.2]), center), 36.0, (side, side))
             for a in np.linspace(0, 2, moves + 10)]
    timed = Timed(engine)
    scheduler: FrameScheduler[View] = FrameScheduler(timed.render, timed.fail)
    try:
        moving = [timed.milliseconds(scheduler, view, True) for view in views][10:]  # by then the scale has settled
        still = [timed.milliseconds(scheduler, view, False) for view in views[:max(5, moves // 4)]]
    finally:
        scheduler.stop()
    row = {"side": side, "scale": timed.scale.scale}
    for name, times in (("moving", moving), ("still", still)):
        row |= {f"{name}_ms": statistics.median(times), f"{name}_p95_ms": float(np.percentile(times, 95)),
                f"{name}_count": len(times)}
    return row


def ball(count: int, cfg: CfgNode) -> Renderer:
    """Make an untrained model of the strands form, of random splats in a ball."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    places = (directions * rng.uniform(0.8, 1, (count, 1))).astype(np.float32)
    cloud = PointCloud(places, rng.integers(0, 256, (count, 3)).astype(np.uint8))
    return build_renderer(changed(cfg, MODEL__FORM="strands"), [cloud]).eval()


def load(args: argparse.Namespace) -> tuple[Renderer, CfgNode]:
    """Load the model, or make the ball, on the device that MODEL.DEVICE names."""
    given, explicit = cli.config_from_args(args)
    device = cli.resolve_device(given.MODEL.DEVICE)
    if args.splats:
        return ball(args.splats, given).to(device), given
    checkpoint = choose_model(None, given.OUTPUT_DIR, given.LOAD_EPOCH)
    return load_renderer(given, checkpoint, device, explicit=explicit)[:2]


def main() -> None:
    """Measure each side, write the JSON, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="examples:\n" + EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, default=ROOT / "configs" / "demo.yml",
                        help="of a model, as npcr view takes it; with --splats of any configuration")
    parser.add_argument("--splats", type=int, metavar="N", help="measure a ball of N random splats in place of a model")
    parser.add_argument("--sides", type=int, nargs="+", help="pixels (default: 200 400, on a GPU 200 400 800)")
    parser.add_argument("--moves", type=int, default=60, help="of the camera, for each side (default: 60)")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "viewer.json",
                        help="JSON of the results (default: output/benchmarks/viewer.json)")
    cli.add_config_options(parser)
    args = parser.parse_args()
    renderer, cfg = load(args)
    prepare_rendering(renderer, cfg)
    device = renderer.device
    sides = args.sides or ([200, 400, 800] if device.type == "cuda" else [200, 400])
    described = environment(device, args)
    rows = []
    for side in sides:
        print(f"{side}x{side}: {args.moves + 10} moves", file=sys.stderr)
        rows.append({"form": "strands" if args.splats else cfg.MODEL.FORM, "trained": not args.splats,
                     "points": len(renderer.points(0)), **measure(Engine(renderer), side, args.moves)})
    print_table(rows, ("form", "points", "side", "moving_ms", "moving_p95_ms", "scale", "still_ms", "still_p95_ms"))
    write_json(args.output, rows, described)
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
