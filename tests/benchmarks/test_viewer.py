# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from benchmarks.viewer import measure
from npcr.errors import NpcrError
from npcr.viewer.pictures import Engine
from npcr.viewer.scheduler import SETTLE
from tests.viewer.models import small_model


def test_the_viewers_latency_is_measured() -> None:
    row = measure(Engine(small_model()), 32, 4)
    assert (row["side"], row["moving_count"], row["still_count"]) == (32, 4, 5)
    assert 0 < row["moving_ms"] <= row["moving_p95_ms"]
    assert row["still_ms"] > 1000 * SETTLE


def test_a_frame_that_fails_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(small_model())
    monkeypatch.setattr(engine, "show", lambda *_: 1 / 0)
    with pytest.raises(NpcrError, match="a frame of 32x32 failed: division by zero"):
        measure(engine, 32, 4)
