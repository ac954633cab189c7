# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: `nr_model_{epoch}.pth` renders, `nr_optimizer_{epoch}.pth` resumes.

Both are plain data (state dicts, numbers, text), written so that a reader only ever meets a whole file, and
read with `torch.load(weights_only=True)`, which runs nothing from them.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from npcr.errors import CheckpointError, ConfigError
from npcr.io.files import atomic_write, remove_leftovers
from npcr.renderers import Renderer, find_form
from npcr.renderers.base import describe_shape

MODEL_FORMAT, MODEL_VERSION = "npcr-model", 1
STATE_FORMAT, STATE_VERSION = "npcr-training-state", 1
MODEL_KEYS = {"epoch": int, "config": dict, "model": dict, "points": list, "colors": list}
PLAIN = (str, int, float, bool, type(None))  # read by weights_only=True in every torch >= 2.4
DEFAULT_FORM = "layered"  # of checkpoints that do not name MODEL.FORM: published ones


@dataclass
class ModelCheckpoint:
    """One trained model. `points` is empty where the file holds none (converted published models)."""

    epoch: int
    config: dict[str, Any]  # nested, of known keys; a part of them suffices
    model: dict[str, Tensor]  # the state dict of a `npcr.renderers.Renderer`
    points: list[Tensor] = field(default_factory=list)  # a frame each: (N, 3) float32
    colors: list[Tensor] = field(default_factory=list)  # a frame each: (N, 3) uint8; or none at all


def check_model(checkpoint: ModelCheckpoint, source: str) -> None:
    """Check that the parts of a model agree with each other.

    Args:
        checkpoint: as read, or about to be written.
        source: what the message begins with.

    Raises:
        CheckpointError: they contradict each other.
    """
    for frame, cloud in enumerate(checkpoint.points):
        if cloud.ndim != 2 or cloud.shape[1] != 3 or not cloud.is_floating_point():
            raise CheckpointError(f"{source}: the points of frame {frame} are {describe_shape(cloud)}; they must be "
                                  "(N, 3) float32")
    if checkpoint.colors and [c.shape for c in checkpoint.colors] != [p.shape for p in checkpoint.points]:
        colors, points = (", ".join(map(describe_shape, list_)) for list_ in (checkpoint.colors, checkpoint.points))
        raise CheckpointError(f"{source}: the colors ({colors}) do not match the points ({points})")
    form_of(checkpoint, source).check_state(checkpoint.model, checkpoint.points, source)


def form_of(checkpoint: ModelCheckpoint, source: str) -> type[Renderer]:
    """Find the class of renderer that a checkpoint is of.

    Args:
        checkpoint: whose MODEL.FORM counts.
        source: what the message begins with.

    Returns:
        The class.

    Raises:
        CheckpointError: this release has no such form.
    """
    section = checkpoint.config.get("MODEL", {})
    if not isinstance(section, dict):
        raise CheckpointError(f"{source}: its configuration's MODEL is {section!r:.60}; a section of keys is needed")
    name = section.get("FORM", DEFAULT_FORM)
    try:
        return find_form(name)
    except ConfigError as error:
        raise CheckpointError(f"{source}: {error}") from None


def model_path(output_dir: str | Path, epoch: int, refined: bool = False) -> Path:
    """Name a model's file.

    Args:
        output_dir: its folder.
        epoch: from 0.
        refined: whether it is the result of refining.

    Returns:
        `nr_model_{epoch}.pth` or `nr_model_{epoch}_refined.pth` in the folder.
    """
    return Path(output_dir) / f"nr_model_{epoch}{'_refined' if refined else ''}.pth"


def optimizer_path(output_dir: str | Path, epoch: int) -> Path:
    """Name the file with what resuming needs beside the model.

    Args:
        output_dir: its folder.
        epoch: from 0.

    Returns:
        `nr_optimizer_{epoch}.pth` in the folder.
    """
    return Path(output_dir) / f"nr_optimizer_{epoch}.pth"


