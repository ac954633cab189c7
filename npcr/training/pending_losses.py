# SPDX-License-Identifier: Apache-2.0
"""Losses on their way from the device, so that a GPU is not left idle between steps.

The host needs losses only to show them and to stop at one that is not finite. On a GPU it therefore reads them a few
steps behind; on a CPU each is there at once, and is checked before its gradients are computed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from npcr.errors import TrainingError
from npcr.transfers import HostCopy

# Steps whose losses may be unread. One keeps a GPU busy; the second makes up for a host that is late.
STEPS_AHEAD = 2

Result = TypeVar("Result")
Values = dict[str, float]  # by name, `total` among them


class StepLosses(NamedTuple):
    """The losses of one optimizer step."""

    iteration: int  # steps done, with this one
    lr: float  # the learning rate of the first parameter group
    means: dict[str, float]  # `total` and each term, over the batch


class PendingLosses(Generic[Result]):
    """The losses of one step.

    Args:
        refuse: makes the error of losses whose total is not finite, from them and from what they were added with.
        combine: makes the result of what was added, in its order.
    """

    def __init__(self, refuse: Callable[..., TrainingError], combine: Callable[[list[Values]], Result]) -> None:
        self._refuse = refuse
        self._combine = combine
        self._copies: deque[tuple[list[str], HostCopy, tuple[str, ...]]] = deque()
        self._read: list[Values] = []

    def add(self, losses: Mapping[str, Tensor], *where: str) -> None:
        """Add losses of the step, and check them if they are on the host.

        Args:
            losses: scalars by name, `total` among them.
            where: of what they are, for the error.

        Raises:
            TrainingError: the total is not finite.
        """
        copy = HostCopy(torch.stack([value.detach() for value in losses.values()]))
        self._copies.append((list(losses), copy, where))
        if self.is_ready():
            self._arrive()

    def is_ready(self) -> bool:
        """Whether `read` would not wait."""
        return all(copy.is_ready() for _, copy, _ in self._copies)

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
            names, copy, where = self._copies.popleft()
            values = dict(zip(names, copy.read()[0].tolist(), strict=True))
            if not math.isfinite(values["total"]):
                raise self._refuse(values, *where)
            self._read.append(values)


def take_read(pending: deque[PendingLosses[Result]], ahead: int = STEPS_AHEAD, *,
              early: bool = True) -> Iterator[Result]:
    """Take the losses of the first steps from a queue: those that are there, and all but the last `ahead` in any case.

    Args:
        pending: the queue, the earliest step first.
        ahead: steps that may remain; 0 before weights are kept.
        early: False: leave the last `ahead` even if they are there, so that several processes end at the same step.

    Yields:
        The result of each step.

    Raises:
        TrainingError: a total is not finite.
    """
    while pending and (len(pending) > ahead or (early and pending[0].is_ready())):
        yield pending.popleft().read()


def mean_losses(iteration: int, lr: float, samples: list[Values]) -> StepLosses:
    """Average the losses of a step's samples.

    Args:
        iteration: steps done, with this one.
        lr: the learning rate of the first parameter group.
        samples: of each sample, by name.

    Returns:
        The step's losses.
    """
    sums: Values = {}
    for losses in samples:
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value / len(samples)
    return StepLosses(iteration, lr, sums)
