# SPDX-License-Identifier: Apache-2.0
"""Published pickles are read without running anything from them."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from npcr.checkpoints import load_model, save_model
from npcr.checkpoints.published import is_published, read_published
from npcr.checkpoints.restricted_unpickler import Global, PickledObject, StorageRef, TensorRef, read_pickle
from npcr.errors import CheckpointError
from npcr.renderers import LayeredRenderer
from npcr.renderers.gated_unet import GatedUNet

# --- a small model built like the published one, from classes in modules of the published names

MODULES = ("modeling", "modeling.generatic_model", "modeling.UNet", "modeling.UNet.unet_parts", "models_lpf")
FEATURES, POINTS = 2, (7, 5)  # channels; points of two frames


@pytest.fixture
def published_classes(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[nn.Module]]:
    classes = {}
    for place, name in (
        ("modeling.generatic_model", "Generatic_Model"),
        ("modeling.UNet.unet_parts", "Part"),
        ("models_lpf", "Downsample"),
    ):
        classes[name] = type(name, (nn.Module,), {"__module__": place, "__qualname__": name})
    for place in MODULES:
        module = types.ModuleType(place)
        for name, kind in classes.items():
            setattr(module, name, kind)
        monkeypatch.setitem(sys.modules, place, module)
    return classes


@pytest.fixture
def published(published_classes: dict[str, type[nn.Module]]) -> nn.Module:
    """Random weights everywhere, running statistics too."""
    torch.manual_seed(0)
    part, blur = published_classes["Part"], published_classes["Downsample"]

    def parts(**children: nn.Module) -> nn.Module:
        module = part()
        for name, value in children.items():
            module.add_module(name, value)
        return module

    def gated(a: int, b: int) -> nn.Module:
        return parts(conv2=nn.Conv2d(a, b, 3, padding=1), conv2_gate=nn.Conv2d(a, b, 3, padding=1))

    def norm(channels: int) -> nn.Module:
        module = nn.BatchNorm2d(channels)
        for value in (module.weight, module.bias, module.running_mean, module.running_var):
            value.data.normal_()
        module.num_batches_tracked.fill_(41)
        return module

    def double(a: int, b: int) -> nn.Module:
        return parts(conv=nn.Sequential(gated(a, b), norm(b), nn.ReLU(), gated(b, b), norm(b), nn.ReLU()))

    def down(a: int, b: int) -> nn.Module:
        halve = blur()
        halve.register_buffer("filt", torch.ones(a, 1, 3, 3))
        return parts(mpconv=nn.Sequential(nn.MaxPool2d(2, 1), halve, double(a, b)))

    def up(a: int, b: int) -> nn.Module:
        return parts(up=nn.Upsample(scale_factor=2), conv=double(a, b))

    def out(a: int, b: int) -> nn.Module:
        return parts(conv=nn.Conv2d(a, b, 1), conv2=nn.Conv2d(a, b, 3, padding=1))

    unet = parts(
        inc=parts(conv=double(FEATURES + 3, 24)),
        down1=down(24, 48),
        down2=down(48, 96),
        down3=down(96, 384),
        down4=down(384, 384),
        up1=up(768, 192),
        up2=up(288, 48),
        up3=up(96, 48),
        up4=up(72, 30),
        outc=out(30, 3),
        inc2=parts(conv=double(FEATURES + 6, 16)),
        down5=down(16, 32),
        down6=down(32, 64),
        up5=up(144, 32),
        up6=up(72, 8),
        outc2=out(8, 1),
    )
    root = published_classes["Generatic_Model"]()
    parameters = parts(p_parameters=nn.ParameterList([torch.randn(FEATURES, n) for n in POINTS]))
    parameters.default_features = nn.Parameter(torch.randn(FEATURES, 1))
    parameters.vertices_num = torch.tensor(POINTS, dtype=torch.int32)
    root.pcpr_parameters, root.render = parameters, parts(unet=unet)
    root.use_rgb = False
    for name, value in {"layer_num": 3, "depth_thr": 0.25, "tar_width": 60, "tar_height": 48}.items():
        setattr(root.render, name, value)
    return root


def write(model: object, path: Path, stream: bool = False) -> Path:
    """Save a whole module, as torch before 1.6 did with `stream`; its classes are then forgotten."""
    torch.save(model, path, _use_new_zipfile_serialization=not stream)
    for name in MODULES:
        sys.modules.pop(name, None)
    return path


CONTAINERS = pytest.mark.parametrize("stream", [False, True], ids=["zip", "stream"])


@CONTAINERS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_every_weight_arrives_in_its_place(
    published: nn.Module, tmp_path: Path, stream: bool, norm: str
) -> None:
    path = write(published, tmp_path / "nr_model_37.pth", stream)
    checkpoint = read_published(path, norm)

    assert (checkpoint.epoch, checkpoint.points, checkpoint.colors) == (37, [], [])
    assert checkpoint.config == {
        "MODEL": {"LEGACY": True, "NORM": norm, "FEATURE_DIM": FEATURES},
        "INPUT": {"USE_RGB": False, "LAYER_NUM": 3, "SIZE_TRAIN": [60, 48]},
        "WEIGHTS": {"DEPTH_THR": 0.25},
    }
    renderer = LayeredRenderer([torch.zeros(n, 3) for n in POINTS], feature_dim=FEATURES, norm=norm)
    renderer.load_state_dict(checkpoint.model, strict=True)

    theirs = published.state_dict()
    expected = {ours: theirs[name] for ours, name in spelled_out(norm).items()}
    expected["default_feature"] = theirs["pcpr_parameters.default_features"][:, 0]
    for frame in (0, 1):
        expected[f"features.{frame}"] = theirs[f"pcpr_parameters.p_parameters.{frame}"].T
    assert expected.keys() == checkpoint.model.keys()
    for name, value in expected.items():
        assert torch.equal(checkpoint.model[name], value), name
        assert checkpoint.model[name].is_contiguous()


def spelled_out(norm: str) -> dict[str, str]:
    """Our name of every network weight to the published one, by a rule written apart from the converter's."""
    stages = [("enter", "inc.conv")] + [(f"down{i}.conv", f"down{i}.mpconv.2") for i in range(1, 5)]
    stages += [(f"up{i}.conv", f"up{i}.conv") for i in range(1, 5)]
    stages += [
        ("alpha_enter", "inc2.conv"),
        ("alpha_down1.conv", "down5.mpconv.2"),
        ("alpha_down2.conv", "down6.mpconv.2"),
        ("alpha_up1.conv", "up5.conv"),
        ("alpha_up2.conv", "up6.conv"),
    ]
    names = {}
    for ours, theirs in stages:
        for number, position in ((1, 0), (2, 3)):
            for leaf in ("weight", "bias"):
                names[f"{ours}.conv{number}.conv.{leaf}"] = f"{theirs}.conv.{position}.conv2.{leaf}"
                names[f"{ours}.conv{number}.gate.{leaf}"] = f"{theirs}.conv.{position}.conv2_gate.{leaf}"
                names[f"{ours}.norm{number}.{leaf}"] = f"{theirs}.conv.{position + 1}.{leaf}"
            for leaf in ("running_mean", "running_var", "num_batches_tracked") if norm == "batch" else ():
                names[f"{ours}.norm{number}.{leaf}"] = f"{theirs}.conv.{position + 1}.{leaf}"
    for ours, theirs in (("out", "outc"), ("alpha_out", "outc2")):
        for leaf in ("weight", "bias"):
            names[f"{ours}.point.{leaf}"] = f"{theirs}.conv.{leaf}"
            names[f"{ours}.spatial.{leaf}"] = f"{theirs}.conv2.{leaf}"
    return {f"network.{ours}": f"render.unet.{theirs}" for ours, theirs in names.items()}


