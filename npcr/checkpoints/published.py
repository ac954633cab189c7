# SPDX-License-Identifier: Apache-2.0
"""Conversion of published NPCR checkpoints (`nr_model_{epoch}.pth`, one pickled module) to this project's format.

Nothing from the file is run: `npcr.checkpoints.restricted_unpickler` describes the module, and tensors are read here
with their bounds checked. Both of torch's containers are supported: the zip archive (torch 1.6 and later) and the older
stream. The published file holds no points; they come from the scene.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from npcr.checkpoints.files import ModelCheckpoint, check_model
from npcr.checkpoints.restricted_unpickler import PickledObject, StorageRef, TensorRef, named_modules, read_pickle
from npcr.errors import CheckpointError

STREAM_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save before 1.6 begins with this number, pickled
STREAM_START = b"\x80\x02\x8a\n" + STREAM_MAGIC.to_bytes(10, "little")
OWN_MODULES = ("modeling", "layers", "models_lpf")  # the published implementation's
TORCH_MODULES = ("torch.nn.modules", "torch.nn.backends")  # the latter in files of torch before 1.4
MAX_NAME_LENGTH = 200  # characters of a weight's dotted name; published ones have up to 60

# Names of the network's parts here, and in the published module.
DOUBLE_CONVS = {
    "enter": "inc.conv", "alpha_enter": "inc2.conv",
    **{f"down{i}.conv": f"down{i}.mpconv.2" for i in (1, 2, 3, 4)},
    **{f"up{i}.conv": f"up{i}.conv" for i in (1, 2, 3, 4)},
    "alpha_down1.conv": "down5.mpconv.2", "alpha_down2.conv": "down6.mpconv.2",
    "alpha_up1.conv": "up5.conv", "alpha_up2.conv": "up6.conv",
}
INSIDE_DOUBLE_CONV = {"conv1.conv": "conv.0.conv2", "conv1.gate": "conv.0.conv2_gate", "norm1": "conv.1",
                      "conv2.conv": "conv.3.conv2", "conv2.gate": "conv.3.conv2_gate", "norm2": "conv.4"}
OUTPUTS = {"out.point": "outc.conv", "out.spatial": "outc.conv2",
           "alpha_out.point": "outc2.conv", "alpha_out.spatial": "outc2.conv2"}
RUNNING = ("running_mean", "running_var", "num_batches_tracked")

Reader = Callable[[StorageRef], Tensor]  # the numbers of a storage, (numel,)


def is_published(path: Path) -> bool:
    """Tell whether a file is a pickled module of the published implementation, rather than plain data.

    Args:
        path: the file.

    Returns:
        True if so; False also for a damaged file.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive, archive.open(_pickle_name(archive, str(path))) as stream:
                return any(_within(module, OWN_MODULES) for module in named_modules(stream))
        with path.open("rb") as stream:
            if stream.read(len(STREAM_START)) != STREAM_START:
                return False
            stream.seek(0)
            pickles = (named_modules(stream) for _ in range(4))  # magic, version, system, the module
            return any(_within(module, OWN_MODULES) for modules in pickles for module in modules)
    except (ValueError, zipfile.BadZipFile, CheckpointError):
        return False


def read_published(path: str | Path, norm: str = "instance") -> ModelCheckpoint:
    """Read a published checkpoint.

    Args:
        path: the file; the epoch is in its name, 0 where it is not.
        norm: "instance" keeps the norms' weights and biases, which is how the published method renders; "batch" keeps
            the running statistics too.

    Returns:
        The model, with MODEL.LEGACY set and without points.

    Raises:
        CheckpointError: the file is damaged, names anything but tensors, containers and the published classes, or lacks
            a part of the network.
        ValueError: norm is something else.
    """
    if norm not in ("instance", "batch"):
        raise ValueError(f"read_published: norm is {norm!r}; allowed: instance, batch")
    path = Path(path)
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _convert(*_open_zip(archive, str(path)), path, norm)
        with path.open("rb") as stream:
            return _convert(*_open_stream(stream, str(path)), path, norm)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: damaged archive ({error})") from None


# --- torch's two containers: content of the pickle, and a reader of its storages


