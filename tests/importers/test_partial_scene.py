# SPDX-License-Identifier: Apache-2.0
"""Imports that are stopped: what is whole stays, the next call goes on, and the scene is that of one call."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npcr.errors import NpcrError, SceneError
from npcr.importers import scene_writer
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.images import write_image
from npcr.io.points import PointCloud, write_points
from tests.captures import points, write_transforms

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four photographs with masks, of which one is held out, and a cloud."""
    folder = write_transforms(tmp_path / "source", k1=0.01, camera_model="OPENCV", ply_file_path="cloud.ply",
                              test_filenames=["images/3.png"])
    values = json.loads((folder / "transforms.json").read_text())
    for i, frame in enumerate(values["frames"]):
        frame["mask_path"] = f"masks/{i}.png"
        matte = np.zeros((36, 48), np.uint8)
        matte[8:30, 10 + i:40] = 255
        write_image(folder / "masks" / f"{i}.png", matte)
    (folder / "transforms.json").write_text(json.dumps(values))
    write_points(folder / "cloud.ply", PointCloud(points().astype(np.float32)))
    return folder


@pytest.fixture
def converted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The photographs that are converted, by name."""
    seen: list[str] = []
    convert = scene_writer.convert_image

    def note(conversion: Any, *arguments: Any) -> Any:
        seen.append(conversion.view.image.name)
        return convert(conversion, *arguments)

    monkeypatch.setattr(scene_writer, "convert_image", note)
    return seen


def write(source: Path, scene: Path, progress: Callable[..., Iterable[Any]] | None = None, **options: Any) -> None:
    import_capture(read_transforms(source), scene, workers=1,
                   progress=progress or (lambda steps, count, title: steps), **options)


def stop_after(number: int, error: BaseException) -> Callable[..., Iterator[Any]]:
    """A progress that raises an error once so many photographs are done."""
    def progress(steps: Iterable[Any], count: int, title: str) -> Iterator[Any]:
        for done, step in enumerate(steps, 1):
            yield step
            if done == number:
                raise error
    return progress


def contents(scene: Path) -> dict[str, bytes]:
    return {str(file.relative_to(scene)): file.read_bytes() if file.is_file() else b""
            for file in sorted(scene.rglob("*"))}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"),
                                   MemoryError()], ids=["ctrl-c", "full disk", "memory"])
def test_an_import_that_was_stopped_goes_on(source: Path, tmp_path: Path, converted: list[str],
                                            caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    caplog.set_level("INFO", "npcr")
    write(source, tmp_path / "whole" / "scene")
    assert sorted(converted) == ["0.png", "1.png", "2.png", "3.png"]
    scene = tmp_path / "stopped" / "scene"
    converted.clear()
    with pytest.raises(type(error)):
        write(source, scene, stop_after(2, error))
    done = list(converted)
    assert [path.name for path in scene.parent.iterdir()] == [".scene.partial"]
    assert f"stopped; {len(done)} of 4 photographs are whole and stay in" in caplog.text
    converted.clear()
    caplog.clear()
    write(source, scene)
    assert sorted(converted + done) == ["0.png", "1.png", "2.png", "3.png"]
    assert f"goes on: {len(done)} of 4 photographs were done" in caplog.text
    assert [path.name for path in scene.parent.iterdir()] == ["scene"]
    assert contents(scene) == contents(tmp_path / "whole" / "scene")


def test_a_full_disk_is_known_behind_another_error(source: Path, tmp_path: Path) -> None:
    error = NpcrError("img_0001.png: cannot be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(NpcrError):
        write(source, tmp_path / "new" / "scene", stop_after(1, error))
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".scene.partial"]


@pytest.mark.parametrize("error", [SceneError("wrong"), OSError(errno.EIO, "input/output error")])
def test_an_error_leaves_nothing(source: Path, tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)):
        write(source, tmp_path / "new" / "scene", stop_after(2, error))
    assert list((tmp_path / "new").iterdir()) == []


def _touch_a_photograph(source: Path, options: dict[str, Any]) -> None:
    os.utime(source / "images" / "1.png", (1, 1))


def _touch_a_mask(source: Path, options: dict[str, Any]) -> None:
    os.utime(source / "masks" / "1.png", (1, 1))


def _move_a_camera(source: Path, options: dict[str, Any]) -> None:
    values = json.loads((source / "transforms.json").read_text())
    values["frames"][0]["transform_matrix"][0][3] += 1e-9
    (source / "transforms.json").write_text(json.dumps(values))


def _bend_the_lens(source: Path, options: dict[str, Any]) -> None:
    values = json.loads((source / "transforms.json").read_text())
    (source / "transforms.json").write_text(json.dumps({**values, "k1": 0.010001}))


def _give_other_options(source: Path, options: dict[str, Any]) -> None:
    options["mask"] = False


@pytest.mark.parametrize(("change", "what"), [
    (_touch_a_photograph, "photographs, mattes or cameras"), (_touch_a_mask, "photographs, mattes or cameras"),
    (_move_a_camera, "photographs, mattes or cameras"), (_bend_the_lens, "photographs, mattes or cameras"),
    (_give_other_options, "options")])
def test_what_others_wrote_is_removed_and_said(source: Path, tmp_path: Path, converted: list[str],
                                               caplog: pytest.LogCaptureFixture, change: Callable[..., None],
                                               what: str) -> None:
    scene = tmp_path / "new" / "scene"
    with pytest.raises(KeyboardInterrupt):
        write(source, scene, stop_after(3, KeyboardInterrupt()))
    converted.clear()
    options: dict[str, Any] = {}
    change(source, options)
    write(source, scene, **options)
    assert sorted(converted) == ["0.png", "1.png", "2.png", "3.png"]
    assert f"an import that was stopped differs in its {what}; the 3 photographs that it had written are removed" \
        in caplog.text
    write(source, tmp_path / "whole" / "scene", **options)
    assert contents(scene) == contents(tmp_path / "whole" / "scene")


def test_another_version_of_the_program_begins_anew(source: Path, tmp_path: Path, converted: list[str],
                                                    caplog: pytest.LogCaptureFixture,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "scene", stop_after(3, KeyboardInterrupt()))
    converted.clear()
    monkeypatch.setattr(scene_writer, "code_digest", lambda: "later")
    write(source, tmp_path / "scene")
    assert len(converted) == 4
    assert "differs in the version of this program" in caplog.text


@pytest.mark.parametrize(("damage", "damaged"), [
    (lambda folder: (folder / "img/0/img_0002.png").write_bytes(b"\x89PNG"), 1),
    (lambda folder: (folder / "img/0/img_0002_alpha.png").unlink(), 1),
    (lambda folder: (folder / ".written.jsonl").write_bytes((folder / ".written.jsonl").read_bytes()[:-40]), -1)],
    ids=["photograph", "matte", "list"])
def test_what_is_not_whole_is_written_again(source: Path, tmp_path: Path, converted: list[str],
                                            damage: Callable[[Path], Any], damaged: int) -> None:
    scene = tmp_path / "new" / "scene"
    with pytest.raises(KeyboardInterrupt):
        write(source, scene, stop_after(2, KeyboardInterrupt()))
    partial = scene.parent / ".scene.partial"
    (partial / "img/0/.img_0003.png.7-cafe.tmp.png").write_bytes(b"half")
    (partial / "pointclouds").mkdir(exist_ok=True)
    (partial / "pointclouds" / "frame2.ply").write_bytes(b"of other options")
    damage(partial)
    done = list(converted)
    converted.clear()
    write(source, scene)
    assert [name for name in done if name in converted] == [done[damaged]]
    write(source, tmp_path / "whole" / "scene")
    assert contents(scene) == contents(tmp_path / "whole" / "scene")


def test_an_earlier_scene_stays_until_the_new_one_is_whole(source: Path, tmp_path: Path) -> None:
    write(source, tmp_path / "scene")
    before = contents(tmp_path / "scene")
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "scene", stop_after(2, KeyboardInterrupt()), overwrite=True, downscale=1.5)
    assert contents(tmp_path / "scene") == before
    write(source, tmp_path / "scene", overwrite=True, downscale=1.5)
    assert contents(tmp_path / "scene") != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scene", "source"]


def test_two_imports_into_one_folder_do_not_meet(source: Path, tmp_path: Path) -> None:
    scene = tmp_path / "new" / "scene"
    refused: list[str] = []

    def import_meanwhile(steps: Iterable[Any], count: int, title: str) -> Iterable[Any]:
        with pytest.raises(SceneError) as error:
            write(source, scene)
        refused.append(str(error.value))
        return steps

    write(source, scene, import_meanwhile)
    assert len(refused) == 2  # once for each split
    assert f"{scene}: another process is importing into this folder" in refused[0]
    assert [path.name for path in scene.parent.iterdir()] == ["scene"]


@pytest.mark.slow
def test_a_killed_import_goes_on(source: Path, tmp_path: Path) -> None:
    scene = tmp_path / "new" / "scene"
    code = f"""
import time
from pathlib import Path
from tests.importers.test_partial_scene import write

def wait(steps, count, title):
    for step in steps:
        yield step
        print("one", flush=True)
        time.sleep(600)

write(Path({str(source)!r}), Path({str(scene)!r}), wait)
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "one\n"
            with pytest.raises(SceneError, match="another process is importing"):
                write(source, scene)
        finally:
            process.kill()
    assert ".scene.partial" in {path.name for path in scene.parent.iterdir()}
    tool = [sys.executable, "-m", "npcr", "import", "transforms", source, scene]
    done = subprocess.run(tool, cwd=ROOT, check=True, stderr=subprocess.PIPE, text=True)
    assert "photographs were done" in done.stderr
    write(source, tmp_path / "whole" / "scene")
    assert contents(scene) == contents(tmp_path / "whole" / "scene")
    assert [path.name for path in scene.parent.iterdir()] == ["scene"]