@CONTAINERS
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_load_model_meets_published_files(published: nn.Module, tmp_path: Path, stream: bool) -> None:
    path = write(published, tmp_path / "other name.pth", stream)
    assert is_published(path)
    checkpoint = load_model(path)
    assert checkpoint.epoch == 0
    save_model(tmp_path / "converted.pth", checkpoint)
    assert not is_published(tmp_path / "converted.pth")
    again = load_model(tmp_path / "converted.pth")
    assert again.config == checkpoint.config
    assert all(torch.equal(again.model[name], value) for name, value in checkpoint.model.items())


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.999])
def test_a_truncated_stream_is_called_so(published: nn.Module, tmp_path: Path, share: float) -> None:
    path = write(published, tmp_path / "m.pth", stream=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"m\.pth: truncated"):
        load_model(path)


def test_a_missing_and_a_foreign_part_are_named(published: nn.Module, tmp_path: Path) -> None:
    published.render.unet.up9 = nn.Conv2d(1, 1, 1)
    path = tmp_path / "m.pth"
    torch.save(published, path)
    with pytest.raises(CheckpointError) as caught:
        read_published(path)
    assert str(caught.value) == (
        f"{path}: not a published model: it has render.unet.up9.bias, (1,), for which the "
        "network has no place"
    )
    del published.render.unet.up9, published.render.unet.up6
    torch.save(published, path)
    with pytest.raises(CheckpointError) as caught:
        read_published(path)
    assert str(caught.value) == (
        f"{path}: not a published model: it lacks render.unet.up6.conv.conv.0.conv2.weight "
        "and 11 more weights"
    )


# --- the parity file


