# SPDX-License-Identifier: Apache-2.0
"""A refining run: passes with a validation after each, keeping the best model, and resuming after a stop.

It writes two files beside the model: `nr_model_{epoch}_refined.pth`, the best model so far, and
`nr_optimizer_{epoch}_refined.pth`, the state that resuming needs. Of several processes of torchrun the first one writes
and reports; nothing in the files tells how many there were.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from npcr import checkpoints, distributed
from npcr.checkpoints import ModelCheckpoint
from npcr.errors import CheckpointError
from npcr.io.files import remove_leftovers
from npcr.progress import progress_bar, write_result
from npcr.refine.validation import RefineValidator, ValidationScores
from npcr.renderers import Renderer
from npcr.training.agreement import refuse_different_weights
from npcr.training.interruption import StopRequest
from npcr.training.pending_losses import STEPS_AHEAD, PendingLosses, take_read

logger = logging.getLogger("npcr")

FLICKER_RANGE = 1.0  # flicker is 0 to this
_OLD_FLICKER_RANGE = 255.0  # of states without the entry "flicker_range"


class Scheme(Protocol):
    """A way to refine: `PathRefiner`, as published, or `SteadyRefiner`."""

    renderer: Renderer
    optimizer: torch.optim.Optimizer
    steps_per_pass: int
    whole_passes: bool  # whether a pass that was stopped has changed nothing, and is repeated from its start

    def run_pass(self, number: int, first: int = 0) -> Iterator[PendingLosses[Any]]:
        """Yield losses, read as a NamedTuple with `total`, after each of the pass's steps from `first` on."""
        ...


@dataclass(frozen=True)
class RunSettings:
    """When a run ends, and which of its passes may be the result."""

    passes: int
    psnr_drop: float  # dB that PSNR may lie below the start's; infinite: the last pass is the result
    patience: int  # passes in a row of good PSNR but no less flicker before the run ends; 0: never
    identity: dict[str, Any]  # what must be the same to resume the run: plain values


class Progress(NamedTuple):
    """How far a run has come; states hold it as a list, in this order."""

    passes: int = 0  # completed ones
    steps: int = 0  # of the pass that is not completed
    best_pass: int = 0  # 0: the unrefined model
    stale_passes: int = 0  # in a row, of good PSNR but no less flicker


