# SPDX-License-Identifier: Apache-2.0
"""Atomic writing: a reader finds either the old file or the complete new one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from npcr.errors import NpcrError


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
