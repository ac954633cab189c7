# SPDX-License-Identifier: Apache-2.0
"""Packages that not every installation has: what needs them, and which extra of `pip install` brings them.

They are imported where they are used, and not with the module, so that all else runs without them.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

from npcr.errors import MissingExtraError


class _Extra(NamedTuple):
    use: str  # what needs the package
    package: str  # as its makers call it
    extra: str  # of pyproject.toml
    instead: str = ""  # what does without it


EXTRAS = {
    "OpenEXR": _Extra("writing .exr files", "OpenEXR", "exr"),
    "flip_evaluator": _Extra("FLIP", "flip-evaluator", "study"),
    "gsply": _Extra("a .spz", "gsply", "splats"),
    "laspy": _Extra("reading .las and .laz", "laspy", "las"),
    "mitsuba": _Extra("ray tracing", "Mitsuba 3", "hair"),
    "pillow_heif": _Extra("reading HEIC", "pillow-heif", "heic", "; or convert it to JPEG or PNG"),
    "playwright": _Extra("driving a browser", "playwright", "browser"),
    "pycolmap": _Extra("reading COLMAP models", "pycolmap", "colmap"),
    "pycvvdp": _Extra("ColorVideoVDP", "cvvdp", "cvvdp"),
    "pymatting": _Extra("--trimap", "pymatting", "matting"),
    "trimesh": _Extra("reading a mesh", "trimesh", "hair"),
    "viser": _Extra("the viewer", "viser", "viewer"),
}


def import_extra(name: str, where: object = "") -> Any:
    """Import a package of an extra.

    Args:
        name: as Python imports it, one of `EXTRAS`.
        where: the file or key that needs it, for the message.

    Returns:
        The module.

    Raises:
        MissingExtraError: the package is not installed; or it is, and cannot be imported, and the message says why.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and error.name == name
        use, called, extra, instead = EXTRAS[name]
        needing = f"{where}: {use}" if where else use
        broken = "" if absent else f", which cannot be imported ({error})"
        raise MissingExtraError(f"{needing} needs {called}{broken}: pip install 'npcr[{extra}]'{instead}") from None
