# SPDX-License-Identifier: Apache-2.0
"""A path by several processes, and after a stop: the files of one that was not stopped."""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr import distributed
from npcr.checkpoints import make_checkpoint, model_path, save_model
from npcr.config import changed, default_config, dump_config, explicit_keys, load_config, to_dict
from npcr.data.scene import load_clouds
from npcr.factory import build_renderer
from npcr.io.points import PointCloud
from npcr.rendering.frames import render_outputs
from npcr.rendering.path_inputs import PathInputs, load_path_inputs
from npcr.rendering.shared_path import FOLDER, UnfinishedPath, render_shared, runs, shared_outputs
from tests.scenes import default_intrinsics, orbit_poses, write_blocks, write_poses, write_tiny_scene
from tests.training.processes import run_together

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "render.py"
FRAMES = 40
CONFIG = """\
MODEL: {DEVICE: cpu, FORM: strands, NETWORK: False}
INPUT: {SIZE_RAW: [64, 48], SIZE_TEST: [32, 24]}
LOAD_EPOCH: 3
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/: strands of random colors, and a path of 40 frames."""
    folder = tmp_path_factory.mktemp("shared") / "models"
    folder.mkdir()
    (folder / "config.yml").write_text(CONFIG)
    write_poses(folder / "CamPose.inf", orbit_poses(200)[:FRAMES])
    write_blocks(folder / "Intrinsic.inf", default_intrinsics((64, 48))[None])
    cfg = load_config(folder / "config.yml")
    rng = np.random.default_rng(0)
    clouds = [PointCloud(rng.normal(0, 0.5, (400, 3)).astype(np.float32), rng.integers(0, 255, (400, 3), np.uint8))]
    renderer = build_renderer(cfg, clouds)
    with torch.no_grad():
        renderer.opacity[0].fill_(2.0)  # type: ignore[index,union-attr]
    save_model(model_path(folder, 3), make_checkpoint(renderer, clouds, to_dict(cfg), 3))
    return folder


def inputs_of(models: Path, *keys: str) -> PathInputs:
    options = ["TEMPORAL.HISTORY", "4", "RENDER.VIDEO", "h264,gif", *keys]
    cfg = load_config(models / "config.yml", options)
    return load_path_inputs(cfg, torch.device("cpu"), explicit=explicit_keys(models / "config.yml", options),
                            cam_pose=models / "CamPose.inf", intrinsics=models / "Intrinsic.inf",
                            checkpoint=model_path(models, 3))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the configuration, which names its folders."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*"))
            if file.is_file() and file.name != "config.yml"}


def test_stretches_cover_the_path_and_are_about_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [1, 2, 3, 7, 8, 9, 10]
    parts = []
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(distributed.stretch(numbers))
    assert [number for part in parts for number in part] == numbers
    assert {len(part) for part in parts} == {2, 3}
    assert list(runs(numbers)) == [range(1, 4), range(7, 11)]
    assert list(runs([])) == []


