# SPDX-License-Identifier: Apache-2.0
"""A refining run: passes, what is measured between them, the best model kept, going on after a stop.

Two files beside the model: `nr_model_{epoch}_refined.pth`, the best so far, and `nr_optimizer_{epoch}_refined.pth`,
what going on needs.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from npcr.checkpoints import files
from npcr.checkpoints.model import ModelCheckpoint
from npcr.errors import CheckpointError
from npcr.refine.validation import RefineValidator, ValidationScores

logger = logging.getLogger("npcr")


class Scheme(Protocol):
    """A way to refine: `PathRefiner`, as published, or `SteadyRefiner`."""

    renderer: Any  # a LayeredRenderer
    optimizer: torch.optim.Optimizer
    steps_per_pass: int
    whole_passes: bool  # a pass that was stopped has changed nothing, and is begun anew

    def run_pass(self, number: int, first: int = 0) -> Iterator[Any]:
        """Yields a NamedTuple of losses, with `total`, after each of the pass's steps from `first` on."""
        ...


@dataclass(frozen=True)
class RunSettings:
    """How a run is led."""

    passes: int
    drop: float  # dB that PSNR may lie below the start's; infinite: the last pass is the result
    patience: int  # passes in a row of good PSNR but no less flicker before the run ends; 0: never
    identity: dict[str, Any]  # what must be the same to go on: plain values


class Progress(NamedTuple):
    """How far a run has come."""

    passes: int = 0  # that were completed
    steps: int = 0  # of the pass that was not
    best_pass: int = 0  # 0: the unrefined model
    waited: int = 0  # passes in a row of good PSNR but no less flicker


