# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import pytest

from npcr.viewer import scheduler as module
from npcr.viewer.scheduler import FrameScheduler, QuickScale

Frame = tuple[Hashable, object, bool]


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@contextmanager
def scheduler(render: Callable[[Hashable, object, bool], None],
              errors: list[object] | None = None) -> Iterator[FrameScheduler[object]]:
    made: FrameScheduler[object] = FrameScheduler(
        render, lambda client, error: [] if errors is None else errors.append((client, str(error))), settle=0.05)
    try:
        yield made
    finally:
        made.stop()


def test_quick_at_once_and_full_when_the_camera_rests() -> None:
    frames: list[tuple[Frame, float]] = []
    with scheduler(lambda *frame: frames.append((frame, time.monotonic()))) as one:
        start = time.monotonic()
        one.submit("a", 1)
        wait_for(lambda: len(frames) == 2)
        time.sleep(0.1)
    assert [frame for frame, _ in frames] == [("a", 1, True), ("a", 1, False)]
    assert frames[1][1] - start >= 0.05


def test_a_model_that_changed_is_rendered_in_full_for_who_is_there() -> None:
    frames: list[Frame] = []
    with scheduler(lambda *frame: frames.append(frame)) as one:  # type: ignore[arg-type]
        one.refresh()  # nobody is there
        one.submit("a", 1)
        wait_for(lambda: len(frames) == 2)
        one.refresh()
        wait_for(lambda: len(frames) == 3)
        assert one.alive
    assert frames[1:] == [("a", 1, False)] * 2
    assert not one.alive


def test_nothing_queues_behind_a_slow_frame() -> None:
    frames: list[Frame] = []
    begun, go_on = threading.Event(), threading.Event()

    def render(*frame: object) -> None:
        frames.append(frame)  # type: ignore[arg-type]
        begun.set()
        assert go_on.wait(10)

    with scheduler(render) as one:
        one.submit("a", 0)
        assert begun.wait(10)
        for request in range(1, 100):
            one.submit("a", request)
        go_on.set()
        wait_for(lambda: len(frames) == 3)
    assert frames == [("a", 0, True), ("a", 99, True), ("a", 99, False)]


def test_browsers_take_turns() -> None:
    frames: list[Frame] = []
    go_on = threading.Event()

    def render(*frame: object) -> None:
        assert go_on.wait(10)
        frames.append(frame)  # type: ignore[arg-type]
        if len(frames) < 9:
            one.submit(frame[0], len(frames))  # each moves on all the time

    with scheduler(render) as one:
        for client in "abc":
            one.submit(client, "first")
        go_on.set()
        wait_for(lambda: len(frames) >= 9)
    assert "".join(str(client) for client, _, _ in frames[:9]) == "abcabcabc"


def test_one_that_rests_is_not_starved_by_one_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.1)
    frames: list[Frame] = []

    def render(*frame: object) -> None:
        frames.append(frame)  # type: ignore[arg-type]
        if frame[0] == "moving":
            one.submit("moving", len(frames))
            time.sleep(0.001)

    with scheduler(render) as one:
        one.submit("moving", 0)
        one.submit("resting", 0)
        wait_for(lambda: ("resting", 0, False) in frames)
        one.remove("moving")


def test_an_error_reaches_its_browser_alone() -> None:
    errors: list[object] = []
    frames: list[Frame] = []

    def render(*frame: object) -> None:
        if frame[0] == "bad":
            raise MemoryError("too large")
        frames.append(frame)  # type: ignore[arg-type]

    with scheduler(render, errors) as one:
        one.submit("bad", 0)
        one.submit("good", 0)
        wait_for(lambda: len(frames) == 2)
        wait_for(lambda: len(errors) == 2)
    assert errors == [("bad", "too large")] * 2


def test_a_browser_that_vanishes_leaves_nothing() -> None:
    frames: list[Frame] = []
    with scheduler(lambda *frame: frames.append(frame)) as one:  # type: ignore[arg-type]
        one.submit("a", 0)
        wait_for(lambda: bool(frames))
        one.remove("a")
        one.remove("never there")
        time.sleep(0.1)
        assert len(one) == 0
    assert frames == [("a", 0, True)]


def test_quick_frames_find_the_size_that_takes_their_time() -> None:
    def settled(seconds_of_full: float) -> float:
        scale = QuickScale(budget=0.08)
        for _ in range(30):
            scale.learn(seconds_of_full * scale.scale**2)
        return scale.scale

    assert settled(0.32) == pytest.approx(0.5)
    assert settled(0.01) == 1
    assert settled(60.0) == pytest.approx(1 / 6)
