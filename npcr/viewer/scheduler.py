# SPDX-License-Identifier: Apache-2.0
"""When frames are rendered: the newest request of each browser, quickly while it changes and in full when it rests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger("npcr")

Request = TypeVar("Request")
SETTLE = 0.2  # seconds without a new request, after which a browser rests
OVERDUE = 1.0  # seconds that a full frame may wait for others' quick ones


@dataclass
class _Client(Generic[Request]):
    request: Request
    asked: float  # when
    quick_due: bool = True
    full_due: bool = True


class FrameScheduler(Generic[Request]):
    """Renders for several clients in one thread, one frame at a time.

    A new request of a client replaces its older one, so that nothing queues behind a slow frame: whatever was asked
    meanwhile, the next frame is of the newest request. Clients take turns. Quick frames come before full ones, but for
    a full one that has waited for `OVERDUE` seconds.

    Args:
        render: called with a client, its request, and whether the frame is to be quick.
        on_error: called with a client and the exception of its frame; the others go on.
        settle: seconds without a new request, after which a client gets its full frame.
    """

    def __init__(self, render: Callable[[Hashable, Request, bool], None],
                 on_error: Callable[[Hashable, Exception], None], settle: float = SETTLE) -> None:
        self._render = render
        self._on_error = on_error
        self._settle = settle
        self._clients: dict[Hashable, _Client[Request]] = {}  # who was served last comes last
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="viewer-frames", daemon=True)
        self._thread.start()

    def submit(self, client: Hashable, request: Request) -> None:
        """Ask for a frame, in place of what the client asked for before."""
        with self._changed:
            known = self._clients.get(client)
            if known is None:
                self._clients[client] = _Client(request, time.monotonic())
            else:
                known.request, known.asked, known.quick_due, known.full_due = request, time.monotonic(), True, True
            self._changed.notify()

    def refresh(self) -> None:
        """Render what every client sees once more, in full, since the model has changed."""
        with self._changed:
            for client in self._clients.values():
                client.full_due = True
            self._changed.notify()

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def remove(self, client: Hashable) -> None:
        """Forget a client that has gone."""
        with self._changed:
            self._clients.pop(client, None)

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._clients)

    def stop(self) -> None:
        """End the thread after the frame in work."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None:
                    if self._stopped:
                        return
                    self._changed.wait(self._patience())
                if self._stopped:
                    return
            client, request, quick = job
            try:
                self._render(client, request, quick)
            except Exception as error:  # one client's trouble, such as memory for a large window, is not the others'
                logger.debug("a frame of the viewer failed", exc_info=True)
                self._on_error(client, error)

    def _next(self) -> tuple[Hashable, Request, bool] | None:
        now = time.monotonic()
        rested = [key for key, one in self._clients.items()
                  if one.full_due and not one.quick_due and now - one.asked >= self._settle]
        overdue = [key for key in rested if now - self._clients[key].asked >= self._settle + OVERDUE]
        quick = [key for key, one in self._clients.items() if one.quick_due]
        for keys, is_quick in ((overdue, False), (quick, True), (rested, False)):
            if keys:
                one = self._clients.pop(keys[0])
                self._clients[keys[0]] = one
                if is_quick:
                    one.quick_due = False
                else:
                    one.full_due = False
                return keys[0], one.request, is_quick
        return None

    def _patience(self) -> float | None:
        """Seconds until a client rests; None: no client will."""
        now = time.monotonic()
        waits = [one.asked + self._settle - now for one in self._clients.values() if one.full_due]
        return max(min(waits), 0.001) if waits else None


class QuickScale:
    """How much smaller quick frames are than full ones, so that they take about a given time.

    Args:
        budget: seconds of a quick frame.
        smallest: the scale that is never fallen below.
    """

    def __init__(self, budget: float = 0.08, smallest: float = 1 / 6) -> None:
        self._budget = budget
        self._smallest = smallest
        self.scale = 0.5

    def learn(self, seconds: float) -> None:
        """Follow what a quick frame took; its time grows with its pixels, the square of the scale."""
        factor = (self._budget / max(seconds, 1e-6)) ** 0.5
        self.scale = min(1.0, max(self._smallest, self.scale * min(max(factor, 0.6), 1.3)))