def find_epoch(output_dir: str | Path, load_epoch: int = -1, *, resume: bool = False) -> int:
    """Find the epoch to load; temporary and refined files do not count.

    Args:
        output_dir: the folder of the checkpoints.
        load_epoch: the epoch wanted; -1: the newest.
        resume: whether an epoch counts only when its training state lies beside its model.

    Returns:
        The epoch.

    Raises:
        CheckpointError: it is not there; the message lists the epochs that are.
    """
    models = _epochs(output_dir, "model")
    complete = whole_epochs(output_dir) if resume else sorted(models)
    if load_epoch < 0 and complete:
        return complete[-1]
    if load_epoch in complete:
        return load_epoch
    epoch = "*" if load_epoch < 0 else load_epoch
    lacks_model = not models if load_epoch < 0 else load_epoch not in models
    missing = f"nr_model_{epoch}.pth" if lacks_model else f"nr_optimizer_{epoch}.pth, which resuming needs"
    there = ", ".join(map(str, complete)) or "none"
    raise CheckpointError(f"{output_dir}: no {missing}; {'complete ' if resume else ''}epochs there: {there}")


def whole_epochs(output_dir: str | Path) -> list[int]:
    """List the epochs that training can go on from: those with a model and a training state.

    Args:
        output_dir: the folder of the checkpoints.

    Returns:
        The epochs, ascending.
    """
    return sorted(_epochs(output_dir, "model") & _epochs(output_dir, "optimizer"))


def choose_model(chosen: Path | None, folder: str | Path, load_epoch: int) -> Path:
    """Choose the model that a command line means.

    Args:
        chosen: a model file, or a folder of models; None: `folder`.
        folder: where models are looked for otherwise.
        load_epoch: the epoch wanted of a folder; -1: the newest.

    Returns:
        The file.

    Raises:
        CheckpointError: the folder lacks that epoch; the message lists the epochs that are there.
    """
    if chosen is not None and not chosen.is_dir():
        return chosen
    place = chosen or folder
    try:
        return model_path(place, find_epoch(place, load_epoch))
    except CheckpointError as error:
        if chosen is not None or _epochs(place, "model"):
            raise
        raise CheckpointError(f"{error}; --checkpoint names a model or the folder of one") from None


def save_model(path: str | Path, checkpoint: ModelCheckpoint) -> None:
    """Write a model file; on a failure the old one stays.

    Args:
        path: the file.
        checkpoint: what to write.

    Raises:
        CheckpointError: its parts contradict each other, or the file cannot be written (a full disk).
    """
    check_model(checkpoint, str(path))
    _save(Path(path), {
        "format": MODEL_FORMAT, "version": MODEL_VERSION, "epoch": checkpoint.epoch,
        "config": checkpoint.config,
        "model": {name: _compact(value) for name, value in checkpoint.model.items()},
        "points": [_compact(cloud) for cloud in checkpoint.points],
        "colors": [_compact(colors) for colors in checkpoint.colors],
    })


def read_model(path: str | Path) -> ModelCheckpoint:
    """Read what `save_model` wrote, on the CPU.

    Args:
        path: the file.

    Returns:
        The model.

    Raises:
        CheckpointError: the file is missing, damaged, or no model of this project; the message says which.
    """
    path = Path(path)
    check_readable(path)
    content = _load(path, MODEL_FORMAT, MODEL_VERSION)
    for key, kind in MODEL_KEYS.items():
        if not isinstance(content.get(key), kind):
            found = type(content[key]).__name__ if key in content else "missing"
            raise CheckpointError(f"{path}: entry {key!r} is {found}; it must be {kind.__name__}")
    tensors = [*content["model"].values(), *content["points"], *content["colors"]]
    if not all(isinstance(value, Tensor) for value in tensors):
        raise CheckpointError(f"{path}: 'model', 'points' and 'colors' must hold tensors only")
    checkpoint = ModelCheckpoint(**{key: content[key] for key in MODEL_KEYS})
    check_model(checkpoint, str(path))
    return checkpoint


