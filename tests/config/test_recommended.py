# SPDX-License-Identifier: Apache-2.0
"""The recommended settings have one home; files that repeat them agree with it."""

from __future__ import annotations

from pathlib import Path

from npcr.config import KEYS, explicit_keys, from_dict, load_config
from npcr.config.keys import locate
from npcr.config.recommended import RECOMMENDED, Settings

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "configs" / "demo.yml"
DEMO_DIFFERS = {
    "INPUT.SIZE_RAW": "its own scene's",
    "INPUT.SIZE_TRAIN": "its own scene's",
    "INPUT.SIZE_TEST": "its own scene's",
    "INPUT.NEAR_FAR_SIZE": "its own scene's",
    "DATASETS.TRAIN": "its own scene's",
    "DATASETS.ALPHA_MODE": "its own scene's",
    "DATASETS.HOLDOUT_EVERY": "its own scene's",
    "OUTPUT_DIR": "its own scene's",
    "SOLVER.MAX_MINUTES": "time ends training, for it has to suit any laptop",
    "SOLVER.MAX_EPOCHS": "time ends training",
    "REFINE.PASSES": "fewer, so that the whole demo takes minutes",
}


def keys_of(settings: Settings) -> set[str]:
    return {f"{section}.{key}" for section, values in settings.items() for key in values}


def test_they_are_valid() -> None:
    from_dict(RECOMMENDED, "recommended")


def test_the_demo_has_the_recommended_settings() -> None:
    demo, recommended = load_config(DEMO), from_dict(RECOMMENDED, "recommended")
    different = set()
    for name in KEYS:
        node, leaf = locate(demo, name)
        if node[leaf] != locate(recommended, name)[0][leaf]:
            different.add(name)
    assert different == set(DEMO_DIFFERS)
    assert keys_of(RECOMMENDED) <= explicit_keys(DEMO)
