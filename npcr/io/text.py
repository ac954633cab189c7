# SPDX-License-Identifier: Apache-2.0
"""Reading of text files: lines and numbers, with errors that name file, line and value."""

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
    """Read a file.

    Args:
        path: the file.

    Returns:
        Its content.

    Raises:
        SceneError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise SceneError(f"{path}: no such file") from None
    except OSError as error:
        raise SceneError(f"{path}: cannot be read: {error.strerror}") from None


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text file; a byte-order mark or CRLF gives a warning.

    Args:
        path: a UTF-8 file.

    Returns:
        Lines without their ends.

    Raises:
        SceneError: the file is missing, cannot be read, or is not UTF-8.
    """
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
    """Parse the numbers of a line.

    Args:
        text: the line.
        count: how many numbers it must have.
        path: of the file, for messages.
        line: number of the line, for messages.

    Returns:
        `count` finite numbers.

    Raises:
        SceneError: another count, or a word that is not a finite number.
    """
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
    """Format numbers with the fewest digits that identify a value of their type.

    Args:
        values: floats, or an array of float32 or float64.

    Returns:
        The numbers, separated by blanks.
    """
    return " ".join(str(value) for value in values)
