# SPDX-License-Identifier: Apache-2.0
"""Several processes refine as one does, and end together."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from npcr.checkpoints import load_model, load_training_state, make_checkpoint, model_path, save_model
from npcr.config import changed, default_config, dump_config, explicit_keys, load_config, to_dict
from npcr.data.scene import load_clouds
from npcr.factory import build_renderer
from npcr.refine import validation
from npcr.refine.run import Progress, RefineRun, state_path
from npcr.refine.setup import build_run
from npcr.rendering.path_inputs import load_path_inputs
from tests.refine.shimmer_run import RESULT, interrupt_after, shimmer_run, validator
from tests.refine.test_steady import bright_photographs
from tests.scenes import write_tiny_scene
from tests.training.kills import children, rank_of
from tests.training.processes import run_together, train
from tests.training.test_determinism import form_config
from tests.training.test_trainer import SmallNetwork, same_parameters

ROOT = Path(__file__).resolve().parents[2]
STEPS = 4  # of a pass of the steady scheme


def build(folder: Path, published: bool = False, length: int = 2, passes: int = 3) -> RefineRun:
    return shimmer_run(folder, validator(), passes=passes, steps=STEPS, drop=math.inf, length=length,
                       photographs=bright_photographs(0.6), published=published)


def refine(folder: Path, *options: Any, resume: bool = False) -> tuple[float, Progress]:
    """The result's flicker, and how far the run came."""
    run = build(folder, *options)
    return run.run(resume).flicker, run.progress


def weights(folder: Path) -> list[float]:
    model = load_model(folder / RESULT).model
    return [model["brightness"].item(), model["shimmer"].item()]


@pytest.mark.parametrize(("published", "length", "processes"), [
    (False, 2, 2), (True, 2, 2), *(pytest.param(*each, marks=pytest.mark.slow)
                                   for each in ((False, 3, 2), (False, 2, 4)))])
def test_processes_refine_as_one(published: bool, length: int, processes: int, tmp_path: Path) -> None:
    """Two with a clip of two frames bit for bit; else sums come in another order. A path of 6 has 5 frames to share."""
    alone = refine(tmp_path / "1", published, length)
    said = run_together(processes, refine, tmp_path / "n", published, length)
    assert said == [said[0]] * processes
    if (published, length, processes) == (False, 2, 2):
        assert said[0] == alone
        assert weights(tmp_path / "n") == weights(tmp_path / "1")
    assert said[0][0] == pytest.approx(alone[0], rel=1e-5)
    assert weights(tmp_path / "n") == pytest.approx(weights(tmp_path / "1"), rel=1e-5)
    assert weights(tmp_path / "1")[1] < 0.09  # of 0.1: it has learned


def work_of(folder: Path, published: bool) -> tuple[int, int]:
    """How many pictures this process renders with gradients, and without."""
    run = build(folder, published, 2, 1)
    renderer = run.scheme.renderer
    forward, with_gradients = renderer.forward, []

    def counted(*arguments: Any) -> Any:
        with_gradients.append(torch.is_grad_enabled())
        return forward(*arguments)

    renderer.forward = counted  # type: ignore[method-assign]
    run.run()
    return sum(with_gradients), len(with_gradients) - sum(with_gradients)


