# SPDX-License-Identifier: Apache-2.0
"""Runs that refine a `Shimmer` on a path of 6 cameras, and Ctrl-C in one of their steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from npcr.checkpoints import ModelCheckpoint
from npcr.config import load_config
from npcr.refine.clips import PathClips
from npcr.refine.published import PathRefiner, RefineSettings
from npcr.refine.run import RefineRun, RunSettings, Scheme
from npcr.refine.steady import PhotometricSource, SteadyRefiner, SteadySettings
from npcr.refine.validation import RefineValidator
from npcr.training.optimizers import build_optimizer
from npcr.training.pending_losses import PendingLosses
from tests.path_stub import orbit
from tests.refine.shimmer import Shimmer

RESULT = "nr_model_7_refined.pth"


def validator() -> RefineValidator:
    return RefineValidator(PathClips(orbit(6), 2), depth_tolerance=0.02, seed=0)


def shimmer_run(folder: Path, validate_by: Any, *, passes: int = 4, steps: int = 5, drop: float = 0.1,
                patience: int = 0, length: int = 2, photographs: PhotometricSource | None = None,
                published: bool = False) -> RefineRun:
    """A run whose result is `folder / RESULT`: steady, of clips of `length` frames, or as published."""
    renderer = Shimmer()
    source = ModelCheckpoint(epoch=7, config={}, model={k: v.clone() for k, v in renderer.state_dict().items()})
    optimizer = build_optimizer(load_config(), renderer, lr=0.01)
    scheme: Scheme
    if published:
        settings = RefineSettings((0.5, 0.5, 0.25, 0.75), 1e9, 0.01, perceptual=0.0)
        scheme = PathRefiner(renderer, orbit(6), optimizer, None, settings)
    else:
        scheme = SteadyRefiner(renderer, PathClips(orbit(6), length), optimizer,
                               SteadySettings(passes, steps, 0.01, 30.0, 1.0, 1.0, 0.02), photographs=photographs)
    return RefineRun(scheme, validate_by, RunSettings(passes, drop, patience, {"REFINE.STEPS": steps}), source=source,
                     destination=folder / RESULT, log=folder / "log")


def interrupt_after(run: RefineRun, steps: int, times: int = 1) -> None:
    """Ctrl-C while step `steps` of the run is done."""
    inner, count = run.scheme.run_pass, 0

    def run_pass(number: int, first: int = 0) -> Iterator[PendingLosses[Any]]:
        nonlocal count
        for loss in inner(number, first):
            count += 1
            if count == steps:
                for _ in range(times):
                    os.kill(os.getpid(), signal.SIGINT)
            yield loss

    run.scheme.run_pass = run_pass  # type: ignore[method-assign]
