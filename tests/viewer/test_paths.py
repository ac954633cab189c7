# SPDX-License-Identifier: Apache-2.0
"""Poses from browsers, keyframes, and films."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from npcr.camera_paths import look_at
from npcr.config import changed, default_config, load_config
from npcr.errors import NpcrError
from npcr.io.camera_files import read_cameras
from npcr.io.camera_path_files import CameraPath, make_cameras, read_camera_path, write_camera_path
from npcr.io.images import read_image
from npcr.viewer.film import Film
from npcr.viewer.path_editor import PathEditor, checked_name
from npcr.viewer.pictures import Engine
from npcr.viewer.poses import fit_window, look_at_distance, pose_from_browser
from tests.viewer.models import POSE, small_model

ORIGIN = np.zeros(3)


def editor(size: tuple[int, int] = (40, 30)) -> PathEditor:
    made = PathEditor(ORIGIN, size, (80, 90), 10.0)
    for angle in (0.0, 0.5, 1.0):
        pose = look_at((3 * np.sin(angle), -3 * np.cos(angle), 0.4), (0, 0, 0))
        made.put(made.keyframe(pose, 30 + 10 * angle, 1.0, angle))
    return made


def test_the_browsers_camera_has_these_axes() -> None:
    quaternion = Rotation.from_matrix(POSE[:3, :3]).as_quat()[[3, 0, 1, 2]]  # w first
    np.testing.assert_allclose(pose_from_browser(3 * quaternion, POSE[:3, 3]), POSE, atol=1e-12)
    with pytest.raises(ValueError, match="no pose"):
        pose_from_browser([0, 0, 0, 0], ORIGIN)
    with pytest.raises(ValueError, match="no pose"):
        pose_from_browser([1, 0, 0, 0], [np.nan, 0, 0])


def test_keyframes_look_at_the_scene() -> None:
    assert look_at_distance(POSE, ORIGIN) == pytest.approx(np.hypot(3, 0.4))
    away = look_at((0, -3, 0), (0, -9, 0))
    assert look_at_distance(away, ORIGIN) == pytest.approx(3)


def test_pictures_fit_into_windows() -> None:
    assert fit_window((1600, 900), 800) == (800, 450)
    assert fit_window((640, 480), 1024) == (640, 480)
    assert fit_window((0, 0), 1024) == (24, 24)


def test_a_saved_path_is_the_same_in_both_formats_and_loads_again(tmp_path: Path) -> None:
    made = editor()
    files = made.save(tmp_path, "my_path")
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        "my_path/path.json", "my_path/CamPose.inf", "my_path/Intrinsic.inf"]
    path = read_camera_path(files[0])
    assert len(path.cameras) == 21  # 2 seconds, both ends
    other = read_cameras(files[1], files[2], (80, 90)).resized((40, 30))
    torch.testing.assert_close(path.cameras.cam_to_world, other.cam_to_world, atol=1e-6, rtol=0)
    torch.testing.assert_close(path.cameras.intrinsics, other.intrinsics, atol=1e-4, rtol=0)
    again = PathEditor(ORIGIN, (9, 9), (9, 9), 99.0)
    again.load(files[0])
    assert (again.size, again.fps, again.seconds) == ((40, 30), 10, 2)
    torch.testing.assert_close(again.path().cameras.cam_to_world, path.cameras.cam_to_world, atol=1e-6, rtol=0)
    for mine, theirs in zip(made.keyframes, again.keyframes, strict=True):
        assert theirs.distance == pytest.approx(mine.distance)
        assert (theirs.fov, theirs.seconds, theirs.time) == pytest.approx((mine.fov, mine.seconds, mine.time))


def test_keyframes_are_replaced_timed_and_looped() -> None:
    made = editor()
    np.testing.assert_allclose(made.at(0).cam_to_world, made.keyframes[0].cam_to_world, atol=1e-9)
    made.put(made.keyframe(POSE, 50.0, 3.0), 2)
    assert (made.seconds, made.at(4).fov) == (4, pytest.approx(50))
    made.loop = True
    assert made.seconds == 5
    with pytest.raises(NpcrError, match="at least one keyframe"):
        PathEditor(ORIGIN, (9, 9), (9, 9), 30.0).path()


def test_a_path_without_keyframes_loads_as_some_of_its_cameras(tmp_path: Path) -> None:
    poses = [look_at((3 * np.cos(a), 3 * np.sin(a), 1), (0, 0, 0)) for a in np.linspace(0, 2, 101)]
    write_camera_path(tmp_path / "orbit.json", CameraPath(make_cameras(poses, [35.0] * 101, (64, 48)), 25.0))
    made = editor()
    made.load(tmp_path / "orbit.json")
    assert len(made.keyframes) == 20
    assert made.seconds == pytest.approx(4)
    path = made.path()
    assert len(path.cameras) == 101
    np.testing.assert_allclose(path.cameras.cam_to_world, np.stack(poses), atol=2e-3)


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a\\b", ".hidden", "a..b", "x" * 81, "a\nb"])
def test_a_name_from_a_browser_stays_in_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(NpcrError, match="letters, digits"):
        editor().save(tmp_path / "out", name)
    assert list(tmp_path.iterdir()) == []
    assert checked_name("walk-2.final") == "walk-2.final"


def test_a_film_has_the_files_of_render(tmp_path: Path) -> None:
    cfg = changed(default_config(), RENDER__VIDEO=["h264"], TEMPORAL__BLEND="off")
    engine, told = Engine(small_model(frames=2)), []
    path = editor((40, 30)).path()
    count = Film(engine, cfg).render(path, tmp_path, lambda *numbers: told.append(numbers))
    assert count == 21
    assert told[-1] == (21, 21)
    assert read_image(tmp_path / "img_0021.jpg").shape == (30, 40, 3)
    assert (tmp_path / "video.mp4").exists()
    used = load_config(tmp_path / "config.yml")
    assert (used.INPUT.SIZE_TEST, used.RENDER.FPS) == ([40, 30], 10)
    with torch.inference_mode():
        last = engine.renderer(path.cameras[20], 1)  # its time is 1: the second frame
    alpha = read_image(tmp_path / "rgba" / "img_0021.png")[..., 3]
    np.testing.assert_allclose(alpha, 255 * last.alpha[0, 0].clamp(0, 1), atol=1)


def test_closing_waits_until_the_files_are_whole(tmp_path: Path) -> None:
    film = Film(Engine(small_model()), changed(default_config(), RENDER__VIDEO=["h264"], TEMPORAL__BLEND="off"))
    begun, go_on, counts = threading.Event(), threading.Event(), []

    def tell(done: int, total: int) -> None:
        begun.set()
        go_on.wait(20)

    thread = threading.Thread(target=lambda: counts.append(film.render(editor((40, 30)).path(), tmp_path, tell)))
    thread.start()
    assert begun.wait(60)
    threading.Timer(0.3, go_on.set).start()  # it is asked to end before
    film.close()
    thread.join(1)
    assert counts == [1]
    assert (tmp_path / "video.mp4").stat().st_size > 0
    with pytest.raises(NpcrError, match="another path"):
        film.render(editor().path(), tmp_path, tell)


def test_one_film_at_a_time_and_it_can_be_cancelled(tmp_path: Path) -> None:
    film = Film(Engine(small_model()), changed(default_config(), RENDER__VIDEO=[], TEMPORAL__BLEND="off"))
    begun, refused = threading.Event(), []

    def tell(done: int, total: int) -> None:
        if done == 2:
            begun.set()
            try:
                film.render(editor().path(), tmp_path / "b", lambda *_: None)
            except NpcrError as error:
                refused.append(str(error))
            assert film.cancel()

    assert not film.cancel()  # there is nothing to cancel
    assert film.render(editor().path(), tmp_path / "a", tell) == 2
    assert begun.is_set()
    assert refused == ["another path is being rendered; wait for it, or cancel it"]
    assert len(list((tmp_path / "a").glob("img_*.jpg"))) == 2
    assert film.render(CameraPath(editor().path().cameras[:2], 10.0), tmp_path / "c", lambda *_: None) == 2
