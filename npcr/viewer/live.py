# SPDX-License-Identifier: Apache-2.0
"""A training in the browser: the model as it is, losses, held-out scores, pause and resume."""

from __future__ import annotations

import logging
import time
from typing import Any

from ignite.engine import Engine as TrainingEngine
from ignite.engine import Events

from npcr.training.log import TrainingLog
from npcr.training.trainer import Trainer
from npcr.viewer.app import LOCAL, ViewerApp
from npcr.viewer.film import Film
from npcr.viewer.gate import TrainingGate
from npcr.viewer.opening import photographs_of, settings_of
from npcr.viewer.pictures import Engine

logger = logging.getLogger("npcr")

REFRESH = 1.0  # seconds between pictures of a camera that rests, at least
SHARE = 0.1  # of the time that such pictures may take
_STATUS = 0.5  # seconds between texts


class LiveTraining:
    """Shows a training: `with LiveTraining(trainer) as live: trainer.run(live.attach)`.

    Frames are rendered between optimizer steps, one at most after each while the training goes on. Nothing of the
    training depends on them. Where the viewer fails, this is said and the training goes on.

    Args:
        trainer: of the training.
        port: on this machine alone; another is taken where it is not free.
    """

    def __init__(self, trainer: Trainer, port: int = 8080) -> None:
        self._trainer = trainer
        self._port = port
        self._app: ViewerApp | None = None
        self._state = ""  # as the browser was told
        self._told = 0.0  # when
        self._due = 0.0  # when browsers get a new picture
        self._spent = 0.0  # seconds of the gate at the last refresh

    def __enter__(self) -> LiveTraining:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def attach(self, engine: TrainingEngine, log: TrainingLog) -> None:
        """Open the server, and add handlers to a training's engine.

        Args:
            engine: before it runs.
            log: of the same training.

        Raises:
            MissingExtraError: viser is not installed.
        """
        trainer = self._trainer
        self._log = log
        self._gate = TrainingGate(trainer.renderer)
        rendering = Engine(trainer.renderer, gate=self._gate)
        views = photographs_of(trainer.cfg, trainer.dataset.scene, trainer.renderer)
        self._app = ViewerApp(rendering, settings_of(trainer.cfg, trainer.renderer, views),
                              Film(rendering, trainer.cfg), views, LOCAL[0], self._port)
        self._add_controls(self._app.server.gui)
        logger.info("the training in the browser: %s", self._app.address)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._between_steps)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)

    def _add_controls(self, gui: Any) -> None:
        with gui.add_folder("Training", order=-1):
            self._status = gui.add_markdown("before the first step")
            self._pause = gui.add_button("Pause training")
            self._resume = gui.add_button("Resume training", visible=False)
        self._pause.on_click(lambda _: self._set_paused(True))
        self._resume.on_click(lambda _: self._set_paused(False))

    def _set_paused(self, paused: bool) -> None:
        self._pause.visible, self._resume.visible = not paused, paused
        if paused:
            self._gate.pause()
            logger.info("\nthe training was paused in the browser; Resume is there, and Ctrl-C writes a checkpoint")
        else:
            self._gate.resume()
            logger.info("\nthe training goes on")

    def _between_steps(self) -> None:
        if self._app is None:
            return
        try:
            if self._gate.paused:
                self._show_pause()
            else:
                self._tell("training")
                self._refresh()
            self._gate.let_in(self._held)
        except Exception as error:
            self._give_up(f"{type(error).__name__}: {error}")
        else:
            if not self._app.alive:
                self._give_up("its threads have ended")

    def _held(self) -> bool:
        if self._state != "paused":
            self._show_pause()
        return not self._trainer.stop.made and self._app is not None and self._app.alive

    def _show_pause(self) -> None:
        """Say it, and show the model as it stands, not as it was when its last picture was due."""
        assert self._app is not None
        self._tell("paused")
        self._app.scheduler.refresh()

    def _after_epoch(self) -> None:
        if self._app is not None:
            self._tell("at the end of an epoch (saving and scoring, where due; pictures wait)")

    def _refresh(self) -> None:
        """Renew what browsers show, so seldom that it takes `SHARE` of the time."""
        assert self._app is not None
        now = time.monotonic()
        if now >= self._due:
            self._app.scheduler.refresh()
            self._due = now + max(REFRESH, (1 / SHARE - 1) * (self._gate.seconds - self._spent))
            self._spent = self._gate.seconds

    def _tell(self, state: str) -> None:
        now, trainer, log = time.monotonic(), self._trainer, self._log
        if state == self._state and now < self._told + _STATUS:
            return
        self._state, self._told = state, now
        epoch = max(trainer.iteration - 1, 0) // trainer.steps_per_epoch + 1
        lines = [f"**{state}** · epoch {epoch} of {trainer.cfg.SOLVER.MAX_EPOCHS}, step {trainer.iteration:,}",
                 "loss " + (", ".join(f"{name} {value:.4g}" for name, value in log.losses.items()) or "not yet known")]
        if log.scores:
            lines.append(f"held out, epoch {log.scored_epoch}: "
                         + ", ".join(f"{name} {value:.4g}" for name, value in log.scores.items()))
        elif trainer.held_out is None or not trainer.cfg.TEST.PERIOD:
            lines.append("no held-out scores (DATASETS.HOLDOUT_EVERY or .TEST, with TEST.PERIOD, give some)")
        self._status.content = "\n\n".join(lines)

    def _give_up(self, reason: str) -> None:
        logger.warning("the viewer has ended (%s); the training goes on without it", reason)
        self._end()

    def _end(self) -> None:
        app, self._app = self._app, None
        if app is None:
            return
        self._gate.close()
        try:
            app.stop()
        except Exception as error:  # what is broken may not stop well either
            logger.debug("the viewer did not stop well: %s", error)
