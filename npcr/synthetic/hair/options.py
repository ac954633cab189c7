# SPDX-License-Identifier: Apache-2.0
"""The options of a hair scene."""

from __future__ import annotations

from dataclasses import dataclass, replace

from npcr.errors import ConfigError
from npcr.synthetic.hair.bodies import BODIES
from npcr.synthetic.hair.presets import OVERRIDABLE, PRESETS, Groom


@dataclass(frozen=True)
class HairOptions:
    """Everything that determines a scene; sizes in pixels, angles in degrees. Field names are those of the options."""

    preset: str = "bob"
    hair: str | None = None  # a .hair file in place of the preset's strands
    surface: str | None = None  # the body: a mesh file, "none", or the name of a built-in one; None: the preset's
    up: str = "z"  # the axis of those files that points upwards
    region_above: float = 0.0  # fraction of a mesh file's height above which hair grows
    number: int | None = None  # this and the following fields override the preset's; None: they do not
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
    distance: float = 1.0  # of the cameras from the model, as a multiple of that at which it fills the images
    samples: int = 64  # light paths for each pixel
    truth_samples: int | None = None  # of held-out views and the video path; None: `samples`
    path_frames: int = 24
    path_degrees: float = 72.0
    points: int = 90_000
    skin_share: float = 0.12
    cloud_colors: str = "renders"
    format: str = "png"
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"region_above": (0, 0.999), "views": (1, 100_000), "holdout_every": (0, 100_000), "size": (8, 8192),
                  "distance": (0.31, 100), "samples": (1, 1_000_000), "path_frames": (0, 100_000),
                  "path_degrees": (-3600, 3600), "points": (10, 100_000_000), "skin_share": (0, 1),
                  "seed": (0, 2**31 - 1)}
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
        ignored = [name for name in ("length", "curl", "clump", "frizz") if getattr(self, name) is not None]
        if self.hair and ignored:
            raise ConfigError(f"--{ignored[0]} shapes procedural strands; those of --hair {self.hair} keep their shape")
        self.groom  # noqa: B018 - its limits are checked when it is made

    @property
    def groom(self) -> Groom:
        """The preset with the options' overrides."""
        given = {name: getattr(self, name) for name in OVERRIDABLE if getattr(self, name) is not None}
        return replace(PRESETS[self.preset], **given)

    @property
    def body_name(self) -> str:
        """A built-in body, "none", or a mesh file; by default hair from a file has no body."""
        return self.surface or ("none" if self.hair else self.groom.body)

    @property
    def input_files(self) -> list[str]:
        """The files from which the scene is made."""
        body = [] if self.body_name in (*BODIES, "none") else [self.body_name]
        return ([self.hair] if self.hair else []) + body