class RefineRun:
    """One run of refining: `RefineRun(...).run()`.

    Args:
        scheme: refines the model, a pass at a time.
        validator: measures it after each pass.
        settings: when the run ends, and what may be its result.
        source: the unrefined model, whose points and configuration the result keeps.
        destination: the refined model's file; the state goes beside it.
        log: TensorBoard's folder.
    """

    def __init__(self, scheme: Scheme, validator: RefineValidator, settings: RunSettings, *, source: ModelCheckpoint,
                 destination: Path, log: Path) -> None:
        self.scheme = scheme
        self.validator = validator
        self.settings = settings
        self.source = source
        self.destination = destination
        self.state_file = state_path(destination)
        self.log = log
        self.progress = Progress()
        self.start: ValidationScores | None = None
        self.best: ValidationScores | None = None
        self.stop = StopRequest()
        self.has_result = False  # whether `destination` holds a model of this run

    def run(self, resume: bool = False) -> ValidationScores:
        """Refine to the last pass, or until flicker falls no further.

        Ctrl-C finishes the step, writes both files and raises `KeyboardInterrupt`.

        Args:
            resume: continue from the state beside the result.

        Returns:
            The result's scores. Where no pass was worth keeping, the result is the unrefined model.

        Raises:
            CheckpointError: the state is missing, or of another run.
            TrainingError: a loss is not finite.
            NpcrError: another process was lost, or has other weights.
        """
        if distributed.is_writer():
            remove_leftovers(self.destination.parent)
        if resume:
            self._load()
        with self.stop.listening(), self._open_board(resume) as board:
            if self.start is None:
                self._measure_unrefined(board)
            while self.progress.passes < self.settings.passes and not self._patience_is_exhausted():
                self._run_pass(board)
        if self.progress.best_pass == 0:
            self._save_model(self.source.model)
        assert self.best is not None
        return self.best

    def _open_board(self, resume: bool) -> AbstractContextManager[SummaryWriter | None]:
        if not distributed.is_writer():
            return nullcontext()
        board: SummaryWriter = SummaryWriter(str(self.log), purge_step=self.progress.passes + 1 if resume else None)
        return board

    def _measure_unrefined(self, board: SummaryWriter | None) -> None:
        self.start = self.best = self.validator.measure(self.scheme.renderer)
        self._report(board, self.start, "unrefined")
        self._stop_if_requested()

    def _run_pass(self, board: SummaryWriter | None) -> None:
        number, first = self.progress.passes + 1, self.progress.steps
        sums: dict[str, float] = {}
        unread: deque[PendingLosses[Any]] = deque()
        steps = self.scheme.steps_per_pass
        with progress_bar(total=steps, initial=first, title=f"pass {number}/{self.settings.passes}", unit="step",
                          leave=False) as bar:
            def show(ahead: int = STEPS_AHEAD) -> None:
                for losses in take_read(unread, ahead, early=distributed.world_size() == 1):
                    for name, value in losses._asdict().items():
                        sums[name] = sums.get(name, 0.0) + value
                    bar.set_postfix(loss=f"{losses.total:.4g}", refresh=False)
                    bar.update()

            for losses in self.scheme.run_pass(number, first):
                unread.append(losses)
                self.progress = self.progress._replace(steps=self.progress.steps + 1)
                show()
                if self.progress.steps < steps:
                    self._stop_if_requested(before=lambda: show(ahead=0))  # which raises where a loss is not finite
            show(ahead=0)
        means = {name: value / (steps - first) for name, value in sums.items()}
        _add_scalars(board, "refine", means, number)
        self.progress = self.progress._replace(passes=number, steps=0)
        self._validate(board, number, means)
        self._save_state()
        self._stop_if_requested()

    def _validate(self, board: SummaryWriter | None, number: int, means: dict[str, float]) -> None:
        """Measure the model, and keep it where it is the best so far."""
        assert self.start is not None
        assert self.best is not None
        scores = self.validator.measure(self.scheme.renderer)
        terms = ", ".join(f"{name} {value:.6f}" for name, value in means.items() if name != "total")
        keeps_psnr = scores.keeps_psnr(self.start, self.settings.psnr_drop)
        better = math.isinf(self.settings.psnr_drop) or (keeps_psnr and scores.flicker < self.best.flicker)
        note = "" if better else (" (not kept: no steadier)" if keeps_psnr else " (not kept: PSNR too low)")
        # Passes of too low a PSNR are not counted: the falling learning rate may yet bring it back.
        stale = self.progress.stale_passes + 1 if keeps_psnr and not better else 0
        self.progress = self.progress._replace(stale_passes=stale)
        self._report(board, scores, f"pass {number}: loss {means['total']:.6f} ({terms})", note)
        if better:
            self.best = scores
            self.progress = self.progress._replace(best_pass=number)
            self._save_model(self.scheme.renderer.state_dict())

    def _report(self, board: SummaryWriter | None, scores: ValidationScores, label: str, note: str = "") -> None:
        _write(f"{label}: {scores}{note}")
        _add_scalars(board, "validation", asdict(scores), self.progress.passes)

    def _patience_is_exhausted(self) -> bool:
        stale = self.progress.stale_passes
        exhausted = 0 < self.settings.patience <= stale
        if exhausted:
            _write(f"the last {stale} passes were no steadier; stopping (REFINE.PATIENCE)")
        return exhausted

    # Stopping and resuming --------------------------------------------------------------------------------

    def _stop_if_requested(self, before: Callable[[], None] | None = None) -> None:
        """Save and raise `KeyboardInterrupt` where any process is to stop; all must ask after the same step."""
        if any(distributed.gather(self.stop.made)):
            if before is not None:
                before()
            if self.scheme.whole_passes:
                self.progress = self.progress._replace(steps=0)
            self._save_state()
            raise KeyboardInterrupt

    def _save_model(self, state: dict[str, Tensor]) -> None:
        self._refuse_different_weights()
        if distributed.is_writer():
            checkpoints.save_model(self.destination, replace(self.source, model=_on_cpu(state)))
        self.has_result = True

    def _save_state(self) -> None:
        assert self.start is not None
        assert self.best is not None
        self._refuse_different_weights()
        if not distributed.is_writer():
            return
        checkpoints.save_training_state(self.state_file, {
            "identity": self._identity(), "progress": list(self.progress), "flicker_range": FLICKER_RANGE,
            "start": asdict(self.start), "best": asdict(self.best), "model": _on_cpu(self.scheme.renderer.state_dict()),
            "optimizer": self.scheme.optimizer.state_dict()})

    def _refuse_different_weights(self) -> None:
        refuse_different_weights(self.scheme.renderer,
                                 self.progress.passes * self.scheme.steps_per_pass + self.progress.steps)

    def _load(self) -> None:
        """Continue from the state beside the result; `CheckpointError` where it is of another run."""
        state = checkpoints.load_training_state(self.state_file)
        identity = self._identity()
        for name, now in identity.items():
            then = state["identity"].get(name)
            if then != now:
                values = "" if name == "model" else f" ({then} then, {now} now)"
                raise CheckpointError(f"{self.state_file}: cannot resume: {name} differs from the run that "
                                      f"wrote it{values}; --overwrite starts over")
        self.progress = Progress(*state["progress"])
        if self.progress.best_pass and not self.destination.exists():
            raise CheckpointError(f"{self.destination}: is gone, which held the best of the run so far (pass "
                                  f"{self.progress.best_pass}); --overwrite starts over")
        self.has_result = self.progress.best_pass > 0
        flicker_range = state.get("flicker_range", _OLD_FLICKER_RANGE)
        self.start, self.best = (_read_scores(state[name], flicker_range) for name in ("start", "best"))
        self.scheme.renderer.load_state_dict(state["model"])
        self.scheme.optimizer.load_state_dict(state["optimizer"])
        logger.info("resuming from %s: %d of %d passes done", self.state_file, self.progress.passes,
                    self.settings.passes)

    def _identity(self) -> dict[str, Any]:
        """The run's settings, and a few numbers that distinguish the unrefined model from others."""
        return {**self.settings.identity, "model": self.scheme.renderer.fingerprint(self.source.model)}


def state_path(destination: Path) -> Path:
    """Name the file of a run's state.

    Args:
        destination: the refined model's file, `nr_model_{epoch}_refined.pth`.

    Returns:
        `nr_optimizer_{epoch}_refined.pth` beside it.
    """
    return destination.with_name(destination.name.replace("nr_model_", "nr_optimizer_", 1))


def _read_scores(values: dict[str, float], flicker_range: float) -> ValidationScores:
    """Scores of a state whose flicker is 0 to `flicker_range`."""
    return ValidationScores(**{**values, "flicker": values["flicker"] * FLICKER_RANGE / flicker_range})


def _add_scalars(board: SummaryWriter | None, group: str, values: Mapping[str, float], number: int) -> None:
    """Log what is not NaN, of pass `number`, where there is a board: in the first process."""
    for name, value in values.items() if board is not None else ():
        if not math.isnan(value):
            board.add_scalar(f"{group}/{name}", value, number)  # type: ignore[union-attr]


def _write(text: str) -> None:
    if distributed.is_writer():
        write_result(text)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in state.items()}
