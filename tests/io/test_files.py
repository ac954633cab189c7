# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from npcr.io.files import atomic_path, atomic_write, remove_leftovers


def test_writes_and_makes_folders(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a" / "b.bin") as file:
        file.write(b"one")
    assert (tmp_path / "a" / "b.bin").read_bytes() == b"one"
    assert os.listdir(tmp_path / "a") == ["b.bin"]


def test_text_is_utf8_with_line_ends_as_given(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "t.txt", "w") as file:
        file.write("é\n")
    assert (tmp_path / "t.txt").read_bytes() == b"\xc3\xa9\n"


def _write_half(path: Path, error: BaseException) -> None:
    with atomic_write(path) as file:
        file.write(b"half of the new")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "full")],
                         ids=["ctrl-c", "bug", "full-disk"])
def test_the_old_file_stays_on_any_exception(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "kept.bin"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        _write_half(path, error)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept.bin"]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert not path.exists()
    assert path.exists()


def test_the_disk_filling_up_at_the_last_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.bin"
    path.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["kept.bin"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a") as file:
        file.write(b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_the_temporary_path_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "v.mp4") as temporary:
        assert temporary.suffix == ".mp4"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert (tmp_path / "v.mp4").read_bytes() == b"x"


def test_a_dead_writers_files_are_removed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True,
                          check=True).stdout.strip()
    leftover = tmp_path / f".nr_optimizer_3.pth.{dead}-0a1b2c3d.tmp.pth"
    video = tmp_path / f".video.mp4.{dead}-0a1b2c3d.tmp.mp4"
    bare = tmp_path / f".README.{dead}-0a1b2c3d.tmp"
    scene = tmp_path / f".scene.{dead}-0a1b2c3d.tmp" / "img"
    scene.mkdir(parents=True)
    kept = [tmp_path / f".a.pth.{os.getppid()}-0a1b2c3d.tmp.pth", tmp_path / f".b.pth.{os.getpid()}-0a1b2c3d.tmp.pth",
            tmp_path / "nr_model_3.pth", tmp_path / f".notes.{dead}.tmp"]
    for file in (leftover, video, bare, *kept):
        file.touch()
    with caplog.at_level(logging.INFO, "npcr"):
        remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    assert all(str(file) in caplog.text for file in (leftover, video, bare, scene.parent))


def test_a_number_that_another_process_got_keeps_no_file_for_ever(tmp_path: Path) -> None:
    files = [tmp_path / f".a.pth.{pid}-0a1b2c3d.tmp.pth" for pid in (os.getpid(), os.getppid())]
    for file in files:
        file.touch()
        os.utime(file, (time.time() - 86400,) * 2)
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
    remove_leftovers(tmp_path / "missing")
