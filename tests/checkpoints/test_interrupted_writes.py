# SPDX-License-Identifier: Apache-2.0
"""Checkpoints survive kills, full disks and limits: the old file stays until the new one is whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import npcr.io.files
from npcr.checkpoints import find_epoch, load_model, model_path, save_model
from tests.checkpoints.small_checkpoints import SAVES, assert_refused, assert_same, make_model

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and resource limits are POSIX")


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start Python on `code` in a process of its own; `sys.argv[1:]` are the arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", "import sys\n" + textwrap.dedent(code), *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,  # so that it finds the package `tests`
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_once_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    with process:
        line = process.stdout.readline()
        assert line == "ready\n", line + process.stdout.read()
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


STALLS = {
    "half written": "def stall(content, file):\n"
    "    file.write(b'PK\\x03\\x04 half'); file.flush(); wait()\n"
    "torch.save = stall",
    "not yet renamed": "os.replace = lambda source, target: wait()",
}


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS.keys())
def test_kill_9_during_a_write_leaves_the_old_file(tmp_path: Path, stall: str) -> None:
    path = model_path(tmp_path, 1)
    save_model(path, make_model(points=500))
    code = (
        "import os, time, torch\nfrom npcr.checkpoints import save_model\n"
        "from tests.checkpoints.small_checkpoints import make_model\n"
        "def wait(): print('ready', flush=True); time.sleep(600)\n"
        f"{stall}\nsave_model(sys.argv[1], make_model(2))\n"
    )
    kill_once_ready(child(code, path))

    assert_same(load_model(path), make_model(points=500))
    assert len(list(tmp_path.iterdir())) == 2, "the killed process leaves its temporary file"
    assert find_epoch(tmp_path) == 1
    save_model(model_path(tmp_path, 3), make_model(3))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["nr_model_1.pth", "nr_model_3.pth"]


@POSIX
@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = model_path(tmp_path, 1)
    kill_once_ready(
        child(
            """
        from npcr.checkpoints import save_model
        from tests.checkpoints.small_checkpoints import make_model
        models = [make_model(1, 20_000), make_model(2, 20_000)]
        save_model(sys.argv[1], models[0])
        print("ready", flush=True)
        while True:
            save_model(sys.argv[1], models[1])
            save_model(sys.argv[1], models[0])
        """,
            path,
        )
    )
    found = load_model(path)
    assert_same(found, make_model(found.epoch, 20_000))


@POSIX
def test_a_temporary_file_in_use_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / f".nr_model_1.pth.{os.getppid()}-0a1b2c3d.tmp.pth"
    other.touch()
    save_model(model_path(tmp_path, 1), make_model())
    assert other.exists()


class _FullDisk:
    """A file on a disk with `room` bytes left."""

    def __init__(self, path: Path, mode: str, room: int) -> None:
        self.file, self.room = open(path, mode), room  # noqa: SIM115 (the wrapper closes it)

    def __enter__(self) -> _FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


@pytest.mark.parametrize("room", [0, 1000, 200_000])
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES.keys())
def test_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: Callable[[Path, int], None], room: int
) -> None:
    path = tmp_path / "nr_x_1.pth"
    save(path, 5)
    monkeypatch.setattr(
        npcr.io.files, "open", lambda place, mode: _FullDisk(place, mode, room), raising=False
    )
    assert_refused(path, save, errno.ENOSPC)


def test_full_disk_found_out_when_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save_model(tmp_path / "m.pth", make_model())
    monkeypatch.setattr(os, "fsync", fsync)
    assert_refused(tmp_path / "m.pth", SAVES["model"], errno.ENOSPC)


def test_file_size_limit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    path = model_path(tmp_path, 1)
    save_model(path, make_model())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        assert_refused(path, SAVES["model"], errno.EFBIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_same(load_model(path), make_model())


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 200 kB; needs the right to mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=200k", "none", place], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"no mount here: {error}")
    if done.returncode:
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def test_full_disk_for_real(tiny_disk: Path) -> None:
    path = tiny_disk / "nr_model_1.pth"
    save_model(path, make_model())
    assert_refused(path, SAVES["model"], errno.ENOSPC)
    assert_same(load_model(path), make_model())
