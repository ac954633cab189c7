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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from npcr.checkpoints.model import ModelCheckpoint, check_model
from npcr.checkpoints.published import is_published, read_published
from npcr.errors import CheckpointError
from npcr.io.files import atomic_write

__all__ = ["ModelCheckpoint", "find_epoch", "load_model", "load_training_state", "model_path",
           "optimizer_path", "save_model", "save_training_state"]

MODEL_FORMAT, MODEL_VERSION = "npcr-model", 1
STATE_FORMAT, STATE_VERSION = "npcr-training-state", 1
MODEL_KEYS = {"epoch": int, "config": dict, "model": dict, "points": list, "colors": list}
PLAIN = (str, int, float, bool, type(None))  # read by weights_only=True in every torch >= 2.4


def model_path(output_dir: str | Path, epoch: int, refined: bool = False) -> Path:
    return Path(output_dir) / f"nr_model_{epoch}{'_refined' if refined else ''}.pth"


def optimizer_path(output_dir: str | Path, epoch: int) -> Path:
    return Path(output_dir) / f"nr_optimizer_{epoch}.pth"


def find_epoch(output_dir: str | Path, load_epoch: int = -1, *, resume: bool = False) -> int:
    """The epoch to load from `output_dir`: `load_epoch` itself, or for -1 the newest there is.

    With `resume` an epoch counts only when its training state lies beside its model. Temporary and refined
    files do not count. Raises `CheckpointError` that lists the epochs there are.
    """
    models, states = _epochs(output_dir, "model"), _epochs(output_dir, "optimizer")
    complete = sorted(models & states if resume else models)
    if load_epoch < 0 and complete:
        return complete[-1]
    if load_epoch in complete:
        return load_epoch
    epoch = "*" if load_epoch < 0 else load_epoch
    lacks_model = not models if load_epoch < 0 else load_epoch not in models
    missing = f"nr_model_{epoch}.pth" if lacks_model else f"nr_optimizer_{epoch}.pth, which resuming needs"
    there = ", ".join(map(str, complete)) or "none"
    raise CheckpointError(f"{output_dir}: no {missing}; {'complete ' if resume else ''}epochs there: {there}")


def save_model(path: str | Path, checkpoint: ModelCheckpoint) -> None:
    """Write a model file; on a failure the old one stays. Raises `CheckpointError` (a full disk, say)."""
    check_model(checkpoint, str(path))
    _save(Path(path), {
        "format": MODEL_FORMAT, "version": MODEL_VERSION, "epoch": checkpoint.epoch,
        "config": checkpoint.config,
        "model": {name: _compact(value) for name, value in checkpoint.model.items()},
        "points": [_compact(cloud) for cloud in checkpoint.points],
        "colors": [_compact(colors) for colors in checkpoint.colors],
    })


def load_model(path: str | Path) -> ModelCheckpoint:
    """Read a model file, on the CPU; a published pickle is met as well (`read_published`).

    Raises `CheckpointError` that names the file and what is wrong with it.
    """
    path = Path(path)
    _check_readable(path)
    if is_published(path):
        return read_published(path)
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
    """Write what resuming needs beside the model: plain data and tensors only (TypeError otherwise)."""
    _save(Path(path), {"format": STATE_FORMAT, "version": STATE_VERSION, "state": state})


def load_training_state(path: str | Path) -> dict[str, Any]:
    """Read what `save_training_state` wrote, on the CPU. Raises `CheckpointError`."""
    path = Path(path)
    _check_readable(path)
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
    _remove_leftovers(path)
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


def _remove_leftovers(path: Path) -> None:
    """Remove temporary files of checkpoints whose writer no longer lives (`npcr.io.files.atomic_write`)."""
    folder = Path(os.path.realpath(path)).parent  # where `atomic_write` writes, links followed
    if os.name == "nt" or not folder.is_dir():  # there, asking whether a process lives would end it
        return
    for entry in folder.iterdir():
        match = re.fullmatch(r"\.nr_(?:model|optimizer)_.*\.(\d+)-[0-9a-f]+\.tmp\.pth", entry.name)
        if match and not _is_other_process(int(match[1])):
            entry.unlink(missing_ok=True)


def _is_other_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return pid != os.getpid()


# --- reading


def _check_readable(path: Path) -> None:
    """Say in plain words why a file cannot be a whole checkpoint."""
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
