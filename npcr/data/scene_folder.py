# SPDX-License-Identifier: Apache-2.0
"""Atomic writing of a scene's folder: it appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from npcr.errors import SceneError
from npcr.io.files import remove_leftovers


@contextmanager
def new_scene_folder(destination: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Provide an empty temporary folder that becomes the scene's folder when the block ends.

    On any exception the temporary folder is removed and an earlier scene stays.

    Args:
        destination: the scene's folder.
        overwrite: whether to replace a scene that is there.

    Yields:
        The temporary folder, beside `destination`.

    Raises:
        SceneError: see `check_destination`.
    """
    target = Path(os.path.abspath(destination))
    check_destination(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    work = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    work.mkdir()
    try:
        yield work
        replace_scene(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def check_destination(destination: str | Path, overwrite: bool) -> None:
    """Check that a scene can be written to a folder.

    Args:
        destination: the scene's folder.
        overwrite: whether to replace a scene that is there.

    Raises:
        SceneError: `destination` is a file, holds something that is no scene, or holds anything without `overwrite`.
    """
    target = Path(destination)
    if not target.exists():
        return
    if not target.is_dir():
        raise SceneError(f"{target}: is a file; the scene needs a folder")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise SceneError(f"{target}: is not empty; give another folder, or --overwrite to replace the scene there")
    if not (target / "CamPose.inf").exists():
        raise SceneError(f"{target}: holds no scene (no CamPose.inf); --overwrite replaces scenes only")


def replace_scene(work: Path, target: Path) -> None:
    """Make a folder the scene's folder, in place of one that is there.

    Args:
        work: a folder beside `target`.
        target: the scene's folder.

    Raises:
        OSError: it cannot be renamed; an earlier scene stays.
    """
    old = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.old")
    if target.exists():
        target.rename(old)
    try:
        work.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
