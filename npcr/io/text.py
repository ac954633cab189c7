# SPDX-License-Identifier: Apache-2.0
"""Reading of text files: lines and numbers, with errors that name file, line and value."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError


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
    """Read the lines of a text file, with a byte-order mark or without, and with any ends of lines.

    Args:
        path: a UTF-8 file, or a UTF-16 one with a byte-order mark.

    Returns:
        Lines without their ends.

    Raises:
        SceneError: the file is missing, cannot be read, or is not text.
    """
    data = read_bytes(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return _decode_utf16(data, path).splitlines()
    return _decode_utf8(data.removeprefix(codecs.BOM_UTF8), path).splitlines()


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
        apart = len(re.split(r"[,;\s]+", text.strip(" \t,;"))) == count
        hint = "; separate them by blanks, without commas" if apart else ""
        raise SceneError(f"{path}, line {line}: has {len(words)} numbers; it needs {count}{hint}")
    return [parse_number(word, f"{path}, line {line}") for word in words]


def parse_number(word: str, place: str) -> float:
    """Parse a number; a decimal comma is refused by name.

    Args:
        word: the number, without blanks.
        place: the number's place for messages, such as "cameras.txt, line 3".

    Returns:
        A finite number.

    Raises:
        SceneError: the word is not a finite number.
    """
    try:
        number = float(word.replace("_", "?"))  # Python itself reads 1_000
    except ValueError:
        raise SceneError(f"{place}: {word!r} is not a number{_why_not_a_number(word)}") from None
    if not math.isfinite(number):
        raise SceneError(f"{place}: {word} is not finite")
    return number


def _why_not_a_number(word: str) -> str:
    """The likely reason, and what to do, as the end of a sentence; empty where there is none to see."""
    if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", word):
        return f": it has a decimal comma; write {word.replace(',', '.')}"
    if "\N{MINUS SIGN}" in word:
        return ": it has a typographic minus sign; write a hyphen"
    if re.fullmatch(r"[-+]?[\d.]+[dD][-+]?\d+", word):
        return ": it has Fortran's exponent; write e for d"
    if re.search("[,;]", word):
        return "; separate numbers by blanks, without commas"
    return ""


def _decode_utf16(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError:
        raise SceneError(f"{path}: starts as text in UTF-16, but is not; save it as UTF-8") from None


def _decode_utf8(data: bytes, path: Path) -> str:
    place = data.find(b"\0")  # valid in UTF-8, but not text
    reason = "UTF-16 without a mark at its start, or binary?"
    if place < 0:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            place, reason = error.start, "in another encoding, or binary?"
    line = data.count(b"\n", 0, place) + 1
    raise SceneError(f"{path}, line {line}: not text in UTF-8 (byte 0x{data[place]:02x}; {reason}); save it as UTF-8")


def format_numbers(values: Iterable[float] | NDArray[np.floating]) -> str:
    """Format numbers with the fewest digits that identify a value of their type.

    Args:
        values: floats, or an array of float32 or float64.

    Returns:
        The numbers, separated by blanks.
    """
    return " ".join(str(value) for value in values)
