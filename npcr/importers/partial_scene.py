# SPDX-License-Identifier: Apache-2.0
"""A scene's folder while it is written: Ctrl-C, a kill and a full disk cost no photograph that is whole.

    .SCENE.partial/                what is written, beside the scene's folder, which it becomes
    .SCENE.partial/.written.jsonl  what all of it is made from, then a line for each photograph that is whole
    .SCENE.lock                    held by the process that writes; the system frees it, however that process ends
"""

from __future__ import annotations

import base64
import dataclasses
import errno
import hashlib
import json
import logging
import os
import shutil
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock, Timeout

from npcr.data.scene_folder import check_destination, replace_scene
from npcr.errors import SceneError
from npcr.importers.image_conversion import ConvertedImage
from npcr.io.files import atomic_write

logger = logging.getLogger("npcr")

_JOURNAL = ".written.jsonl"


class PartialScene:
    """What is written of a scene, and of an earlier import of the same that was stopped.

    Args:
        folder: where to write; an earlier import's stays where its `basis` is the same, else it is removed.
        count: photographs that the scene will have.
        basis: by name, digests of what the photographs are made from.
    """

    def __init__(self, folder: Path, count: int, basis: Mapping[str, str]) -> None:
        self.folder = folder
        self.count = count
        self._lock = threading.Lock()
        written = self._take_over(dict(basis))
        self._written = {entry["stem"]: entry for entry in written}
        folder.mkdir(exist_ok=True)
        with atomic_write(folder / _JOURNAL, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in (dict(basis), *written))

    @property
    def written(self) -> int:
        """The number of photographs that are whole."""
        return len(self._written)

    def find(self, stem: Path) -> ConvertedImage | None:
        """Look up a photograph of the import that was stopped.

        Args:
            stem: its path within `folder`, without suffix.

        Returns:
            What was written of it; None: it is still to be converted.
        """
        entry = self._written.get(self._name(stem))
        if entry is None:
            return None
        small = entry["small_matte"] and np.frombuffer(base64.b64decode(entry["small_matte"]), np.uint8)
        return ConvertedImage(self.folder / entry["image"], entry["matte"] and self.folder / entry["matte"],
                              None if small is None else cv2.imdecode(small, cv2.IMREAD_GRAYSCALE))

    def add(self, stem: Path, image: ConvertedImage) -> None:
        """Note that a photograph is whole.

        Args:
            stem: its path within `folder`, without suffix.
            image: what was written.
        """
        files = {self._name(file): _checksum(file) for file in (image.image, image.matte) if file is not None}
        small = None if image.small_matte is None else cv2.imencode(".png", image.small_matte)[1].tobytes()
        entry = {"stem": self._name(stem), "image": self._name(image.image),
                 "matte": image.matte and self._name(image.matte), "files": files,
                 "small_matte": small and base64.b64encode(small).decode()}
        with self._lock:
            with (self.folder / _JOURNAL).open("a", encoding="utf-8") as journal:
                journal.write(json.dumps(entry) + "\n")
            self._written[entry["stem"]] = entry  # not before: the disk may be full

    def close(self) -> None:
        """Leave the scene's own files alone in the folder."""
        (self.folder / _JOURNAL).unlink()

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _take_over(self, basis: dict[str, str]) -> list[dict[str, Any]]:
        """Keep the photographs of an earlier import that are whole, remove all else, and say so."""
        found, *entries = _read_journal(self.folder / _JOURNAL) or [basis]
        if found != basis:
            other = next(name for name in basis if found.get(name) != basis[name])
            logger.warning("%s: an import that was stopped differs in %s; the %d photographs that it had written are "
                           "removed", self.folder, other, len(entries))
            entries = []
        whole = [entry for entry in entries if all(_checksum(self.folder / name) == checksum
                                                   for name, checksum in entry["files"].items())]
        kept = {self.folder / name for entry in whole for name in (_JOURNAL, *entry["files"])}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if not path.is_dir():
                if path not in kept:
                    path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
        if whole:
            logger.info("%s: an import that was stopped goes on: %d of %d photographs were done; clouds, with "
                        "--densify, are made anew", self.folder, len(whole), self.count)
        return whole


@contextmanager
def partial_scene(destination: str | Path, count: int, basis: Mapping[str, str], *,
                  overwrite: bool = False) -> Iterator[PartialScene]:
    """Provide a folder that becomes the scene's folder when the block ends.

    Where the block is stopped, what is whole stays for the next call; on an error nothing stays. An earlier scene stays
    in both cases.

    Args:
        destination: the scene's folder.
        count: photographs that the scene will have.
        basis: by name, digests of what the photographs are made from (`digest`).
        overwrite: whether to replace a scene that is there.

    Yields:
        The folder and its list of photographs.

    Raises:
        SceneError: another process writes this scene; or see `check_destination`.
    """
    target = Path(os.path.abspath(destination))
    check_destination(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _only_writer(target):
        check_destination(target, overwrite)  # again: another process may have finished it
        folder = target.with_name(f".{target.name}.partial")
        partial = PartialScene(folder, count, basis)
        try:
            yield partial
            partial.close()
            replace_scene(folder, target)
        except BaseException as error:
            if _is_stop(error) and partial.written:
                logger.warning("%s: stopped; %d of %d photographs are whole and stay in %s, with which the same "
                               "command goes on", target, partial.written, count, folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            raise


def digest(value: Any) -> str:
    """Make a short text that is another where a value is another.

    Args:
        value: numbers, texts, arrays, paths, and data classes and containers of these.

    Returns:
        Hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(value, default=_plain).encode()).hexdigest()


def code_digest() -> str:
    """Make the `digest` of this package's source code.

    Returns:
        Hexadecimal digits.
    """
    files = sorted(Path(__file__).resolve().parents[1].rglob("*.py"))
    return digest([zlib.crc32(file.read_bytes()) for file in files])


@contextmanager
def _only_writer(target: Path) -> Iterator[None]:
    """Hold the lock of a scene's folder."""
    file = target.with_name(f".{target.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SceneError(f"{target}: another process is importing into this folder; wait until it ends, or give "
                         "another folder") from None
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no file that is open
            file.unlink()  # before others can hold it: they would hold a file that is gone
        lock.release()


def _read_journal(file: Path) -> list[dict[str, Any]]:
    """The lines up to one that is not whole; none where there is no file."""
    lines: list[dict[str, Any]] = []
    if file.is_file():
        with suppress(ValueError):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                lines.append(json.loads(line))
    return lines


def _checksum(file: Path) -> int | None:
    return zlib.crc32(file.read_bytes()) if file.is_file() else None


def _is_stop(error: BaseException | None) -> bool:
    """Whether a user, a full disk or memory ended the import, and not what it read."""
    if isinstance(error, Exception) and not isinstance(error, MemoryError):
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return full or _is_stop(error.__cause__)
    return error is not None


def _plain(value: Any) -> Any:
    """What `digest` takes in place of a value that JSON does not know."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return repr(value)
