# SPDX-License-Identifier: Apache-2.0
"""The elements of a cameras.xml: its chunk, and the numbers and transforms within."""

from __future__ import annotations

import logging
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree
import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.io.text import read_bytes

logger = logging.getLogger("npcr")


def read_chunk(file: Path, name: str | None = None) -> Element:
    """Read a cameras.xml. Documents with entities or a DTD are refused: cameras.xml has none.

    Args:
        file: the document.
        name: label of the chunk; None: the first that has a camera with a pose, which is said where there are several.

    Returns:
        The chunk.

    Raises:
        SceneError: the file cannot be read, is no cameras.xml, or has no such chunk.
    """
    root = _read(file)
    chunks = [root] if root.tag == "chunk" else list(root.iter("chunk"))
    if not chunks:
        raise SceneError(f"{file}: has no element 'chunk'; is it Metashape's export of cameras (File, Export)? A "
                         "project (.psx) is none")
    labels = [chunk.get("label") or f"chunk {number}" for number, chunk in enumerate(chunks, 1)]
    listed = ", ".join(repr(label) for label in labels)
    if name is not None:
        if labels.count(name) != 1:
            raise SceneError(f"{file}: --chunk is {name!r}; {labels.count(name)} chunks have this name, there are "
                             f"{listed}")
        return chunks[labels.index(name)]
    chosen = next((i for i, chunk in enumerate(chunks) if chunk.find(".//camera/transform") is not None), 0)
    if len(chunks) > 1:
        logger.warning("%s: has %d chunks (%s), which stand in coordinates of their own; %r is used, --chunk names "
                       "another", file, len(chunks), listed, labels[chosen])
    return chunks[chosen]


def _read(file: Path) -> Element:
    try:
        root: Element = defusedxml.ElementTree.fromstring(read_bytes(file), forbid_dtd=True)
    except ParseError as error:
        raise SceneError(f"{file}, line {error.position[0]}: not XML: {error}") from None
    except defusedxml.DefusedXmlException:
        raise SceneError(f"{file}: has a document type (<!DOCTYPE ...>) or entities (<!ENTITY ...>), which Metashape "
                         "never writes and which can do harm; export the cameras from Metashape again") from None
    except (ValueError, LookupError) as error:
        raise SceneError(f"{file}: is no cameras.xml: its encoding cannot be read ({error}); save it as "
                         "UTF-8") from None
    return root


def by_id(elements: list[Element], file: Path) -> dict[str, Element]:
    """Key elements by their id.

    Args:
        elements: of one kind.
        file: for messages.

    Returns:
        {id: element}, in their order.

    Raises:
        SceneError: an id is missing or met twice.
    """
    result: dict[str, Element] = {}
    for element in elements:
        key = element.get("id")
        if key is None:
            raise SceneError(f"{file}: a {element.tag} has no id")
        if key in result:
            raise SceneError(f"{file}: two elements {element.tag} have the id {key!r}")
        result[key] = element
    return result


def is_true(text: str | None) -> bool:
    """Tell whether a flag is set.

    Args:
        text: of the flag; None: there is none.

    Returns:
        False where it says so or says nothing.
    """
    return (text or "").strip().lower() not in ("", "0", "false", "no", "none", "disabled")


def read_numbers(text: str | None, count: int, place: str) -> NDArray[np.float64]:
    """Read numbers that stand apart by blanks.

    Args:
        text: of an element; None: there is none.
        count: how many are needed.
        place: for messages.

    Returns:
        (count,) finite numbers.

    Raises:
        SceneError: there are others.
    """
    try:
        values = np.array((text or "").split(), dtype=np.float64)
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        found = (text or "").strip()
        raise SceneError(f"{place} is {found[:60]!r}; {count} finite numbers are needed{comma_hint(found)}")
    return values


def comma_hint(text: str | None) -> str:
    """Explain a number that may have a decimal comma.

    Args:
        text: of the number; None: there is none.

    Returns:
        The end of a message, empty where there is no comma.
    """
    return ", with decimal points in place of commas" if "," in (text or "") else ""


def read_matrix(text: str | None, place: str) -> NDArray[np.float64]:
    """Read a 4x4 matrix row by row.

    Args:
        text: of an element; None: there is none.
        place: for messages.

    Returns:
        (4, 4), the last row 0 0 0 1.

    Raises:
        SceneError: there are other numbers.
    """
    matrix = read_numbers(text, 16, place).reshape(4, 4)
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-6:
        shown = " ".join(f"{value:g}" for value in matrix[3])
        hint = "; it looks transposed" if np.abs(matrix[:, 3] - [0, 0, 0, 1]).max() <= 1e-6 else ""
        raise SceneError(f"{place}: the last row is {shown}; it must be 0 0 0 1{hint}")
    return matrix


def read_similarity(element: Element | None, place: str) -> NDArray[np.float64]:
    """Read <rotation>, <translation>, <scale>, or the 16 numbers that early versions wrote.

    Args:
        element: the transform of a chunk or component; None: there is none.
        place: for messages.

    Returns:
        (4, 4); what is left out changes nothing.

    Raises:
        SceneError: it is malformed.
    """
    matrix = np.eye(4)
    if element is None:
        return matrix
    if (element.text or "").strip():
        return read_matrix(element.text, place)
    if unknown := [child.tag for child in element if child.tag not in ("rotation", "translation", "scale")]:
        raise SceneError(f"{place}: has {unknown[0]!r}; known are rotation, translation, scale")
    if (rotation := element.findtext("rotation")) is not None:
        matrix[:3, :3] = read_numbers(rotation, 9, f"{place}: rotation").reshape(3, 3)
    if (translation := element.findtext("translation")) is not None:
        matrix[:3, 3] = read_numbers(translation, 3, f"{place}: translation")
    if (scale := element.findtext("scale")) is not None:
        factor = float(read_numbers(scale, 1, f"{place}: scale")[0])
        if not factor > 0:
            raise SceneError(f"{place}: scale is {factor:g}; it must be above 0")
        matrix[:3, :3] *= factor
    return matrix
