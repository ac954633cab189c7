# SPDX-License-Identifier: Apache-2.0
"""recipe.json: a record of everything a scene depends on, by which an interrupted run is continued."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from npcr import __version__
from npcr.data.scene_folder import check_destination
from npcr.errors import SceneError
from npcr.io.files import atomic_write
from npcr.io.text import read_bytes
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.presets import OVERRIDABLE

RECIPE_FILE = "recipe.json"


def make_recipe(options: HairOptions) -> dict[str, Any]:
    """Collect everything that images and point cloud depend on.

    Args:
        options: of the scene.

    Returns:
        Options, groom, SHA-256 of the input files, and the versions of npcr and Mitsuba, as JSON values.
    """
    return {
        "options": asdict(options),
        "groom": None if options.hair else asdict(options.groom),
        "inputs": {name: hashlib.sha256(read_bytes(Path(name))).hexdigest() for name in options.input_files},
        "npcr": __version__,
        "mitsuba": importlib.metadata.version("mitsuba"),
    }


def has_recipe(folder: Path, recipe: dict[str, Any]) -> bool:
    """Return whether a folder contains a scene begun with a recipe.

    Args:
        folder: of the scene.
        recipe: what `make_recipe` returned.

    Returns:
        False where the folder is empty or missing.

    Raises:
        SceneError: the folder's scene was begun with another recipe, or it contains something else.
    """
    file = folder / RECIPE_FILE
    if not file.exists():
        check_destination(folder, overwrite=False)
        return False
    try:
        found = json.loads(read_bytes(file))
    except ValueError as error:
        raise SceneError(f"{file}: is damaged: {error}; --overwrite begins anew") from None
    changed = _differences(found, json.loads(json.dumps(recipe)))
    if changed:
        raise SceneError(f"{folder}: was begun with {'; '.join(changed)}. Give the same options to go on, another "
                         "folder, or --overwrite to begin anew")
    return True


def write_recipe(folder: Path, recipe: dict[str, Any]) -> None:
    """Write recipe.json.

    Args:
        folder: of the scene.
        recipe: what `make_recipe` returned.
    """
    with atomic_write(folder / RECIPE_FILE, "w") as file:
        file.write(json.dumps(recipe, indent=1) + "\n")


def _differences(found: Any, recipe: dict[str, Any]) -> list[str]:
    """Describe each value in which a recipe read from a file differs from the present one."""
    if not isinstance(found, dict):
        return ["a recipe that is no table"]
    changed = []
    for section, values in recipe.items():
        before = found.get(section)
        if section == "options" and isinstance(before, dict):
            before = asdict(HairOptions()) | before  # an older recipe lacks what has been added since
        if isinstance(values, dict) and isinstance(before, dict):
            changed += [f"{key} {before.get(key)!r}, not {value!r}" for key, value in values.items()
                        if before.get(key) != value and not (section == "groom" and key in OVERRIDABLE)]
        elif before != values:
            changed.append(f"{section} {before!r}, not {values!r}")
    return changed
