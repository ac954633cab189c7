# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from npcr.config import load_config
from npcr.io.camera_files import write_intrinsics
from npcr.io.camera_path_files import CameraPath, make_cameras, write_camera_path
from npcr.io.images import read_image
from tests.models_folder import call_script, write_models_folder
from tests.scenes import orbit_poses, write_poses

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "render.py"
Script = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("render")
    write_models_folder(root)
    return root


@pytest.fixture
def render(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
           capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs the script in a folder with models/; gives status, stdout, stderr."""
    shutil.copytree(prepared / "models", tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call_script(SCRIPT, arguments, monkeypatch, capsys)


def test_without_arguments(render: Script) -> None:
    status, out, _ = render()
    assert status == 0
    results = Path("output") / "res_3"
    assert sorted(p.name for p in results.iterdir()) == [
        "config.yml", *(f"img_000{n}.jpg" for n in range(1, 5)), "rgba", "video.mp4"]
    assert str(results) in out
    assert "4 of 4 frames" in out
    assert read_image(results / "img_0004.jpg").shape == (24, 32, 3)
    assert read_image(results / "rgba" / "img_0004.png").shape == (24, 32, 4)
    assert load_config(results / "config.yml").BACKGROUND_GRAY == 60


def test_arguments_and_keys(render: Script) -> None:
    for name in ("config.yml", "CamPose.inf", "Intrinsic.inf", "nr_model_3.pth"):
        Path("models", name).rename(f"my_{name}")
    write_poses(Path("my_CamPose.inf"), orbit_poses(40)[:2])
    status, out, _ = render("--config-file", "my_config.yml", "--cam-pose", "my_CamPose.inf", "--intrinsics",
                            "my_Intrinsic.inf", "--checkpoint", "my_nr_model_3.pth", "--output", "here",
                            "RENDER.RAW", "True", "TEMPORAL.BLEND", "off", "BACKGROUND_GRAY", "255")
    assert status == 0
    assert "2 of 2 frames: here" in out
    with np.load("here/raw/img_0002.npz") as raw:
        over = raw["rgb"] + 1 - raw["alpha"][..., None]
        empty = raw["depth"] == 0
        assert raw["rgb"].shape == (24, 32, 3)
    assert 0 < empty.mean() < 1
    picture = read_image("here/img_0002.jpg")
    assert np.abs(np.clip(over * 255, 0, 255) - picture).mean() < 8  # JPEG of a noisy picture
    assert not Path("output").exists()


def test_frames_of_a_path_are_blended(render: Script) -> None:
    def last(*options: str) -> np.ndarray:
        assert render("--output", "out", *options)[0] == 0
        return read_image("out/rgba/img_0004.png")

    single = last("TEMPORAL.BLEND", "off")
    assert np.array_equal(single, last("TEMPORAL.BLEND", "off"))
    assert not np.array_equal(single, last())


def test_the_newest_model(render: Script) -> None:
    shutil.copy("models/nr_model_3.pth", "models/nr_model_1.pth")
    assert render("LOAD_EPOCH", "-1")[0] == 0
    assert Path("output/res_3/video.mp4").exists()


def test_each_frame_of_the_scene_has_its_cloud(render: Script) -> None:
    def depth(number: str) -> np.ndarray:
        assert render("--output", number, "--frame", number, "RENDER.RAW", "True")[0] == 0
        with np.load(f"{number}/raw/img_0001.npz") as raw:
            return raw["depth"]

    assert not np.array_equal(depth("1"), depth("2"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["--cam-pose", "nowhere.inf"], r"nowhere\.inf: .*no such file"),
    (["--checkpoint", "nowhere.pth"], r"nowhere\.pth: .*(no such|not found|missing)"),
    (["--config-file", "nowhere.yml"], r"nowhere\.yml: no such configuration file"),
    (["LOAD_EPOCH", "7"], r"models: no nr_model_7\.pth; epochs there: 3"),
    (["--frame", "3"], r"--frame is 3; models/nr_model_3\.pth has frames 1 to 2"),
    (["--output", "models/config.yml"], r"models/config\.yml"),
    (["TEMPORAL.BLEND", "strong"], r"TEMPORAL\.BLEND is 'strong'; allowed: default, legacy, off"),
])
def test_what_is_wrong_is_told_in_one_line(render: Script, arguments: list[str], message: str) -> None:
    status, _, err = render(*arguments)
    assert status == 2
    assert err.strip().count("\n") == 0
    assert re.search(message, err, re.IGNORECASE)


@pytest.mark.slow
def test_ctrl_c_leaves_a_video_that_plays(prepared: Path, tmp_path: Path) -> None:
    """As a terminal sends it: to every process of the group, the encoder too."""
    if not hasattr(os, "killpg"):
        pytest.skip("needs process groups")
    write_poses(tmp_path / "long.inf", orbit_poses(3000))
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--cam-pose", str(tmp_path / "long.inf"),
         "--output", str(tmp_path / "out")],
        cwd=prepared, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite in the background inherits an ignored SIGINT, which a terminal's foreground never has.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        while not (tmp_path / "out" / "img_0003.jpg").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.endswith("interrupted\n")
    written = len(list((tmp_path / "out").glob("img_*.jpg")))
    assert 3 <= written < 3000
    assert f"{written} of 3000 frames" in out
    video = cv2.VideoCapture(str(tmp_path / "out" / "video.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == written
    assert video.read()[0]


def test_help_has_examples(render: Script) -> None:
    status, out, _ = render("--help")
    assert status == 0
    assert "python tools/render.py" in out


def test_a_camera_path_as_json(render: Script) -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3] = orbit_poses(40)[:3, :3]
    path = CameraPath(make_cameras(list(poses), [30.0, 40.0, 50.0], (40, 28)), 12.0, np.array([0.0, 0.4, 1.0]))
    write_camera_path("path.json", path)
    status, out, _ = render("--camera-path", "path.json", "--output", "json", "TEMPORAL.BLEND", "off",
                            "RENDER.RAW", "True")
    assert status == 0
    assert "3 of 3 frames" in out
    assert read_image(Path("json/img_0001.jpg")).shape == (28, 40, 3)
    assert (load_config(Path("json/config.yml")).RENDER.FPS, load_config(Path("json/config.yml")).INPUT.SIZE_TEST) == (
        12, [40, 28])

    def same_camera(number: int, frame: int) -> bool:
        """Whether the path shows the scene's `frame` at `number`, as the other files of this camera do."""
        write_poses(Path("one.inf"), poses[number - 1:number, :3])
        write_intrinsics("one_K.inf", path.cameras.resized((64, 48)).intrinsics[number - 1:number])
        assert render("--cam-pose", "one.inf", "--intrinsics", "one_K.inf", "--frame", frame, "--output", "inf",
                      "TEMPORAL.BLEND", "off", "RENDER.RAW", "True", "INPUT.SIZE_TEST", "40,28")[0] == 0
        with np.load(f"json/raw/img_{number:04d}.npz") as ours, np.load("inf/raw/img_0001.npz") as other:
            return bool(np.abs(ours["rgb"] - other["rgb"]).mean() < 1e-3)

    assert [same_camera(number, 1) for number in (1, 2, 3)] == [True, True, False]
    assert same_camera(3, 2)
    status, _, _ = render("--camera-path", "path.json", "--output", "own", "--frame", 2, "INPUT.SIZE_TEST", "32,24",
                          "RENDER.FPS", "9")
    assert status == 0
    assert read_image(Path("own/img_0001.jpg")).shape == (24, 32, 3)
    assert load_config(Path("own/config.yml")).RENDER.FPS == 9


def test_two_paths_are_one_too_many(render: Script) -> None:
    status, _, err = render("--camera-path", "path.json", "--cam-pose", "x.inf")
    assert status == 2
    assert "leave out --cam-pose" in err
    status, _, err = render("--camera-path", "none.json")
    assert (status, "none.json: no such file" in err) == (2, True)


def test_exr_files_or_the_extra_that_writes_them(render: Script) -> None:
    status, out, err = render("--output", "here", "RENDER.EXR", "half", "RENDER.VIDEO", "none")
    if importlib.util.find_spec("OpenEXR") is None:
        assert (status, err) == (2, "error: RENDER.EXR needs OpenEXR: pip install 'npcr[exr]'\n")
    else:
        assert status == 0
        assert "here/exr/" in out
        assert sorted(file.name for file in Path("here/exr").iterdir()) == [f"img_000{n}.exr" for n in range(1, 5)]
