# SPDX-License-Identifier: Apache-2.0
"""Atomic writing: a reader finds either the old file or the complete new one."""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from npcr.errors import NpcrError

logger = logging.getLogger("npcr")

_TEMPORARY = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}\.tmp(?:\.\w+)?")
_STARTED = time.time()
_ABANDONED = 3600.0  # seconds without a change, after which the writer is taken for gone: process numbers recur


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, which replaces `path` when the block ends.

    On any exception (a full disk, Ctrl-C) the old file is kept and the temporary one removed.

    Args:
        path: the file; missing parent folders are made, a symbolic link is followed.
        mode: "wb", or "w" for UTF-8 with line ends as given.

    Yields:
        The open temporary file.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(temporary, mode, **text) as file:
            yield file


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Do as `atomic_write`, for writers that open a file by name.

    Args:
        path: the file; missing parent folders are made, a symbolic link is followed.

    Yields:
        The temporary file's path, with the suffix of `path`, from which such writers know the format.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp{target.suffix}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_to_disk(target.parent)


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files and folders that killed writers left in a folder, and say so.

    A writer that still lives keeps what is its own, unless it is a file that was not touched for an hour: another
    process may have got the dead writer's number.

    Args:
        folder: where `atomic_path` or `new_scene_folder` wrote; a folder that is missing has no leftovers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        match = _TEMPORARY.fullmatch(path.name)
        try:
            if match and not _has_writer(path, int(match[1])):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                logger.info("%s: removed; a process that was killed left it half written", path)
        except OSError as error:  # another process was quicker, or the folder is read-only
            logger.debug("%s: cannot be removed: %s", path, error.strerror)


def _has_writer(path: Path, pid: int) -> bool:
    changed = path.stat().st_mtime
    if pid == os.getpid():
        return changed >= _STARTED  # else an earlier process had this one's number
    if path.is_file() and time.time() - changed > _ABANDONED:  # a folder does not change with what lies deep in it
        return False
    if os.name == "nt":  # there, asking whether a process lives would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


@contextmanager
def reraise_with_path(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block, as of a full disk, into an `NpcrError` that names the file.

    Args:
        path: the file that the block writes.

    Yields:
        None.

    Raises:
        NpcrError: the block raised `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise NpcrError(f"{path}: cannot be written: {error.strerror or error}") from error


def _flush_to_disk(path: Path) -> None:
    """Sync a file or folder; a new file survives a power cut only once its folder's entry is on disk, too."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
