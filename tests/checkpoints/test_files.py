# SPDX-License-Identifier: Apache-2.0
"""Checkpoints survive kills, full disks and cut-off files; what is written is what is read."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import npcr.io.files
from npcr.checkpoints import (
    ModelCheckpoint,
    find_epoch,
    load_model,
    load_training_state,
    model_path,
    optimizer_path,
    save_model,
    save_training_state,
)
from npcr.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and resource limits are POSIX")


def make_model(epoch: int = 1, points: int = 10) -> ModelCheckpoint:
    generator = torch.Generator().manual_seed(epoch)
    return ModelCheckpoint(
        epoch,
        {"MODEL": {"LEGACY": False, "FEATURE_DIM": 4}, "INPUT": {"SIZE_TEST": [64, 48]}},
        {
            "default_feature": torch.randn(4, generator=generator),
            "features.0": torch.randn(points, 4, generator=generator),
            "network.norm1.num_batches_tracked": torch.tensor(7),
        },
        [torch.randn(points, 3, generator=generator)],
        [torch.randint(0, 256, (points, 3), generator=generator, dtype=torch.uint8)],
    )


def assert_same(found: ModelCheckpoint, expected: ModelCheckpoint) -> None:
    assert (found.epoch, found.config) == (expected.epoch, expected.config)
    assert found.model.keys() == expected.model.keys()
    pairs = [(found.model[name], expected.model[name]) for name in expected.model]
    pairs += list(zip(found.points + found.colors, expected.points + expected.colors, strict=True))
    for value, wanted in pairs:
        assert value.dtype == wanted.dtype
        assert torch.equal(value, wanted)


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = model_path(tmp_path / "new folder", 1)
    save_model(path, make_model())
    assert_same(load_model(path), make_model())
    assert [entry.name for entry in path.parent.iterdir()] == ["nr_model_1.pth"]


def test_parameters_and_views_are_stored_as_plain_compact_tensors(tmp_path: Path) -> None:
    model = make_model()
    model.model["default_feature"] = torch.nn.Parameter(torch.arange(4.0))
    model.model["part"] = torch.zeros(1_000_000)[:3]
    save_model(tmp_path / "m.pth", model)
    found = load_model(tmp_path / "m.pth").model
    assert type(found["default_feature"]) is torch.Tensor
    assert not found["default_feature"].requires_grad
    assert found["part"].shape == (3,)
    assert (tmp_path / "m.pth").stat().st_size < 20_000


def test_a_training_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "optimizer": optimizer.state_dict(),
        "torch_rng": torch.get_rng_state(),
        "jobs": [[0, 1], [0, 2]],
        "rate": 5e-5,
        "done": False,
        "scaler": {},
        "name": "Adam",
        "nothing": None,
        "betas": (0.9, 0.999),
        "iteration": 2**40,
    }
    save_training_state(tmp_path / "s.pth", state)
    found = load_training_state(tmp_path / "s.pth")
    assert {k: v for k, v in found.items() if k not in ("optimizer", "torch_rng")} == {
        k: v for k, v in state.items() if k not in ("optimizer", "torch_rng")
    }
    assert torch.equal(found["torch_rng"], state["torch_rng"])
    assert found["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for number, entries in state["optimizer"]["state"].items():
        for name, value in entries.items():
            assert torch.equal(found["optimizer"]["state"][number][name], value)


@pytest.mark.parametrize(
    "value",
    [np.float64(1.0), np.zeros(3), Path("a"), {1, 2}, object()],
    ids=lambda value: type(value).__name__,
)
def test_what_could_not_be_read_back_is_not_written(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"s\.pth\.state\.deep\.0 is a "):
        save_training_state(tmp_path / "s.pth", {"deep": [value]})
    assert list(tmp_path.iterdir()) == []


# --- finding the epoch


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Epochs 2 and 10 complete, 11 without training state, and files that are no checkpoints of an epoch."""
    for name in (
        "nr_model_2.pth",
        "nr_optimizer_2.pth",
        "nr_model_10.pth",
        "nr_optimizer_10.pth",
        "nr_model_11.pth",
        "nr_optimizer_12.pth",
        "nr_model_20_refined.pth",
        ".nr_model_30.pth.123-0a1b2c3d.tmp.pth",
        "nr_model_40.pth.tmp",
        "nr_model_x.pth",
        "my_nr_model_50.pth",
    ):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "resume", "found"), [(-1, False, 11), (-1, True, 10), (2, True, 2), (11, False, 11)]
)
def test_find_epoch(output: Path, asked: int, resume: bool, found: int) -> None:
    assert find_epoch(output, asked, resume=resume) == found


