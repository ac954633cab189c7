# SPDX-License-Identifier: Apache-2.0
"""Latency of the viewer's server: from a camera's move to the encoded picture, quick frames and full ones.

A camera moves around the object, one request after the other, as a browser sends them: `moving` is the time from the
request to the JPEG of the quick frame, at the scale that the viewer has settled on; `still` from the end of the move
to the PNG of the full frame, of which `scheduler.SETTLE` seconds are waiting. The network and the browser come on top.
"""

from __future__ import annotations

import argparse
import json
import platform
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
import torch  # noqa: E402

from npcr import cli  # noqa: E402
from npcr.camera_paths import look_at  # noqa: E402
from npcr.checkpoints import choose_model  # noqa: E402
from npcr.factory import load_renderer, prepare_rendering  # noqa: E402
from npcr.installation import commit  # noqa: E402
from npcr.io.json_files import write_json  # noqa: E402
from npcr.viewer.pictures import Engine, View  # noqa: E402
from npcr.viewer.scheduler import SETTLE, FrameScheduler, QuickScale  # noqa: E402

EXAMPLES = """\
  python benchmarks/viewer.py --config-file output/beads/strands/config.yml MODEL.DEVICE cpu
"""


class Timed:
    """Renders and encodes for one browser, and tells when each frame was ready."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.scale = engine, QuickScale()
        self.ready = {True: threading.Event(), False: threading.Event()}

    def render(self, _: Hashable, view: View, quick: bool) -> None:
        """As `ViewerApp` does."""
        shown = self.engine.show(view, self.scale.scale if quick else 1.0)
        if quick:
            self.scale.learn(shown.seconds)
        cv2.imencode(".jpg" if quick else ".png", shown.picture[..., ::-1])
        self.ready[quick].set()


def measure(engine: Engine, side: int, moves: int) -> dict[str, Any]:
    """Time moves of a square window's camera, in milliseconds."""
    points = engine.renderer.points(0).cpu().numpy()
    center, radius = points.mean(axis=0), 2.5 * float(points.std(axis=0).max())
    views = [View(look_at(center + 2.5 * radius * np.array([np.cos(a), np.sin(a), 0.2]), center), 36.0, (side, side))
             for a in np.linspace(0, 2, moves + 10)]
    timed = Timed(engine)
    scheduler: FrameScheduler[View] = FrameScheduler(timed.render, lambda _, error: print(error, file=sys.stderr))
    moving, still = [], []
    for index, view in enumerate(views):
        timed.ready[True].clear()
        start = time.perf_counter()
        scheduler.submit("browser", view)
        timed.ready[True].wait(60)
        if index >= 10:  # the scale has settled
            moving.append(1000 * (time.perf_counter() - start))
    for view in views[:max(5, moves // 4)]:
        timed.ready[False].clear()
        start = time.perf_counter()
        scheduler.submit("browser", view)
        timed.ready[False].wait(60)
        still.append(1000 * (time.perf_counter() - start))
    scheduler.stop()
    return {"side": side, "scale": timed.scale.scale, "settle_ms": 1000 * SETTLE,
            **{name: {"median": statistics.median(times), "p95": float(np.percentile(times, 95)), "count": len(times)}
               for name, times in (("moving_ms", moving), ("still_ms", still))}}


def main() -> None:
    """Measure each side, write the JSON, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, epilog="examples:\n" + EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, required=True, help="of a model, as npcr view takes it")
    parser.add_argument("--sides", type=int, nargs="+", default=[200, 400], help="pixels (default: 200 400)")
    parser.add_argument("--moves", type=int, default=60, help="of the camera, for each side (default: 60)")
    parser.add_argument("--output", type=Path, help="JSON of the results")
    cli.add_config_options(parser)
    args = parser.parse_args()
    given, explicit = cli.config_from_args(args)
    device = cli.resolve_device(given.MODEL.DEVICE)
    renderer, cfg, _ = load_renderer(given, choose_model(None, given.OUTPUT_DIR, given.LOAD_EPOCH), device,
                                     explicit=explicit)
    prepare_rendering(renderer, cfg)
    results = [measure(Engine(renderer), side, args.moves) for side in args.sides]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    report = {"form": cfg.MODEL.FORM, "points": len(renderer.points(0)), "device": name,
              "threads": torch.get_num_threads(), "commit": commit(), "results": results}
    if args.output:
        write_json(args.output, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