def _open_zip(archive: zipfile.ZipFile, source: str) -> tuple[Any, Reader]:
    name = _pickle_name(archive, source)
    folder = name.removesuffix("data.pkl")
    with archive.open(name) as stream:
        root = read_pickle(stream, source, _is_permitted).value
    order = f"{folder}byteorder"
    if order in archive.namelist() and archive.read(order) != b"little":
        raise CheckpointError(f"{source}: written on a big-endian machine; only little-endian files are read")

    def read(storage: StorageRef) -> Tensor:
        try:
            entry = archive.getinfo(f"{folder}data/{storage.key}")
        except KeyError:
            raise CheckpointError(f"{source}: holds no data for storage {storage.key}") from None
        size = storage.numel * storage.dtype.itemsize
        if entry.file_size != size or entry.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{source}: storage {storage.key} has {entry.file_size} bytes; it needs "
                                  f"{size}, not compressed")
        return _numbers(archive.read(entry), storage, source)

    return root, read


def _pickle_name(archive: zipfile.ZipFile, source: str) -> str:
    names = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(names) != 1 or archive.getinfo(names[0]).compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{source}: an archive, but not one that torch.save wrote")
    return names[0]


def _open_stream(stream: IO[bytes], source: str) -> tuple[Any, Reader]:
    if stream.read(len(STREAM_START)) != STREAM_START:
        raise CheckpointError(f"{source}: not a file that torch.save wrote")
    stream.seek(0)
    _, _, system, root, keys = (read_pickle(stream, source, _is_permitted) for _ in range(5))
    if not isinstance(system.value, dict) or not system.value.get("little_endian"):
        raise CheckpointError(f"{source}: written on a big-endian machine; only little-endian files are read")
    if not isinstance(keys.value, list) or set(map(str, keys.value)) != set(root.storages):
        raise CheckpointError(f"{source}: damaged (the list of storages does not match the tensors)")
    offsets: dict[str, int] = {}  # of each storage's numbers in the file, which follow their count in 8 bytes
    for key in keys.value:
        storage = root.storages[key]
        numel = int.from_bytes(stream.read(8), "little")
        if numel != storage.numel:
            raise CheckpointError(f"{source}: truncated or damaged (storage {key} has {numel} numbers; it "
                                  f"needs {storage.numel})")
        offsets[key] = stream.tell()
        stream.seek(numel * storage.dtype.itemsize, os.SEEK_CUR)

    def read(storage: StorageRef) -> Tensor:
        stream.seek(offsets[storage.key])
        return _numbers(stream.read(storage.numel * storage.dtype.itemsize), storage, source)

    return root.value, read


def _numbers(data: bytes, storage: StorageRef, source: str) -> Tensor:
    if len(data) != storage.numel * storage.dtype.itemsize:
        raise CheckpointError(f"{source}: truncated (in the numbers of storage {storage.key})")
    if not data:
        return torch.empty(0, dtype=storage.dtype)
    return torch.frombuffer(bytearray(data), dtype=storage.dtype)


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _is_permitted(module: str) -> bool:
    return _within(module, OWN_MODULES + TORCH_MODULES)


# --- from the published module to this project's


def _convert(root: Any, read: Reader, path: Path, norm: str) -> ModelCheckpoint:
    source = str(path)
    if not isinstance(root, PickledObject) or not _within(root.kind.module, OWN_MODULES):
        raise CheckpointError(f"{source}: holds no model of the published implementation")
    found = _flatten(root, source)
    frames = sum(name.startswith("pcpr_parameters.p_parameters.") for name in found)
    names = dict(_weight_names(norm, frames))
    _check_names(names, found, source)
    weights = {ours: _tensor(found[theirs], read) for ours, theirs in names.items()}
    # Published: channels first, (C, 1) and (C, N). Here a point's features are adjacent in memory.
    weights["default_feature"] = weights["default_feature"].reshape(-1)
    for frame in range(frames):
        weights[f"features.{frame}"] = weights[f"features.{frame}"].t().contiguous()
    checkpoint = ModelCheckpoint(_epoch(path), _config(root, norm, weights), weights)
    check_model(checkpoint, source)
    return checkpoint


