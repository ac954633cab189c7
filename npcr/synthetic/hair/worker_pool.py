# SPDX-License-Identifier: Apache-2.0
"""Rendering in several processes; each has its own Mitsuba and the model in memory once."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npcr.errors import NpcrError
from npcr.synthetic.hair.rendering import Geometry, HairRenderer, Optics

_PATIENCE = 2  # seconds that a process asked to end may take


@dataclass(frozen=True)
class Job:
    """One picture to render."""

    kind: str  # "view" or "frame"
    index: int
    cam_to_world: np.ndarray  # (4, 4)
    seed: int
    samples: int  # light paths for each pixel
    with_geometry: bool


@dataclass(frozen=True)
class Result:
    """What came of a job."""

    job: Job
    picture: np.ndarray  # (H, W, 4) float32, linear, premultiplied
    geometry: Geometry | None


def render_all(folder: Path, optics: Optics, jobs: Sequence[Job], workers: int) -> Generator[Result, None, None]:
    """Render `jobs` in `workers` processes, each with its share of the cores; results as they come.

    What a picture looks like depends neither on the number of processes nor on the order. When the consumer
    stops (Ctrl-C, an error), the processes are ended at once. Raises `NpcrError` where one dies.
    """
    if not jobs:
        return
    workers = min(workers, len(jobs))
    threads = max(1, multiprocessing.cpu_count() // workers)
    others = set(multiprocessing.active_children())
    # Spawned, not forked: torch and Mitsuba have threads of their own.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (folder, optics, threads))
    try:
        for done in as_completed([pool.submit(_render, job) for job in jobs]):
            yield done.result()
    except BrokenProcessPool:
        fewer = f", with fewer --workers than {workers} where memory is short" if workers > 1 else ""
        raise NpcrError("a rendering process died, for want of memory or of a fault in Mitsuba; what is finished is "
                        f"kept: run the command again{fewer}, or with another --seed where it stops at the same "
                        "picture") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children = set(multiprocessing.active_children()) - others
        for child in children:
            child.terminate()
        for child in children:
            child.join(_PATIENCE)
            if child.is_alive():
                child.kill()


_renderer: HairRenderer | None = None  # of this worker process


def _start(folder: Path, optics: Optics, threads: int) -> None:
    global _renderer
    # The parent decides what Ctrl-C does. Mitsuba would take it for a wish to return half a picture, and sets its
    # own handler while it renders; in a process group of its own a worker never hears of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    _renderer = HairRenderer(folder, optics, threads)


def _render(job: Job) -> Result:
    assert _renderer is not None
    picture = _renderer.photograph(job.cam_to_world, job.seed, job.samples)
    return Result(job, picture, _renderer.geometry(job.cam_to_world) if job.with_geometry else None)
