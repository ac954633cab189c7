# SPDX-License-Identifier: Apache-2.0
"""The registry of importers, by their names on the command line."""

from __future__ import annotations

from npcr.errors import NpcrError
from npcr.importers.base import Importer

_IMPORTERS: dict[str, Importer] = {}


def register_importer(importer: Importer) -> None:
    """Make an importer known to `find_importer` and to `npcr import`.

    Args:
        importer: an instance; its `name` must be new.

    Raises:
        NpcrError: the name is taken.
    """
    if importer.name in _IMPORTERS:
        raise NpcrError(f"importer {importer.name!r} is registered already, "
                        f"as {type(_IMPORTERS[importer.name]).__qualname__}; give the new one a name of its own")
    _IMPORTERS[importer.name] = importer


def unregister_importer(name: str) -> None:
    """Take an importer out again.

    Args:
        name: its name.

    Raises:
        NpcrError: there is no importer of that name.
    """
    del _IMPORTERS[find_importer(name).name]


def importers() -> tuple[Importer, ...]:
    """List the importers.

    Returns:
        All of them, in the order in which they were registered.
    """
    return tuple(_IMPORTERS.values())


def find_importer(name: str) -> Importer:
    """Look up an importer.

    Args:
        name: as typed on the command line.

    Returns:
        The importer.

    Raises:
        NpcrError: there is no importer of that name; the message lists the known ones.
    """
    if name not in _IMPORTERS:
        raise NpcrError(f"no importer is called {name!r}; known: {', '.join(_IMPORTERS)}")
    return _IMPORTERS[name]