def _flatten(root: PickledObject, source: str) -> dict[str, TensorRef]:
    """Parameters and buffers of a module by their dotted names, as `state_dict` has them."""
    found: dict[str, TensorRef] = {}
    pending, seen = [("", root)], {root}
    while pending:
        prefix, module = pending.pop()
        if len(prefix) > MAX_NAME_LENGTH:
            raise CheckpointError(f"{source}: refused: a weight's name exceeds {MAX_NAME_LENGTH} characters")
        for name, value in [*_entries(module, "_parameters"), *_entries(module, "_buffers")]:
            if isinstance(value, TensorRef):
                found[f"{prefix}{name}"] = value
        for name, child in _entries(module, "_modules"):
            if isinstance(child, PickledObject) and child not in seen:
                seen.add(child)
                pending.append((f"{prefix}{name}.", child))
    return found


def _entries(module: PickledObject, part: str) -> list[tuple[str, Any]]:
    values = module.state.get(part)
    return [(str(name), value) for name, value in values.items()] if isinstance(values, dict) else []


def _weight_names(norm: str, frames: int) -> Iterator[tuple[str, str]]:
    """Pairs of a weight's name here and in the published module."""
    yield "default_feature", "pcpr_parameters.default_features"
    for frame in range(frames):
        yield f"features.{frame}", f"pcpr_parameters.p_parameters.{frame}"
    for block, their_block in DOUBLE_CONVS.items():
        for layer, their_layer in INSIDE_DOUBLE_CONV.items():
            leaves = ("weight", "bias", *RUNNING) if layer.startswith("norm") and norm == "batch" \
                else ("weight", "bias")
            for leaf in leaves:
                yield f"network.{block}.{layer}.{leaf}", f"render.unet.{their_block}.{their_layer}.{leaf}"
    for layer, their_layer in OUTPUTS.items():
        for leaf in ("weight", "bias"):
            yield f"network.{layer}.{leaf}", f"render.unet.{their_layer}.{leaf}"


def _check_names(names: dict[str, str], found: dict[str, TensorRef], source: str) -> None:
    """Check that the weights are those of the network; running statistics and blur filters may be there besides."""
    missing = [theirs for theirs in names.values() if theirs not in found]
    if missing:
        raise CheckpointError(f"{source}: not a published model: it lacks {missing[0]}"
                              + (f" and {len(missing) - 1} more weights" if len(missing) > 1 else ""))
    for name in sorted(set(found) - set(names.values())):
        leaf = name.rpartition(".")[2]
        if leaf == "filt" and found[name].size[-2:] == (3, 3):
            continue  # the fixed blur before a halving
        if leaf not in RUNNING:
            raise CheckpointError(f"{source}: not a published model: it has {name}, {found[name].size}, for "
                                  "which the network has no place")


def _tensor(ref: TensorRef, read: Reader) -> Tensor:
    """Read the described tensor, whose bounds `read_pickle` has checked."""
    return torch.as_strided(read(ref.storage), ref.size, ref.stride, ref.offset).clone().contiguous()


def _epoch(path: Path) -> int:
    named = re.fullmatch(r"nr_model_(\d{1,9})\.pth", path.name)
    return int(named[1]) if named else 0


def _config(root: PickledObject, norm: str, weights: dict[str, Tensor]) -> dict[str, Any]:
    """The configuration as far as the published module determines it."""
    render = dict(_entries(root, "_modules")).get("render")
    attributes = render.state if isinstance(render, PickledObject) else {}
    layers, gap = attributes.get("layer_num"), attributes.get("depth_thr")
    size = [attributes.get("tar_width"), attributes.get("tar_height")]
    config: dict[str, Any] = {
        "MODEL": {"LEGACY": True, "NORM": norm, "FEATURE_DIM": weights["default_feature"].shape[0]},
        "INPUT": {"USE_RGB": root.state.get("use_rgb") is True},
    }
    if isinstance(layers, int):
        config["INPUT"]["LAYER_NUM"] = layers
    if all(isinstance(length, int) for length in size):
        config["INPUT"]["SIZE_TRAIN"] = size
    if isinstance(gap, (int, float)):
        config["WEIGHTS"] = {"DEPTH_THR": float(gap)}
    return config
