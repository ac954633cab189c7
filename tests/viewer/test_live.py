# SPDX-License-Identifier: Apache-2.0
"""A training that is looked at, with stand-ins for viser and its browsers."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from npcr.checkpoints import load_training_state, model_path, optimizer_path
from npcr.commands import train
from npcr.errors import ConfigError, MissingExtraError, NpcrError
from npcr.renderers import Renderer
from npcr.training.trainer import Trainer
from npcr.viewer import live as module
from npcr.viewer.film import Film
from npcr.viewer.gate import TrainingGate
from npcr.viewer.live import LiveTraining
from npcr.viewer.pictures import Engine, View
from npcr.viewer.scheduler import FrameScheduler
from tests.scenes import write_tiny_scene
from tests.training.test_trainer import BLENDED, STRANDS, config, same_parameters
from tests.viewer.models import VIEW, small_model
from tests.viewer.test_paths import editor

CPU = torch.device("cpu")
LAYERED = ["MODEL.FORM", "layered", "INPUT.LAYER_NUM", "2", "MODEL.NORM", "batch"]
RANDOM = ["SOLVER.DROP_SPLATS", "0.2", "SOLVER.DROP_CELL", "2", "SOLVER.DROP_HARMONICS", "0.5"]


class Status:
    broken = False

    def __init__(self, content: str) -> None:
        self._content = content

    @property
    def content(self) -> str:
        return self._content

    @content.setter
    def content(self, content: str) -> None:
        if self.broken:
            raise RuntimeError("no loop")
        self._content = content


class StubApp:
    """A server with one browser, which asks for other views all the time, unless it rests."""

    address = "nowhere"
    rests = False

    def __init__(self, engine: Engine, settings: object, film: Film, *_: object) -> None:
        self.engine, self.film = engine, film
        self.controls: dict[str, Any] = {}
        self.server = SimpleNamespace(gui=self)
        self.frames = 0
        self.alive = True
        self.errors: list[str] = []
        self.scheduler: FrameScheduler[View] = FrameScheduler(self._render, self._say, settle=0.01)

    def look(self) -> None:
        self.scheduler.submit("browser", VIEW)

    def stop(self) -> None:
        self.scheduler.stop()

    def _render(self, key: Hashable, view: View, quick: bool) -> None:
        modes = self.engine.modes
        self.engine.show(View(view.cam_to_world, view.fov, view.size, modes[self.frames % len(modes)]))
        self.frames += 1
        if not self.rests:
            self.look()

    def _say(self, key: Hashable, error: Exception) -> None:
        if "the training is over" not in str(error):  # to who waits when it ends
            self.errors.append(str(error))

    # viser's GUI

    def add_folder(self, *_: object, **__: object) -> Any:
        return threading.Lock()  # a context

    def add_markdown(self, text: str) -> Any:
        return self.controls.setdefault("status", Status(text))

    def add_button(self, label: str, visible: bool = True) -> Any:
        button = self.controls[label.split()[0]] = SimpleNamespace(visible=visible)
        button.on_click = lambda action: setattr(button, "click", lambda: action(None))
        return button


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_scene(tmp_path_factory.mktemp("scene") / "tiny", cameras=5, size=(32, 28))


@pytest.fixture
def apps(monkeypatch: pytest.MonkeyPatch) -> list[StubApp]:
    """The servers that were opened."""
    made: list[StubApp] = []
    monkeypatch.setattr(module, "ViewerApp", lambda *arguments: made.append(StubApp(*arguments)) or made[-1])
    return made


def run(trainer: Trainer, apps: list[StubApp], at_step: Callable[[StubApp, int], None] = lambda app, step: None,
        look: bool = True) -> StubApp:
    """Train with a viewer; `at_step` is called before each step, counted from 1."""
    real, done = trainer.step, []

    def step(batch: list) -> None:
        done.append(1)
        if len(done) == 1 and look:
            apps[0].look()
        at_step(apps[0], len(done))
        real(batch)

    trainer.step = step  # type: ignore[method-assign]
    with LiveTraining(trainer) as live:
        trainer.run(live.attach)
    return apps[0]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def later(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("form", [pytest.param(LAYERED, marks=pytest.mark.slow), BLENDED, [*STRANDS, *RANDOM]],
                         ids=["layered", "blended", "strands"])
def test_weights_are_those_of_a_training_that_nobody_looks_at(form: list[str], scene: Path, tmp_path: Path,
                                                              apps: list[StubApp]) -> None:
    form = [*form, "DATASETS.HOLDOUT_EVERY", "5"]
    Trainer(config(scene, tmp_path / "alone", *form), CPU).run()
    trainer = Trainer(config(scene, tmp_path / "seen", *form), CPU)
    modes = []

    def draw_random_numbers(renderer: Renderer, *_: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            modes.append(renderer.training)
            torch.rand(3)  # as a rendering might

    trainer.renderer.register_forward_pre_hook(draw_random_numbers)
    app = run(trainer, apps, lambda app, step: wait_for(lambda: app.engine._gate._waiting))
    assert app.errors == []
    assert app.frames == 8  # one after each step
    assert set(modes) == {False}
    for epoch in (1, 2):
        assert same_parameters(model_path(tmp_path / "alone", epoch), model_path(tmp_path / "seen", epoch))
        alone, seen = (load_training_state(optimizer_path(tmp_path / name, epoch)) for name in ("alone", "seen"))
        assert torch.equal(alone["torch_rng"], seen["torch_rng"])
    assert "**at the end of an epoch" in app.controls["status"].content
    assert "epoch 2 of 2, step 8" in app.controls["status"].content
    assert "held out, epoch 1: psnr" in app.controls["status"].content


def test_who_asks_during_a_step_gets_the_frame_after_it() -> None:
    renderer = small_model().train()
    gate, order = TrainingGate(renderer), []

    def look() -> None:
        with gate:
            order.append(("look", renderer.training))

    thread = later(look)
    time.sleep(0.05)
    order.append(("step", renderer.training))
    gate.let_in(lambda: False)
    thread.join(10)
    assert order == [("step", True), ("look", False)]
    assert renderer.training
    gate.close()
    with pytest.raises(NpcrError, match="the training is over"):
        look()
    gate.let_in(lambda: True)  # nothing holds it


def test_one_frame_a_step_even_if_many_ask() -> None:
    gate, looks = TrainingGate(small_model()), []

    def look() -> None:
        with gate:
            looks.append(1)

    threads = [later(look) for _ in range(3)]
    wait_for(lambda: gate._waiting == 3)
    for done in (1, 2, 3):
        gate.let_in(lambda: False)
        assert len(looks) == done
    for thread in threads:
        thread.join(10)
    gate.let_in(lambda: False)


def test_a_frame_that_fails_leaves_the_gate_and_the_mode_as_they_were() -> None:
    renderer = small_model().train()
    gate = TrainingGate(renderer)
    failed = []

    def look() -> None:
        try:
            with gate:
                raise MemoryError
        except MemoryError:
            failed.append(1)

    thread = later(look)
    wait_for(lambda: gate._waiting)
    gate.let_in(lambda: False)
    thread.join(10)
    assert failed
    assert renderer.training


def test_paused_it_stands_still_films_and_goes_on(scene: Path, tmp_path: Path, apps: list[StubApp]) -> None:
    Trainer(config(scene, tmp_path / "alone", *STRANDS), CPU).run()
    trainer = Trainer(config(scene, tmp_path / "seen", *STRANDS, "RENDER.VIDEO", "[]"), CPU)
    found: dict[str, Any] = {}

    def person() -> None:
        try:
            act(apps[0], apps[0].controls["status"])
        finally:
            apps[0].engine._gate.resume()

    def act(app: StubApp, status: Status) -> None:
        try:
            app.film.render(editor().path(), tmp_path / "film", lambda *_: None)
        except NpcrError as error:
            found["refused"] = str(error)
        app.controls["Pause"].click()
        wait_for(lambda: "**paused**" in status.content)
        before, frames = trainer.iteration, app.frames
        wait_for(lambda: app.frames > frames + 5)
        found["filmed"] = app.film.render(editor().path(), tmp_path / "film", lambda *_: None)
        found["stood"] = trainer.iteration == before
        found["buttons"] = app.controls["Pause"].visible, app.controls["Resume"].visible
        app.controls["Resume"].click()

    def start(app: StubApp, step: int) -> None:
        if step == 2:
            later(person)
            wait_for(lambda: app.engine._gate.paused)

    run(trainer, apps, start)
    assert "pause this while a path is rendered" in found["refused"]
    assert (found["filmed"], found["stood"], found["buttons"]) == (21, True, (False, True))
    assert trainer.iteration == 10
    assert same_parameters(model_path(tmp_path / "alone", 2), model_path(tmp_path / "seen", 2))


def test_a_pause_shows_the_model_as_it_stands(scene: Path, tmp_path: Path, apps: list[StubApp],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StubApp, "rests", True)
    monkeypatch.setattr(module, "REFRESH", 1000.0)  # no other picture is due
    trainer = Trainer(config(scene, tmp_path, *STRANDS), CPU)
    seen: list[int] = []

    def person() -> None:
        app = apps[0]
        try:
            wait_for(lambda: app.frames == 3)  # a quick one, a full one, and that of the pause
            seen.append(trainer.iteration)
        finally:
            app.engine._gate.resume()

    def pause(app: StubApp, step: int) -> None:
        if step == 6:
            wait_for(lambda: app.frames == 2 or app.engine._gate._waiting)
            app.controls["Pause"].click()
            later(person)

    run(trainer, apps, pause)
    assert seen == [6]


def test_ctrl_c_while_paused_writes_a_checkpoint_without_another_step(scene: Path, tmp_path: Path,
                                                                      apps: list[StubApp]) -> None:
    trainer = Trainer(config(scene, tmp_path, *STRANDS), CPU)

    def person() -> None:
        wait_for(lambda: "**paused**" in apps[0].controls["status"].content)
        os.kill(os.getpid(), signal.SIGINT)

    def pause(app: StubApp, step: int) -> None:
        if step == 2:
            app.controls["Pause"].click()
            later(person)

    with pytest.raises(KeyboardInterrupt):
        run(trainer, apps, pause)
    assert load_training_state(optimizer_path(tmp_path, 1))["iteration"] == trainer.iteration == 2


@pytest.mark.parametrize("how", ["thread", "error"])
def test_without_its_viewer_the_training_goes_on_and_says_so(how: str, scene: Path, tmp_path: Path,
                                                             apps: list[StubApp],
                                                             caplog: pytest.LogCaptureFixture) -> None:
    trainer = Trainer(config(scene, tmp_path, *STRANDS), CPU)

    def kill(app: StubApp, step: int) -> None:
        if step == 3:
            app.controls["Pause"].click()  # nobody could resume it
            if how == "thread":
                app.alive = False
            else:
                app.controls["status"].broken = True

    run(trainer, apps, kill, look=how == "thread")
    assert trainer.iteration == 10
    assert caplog.text.count("the viewer has ended") == 1
    assert "the training goes on without it" in caplog.text


def test_a_thread_that_dies_at_the_gate_holds_nothing_up() -> None:
    gate = TrainingGate(small_model())
    gate._open = True  # let in, and dead before it entered
    gate.let_in(lambda: False)
    assert not gate._open


def test_the_command(scene: Path, tmp_path: Path, apps: list[StubApp], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yml").write_text("{}")
    common = ["--config-file", str(tmp_path / "config.yml")]
    with pytest.raises(ConfigError, match="--port 9000 is read with --view alone"):
        train.main([*common, "--port", "9000"])
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "viser", None)
        with pytest.raises(MissingExtraError, match=r"npcr\[viewer\]"):
            train.main([*common, "--view"])