class RefineRun:
    """One run: `RefineRun(...).run()`.

    source: the unrefined model, whose points and configuration the result keeps. destination: the refined
    model's file; the state goes beside it. log: TensorBoard's folder.
    """

    def __init__(self, scheme: Scheme, gauge: RefineValidator, settings: RunSettings, *, source: ModelCheckpoint,
                 destination: Path, log: Path) -> None:
        self.scheme = scheme
        self.gauge = gauge
        self.settings = settings
        self.source = source
        self.destination = destination
        self.state_file = state_path(destination)
        self.log = log
        self.progress = Progress()
        self.start: ValidationScores | None = None
        self.best: ValidationScores | None = None
        self.stop_asked = False
        self.has_result = False  # whether `destination` holds what this run made

    def run(self, resume: bool = False) -> ValidationScores:
        """Refine to the last pass, or until nothing gets better; gives the result's scores.

        Where no pass was worth keeping the result is the unrefined model.

        Ctrl-C finishes the step, writes both files and raises `KeyboardInterrupt`.
        """
        if resume:
            self._load()
        previous = signal.signal(signal.SIGINT, self._ask_to_stop)
        try:
            with SummaryWriter(str(self.log), purge_step=self.progress.passes + 1 if resume else None) as board:
                if self.start is None:
                    self._begin(board)
                while self.progress.passes < self.settings.passes and not self._is_stuck():
                    self._pass(board)
        finally:
            signal.signal(signal.SIGINT, previous)
        if self.progress.best_pass == 0:
            self._save_model(self.source.model)
        assert self.best is not None
        return self.best

    def _begin(self, board: SummaryWriter) -> None:
        self.start = self.best = self.gauge.measure(self.scheme.renderer)
        self._report(board, self.start, "unrefined")
        self._stop_if_asked()

    def _pass(self, board: SummaryWriter) -> None:
        number, first = self.progress.passes + 1, self.progress.steps
        sums: dict[str, float] = {}
        steps = self.scheme.steps_per_pass
        with tqdm(total=steps, initial=first, desc=f"pass {number}/{self.settings.passes}", unit="step",
                  leave=False, dynamic_ncols=True) as bar:
            for losses in self.scheme.run_pass(number, first):
                for name, value in losses._asdict().items():
                    sums[name] = sums.get(name, 0.0) + value
                bar.set_postfix(loss=f"{losses.total:.4g}", refresh=False)
                bar.update()
                self.progress = self.progress._replace(steps=self.progress.steps + 1)
                if self.progress.steps < steps:
                    self._stop_if_asked()
        means = {name: value / (steps - first) for name, value in sums.items()}
        for name, value in means.items():
            board.add_scalar(f"refine/{name}", value, number)
        self.progress = self.progress._replace(passes=number, steps=0)
        self._judge(board, number, means)
        self._save_state()
        self._stop_if_asked()

    def _judge(self, board: SummaryWriter, number: int, means: dict[str, float]) -> None:
        """Measure; keep the model where it is the best so far."""
        assert self.start is not None
        assert self.best is not None
        scores = self.gauge.measure(self.scheme.renderer)
        terms = ", ".join(f"{name} {value:.6f}" for name, value in means.items() if name != "total")
        last_counts = self.settings.drop == float("inf")
        fits = scores.keeps(self.start, self.settings.drop)
        better = last_counts or (fits and scores.flicker < self.best.flicker)
        note = "" if better else (" (not kept: no steadier)" if fits else " (not kept: PSNR too low)")
        # Where PSNR is too low the falling learning rate may yet bring it back.
        self.progress = self.progress._replace(waited=self.progress.waited + 1 if fits and not better else 0)
        self._report(board, scores, f"pass {number}: loss {means['total']:.6f} ({terms})", note)
        if better:
            self.best = scores
            self.progress = self.progress._replace(best_pass=number)
            self._save_model(self.scheme.renderer.state_dict())

    def _report(self, board: SummaryWriter, scores: ValidationScores, what: str, note: str = "") -> None:
        tqdm.write(f"{what}: {scores}{note}")
        for name, value in asdict(scores).items():
            if value == value:  # not NaN
                board.add_scalar(f"validation/{name}", value, self.progress.passes)

    def _is_stuck(self) -> bool:
        waited = self.progress.waited
        stuck = 0 < self.settings.patience <= waited
        if stuck:
            tqdm.write(f"the last {waited} passes were no steadier; stopping (REFINE.PATIENCE)")
        return stuck

    # Stopping and going on --------------------------------------------------------------------------------

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stop_asked:
            raise KeyboardInterrupt
        self.stop_asked = True
        logger.info("\nstopping after this step or measurement and writing what there is (Ctrl-C again: at once, "
                    "without)")

    def _stop_if_asked(self) -> None:
        if self.stop_asked:
            if self.scheme.whole_passes:
                self.progress = self.progress._replace(steps=0)
            self._save_state()
            raise KeyboardInterrupt

    def _save_model(self, state: dict[str, Tensor]) -> None:
        files.save_model(self.destination, replace(self.source, model=_on_cpu(state)))
        self.has_result = True

    def _save_state(self) -> None:
        assert self.start is not None
        assert self.best is not None
        files.save_training_state(self.state_file, {
            "identity": self._identity(), "progress": list(self.progress), "start": asdict(self.start),
            "best": asdict(self.best), "model": _on_cpu(self.scheme.renderer.state_dict()),
            "optimizer": self.scheme.optimizer.state_dict()})

    def _load(self) -> None:
        """Go on from the state beside the result. Raises `CheckpointError` where it is of another run."""
        state = files.load_training_state(self.state_file)
        identity = self._identity()
        for name, now in identity.items():
            then = state["identity"].get(name)
            if then != now:
                shown = "" if name == "model" else f" ({then} then, {now} now)"
                raise CheckpointError(f"{self.state_file}: cannot go on: {name} differs from the run that wrote "
                                      f"it{shown}; --overwrite begins anew")
        self.progress = Progress(*state["progress"])
        if self.progress.best_pass and not self.destination.exists():
            raise CheckpointError(f"{self.destination}: is gone, which held the best of the run so far (pass "
                                  f"{self.progress.best_pass}); --overwrite begins anew")
        self.has_result = self.progress.best_pass > 0
        self.start, self.best = ValidationScores(**state["start"]), ValidationScores(**state["best"])
        self.scheme.renderer.load_state_dict(state["model"])
        self.scheme.optimizer.load_state_dict(state["optimizer"])
        logger.info("going on from %s: %d of %d passes done", self.state_file, self.progress.passes,
                    self.settings.passes)

    def _identity(self) -> dict[str, Any]:
        """The run's settings, and a vector of the unrefined model by which another one shows."""
        return {**self.settings.identity, "model": self.source.model["default_feature"].tolist()}


def state_path(destination: Path) -> Path:
    """Where the state of a run that writes `destination` lies."""
    return destination.with_name(destination.name.replace("nr_model_", "nr_optimizer_", 1))


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
