# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from benchmarks.viewer import measure
from npcr.viewer.pictures import Engine
from npcr.viewer.scheduler import SETTLE
from tests.viewer.models import small_model


def test_the_viewers_latency_is_measured() -> None:
    result = measure(Engine(small_model()), 32, 4)
    assert (result["side"], result["moving_ms"]["count"], result["still_ms"]["count"]) == (32, 4, 5)
    assert 0 < result["moving_ms"]["median"] <= result["moving_ms"]["p95"]
    assert result["still_ms"]["median"] > 1000 * SETTLE
