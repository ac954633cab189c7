# SPDX-License-Identifier: Apache-2.0
"""Prefetching: jobs that run on a thread pool ahead of their consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def prefetch(jobs: Iterable[Callable[[], Result]], workers: int) -> Iterator[Result]:
    """Run jobs on a thread pool ahead of the consumer.

    Closing the generator early drops the jobs that have not begun and waits for those that have.

    Args:
        jobs: called without arguments, in order; they are taken as they are needed.
        workers: number of threads, which keep up to twice as many results ready; 0 runs each job when its result is
            needed.

    Yields:
        The results in the jobs' order; a job's exception is raised in its place.
    """
    if workers == 0:
        for job in jobs:
            yield job()
        return
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="npcr-prefetch")
    try:
        for job in jobs:
            pending.append(pool.submit(job))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