def test_parity_file(parity: Path, tmp_path: Path) -> None:
    path = parity / "nr_model_0.pth"
    checkpoint = load_model(path)
    assert checkpoint.config == {
        "MODEL": {"LEGACY": True, "NORM": "instance", "FEATURE_DIM": 32},
        "INPUT": {"USE_RGB": False, "LAYER_NUM": 4, "SIZE_TRAIN": [120, 96]},
        "WEIGHTS": {"DEPTH_THR": 0.5},
    }
    network = GatedUNet(35, "instance")
    network.load_state_dict(
        {
            name.removeprefix("network."): value
            for name, value in checkpoint.model.items()
            if name.startswith("network.")
        },
        strict=True,
    )
    assert checkpoint.model.keys() == {f"network.{name}" for name in network.state_dict()} | {
        "default_feature",
        "features.0",
    }
    batch = read_published(path, "batch")
    GatedUNet(35, "batch").load_state_dict(
        {
            name.removeprefix("network."): value
            for name, value in batch.model.items()
            if name.startswith("network.")
        }
    )
    # Storage numbers and shapes below were read off the file's own listing, by eye.
    with zipfile.ZipFile(path) as archive:
        for name, number, shape in (
            ("network.enter.conv1.conv.weight", 4, (24, 35, 3, 3)),
            ("network.enter.conv1.conv.bias", 5, (24,)),
            ("network.enter.conv1.gate.weight", 6, (24, 35, 3, 3)),
            ("network.enter.norm1.weight", 8, (24,)),
            ("network.enter.norm1.running_var", 11, (24,)),
            ("network.enter.conv2.gate.weight", 15, (24, 24, 3, 3)),
            ("network.down1.conv.conv1.conv.weight", 23, (48, 24, 3, 3)),
            ("network.up1.conv.conv1.gate.weight", 100, (192, 768, 3, 3)),
            ("network.out.point.weight", 170, (3, 30, 1, 1)),
            ("network.alpha_out.spatial.bias", 269, (1,)),
        ):
            stored = np.frombuffer(archive.read(f"nr_model_0/data/{number}"), "<f4").reshape(shape)
            np.testing.assert_array_equal(batch.model[name].numpy(), stored, err_msg=name)
        features = np.frombuffer(archive.read("nr_model_0/data/1"), "<f4").reshape(32, 6000)
        np.testing.assert_array_equal(checkpoint.model["features.0"].numpy(), features.T)


# --- hostile files: in every case nothing may happen but a CheckpointError


class _Calls:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


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
        "io.open": _Calls(io.open, str(trap), "w"),
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


def test_calling_a_stand_in_is_inert(trap: Path) -> None:
    data = b"\x80\x02cmodeling.evil\nrun\n(X\x01\x00\x00\x00xtR."
    value = read_pickle(io.BytesIO(data), "m", lambda module: module.startswith("modeling")).value
    assert isinstance(value, PickledObject)
    assert (value.kind, value.state) == (Global("modeling.evil", "run"), {})
    dotted = b"\x80\x02cmodeling.x\nos.system\n(X\x01\x00\x00\x00xtR."
    assert isinstance(
        read_pickle(io.BytesIO(dotted), "m", lambda module: module.startswith("modeling")).value, PickledObject
    )


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


def in_modeling(module: str) -> bool:
    return module.startswith("modeling")


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
    with pytest.raises(
        CheckpointError, match="it lacks pcpr_parameters"
    ):
        read_published(archive(tmp_path / "a.pth", itself))
    new, state = b"cmodeling.x\ny\n)\x81", b"}" + text("_modules") + b"}" + text("child")
    deep = b"\x80\x02" + (new + state) * 1000 + new + b"ssb" * 1000 + b"."
    with pytest.raises(CheckpointError, match="refused: a weight's name exceeds 200 characters"):
        read_published(archive(tmp_path / "b.pth", deep))


def rewritten(
    path: Path, change: Callable[[str, bytes], bytes | None], compression: int = zipfile.ZIP_STORED
) -> Path:
    """Copy an archive entry by entry; `change` gives an entry's new content, None leaves it out."""
    copy = path.with_name("changed.pth")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, "w", compression) as new:
        for entry in old.infolist():
            content = change(entry.filename, old.read(entry))
            if content is not None:
                new.writestr(entry.filename, content)
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda name, data: data[:-4] if name.endswith("data/0") else data,
            r"storage 0 has \d+ bytes; it needs \d+, not",
        ),
        (lambda name, data: None if name.endswith("data/0") else data, "holds no data for storage 0"),
        (
            lambda name, data: b"big" if name.endswith("byteorder") else data,
            "written on a big-endian machine",
        ),
        (lambda name, data: None if name.endswith("data.pkl") else data, "not one that torch.save wrote"),
    ],
    ids=["short storage", "no storage", "big endian", "no pickle"],
)
def test_damaged_archives(
    published: nn.Module, tmp_path: Path, change: Callable[[str, bytes], bytes | None], message: str
) -> None:
    path = write(published, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=rf"changed\.pth: .*{message}"):
        read_published(rewritten(path, change))


def test_a_compressed_archive_is_refused(published: nn.Module, tmp_path: Path) -> None:
    path = write(published, tmp_path / "m.pth")
    with pytest.raises(CheckpointError, match=r"an archive, but not one that torch\.save wrote"):
        read_published(rewritten(path, lambda name, data: data, zipfile.ZIP_DEFLATED))