def save_training_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write what resuming needs beside the model.

    Args:
        path: the file.
        state: plain data and tensors only.

    Raises:
        CheckpointError: the file cannot be written.
        TypeError: the state holds something else.
    """
    _save(Path(path), {"format": STATE_FORMAT, "version": STATE_VERSION, "state": state})


def load_training_state(path: str | Path) -> dict[str, Any]:
    """Read what `save_training_state` wrote, on the CPU.

    Args:
        path: the file.

    Returns:
        The state.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    check_readable(path)
    state = _load(path, STATE_FORMAT, STATE_VERSION).get("state")
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: entry 'state' is missing")
    return state


def _epochs(output_dir: str | Path, kind: str) -> set[int]:
    if not Path(output_dir).is_dir():
        return set()
    matches = (re.fullmatch(rf"nr_{kind}_(\d+)\.pth", entry.name) for entry in Path(output_dir).iterdir())
    return {int(match[1]) for match in matches if match}


# --- writing


def _save(path: Path, content: dict[str, Any]) -> None:
    _check_plain(content, path.name)
    remove_leftovers(Path(os.path.realpath(path)).parent)  # where `atomic_write` writes, links followed
    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written: {_reason(error)}; the file that was there before, "
                              "if any, is untouched") from error


def _reason(error: BaseException) -> str:
    """Why nothing could be written; torch wraps a file object's OSError in a RuntimeError of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    return str(error).partition("\n")[0]


def _compact(tensor: Tensor) -> Tensor:
    """A tensor that brings only its own numbers into the file, not the storage it is a view of."""
    tensor = tensor.detach().to("cpu").contiguous()
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()


def _check_plain(value: Any, where: str) -> None:
    """TypeError for what `weights_only=True` might not read back: better now than when resuming."""
    if type(value) in (dict, OrderedDict):
        for key, entry in value.items():
            _check_plain(key, f"{where}: key")
            _check_plain(entry, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for i, entry in enumerate(value):
            _check_plain(entry, f"{where}.{i}")
    elif type(value) not in PLAIN and not isinstance(value, Tensor):
        kind = f"{type(value).__module__}.{type(value).__name__}"
        raise TypeError(f"checkpoint: {where} is a {kind}; only tensors, numbers, text, lists, tuples "
                        "and dicts can be saved")


# --- reading


def check_readable(path: Path) -> None:
    """Refuse a file that cannot be a whole checkpoint, by its first bytes and its end.

    Args:
        path: the file.

    Raises:
        CheckpointError: it is missing, cannot be read, is cut short or of another kind.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    if not start:
        raise CheckpointError(f"{path}: truncated (the file is empty)")
    if b"PK".startswith(start[:2]) and not zipfile.is_zipfile(path):
        raise CheckpointError(f"{path}: truncated (it ends after {path.stat().st_size} bytes, before its "
                              "table of contents)")
    if start[:2] not in (b"PK", b"\x80\x02"):
        raise CheckpointError(f"{path}: not a checkpoint (it begins with {start!r})")


def _load(path: Path, kind: str, version: int) -> dict[str, Any]:
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of a dozen kinds for a damaged file
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named:
            raise CheckpointError(f"{path}: refused: the file names {named[1]}; a checkpoint holds plain "
                                  "data only; nothing was run") from None
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"{path}: damaged: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != kind:
        found = repr(content.get("format"))[:50] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: its format is {found}; expected {kind!r}")
    if content.get("version") != version:
        found = repr(content.get("version"))[:50]
        raise CheckpointError(f"{path}: its version is {found}; this release reads {version}")
    return content


def _check_archive(path: Path) -> None:
    """torch does not compare the archive's checksums; a flipped bit would go unnoticed."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("/data.pkl") for name in archive.namelist()):
            raise CheckpointError(f"{path}: an archive, but not one that torch.save wrote")
        damaged = archive.testzip()
    if damaged:
        raise CheckpointError(f"{path}: damaged (the checksum of {damaged} is wrong)")
