# SPDX-License-Identifier: Apache-2.0
"""Lines and numbers of text files, with errors that name file, line and value."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError

logger = logging.getLogger("npcr")


def read_bytes(path: Path) -> bytes:
    """The file's content; `SceneError` where it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None


def read_lines(path: Path) -> list[str]:
    """The file's lines without their ends; a byte-order mark and CRLF are read with a warning."""
    data = read_bytes(path)
    if data.startswith(b"\xef\xbb\xbf"):
        logger.warning("%s: starts with a byte-order mark; read without it", path)
        data = data[3:]
    if b"\r" in data:
        logger.warning("%s: has Windows line ends (CRLF); read as if they were LF", path)
    try:
        return data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SceneError(f"{path}, line {line}: not text (byte 0x{data[error.start]:02x})") from None


def parse_numbers(text: str, count: int, path: Path, line: int) -> list[float]:
    """The `count` finite numbers of one line; `SceneError` otherwise."""
    words = text.split()
    if len(words) != count:
        raise SceneError(f"{path}, line {line}: has {len(words)} numbers; it needs {count}")
    return [_parse_number(word, path, line) for word in words]


def _parse_number(word: str, path: Path, line: int) -> float:
    try:
        number = float(word)
    except ValueError:
        raise SceneError(f"{path}, line {line}: {word!r} is not a number") from None
    if not math.isfinite(number):
        raise SceneError(f"{path}, line {line}: {word} is not finite")
    return number


def format_numbers(values: Iterable[float] | NDArray[np.floating]) -> str:
    """Numbers with a blank between, in the fewest digits that give the same value of their type back."""
    return " ".join(str(value) for value in values)
