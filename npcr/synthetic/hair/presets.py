# SPDX-License-Identifier: Apache-2.0
"""Parameters of procedural grooms, and presets of them.

Lengths are in units of the body, whose radius is about 1: a head is about 1.4 wide and 2.3 high.
"""

from __future__ import annotations

from dataclasses import dataclass

from npcr.errors import ConfigError


@dataclass(frozen=True)
class Groom:
    """A procedural hair style. The fields that options can override (`OVERRIDABLE`) come first."""

    number: int  # strands
    length: float
    curl: float  # radius of the helix in which strands wind
    clump: float  # 0: no clumps, 1: the strands of a clump meet at the tip
    frizz: float  # amplitude of irregular waves, as a fraction of the length
    thickness: float  # diameter of a strand near its root
    melanin: float  # concentration of eumelanin: 0.3 blond, 1.3 brown, 8 black
    redness: float  # concentration of pheomelanin
    style: str  # "combed", "fur" or "tied"
    body: str = "head"  # the built-in body it is for
    pitch: float = 0.3  # length of one turn of the helix
    lift: float = 0.3  # 1: strands leave the skin along its normal, 0: along the comb direction
    weight: float = 0.5  # how soon they bend to gravity
    volume: float = 0.1  # thickness of the layer of hair on the skin
    per_clump: int = 40  # strands
    flyaways: float = 0.03  # fraction of strands that largely leave their clump
    cut: float | None = None  # height below which tips are cut off
    mottle: float = 0.25  # variation of pigment from strand to strand

    def __post_init__(self) -> None:
        limits = {"number": (1, 2_000_000), "length": (1e-3, 20), "curl": (0, 1), "clump": (0, 1), "frizz": (0, 1),
                  "thickness": (1e-5, 0.2), "melanin": (0, 20), "redness": (0, 20)}
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"--{name} is {getattr(self, name):g}; it must be from {least:g} to {most:g}")


OVERRIDABLE = ("number", "length", "curl", "clump", "frizz", "thickness", "melanin", "redness")

PRESETS = {
    "bob": Groom(number=14000, length=1.75, curl=0.012, clump=0.55, frizz=0.012, thickness=0.010, melanin=0.55,
                 redness=0.25, style="combed", pitch=0.7, lift=0.30, weight=2.2, volume=0.13, cut=-0.80),
    "curly": Groom(number=14000, length=1.35, curl=0.075, clump=0.92, frizz=0.008, thickness=0.010, melanin=0.75,
                   redness=0.9, style="combed", pitch=0.34, lift=0.6, weight=0.9, volume=0.22, per_clump=70,
                   flyaways=0.01),
    "fur": Groom(number=14000, length=0.20, curl=0.010, clump=0.6, frizz=0.04, thickness=0.011, melanin=0.45,
                 redness=0.5, style="fur", body="animal", pitch=0.25, lift=0.6, weight=0.6, volume=0.03,
                 per_clump=14, flyaways=0.05),
    "ponytail": Groom(number=14000, length=2.6, curl=0.02, clump=0.5, frizz=0.008, thickness=0.010, melanin=0.3,
                      redness=0.15, style="tied", pitch=0.8, lift=0.12, weight=1.0, volume=0.06, flyaways=0.02),
}
