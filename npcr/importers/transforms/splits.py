# SPDX-License-Identifier: Apache-2.0
"""nerfstudio's lists train_filenames, val_filenames and test_filenames: which frame is for what."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from npcr.errors import SceneError
from npcr.importers.base import IMAGE_SUFFIXES
from npcr.importers.transforms.values import Remarks, shown

_SUFFIXES = {suffix.lower() for suffix in IMAGE_SUFFIXES}
_Parts = tuple[str, ...]  # of a path: its folders, then the file's name


def split_frames(file: Path, values: dict[str, Any], names: list[str], default: str, remarks: Remarks) -> list[str]:
    """Find the split of each frame.

    A list's name is a frame's file_path, however the path is written: with ./ or backslashes, encoded as in a URL,
    without its suffix, or in another folder, as long as one frame alone has it.

    Args:
        file: of the lists, for messages.
        values: the file's top level.
        names: file_path of each frame.
        default: the split of frames in no list.
        remarks: takes what is in no list, and what was found in another folder.

    Returns:
        "train", "val" or "test" for each frame.

    Raises:
        SceneError: a list is malformed, names what no frame or more than one has, or a frame is in two lists.
    """
    lists = {split: values[f"{split}_filenames"] for split in ("train", "val", "test")
             if values.get(f"{split}_filenames") is not None}
    if not lists:
        return [default] * len(names)
    frames = [_parts(name) for name in names]
    found: dict[_Parts, tuple[str, str]] = {}
    by_stem: dict[str, list[_Parts]] = {}
    for frame in dict.fromkeys(frames):
        by_stem.setdefault(_without_suffix(frame)[-1], []).append(frame)
    for split, listed in lists.items():
        key = f"{split}_filenames"
        if not isinstance(listed, list):
            raise SceneError(f"{file}: {key} is {shown(listed)}; it must be a list of file names")
        for number, name in enumerate(listed):
            place = f"{key}[{number}]"
            if not isinstance(name, str) or not name:
                raise SceneError(f"{file}: {place} is {shown(name)}; the file name of a frame is needed")
            frame = _frame_of(name, by_stem, f"{file}: {place}", remarks)
            before, first = found.setdefault(frame, (split, place))
            if before != split:
                raise SceneError(f"{file}: {place} is {name!r}, which {first} has already: a photograph can be for one "
                                 "of training, validation and test; take it out of the other lists")
    for frame, name in zip(frames, names, strict=True):
        if frame not in found:
            remarks.add(f"frames are in none of {', '.join(f'{split}_filenames' for split in lists)}; they are used "
                        f"{'to train on' if default == 'train' else 'for ' + default}", name)
    return [found[frame][0] if frame in found else default for frame in frames]


def _frame_of(name: str, by_stem: dict[str, list[_Parts]], place: str, remarks: Remarks) -> _Parts:
    """The frame that a list means; closer likeness comes first."""
    listed = _parts(name)
    likely = by_stem.get(_without_suffix(listed)[-1] if listed else "", [])
    for is_same, remark in _LIKENESSES:
        found = [frame for frame in likely if is_same(frame, listed)]
        if len(found) > 1:
            paths = " or ".join("/".join(frame) for frame in found[:2])
            raise SceneError(f"{place} is {name!r}, which may be {paths}; write it as file_path is")
        if found:
            if remark:
                remarks.add(remark, f"{name} for {'/'.join(found[0])}")
            return found[0]
    raise SceneError(f"{place} is {name!r}, the file_path of no frame; take it out, or write it as file_path is")


def _is_tail(frame: _Parts, listed: _Parts) -> bool:
    """Whether one is the other with folders before it."""
    shorter, longer = sorted((frame, listed), key=len)
    return _is_same_but_suffix(longer[len(longer) - len(shorter):], shorter)


def _is_same_but_suffix(frame: _Parts, listed: _Parts) -> bool:
    """Whether they are equal, or are where one lacks the suffix."""
    return frame == listed or listed in (_without_suffix(frame),) or frame == _without_suffix(listed)


_LIKENESSES: Iterable[tuple[Callable[[_Parts, _Parts], bool], str]] = (
    (lambda frame, listed: frame == listed, ""),
    (_is_same_but_suffix, ""),
    (_is_tail, ""),
    (lambda frame, listed: _is_same_but_suffix(frame[-1:], listed[-1:]),
     "lists name frames by another folder; they are found by the file's name"),
)


def _parts(name: str) -> _Parts:
    """The parts of a path, which may be Windows' or encoded as in a URL."""
    return tuple(part for part in unquote(name).replace("\\", "/").split("/") if part not in ("", "."))


def _without_suffix(parts: _Parts) -> _Parts:
    path = Path(parts[-1]) if parts else Path()
    return (*parts[:-1], path.stem) if path.suffix.lower() in _SUFFIXES else parts
