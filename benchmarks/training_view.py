# SPDX-License-Identifier: Apache-2.0
"""What `npcr train --view` costs a training: milliseconds from step to step, with and without somebody who looks.

    python benchmarks/training_view.py --config-file datasets/bob/scene.yml MODEL.DEVICE cpu
    python benchmarks/training_view.py --config-file datasets/bob/scene.yml --rounds 20 MODEL.DEVICE cuda

One training takes blocks of steps by turns: "alone", without the viewer's handlers; "nobody looks", with the viewer but
no browser; "one looks", whose camera rests; "one moves", whose camera never does. A browser is stood in for by its
requests, and its pictures are encoded as viser does. Nothing is trained to an end or kept.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Hashable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import npcr.entry_point  # noqa: E402, F401  before torch is loaded

# isort: split
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from ignite.engine import Engine as TrainingEngine  # noqa: E402
from ignite.engine import Events  # noqa: E402

from benchmarks.common import environment, print_table, write_json  # noqa: E402
from npcr import cli  # noqa: E402
from npcr.config import changed  # noqa: E402
from npcr.training.log import TrainingLog  # noqa: E402
from npcr.training.trainer import Trainer  # noqa: E402
from npcr.viewer.live import LiveTraining  # noqa: E402
from npcr.viewer.pictures import View  # noqa: E402
from npcr.viewer.scheduler import QuickScale  # noqa: E402

CASES = ("alone", "nobody looks", "one looks", "one moves")
ENDLESS = 100_000  # epochs: the blocks end the training


class Looking(LiveTraining):
    """A live training whose browser is stood in for, and that counts the time from step to step in each case."""

    def __init__(self, trainer: Trainer, block: int, rounds: int, size: tuple[int, int]) -> None:
        super().__init__(trainer, port=8480)
        self.block, self.rounds, self.size = block, rounds, size
        self.milliseconds: dict[str, list[float]] = {case: [] for case in CASES}
        self.frames = dict.fromkeys(CASES, 0)
        self._scale = QuickScale()
        self._case = CASES[0]
        self._moving = threading.Event()

    def attach(self, engine: TrainingEngine, log: TrainingLog) -> None:
        """As always, with our rendering in place of the browsers'."""
        super().attach(engine, log)
        assert self._app is not None
        self._app.scheduler._render = self._draw  # type: ignore[method-assign]
        settings = self._app.settings
        self._view = View(settings.pose, settings.fov, self.size)
        self._start = time.perf_counter()
        self._steps = 0
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._count, engine)

    def _between_steps(self) -> None:
        if self._case != "alone":
            super()._between_steps()

    def _count(self, engine: TrainingEngine) -> None:
        now = time.perf_counter()
        self._steps += 1
        block, step = divmod(self._steps, self.block)
        if step > self.block // 5:  # the case has settled
            self.milliseconds[self._case].append(1000 * (now - self._start))
        if step == 0:
            self._enter(CASES[block % len(CASES)])
            if block == self.rounds * len(CASES):
                engine.terminate()
        self._start = time.perf_counter()

    def _enter(self, case: str) -> None:
        assert self._app is not None
        self._moving.clear()
        self._app.scheduler.remove(self._case)
        self._case = case
        if case in CASES[2:]:
            if case == "one moves":
                self._moving.set()
            self._app.scheduler.submit(case, self._view)

    def _draw(self, key: Hashable, view: View, quick: bool) -> None:
        assert self._app is not None
        shown = self._app.engine.show(view, self._scale.scale if quick else 1.0)
        if quick:
            self._scale.learn(shown.seconds)
        cv2.imencode(".jpg" if quick else ".png", shown.picture[..., ::-1])
        self.frames[str(key)] += 1  # of the case that asked, though it may have ended meanwhile
        if self._moving.is_set():
            self._app.scheduler.submit(key, self._view)


def main() -> None:
    """Train, print a row for each case, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, default=ROOT / "datasets" / "bob" / "scene.yml")
    parser.add_argument("--block", type=int, default=50, metavar="N", help="steps of a case in a row (default: 50)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of all cases (default: 5)")
    parser.add_argument("--size", type=int, nargs=2, default=[400, 400], help="of the window (default: 400 400)")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "benchmarks" / "training_view.json")
    cli.add_config_options(parser)
    args = parser.parse_args()
    given, _ = cli.config_from_args(args)
    device = cli.resolve_device(given.MODEL.DEVICE)
    described = environment(device, args)
    with tempfile.TemporaryDirectory() as folder:
        cfg = changed(given, OUTPUT_DIR=folder, SOLVER__MAX_EPOCHS=ENDLESS, SOLVER__MAX_MINUTES=0.0,
                      SOLVER__CHECKPOINT_PERIOD=ENDLESS, TEST__PERIOD=0)
        trainer = Trainer(cfg, device)
        with Looking(trainer, args.block, args.rounds, tuple(args.size)) as live:
            trainer.run(live.attach)
    rows = [{"case": case, "ms": statistics.median(times), "mean_ms": statistics.fmean(times),
             "p95_ms": float(np.percentile(times, 95)), "steps": len(times), "frames": live.frames[case]}
            for case, times in live.milliseconds.items()]
    for row in rows:
        row["mean_cost"] = f"{100 * (row['mean_ms'] / rows[0]['mean_ms'] - 1):+.1f} %"
    print_table(rows, ("case", "ms", "mean_ms", "p95_ms", "mean_cost", "steps", "frames"))
    write_json(args.output, rows, described)
    print(f"written to {args.output}")


if __name__ == "__main__":
    main()
