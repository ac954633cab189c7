# SPDX-License-Identifier: Apache-2.0
"""Losses on their way from the device, so that a GPU is not left idle between steps.

The host needs losses only to show them and to stop at one that is not finite. On a GPU it therefore reads them a few
steps behind; on a CPU each is there at once, and is checked before its gradients are computed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

from npcr.errors import TrainingError
from npcr.transfers import HostCopy

# Steps whose losses may be unread. One keeps a GPU busy; the second makes up for a host that is late.
STEPS_AHEAD = 2

Result = TypeVar("Result")
Values = dict[str, float]  # by name, `total` among them


class PendingLosses(Generic[Result]):
    """The losses of one step.

    Args:
        refuse: makes the error of losses whose total is not finite.
        combine: makes the result of what was added, in its order.
    """

    def __init__(self, refuse: Callable[[Values], TrainingError], combine: Callable[[list[Values]], Result]) -> None:
        self._refuse = refuse
        self._combine = combine
        self._copies: deque[tuple[list[str], HostCopy]] = deque()
        self._read: list[Values] = []

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Add losses of the step, and check them if they are on the host.

        Args:
            losses: scalars by name, `total` among them.

        Raises:
            TrainingError: the total is not finite.
        """
        self._copies.append((list(losses), HostCopy(torch.stack([value.detach() for value in losses.values()]))))
        if self.is_ready():
            self._arrive()

    def is_ready(self) -> bool:
        """Whether `read` would not wait."""
        return all(copy.is_ready() for _, copy in self._copies)

    def read(self) -> Result:
        """Wait for the losses and check them.

        Returns:
            What `combine` makes of them.

        Raises:
            TrainingError: a total is not finite.
        """
        self._arrive()
        return self._combine(self._read)

    def _arrive(self) -> None:
        while self._copies:
            names, copy = self._copies.popleft()
            values = dict(zip(names, copy.read()[0].tolist(), strict=True))
            if not math.isfinite(values["total"]):
                raise self._refuse(values)
            self._read.append(values)


def take_read(pending: deque[PendingLosses[Result]], ahead: int = STEPS_AHEAD) -> Iterator[Result]:
    """Take the losses of the first steps from a queue: those that are there, and all but the last `ahead` in any case.

    Args:
        pending: the queue, the earliest step first.
        ahead: steps that may remain; 0 before weights are kept.

    Yields:
        The result of each step.

    Raises:
        TrainingError: a total is not finite.
    """
    while pending and (len(pending) > ahead or pending[0].is_ready()):
        yield pending.popleft().read()
