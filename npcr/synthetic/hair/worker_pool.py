# SPDX-License-Identifier: Apache-2.0
"""Rendering in several processes; each loads Mitsuba and the model once."""

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
from npcr.synthetic.hair.rendering import GeometryImage, HairRenderer, Intrinsics

_TERMINATION_TIMEOUT = 2  # seconds after which a process that was terminated is killed


@dataclass(frozen=True)
class RenderJob:
    """One image to render."""

    kind: str  # "view": a photograph, "frame": of the video path
    index: int  # among its kind
    cam_to_world: np.ndarray  # (4, 4)
    seed: int
    samples: int  # light paths for each pixel
    with_geometry: bool


@dataclass(frozen=True)
class RenderResult:
    """The result of a job."""

    job: RenderJob
    image: np.ndarray  # (H, W, 4) float32 premultiplied RGBA, linear light
    geometry: GeometryImage | None  # where the job has `with_geometry`


def render_all(folder: Path, intrinsics: Intrinsics, jobs: Sequence[RenderJob],
               workers: int) -> Generator[RenderResult, None, None]:
    """Render in several processes, which share the cores.

    Images depend neither on the number of processes nor on the order. When the generator is closed (Ctrl-C, an error),
    the processes are terminated at once.

    Args:
        folder: that of `write_model`.
        intrinsics: of all images.
        jobs: the images to render.
        workers: processes, at least 1.

    Yields:
        Results in the order in which they are finished.

    Raises:
        NpcrError: a process died.
    """
    if not jobs:
        return
    workers = min(workers, len(jobs))
    threads = max(1, multiprocessing.cpu_count() // workers)
    others = set(multiprocessing.active_children())
    # Spawned, not forked: torch and Mitsuba have threads, which do not survive a fork.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (folder, intrinsics, threads))
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
            child.join(_TERMINATION_TIMEOUT)
            if child.is_alive():
                child.kill()


_renderer: HairRenderer | None = None  # of this worker process


def _start(folder: Path, intrinsics: Intrinsics, threads: int) -> None:
    global _renderer
    # Only the parent handles Ctrl-C. Mitsuba installs its own handler while it renders, which would return an
    # unfinished image; in a process group of its own a worker does not receive the signal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    _renderer = HairRenderer(folder, intrinsics, threads)


def _render(job: RenderJob) -> RenderResult:
    assert _renderer is not None
    image = _renderer.render(job.cam_to_world, job.seed, job.samples)
    return RenderResult(job, image, _renderer.render_geometry(job.cam_to_world) if job.with_geometry else None)