def test_the_renderings_are_shared(tmp_path: Path) -> None:
    """Without gradients: 8 clips of 2 frames before and after the pass, and as published the path's first frame."""
    clips = 2 * 2 * validation.CLIPS
    assert run_together(2, work_of, tmp_path / "steady", False) == [(STEPS, clips // 2), (2 * STEPS, clips // 2)]
    assert run_together(2, work_of, tmp_path / "published", True) == [(3, clips // 2 + 1), (2, clips // 2 + 1)]


def refine_scene(config: Path, scene: Path, result: Path, scheme: str) -> None:
    """Refine as the command does, but the layered form with the small network that it was trained with."""
    options = ["REFINE.SCHEME", scheme, "REFINE.PATH", "random" if scheme == "steady" else "given"]
    with mock.patch("npcr.renderers.layered.GatedUNet", SmallNetwork):
        inputs = load_path_inputs(
            load_config(config, options), torch.device("cpu"), explicit=explicit_keys(config, options),
            cam_pose=scene / "CamPose.inf", intrinsics=scene / "Intrinsic.inf", checkpoint=model_path(config.parent, 1))
        build_run(inputs, result).run()


@pytest.mark.slow
@pytest.mark.parametrize(("form", "scheme", "processes"), [
    ("strands", "steady", 3), ("blended", "steady", 2), ("layered", "steady", 2), ("strands", "published", 3)])
def test_processes_refine_a_scene_as_one(form: str, scheme: str, processes: int, tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=6, size=(48, 40))
    train(form_config(form, scene, tmp_path, "SOLVER.MAX_EPOCHS", "1", "INPUT.SIZE_RAW", "[48, 40]", "INPUT.SIZE_TEST",
                      "[48, 40]", "DATASETS.HOLDOUT_EVERY", "3", "REFINE.PASSES", "2", "REFINE.STEPS", "6",
                      "REFINE.PATIENCE", "0", "REFINE.PSNR_DROP", "100", "LOSS.PERCEPTUAL", "0", "LOSS.MSE", "1"))
    states = []
    for count in (1, processes):
        result = tmp_path / str(count) / RESULT
        run_together(count, refine_scene, tmp_path / "config.yml", scene, result, scheme)
        states.append(load_training_state(state_path(result)))
    one, several = (torch.cat([value.double().flatten() for value in state["model"].values()]) for state in states)
    assert states[0]["start"] == states[1]["start"]
    assert (several - one).norm() < 1e-6 * one.norm()
    if processes == 2:
        assert torch.equal(one, several)
        assert states[0]["best"] == states[1]["best"]


# How they end -------------------------------------------------------------------------------------------------


def refine_until_ctrl_c(folder: Path, rank: int) -> None:
    """The second process is told to stop in the second pass."""
    run = build(folder)
    if rank == 1:
        interrupt_after(run, STEPS + 2, times=2)  # as from a terminal and from torchrun
    run.run()


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_and_any_number_goes_on(tmp_path: Path) -> None:
    refine(tmp_path / "whole")
    assert run_together(2, refine_until_ctrl_c, tmp_path / "stopped", [0, 1]) == ["KeyboardInterrupt"] * 2
    assert load_training_state(state_path(tmp_path / "stopped" / RESULT))["progress"][:2] == [1, 2]
    refine(tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def refine_with_nan(folder: Path, rank: int, published: bool) -> None:
    run = build(folder, published)
    if rank == 1:
        render, calls = run.scheme.renderer.forward, []

        def broken(*arguments: Any) -> Any:
            calls.append(torch.is_grad_enabled())
            output = render(*arguments)
            return output._replace(color=output.color * math.nan) if sum(calls) == 2 else output

        run.scheme.renderer.forward = broken  # type: ignore[method-assign]
    run.run()


@pytest.mark.parametrize("published", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_nan_in_one_process_ends_all(published: bool, tmp_path: Path) -> None:
    """The second process renders a clip's two frames, and as published every other frame from the third."""
    where = "frame 5 in pass 1" if published else "step 1 in pass 1"
    for message in run_together(2, refine_with_nan, tmp_path, [0, 1], published):
        assert f"TrainingError: refining: the loss of {where} is nan; a lower REFINE.LR may help" in message
    assert not list(tmp_path.glob("*.pth"))


def refine_and_die(folder: Path, rank: int) -> None:
    run = build(folder)
    inner, count = run.scheme.run_pass, 0

    def run_pass(number: int, first: int = 0) -> Iterator[Any]:
        nonlocal count
        for losses in inner(number, first):
            count += 1
            if rank == 1 and count == STEPS + 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield losses

    run.scheme.run_pass = run_pass  # type: ignore[method-assign]
    run.run()


@pytest.mark.slow
def test_a_process_that_dies_costs_the_steps_since_the_last_pass(tmp_path: Path) -> None:
    refine(tmp_path / "whole")
    first, second = run_together(2, refine_and_die, tmp_path / "died", [0, 1])
    assert "LostProcessError: another process has ended or does not answer" in first
    assert second is None
    assert load_training_state(state_path(tmp_path / "died" / RESULT))["progress"][:2] == [1, 0]
    assert run_together(2, resume, tmp_path / "died") == [Progress(3, 0, 3, 0)] * 2
    assert weights(tmp_path / "died") == weights(tmp_path / "whole")


def resume(folder: Path) -> Progress:
    return refine(folder, resume=True)[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc")
def test_the_command_goes_on_by_itself_after_a_kill(tmp_path: Path) -> None:
    """With --max-restarts 1, over a result of an earlier refining; the weights are those of one process."""
    scene = write_tiny_scene(tmp_path / "scene", cameras=6, size=(48, 40))
    cfg = changed(default_config(), MODEL__FORM="strands", MODEL__NETWORK=False, MODEL__DEVICE="cpu",
                  INPUT__SIZE_RAW=[48, 40], INPUT__SIZE_TRAIN=[48, 40], INPUT__SIZE_TEST=[48, 40], REFINE__STEPS=8,
                  REFINE__PASSES=4, REFINE__PATH="random", REFINE__PATIENCE=0, REFINE__PSNR_DROP=100.0,
                  LOSS__PERCEPTUAL=0.0, LOSS__MSE=1.0, DATASETS__TRAIN=str(scene), OUTPUT_DIR=str(tmp_path / "output"))
    clouds = load_clouds(scene, 1)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        dump_config(cfg, tmp_path / name / "config.yml")
        untrained = make_checkpoint(build_renderer(cfg, clouds), clouds, to_dict(cfg), 3)
        save_model(model_path(tmp_path / name, 3), untrained)
    model, state = (tmp_path / "two" / f"nr_{kind}_3_refined.pth" for kind in ("model", "optimizer"))
    for old in (model, state):
        old.write_bytes(b"of an earlier refining")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    refine_there = [str(ROOT / "tools" / "refine.py"), "--overwrite", "--config-file"]
    subprocess.run([sys.executable, *refine_there, str(tmp_path / "one" / "config.yml"), "--checkpoint",
                    str(tmp_path / "one")], env=environment, check=True)
    together = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max-restarts", "1",
         *refine_there, str(tmp_path / "two" / "config.yml"), "--checkpoint", str(tmp_path / "two")],
        env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while state.stat().st_size < 100 and time.monotonic() < end and together.poll() is None:
        time.sleep(0.01)
    second = [pid for pid in children(together.pid) if rank_of(pid) == 1]
    os.kill(second[0], signal.SIGKILL)
    _, messages = together.communicate(timeout=200)
    assert together.returncode == 0, messages
    assert f"restart 1 by torchrun: going on from {state}" in messages
    results = [load_training_state(file) for file in (tmp_path / "one" / state.name, state)]
    assert results[0]["progress"][:2] == results[1]["progress"][:2] == [4, 0]
    assert all(torch.equal(value, results[1]["model"][name]) for name, value in results[0]["model"].items())
    assert same_parameters(tmp_path / "one" / model.name, model)
