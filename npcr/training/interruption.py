# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C while training or refining: once to stop after the step, twice to stop at once."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from npcr import distributed

logger = logging.getLogger("npcr")

_ECHO = 10.0  # seconds: a terminal's Ctrl-C reaches each process twice, from the terminal and from torchrun


class StopRequest:
    """Whether Ctrl-C was pressed, from `listening` on."""

    def __init__(self) -> None:
        self.made = False
        self._since = 0.0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C for a request within the block; a second one raises `KeyboardInterrupt` at once.

        Yields:
            None.
        """
        previous = signal.signal(signal.SIGINT, self._request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.made:
            if distributed.world_size() > 1 and time.monotonic() - self._since < _ECHO:
                return
            raise KeyboardInterrupt
        self.made, self._since = True, time.monotonic()
        logger.info("\nstopping after this step or measurement, and saving (Ctrl-C again: at once, without saving)")