@pytest.mark.parametrize(
    ("asked", "resume", "message"),
    [
        (7, False, "no nr_model_7.pth; epochs there: 2, 10, 11"),
        (7, True, "no nr_model_7.pth; complete epochs there: 2, 10"),
        (11, True, "no nr_optimizer_11.pth, which resuming needs; complete epochs there: 2, 10"),
        (20, False, "no nr_model_20.pth; epochs there: 2, 10, 11"),
    ],
)
def test_find_epoch_lists_what_is_there(output: Path, asked: int, resume: bool, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        find_epoch(output, asked, resume=resume)
    assert str(caught.value) == f"{output}: {message}"


def test_find_epoch_without_any(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError) as caught:
            find_epoch(folder)
        assert str(caught.value) == f"{folder}: no nr_model_*.pth; epochs there: none"
    (tmp_path / "nr_model_3.pth").touch()
    with pytest.raises(
        CheckpointError, match=r"no nr_optimizer_\*.pth, which resuming needs; complete .*: none"
    ):
        find_epoch(tmp_path, resume=True)


def test_names() -> None:
    assert model_path("o", 5) == Path("o/nr_model_5.pth")
    assert model_path("o", 5, refined=True) == Path("o/nr_model_5_refined.pth")
    assert optimizer_path("o", 5) == Path("o/nr_optimizer_5.pth")


# --- interruptions while writing


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Python in a process of its own, with this file's helpers at hand."""
    lines = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]\n" + textwrap.dedent(
        code
    )
    return subprocess.Popen(
        [sys.executable, "-c", lines, *map(str, arguments)],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
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
@pytest.mark.parametrize("stall", STALLS.values(), ids=STALLS.keys())
def test_kill_9_during_a_write_leaves_the_old_file(tmp_path: Path, stall: str) -> None:
    path = model_path(tmp_path, 1)
    save_model(path, make_model(points=500))
    code = (
        "import os, time, torch\nfrom npcr.checkpoints import save_model\n"
        "from test_files import make_model\n"
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
def test_kill_9_at_any_moment_leaves_a_whole_file(tmp_path: Path) -> None:
    path = model_path(tmp_path, 1)
    kill_once_ready(
        child(
            """
        from npcr.checkpoints import save_model
        from test_files import make_model
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


SAVES: dict[str, Callable[[Path, int], None]] = {
    "model": lambda path, points: save_model(path, make_model(2, points)),
    "training state": lambda path, points: save_training_state(path, {"a": torch.zeros(points, 7)}),
}


def assert_refused(path: Path, save: Callable[[Path, int], None], reason: int) -> None:
    """A save of 10,000 points fails with `reason`; old file and folder are as before."""
    before = {entry.name: entry.read_bytes() for entry in path.parent.iterdir()}
    with pytest.raises(CheckpointError) as caught:
        save(path, 10_000)
    assert str(caught.value) == (
        f"{path}: cannot be written: {os.strerror(reason)}; the file that was there before, "
        "if any, is untouched"
    )
    assert {entry.name: entry.read_bytes() for entry in path.parent.iterdir()} == before


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


@POSIX
def test_file_size_limit(tmp_path: Path) -> None:
    process = child(
        """
        import errno, resource
        from pathlib import Path
        from test_files import SAVES, assert_refused, load_model, make_model, save_model, assert_same
        path = Path(sys.argv[1]) / "nr_model_1.pth"
        save_model(path, make_model())
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        assert_refused(path, SAVES["model"], errno.EFBIG)
        assert_same(load_model(path), make_model())
        """,
        tmp_path,
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output


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


# --- damaged files


@pytest.mark.parametrize("length", [1, 3, 100, 1000, -1])
@pytest.mark.parametrize("load", [load_model, load_training_state])
def test_a_truncated_file_is_called_so(tmp_path: Path, length: int, load: Callable[[Path], object]) -> None:
    path = tmp_path / "nr_model_1.pth"
    save_model(path, make_model(points=100))
    data = path.read_bytes()[:length]
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert (
        str(caught.value)
        == f"{path}: truncated (it ends after {len(data)} bytes, before its table of contents)"
    )


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "nr_model_1.pth"
    save_model(path, make_model(points=1000))
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(path.read_bytes())
    data[largest.header_offset + len(largest.FileHeader()) + 5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: damaged (the checksum of {largest.filename} is wrong)"
