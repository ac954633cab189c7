# SPDX-License-Identifier: Apache-2.0
"""Run jobs on threads a little ahead of their consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def prefetch(jobs: Iterable[Callable[[], Result]], workers: int) -> Iterator[Result]:
    """Yield the jobs' results in order; `workers` threads keep up to twice as many results ready.

    0 workers run each job when its result is asked for. A job's exception is raised in its place. Leaving
    early (closing the generator) drops the jobs that have not begun and waits for those that have.
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
