# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader only ever meets a whole one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from npcr.errors import NpcrError


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; it takes `path`'s place when the block ends.

    On any exception (a full disk, Ctrl-C) the old file stays as it was and the temporary one goes. Missing
    parent folders are made. `mode` is "wb" or "w" (UTF-8, line ends as given). A link is written through.
    Raises `OSError` where the file cannot be written.
    """
    with atomic_path(path) as temporary:
        text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(temporary, mode, **text) as file:
            yield file


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Like `atomic_write`, for writers that open a file by name: gives the temporary file's path.

    The temporary name ends in `path`'s suffix, since such writers tell the format by it.
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


def reraise_with_path(path: Path, save: Callable[[], object]) -> None:
    """Run `save`; a failing disk raises an `NpcrError` that names `path`."""
    try:
        save()
    except OSError as error:
        raise NpcrError(f"{path}: cannot be written: {error.strerror or error}") from error


def _flush_to_disk(path: Path) -> None:
    """fsync a file or folder; the folder's entry must be on disk before the new file survives a power cut."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