@pytest.mark.parametrize("blend", ["default", "legacy"])
def test_a_stopped_run_goes_on_with_what_is_missing(blend: str, models: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = inputs_of(models, "TEMPORAL.BLEND", blend)
    assert render_shared(inputs, tmp_path / "whole") == FRAMES
    assert not (tmp_path / "whole" / FOLDER).exists()

    out, name = tmp_path / "stopped", "note_output" if blend == "legacy" else "note"
    note = getattr(UnfinishedPath, name)

    def full_disk(self: UnfinishedPath, number: int, *what: object) -> None:
        if number == 20:
            raise OSError(28, "No space left on device")
        note(self, number, *what)

    monkeypatch.setattr(UnfinishedPath, name, full_disk)
    with pytest.raises(OSError, match="No space"):
        render_shared(inputs, out)
    monkeypatch.undo()
    missing = UnfinishedPath(out, inputs).missing()
    assert 20 in missing
    assert 1 not in missing
    assert render_shared(inputs, out) == len(missing) < FRAMES
    assert contents(out) == contents(tmp_path / "whole")


def test_frames_of_another_rendering_do_not_stay(models: Path, tmp_path: Path,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    first = UnfinishedPath(tmp_path, inputs_of(models))
    first.begin()
    (first.folder / "img_0001.done").touch()
    other = UnfinishedPath(tmp_path, inputs_of(models, "BACKGROUND_GRAY", "0"))
    with caplog.at_level(logging.WARNING, logger="npcr"):
        other.begin()
    assert len(other.missing()) == FRAMES
    assert "are of another model, path or configuration; all frames are rendered anew" in caplog.text


def command(models: Path, output: Path, processes: int, *keys: str) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes else []
    return [sys.executable, *launcher, str(SCRIPT), "--config-file", str(models / "config.yml"), "--cam-pose",
            str(models / "CamPose.inf"), "--intrinsics", str(models / "Intrinsic.inf"), "--checkpoint", str(models),
            "--output", str(output), "TEMPORAL.HISTORY", "4", "RENDER.RAW", "True", "RENDER.VIDEO", "h264,gif", *keys]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_one_two_and_three_processes_write_the_same_files(models: Path, tmp_path: Path) -> None:
    for processes in (0, 2, 3):
        subprocess.run(command(models, tmp_path / str(processes), processes), check=True, env=environment())
    alone = contents(tmp_path / "0")
    assert len(alone) == 3 * FRAMES + 2
    assert contents(tmp_path / "2") == alone
    assert contents(tmp_path / "3") == alone


def write_scored_model(folder: Path) -> Path:
    """A folder with config.yml and a model; and a scene of five photographs, which is returned."""
    scene = write_tiny_scene(folder / "scene", cameras=5)
    cfg = changed(default_config(), MODEL__FORM="strands", MODEL__NETWORK=False, MODEL__DEVICE="cpu",
                  INPUT__SIZE_RAW=[24, 16], INPUT__SIZE_TEST=[24, 24], DATASETS__TRAIN=str(scene),
                  OUTPUT_DIR=str(folder))
    dump_config(cfg, folder / "config.yml")
    clouds = load_clouds(scene, 1)
    save_model(model_path(folder, 3), make_checkpoint(build_renderer(cfg, clouds), clouds, to_dict(cfg), 3))
    return scene


def evaluate(folder: Path, processes: int, *options: str) -> None:
    """Evaluate under torchrun; results go to a folder with the number of processes as its name."""
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
                    str(SCRIPT.with_name("evaluate.py")), "--config-file", str(folder / "config.yml"), "--output",
                    str(folder / str(processes)), *options], check=True, env=environment())


def start(name: str, arguments: list[str]) -> None:
    importlib.import_module(f"npcr.commands.{name}").main(arguments)


@pytest.mark.parametrize("name", ["render", "evaluate"])
def test_processes_of_other_settings_are_refused_with_the_key(name: str, tmp_path: Path) -> None:
    scene = write_scored_model(tmp_path)
    options = ["--config-file", str(tmp_path / "config.yml"), "--checkpoint", str(tmp_path), "--output",
               str(tmp_path / "out")]
    if name == "render":
        options += ["--cam-pose", str(scene / "CamPose.inf"), "--intrinsics", str(scene / "Intrinsic.inf")]
    both = [[*options, "BACKGROUND_GRAY", gray] for gray in ("0", "9")]
    for message in run_together(2, start, name, both):
        assert "BACKGROUND_GRAY is 0 in process 0 and 9 in process 1" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_views_of_an_evaluation_are_shared_out(tmp_path: Path) -> None:
    write_scored_model(tmp_path)
    for processes in (1, 2):
        evaluate(tmp_path, processes, "--all")
    one, two = (json.loads((tmp_path / str(n) / "evaluation.json").read_text()) for n in (1, 2))
    assert len(one["each"]) == 5
    assert two == one
    assert (tmp_path / "1" / "contact_sheet.png").read_bytes() == (tmp_path / "2" / "contact_sheet.png").read_bytes()


