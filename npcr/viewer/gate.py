# SPDX-License-Identifier: Apache-2.0
"""Who may use a model that is in training: its training during a step, and between two steps who wants to look."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import torch

from npcr.errors import NpcrError
from npcr.renderers import Renderer

_LOOK = 0.1  # seconds between looks at what nobody announces, such as Ctrl-C


class TrainingGate:
    """Lets other threads use a renderer between the steps of its training.

    A rendering thread uses it as a context, which begins after the step in work and holds the next one up. Within it
    the renderer is in eval mode; its mode and torch's random numbers are afterwards what they were, so that a training
    that is looked at gives the same weights as one that is not. The training calls `let_in` between its steps.

    Args:
        renderer: the one in training.
    """

    def __init__(self, renderer: Renderer) -> None:
        self._renderer = renderer
        self._turn = threading.Condition()
        self._open = False  # for one of those who wait
        self._waiting = 0
        self._inside = False
        self._closed = False
        self._visit = contextlib.ExitStack()  # of who is inside
        self._paused = False
        self.seconds = 0.0  # that the training was held up, pauses aside

    @property
    def paused(self) -> bool:
        """Whether the training stands still until `resume`, or will after the step in work."""
        return self._paused

    def pause(self) -> None:
        """Hold the training after the step in work."""
        self._paused = True

    def resume(self) -> None:
        """Let the training go on."""
        with self._turn:
            self._paused = False
            self._turn.notify_all()

    def close(self) -> None:
        """End it: who waits or comes is refused, and nothing holds the training any more."""
        with self._turn:
            self._closed = True
            self._paused = False
            self._turn.notify_all()

    def let_in(self, held: Callable[[], bool]) -> None:
        """Between two steps: let one of those who wait render, and all who come while the training is paused.

        Args:
            held: whether the pause goes on; it is asked ten times a second.
        """
        start, admitted = time.perf_counter(), False
        with self._turn:
            while not self._closed:
                paused = self._paused and held()
                if self._open and not self._waiting:
                    self._open = False  # who was let in has died before
                if not self._open and not self._inside:
                    if self._waiting and (paused or not admitted):
                        self._open = admitted = True
                        self._turn.notify_all()
                    elif not paused:
                        break
                self._turn.wait(_LOOK)
                if paused:
                    start = time.perf_counter()
            self._turn.wait_for(lambda: not self._inside)
        self.seconds += time.perf_counter() - start

    def __enter__(self) -> None:
        with self._turn:
            self._waiting += 1
            self._turn.notify_all()
            try:
                self._turn.wait_for(lambda: self._closed or (self._open and not self._inside))
            finally:
                self._waiting -= 1
            if self._closed:
                raise NpcrError("the training is over: npcr view shows its model")
            self._open, self._inside = False, True
        try:
            device = self._renderer.device
            self._visit.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            self._visit.callback(self._renderer.train, self._renderer.training)
            self._renderer.eval()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self._visit.close()
        finally:
            with self._turn:
                self._inside = False
                self._turn.notify_all()
