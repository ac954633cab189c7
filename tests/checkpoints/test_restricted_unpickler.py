# SPDX-License-Identifier: Apache-2.0
"""Hostile and damaged pickles: in every case nothing may happen but a CheckpointError."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from npcr.checkpoints import load_model
from npcr.checkpoints.published import read_published
from npcr.checkpoints.restricted_unpickler import Global, PickledObject, StorageRef, TensorRef, read_pickle
from npcr.errors import CheckpointError
from tests.checkpoints.published_model import write


class _Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def in_modeling(module: str) -> bool:
    return module.startswith("modeling")


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A file that a hostile pickle would make; it must not exist afterwards."""
    file = tmp_path / "executed"
    yield file
    assert not file.exists(), "code from the file was run"


def archive(path: Path, data: bytes, **storages: bytes) -> Path:
    """A zip archive as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for key, numbers in storages.items():
            file.writestr(f"archive/data/{key.removeprefix('_')}", numbers)
    return path


def touch_calls(trap: Path) -> dict[str, _Calls]:
    return {
        "posix.system": _Calls(os.system, f"touch {trap}"),
        "builtins.eval": _Calls(eval, f"open({str(trap)!r}, 'w')"),
        "builtins.exec": _Calls(exec, f"open({str(trap)!r}, 'w')"),
        "builtins.getattr": _Calls(getattr, "", "upper"),
        f"{io.open.__module__}.open": _Calls(io.open, str(trap), "w"),  # _io from Python 3.12 on
        "torch.serialization.load": _Calls(torch.load, "x.pth"),
        "numpy": _Calls(np.load, "x.npy"),
    }


@pytest.mark.skipif(os.name == "nt", reason="os.system has another name there")
@pytest.mark.parametrize("name", touch_calls(Path("x")))
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "wrap", [lambda call: call, lambda call: OrderedDict(weights=[call])], ids=["bare", "inside"]
)
def test_calls_are_refused(
    tmp_path: Path, trap: Path, name: str, protocol: int, wrap: Callable[[Any], Any]
) -> None:
    path = archive(tmp_path / "m.pth", pickle.dumps(wrap(touch_calls(trap)[name]), protocol))
    shown = name.replace("builtins", "__builtin__") if protocol == 2 else name
    with pytest.raises(
        CheckpointError, match=rf"m\.pth: refused: the file names {shown}.*; nothing was run$"
    ):
        read_published(path)
    with pytest.raises(CheckpointError, match=r"m\.pth: (refused|damaged)"):
        load_model(path)


@pytest.mark.skipif(os.name == "nt", reason="os.system has another name there")
def test_a_call_within_a_published_model_is_refused(published: nn.Module, tmp_path: Path, trap: Path) -> None:
    published.render.extra = touch_calls(trap)["posix.system"]
    path = write(published, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"refused: the file names posix\.system"):
        load_model(path)


def test_calling_a_recorded_name_runs_nothing(trap: Path) -> None:
    data = b"\x80\x02cmodeling.evil\nrun\n(X\x01\x00\x00\x00xtR."
    value = read_pickle(io.BytesIO(data), "m", in_modeling).value
    assert isinstance(value, PickledObject)
    assert (value.kind, value.state) == (Global("modeling.evil", "run"), {})
    dotted = b"\x80\x02cmodeling.x\nos.system\n(X\x01\x00\x00\x00xtR."
    assert isinstance(read_pickle(io.BytesIO(dotted), "m", in_modeling).value, PickledObject)


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(numel: int, key: str = "0") -> bytes:
    """Opcodes of a reference to a float storage."""
    count = (
        b"J" + struct.pack("<i", numel) if abs(numel) < 2**31 else b"\x8a\x09" + numel.to_bytes(9, "little")
    )
    return b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + count + b"tQ"


def tensor(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    shape = [b"(" + b"".join(b"J" + struct.pack("<i", n) for n in ns) + b"t" for ns in (size, stride)]
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage(numel)
        + b"J"
        + struct.pack("<i", offset)
        + shape[0]
        + shape[1]
        + b"\x89}tR"
    )


def test_a_tensor_in_its_storage_is_described() -> None:
    content = read_pickle(
        io.BytesIO(b"\x80\x02" + tensor(6, 0, (2, 3), (3, 1)) + b"."), "m", lambda module: False
    )
    block = StorageRef("0", torch.float32, 6)
    assert content.value == TensorRef(block, 0, (2, 3), (3, 1))
    assert content.storages == {"0": block}


DAMAGED = {
    "beyond the storage": (
        tensor(6, 1, (2, 3), (3, 1)),
        "a tensor of size (2, 3), stride (3, 1), offset 1 in a storage of 6 numbers",
    ),
    "far beyond": (
        tensor(6, 2**30, (1,), (1,)),
        "a tensor of size (1,), stride (1,), offset 1073741824 in a storage of 6 numbers",
    ),
    "negative offset": (tensor(6, -1, (2, 3), (3, 1)), "shape makes no sense"),
    "negative stride": (tensor(6, 5, (6,), (-1,)), "shape makes no sense"),
    "expanded to terabytes": (
        tensor(6, 0, (2**20, 2**20), (0, 0)),
        "stride (0, 0), offset 0 in a storage of 6 numbers",
    ),
    "stride of another length": (tensor(6, 0, (2, 3), (1,)), "shape makes no sense"),
    "eight axes and more": (tensor(1, 0, (1,) * 9, (1,) * 9), "shape makes no sense"),
    "storage of negative size": (storage(-1), "name or size makes no sense"),
    "storage of 2^64 numbers": (storage(2**64), "name or size makes no sense"),
    "storage outside the folder": (storage(1, "../../etc/passwd"), "name or size makes no sense"),
    "one storage in two sizes": (b"(" + storage(1) + storage(2) + b"t", "described in two ways"),
    "no storage": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x00))\x89}tR",
        "a tensor without storage or shape",
    ),
    "nothing": (b"", "empty list"),
    "no stack": (b"R", "empty list"),
    "popping a mark": (b"(\x85", "a value is missing"),
    "unknown memo": (b"h\x07", "a reference to nothing"),
    "container as key": (b"}(]K\x01u", "neither text nor a number"),
    "nested tuples as key": (b"})" + b"q\x00h\x00\x86" * 100 + b"K\x01s", "neither text nor a number"),
    "odd number of items": (b"}(K\x01u", "shorter"),
    "state for a tensor": (tensor(1, 0, (1,), (1,)) + b"}b", "state of type dict for a TensorRef"),
    "state for a class": (b"cmodeling.x\ny\n}b", "state of type dict for a Global"),
    "state of another kind": (b"cmodeling.x\ny\n)\x81]b", "state of type list for a PickledObject"),
    "call of a tensor": (tensor(1, 0, (1,), (1,)) + b")R", "no function"),
    "set of a set": (b"c__builtin__\nset\n(c__builtin__\nset\n)RtR", "container made of something else"),
    "parameter of a text": (
        b"ctorch._utils\n_rebuild_parameter\n(" + text("x") + b"tR",
        "a parameter that is no tensor",
    ),
    "text longer than the file": (b"X\xff\xff\xff\x7fabc", "expected 2147483647 bytes"),
}
REFUSED = {
    "memo index of 2^32": (b"Nr\xff\xff\xff\xff", None),  # a dict is no larger for it
    "EXT1": (b"\x82\x01", "EXT1"),
    "INST": (b"(ios\nsystem\n", "INST"),
    "OBJ": (b"(cmodeling.x\ny\no", "OBJ"),
    "NEWOBJ_EX": (b"cmodeling.x\ny\n)}\x92", "NEWOBJ_EX"),
    "PERSID": (b"Pabc\n", "PERSID"),
    "another protocol's text": (b"\x8d" + struct.pack("<Q", 3) + b"abc", "BINUNICODE8"),
}


@pytest.mark.parametrize(("opcodes", "reason"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_pickles(opcodes: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^m: truncated or damaged pickle \(.*{re.escape(reason)}"):
        read_pickle(io.BytesIO(b"\x80\x02" + opcodes + b"."), "m", in_modeling)


@pytest.mark.parametrize(("opcodes", "name"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_opcodes(opcodes: bytes, name: str | None) -> None:
    stream = io.BytesIO(b"\x80\x02" + opcodes + b".")
    if name is None:
        assert read_pickle(stream, "m", in_modeling).value is None
        return
    with pytest.raises(CheckpointError) as caught:
        read_pickle(stream, "m", in_modeling)
    assert str(caught.value) == f"m: refused: pickle opcode {name}, which no model needs"


def test_deep_nesting_does_not_overflow() -> None:
    depth = 200_000
    value = read_pickle(io.BytesIO(b"\x80\x02)" + b"\x85" * depth + b"."), "m", in_modeling).value
    for _ in range(depth):
        (value,) = value
    assert value == ()


def test_modules_within_themselves_and_endless_names_are_bounded(tmp_path: Path) -> None:
    itself = b"\x80\x02cmodeling.x\ny\n)\x81q\x00}" + text("_modules") + b"}" + text("a") + b"h\x00ssb."
    with pytest.raises(CheckpointError, match="it lacks pcpr_parameters"):
        read_published(archive(tmp_path / "a.pth", itself))
    new, state = b"cmodeling.x\ny\n)\x81", b"}" + text("_modules") + b"}" + text("child")
    deep = b"\x80\x02" + (new + state) * 1000 + new + b"ssb" * 1000 + b"."
    with pytest.raises(CheckpointError, match="refused: a weight's name exceeds 200 characters"):
        read_published(archive(tmp_path / "b.pth", deep))