@pytest.mark.slow
def test_the_frames_of_a_video_are_shared_out_and_measured_by_one(tmp_path: Path) -> None:
    scene = write_scored_model(tmp_path)
    for processes in (1, 2):
        evaluate(tmp_path, processes, "--video", "--cam-pose", str(scene / "CamPose.inf"))
    one, two = (json.loads((tmp_path / str(n) / "video.json").read_text()) for n in (1, 2))
    for report in (one, two):
        for path in report["paths"].values():
            assert path.pop("seconds")["render"] > 0
    assert two == one
    assert list(one["paths"]) == ["path", "fine orbit", "still camera"]
    assert contents(tmp_path / "2").keys() == contents(tmp_path / "1").keys()  # nothing unfinished is left
    for name in ("curves.png", "slices.png"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_what_is_to_be_measured_stays_until_it_was(models: Path, tmp_path: Path,
                                                   caplog: pytest.LogCaptureFixture) -> None:
    """And is not rendered again; a run for pictures does not take it over."""
    inputs = inputs_of(models)
    caplog.set_level(logging.INFO, logger="npcr")
    with suppress(KeyboardInterrupt), shared_outputs(inputs, tmp_path) as outputs:
        first = [(output.color, output.depth, seconds) for output, seconds in outputs]
        raise KeyboardInterrupt
    assert len(first) == FRAMES
    assert f"{FRAMES} of {FRAMES} frames are rendered and kept; the same command goes on with them" in caplog.text
    assert UnfinishedPath(tmp_path, inputs, keep=True).is_of_this()
    assert not UnfinishedPath(tmp_path, inputs).is_of_this()
    with shared_outputs(inputs, tmp_path) as outputs:
        for before, (output, seconds) in zip(first, outputs, strict=True):
            assert torch.equal(before[0], output.color)
            assert torch.equal(before[1], output.depth)
            assert before[2] == seconds > 0  # noted then: it was not rendered again
    assert not (tmp_path / FOLDER).exists()
    rendered = [output.color for output in render_outputs(inputs.renderer, inputs.cameras, inputs.frames)]
    assert all(torch.equal(color, kept) for color, (kept, *_) in zip(rendered, first, strict=True))


@pytest.mark.slow
def test_legacy_blending_is_that_of_one_process(models: Path, tmp_path: Path) -> None:
    for processes in (0, 2):
        subprocess.run(command(models, tmp_path / str(processes), processes, "TEMPORAL.BLEND", "legacy"), check=True,
                       env=environment())
    assert contents(tmp_path / "2") == contents(tmp_path / "0")


@pytest.mark.slow
def test_a_killed_process_loses_only_unfinished_frames(models: Path, tmp_path: Path) -> None:
    subprocess.run(command(models, tmp_path / "whole", 0), check=True, env=environment())
    out = tmp_path / "killed"
    with subprocess.Popen(command(models, out, 2), env=environment(), stderr=subprocess.PIPE, text=True) as running:
        end = time.monotonic() + 300
        while len(list((out / FOLDER).glob("*.done"))) < 3 and time.monotonic() < end and running.poll() is None:
            time.sleep(0.002)
        workers = [int(pid) for pid in Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()]
        os.kill(workers[-1], signal.SIGKILL)
        _, message = running.communicate()
    assert running.returncode != 0
    assert len(workers) == 2
    finished = {file.name: file.stat().st_mtime_ns for file in (out / FOLDER).glob("*.done")}
    assert 3 <= len(finished) < FRAMES, message
    again = subprocess.run(command(models, out, 3), check=True, env=environment(), capture_output=True, text=True)
    assert f"{len(finished)} of {FRAMES} frames are finished" in again.stderr
    assert f"{FRAMES} of {FRAMES} frames" in again.stdout
    assert contents(out) == contents(tmp_path / "whole")


