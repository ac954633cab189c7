# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from npcr.training.trainer import Trainer


@contextmanager
def ctrl_c_at_step(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Press Ctrl-C before a step, counted from 1; training must end after it, by KeyboardInterrupt."""
    real_step, steps = Trainer.step, []

    def interrupted_step(self: Trainer, batch: list) -> None:
        steps.append(1)
        if len(steps) == number:
            os.kill(os.getpid(), signal.SIGINT)
        real_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted_step)
        with pytest.raises(KeyboardInterrupt):
            yield
    assert len(steps) == number
