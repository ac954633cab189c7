# SPDX-License-Identifier: Apache-2.0
"""Progress bars of functions that know nothing of the terminal."""

from collections.abc import Callable, Iterable
from typing import Any

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps an iteration of so many steps, as tqdm does


def no_progress(steps: Iterable[Any], count: int) -> Iterable[Any]:
    """Return the steps as they are: the `Progress` that shows nothing.

    Args:
        steps: what is iterated over.
        count: number of steps.

    Returns:
        The steps.
    """
    return steps
