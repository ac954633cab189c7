# SPDX-License-Identifier: Apache-2.0
"""The examples in the docstrings of the metrics are right."""

from __future__ import annotations

import doctest
import inspect
from types import FunctionType, ModuleType

import pytest

from npcr.metrics import image, video


def _metrics(module: ModuleType) -> list[FunctionType]:
    return [function for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_") and name != "sample_bicubic"]


@pytest.mark.parametrize("metric", _metrics(image) + _metrics(video), ids=lambda metric: metric.__name__)
def test_the_example_of_a_metric_is_right(metric: FunctionType) -> None:
    if metric is video.color_video_vdp:
        pytest.importorskip("pycvvdp", reason="needs the extra cvvdp")
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(metric):
        runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0
