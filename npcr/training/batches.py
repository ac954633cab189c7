# SPDX-License-Identifier: Apache-2.0
"""Which views a training step takes, and which of them this process; their samples, prepared ahead.

All of it follows from (seed, epoch, position): a resumed run, and any number of processes, see the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np
from yacs.config import CfgNode

from npcr import distributed
from npcr.data.samples import Sample, SceneDataset

View = tuple[int, int]  # frame and camera, from 0


class Place(NamedTuple):
    """A view in the order of training."""

    epoch: int  # from 0
    position: int  # in the epoch, from 0
    view: View


class Order:
    """The order of training: each epoch is another permutation of the views, cut into batches; the last may be short.

    Args:
        views: of the training.
        size: views of a step, of all processes together (SOLVER.IMS_PER_BATCH).
        seed: SOLVER.SEED.
    """

    def __init__(self, views: list[View], size: int, seed: int) -> None:
        self.views = views
        self.size = size
        self.seed = seed
        self.steps_per_epoch = math.ceil(len(views) / size)
        self._permutation: tuple[int, list[int]] = (-1, [])  # the epoch that was asked for last

    def batch(self, step: int) -> list[Place]:
        """List the views of a step.

        Args:
            step: steps done before it.

        Returns:
            Up to `size` places.
        """
        epoch, number = divmod(step, self.steps_per_epoch)
        if self._permutation[0] != epoch:
            self._permutation = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.views)).tolist()
        order, start = self._permutation[1], number * self.size
        return [Place(epoch, position, self.views[order[position]])
                for position in range(start, min(start + self.size, len(order)))]


def samples_from(order: Order, step: int, dataset: SceneDataset, data: CfgNode) -> Iterator[list[Sample]]:
    """Make this process's samples of each step, augmented, without end.

    Args:
        order: of the training.
        step: the first one.
        dataset: the photographs; its workers prepare samples ahead.
        data: the configuration's DATASETS section.

    Yields:
        The samples of a step; none where a short batch has fewer views than there are processes.
    """
    def makers() -> Iterator[Callable[[], Sample]]:
        for each in count(step):
            for epoch, position, (frame, camera) in distributed.share(order.batch(each)):
                rng = np.random.default_rng([order.seed, epoch, position])
                yield partial(dataset.augmented_sample, frame, camera, rng, shift=data.SHIFT,
                              max_zoom=data.MAXRATION, rotation=data.ROTATION)

    samples = dataset.prefetch(makers())
    for each in count(step):
        yield [next(samples) for _ in distributed.share(order.batch(each))]
