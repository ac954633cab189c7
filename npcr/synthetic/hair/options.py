# SPDX-License-Identifier: Apache-2.0
"""What a hair scene is made of, and the record of it by which a later call knows what to go on with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from npcr import __version__
from npcr.data.scene_folder import check_destination
from npcr.errors import ConfigError, SceneError
from npcr.io.files import atomic_write
from npcr.io.text import read_bytes
from npcr.synthetic.hair.bodies import BODIES
from npcr.synthetic.hair.presets import OVERRIDABLE, PRESETS, Groom

FILE_NAME = "recipe.json"


@dataclass(frozen=True)
class HairOptions:
    """Everything that decides how a scene looks; sizes in pixels, angles in degrees."""

    preset: str = "bob"
    hair: str | None = None  # a .hair file in place of the preset's strands
    surface: str | None = None  # a mesh file, "none", or the name of a built-in one; None: the preset's
    up: str = "z"  # the axis of those files that points upwards
    region_above: float = 0.0  # share of a mesh file's height above which hair grows
    number: int | None = None  # this and the following: None leaves the preset's
    length: float | None = None
    curl: float | None = None
    clump: float | None = None
    frizz: float | None = None
    thickness: float | None = None
    melanin: float | None = None
    redness: float | None = None
    views: int = 60
    holdout_every: int = 5
    size: int = 200
    samples: int = 64
    truth_samples: int | None = None  # of what models are judged by; None: as many as the others
    path_frames: int = 24
    path_degrees: float = 72.0
    points: int = 90_000
    skin_share: float = 0.12
    cloud_colors: str = "renders"
    format: str = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"region_above": (0, 0.999), "views": (1, 100_000), "holdout_every": (0, 100_000), "size": (8, 8192),
                  "samples": (1, 1_000_000), "path_frames": (0, 100_000), "path_degrees": (-3600, 3600),
                  "points": (10, 100_000_000), "skin_share": (0, 1), "seed": (0, 2**31 - 1)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name):g}; it must be from {least:g} "
                                  f"to {most:g}")
        for name, allowed in (("preset", tuple(PRESETS)), ("up", ("y", "z")), ("cloud_colors", ("renders", "none")),
                              ("format", ("png", "jpg"))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)!r}; allowed: "
                                  f"{', '.join(allowed)}")
        if self.truth_samples is not None and not 1 <= self.truth_samples <= limits["samples"][1]:
            raise ConfigError(f"--truth-samples is {self.truth_samples}; it must be from 1 to {limits['samples'][1]}")
        if self.holdout_every == 1:
            raise ConfigError("--holdout-every is 1; that would leave no view to train on (0 holds out none)")
        unread = [name for name in ("length", "curl", "clump", "frizz") if getattr(self, name) is not None]
        if self.hair and unread:
            raise ConfigError(f"--{unread[0]} shapes procedural strands; those of --hair {self.hair} keep their shape")
        self.groom  # noqa: B018 - checks the overrides

    @property
    def groom(self) -> Groom:
        """The preset with what the options override."""
        given = {name: getattr(self, name) for name in OVERRIDABLE if getattr(self, name) is not None}
        return replace(PRESETS[self.preset], **given)

    @property
    def surface_name(self) -> str:
        """A built-in surface, "none", or a mesh file; hair from a file stands alone unless told otherwise."""
        return self.surface or ("none" if self.hair else self.groom.body)

    @property
    def input_files(self) -> list[str]:
        """The files that the scene is made from."""
        surface = [] if self.surface_name in (*BODIES, "none") else [self.surface_name]
        return ([self.hair] if self.hair else []) + surface


def recipe(options: HairOptions) -> dict[str, Any]:
    """What pictures and cloud depend on: the groom, the options, the inputs' digests, the programs' versions."""
    return {
        "options": asdict(options),
        "groom": None if options.hair else asdict(options.groom),
        "inputs": {name: hashlib.sha256(read_bytes(Path(name))).hexdigest() for name in options.input_files},
        "npcr": __version__,
        "mitsuba": importlib.metadata.version("mitsuba"),
    }


def is_recorded(folder: Path, wanted: dict[str, Any]) -> bool:
    """Whether `folder` holds a scene begun with the recipe `wanted`; False where it is empty or missing.

    Raises `SceneError` where it was begun with another one, or holds something else.
    """
    file = folder / FILE_NAME
    if not file.exists():
        check_destination(folder, overwrite=False)
        return False
    try:
        found = json.loads(read_bytes(file))
    except ValueError as error:
        raise SceneError(f"{file}: is damaged: {error}; --overwrite begins anew") from None
    changed = _differences(found, json.loads(json.dumps(wanted)))
    if changed:
        raise SceneError(f"{folder}: was begun with {'; '.join(changed)}. Give the same options to go on, another "
                         "folder, or --overwrite to begin anew")
    return True


def record(folder: Path, wanted: dict[str, Any]) -> None:
    """Write the recipe into `folder`."""
    with atomic_write(folder / FILE_NAME, "w") as file:
        file.write(json.dumps(wanted, indent=1) + "\n")


def _differences(found: Any, wanted: dict[str, Any]) -> list[str]:
    if not isinstance(found, dict):
        return ["a recipe that is no table"]
    changed = []
    for section, values in wanted.items():
        before = found.get(section)
        if isinstance(values, dict) and isinstance(before, dict):
            changed += [f"{key} {before.get(key)!r}, not {value!r}" for key, value in values.items()
                        if before.get(key) != value and not (section == "groom" and key in OVERRIDABLE)]
        elif before != values:
            changed.append(f"{section} {before!r}, not {values!r}")
    return changed
