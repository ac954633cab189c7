# SPDX-License-Identifier: Apache-2.0
"""What scripts that read frames share: the choice of frames, and what a folder of renderings says of itself."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable
from pathlib import Path

from yacs.config import CfgNode

from npcr.config import default_config, load_config
from npcr.errors import ConfigError

logger = logging.getLogger("npcr")


def add_frame_options(parser: argparse.ArgumentParser) -> None:
    """Arguments `start`, `end`, `step` (for `FrameSource.part`), `fps` and `background`."""
    parser.add_argument("--start", type=int, default=1, metavar="N", help="the first frame, from 1 (default: 1)")
    parser.add_argument("--end", type=int, metavar="N", help="the last frame (default: the last there is)")
    parser.add_argument("--step", type=int, default=1, metavar="N",
                        help="every Nth frame; the speed stays (default: 1)")
    parser.add_argument("--fps", type=_frame_rate, metavar="X", help="frames a second (default: as the video or the "
                        "rendering's config.yml has it, divided by --step; else 30)")
    parser.add_argument("--background", type=_background, metavar="GRAY",
                        help="behind pictures with alpha: a gray 0-255, or checker (default: the rendering's "
                             "BACKGROUND_GRAY; else 255)")


def settings_of(paths: Iterable[Path]) -> CfgNode:
    """The configuration of the first of `paths` that tools/render.py wrote, else the defaults.

    It stands in the folder of the pictures, or beside rgba/ and the videos.
    """
    for path in paths:
        for file in (path / "config.yml", path.parent / "config.yml"):
            if file.is_file():
                try:
                    return load_config(file)
                except ConfigError as error:
                    logger.warning("its settings are not used: %s", error)
    return default_config()


def _frame_rate(text: str) -> float:
    rate = float(text)
    if not 0.1 <= rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not from 0.1 to 1000")
    return rate


def _background(text: str) -> float | str:
    if text == "checker":
        return text
    gray = float(text)
    if not 0 <= gray <= 255:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 255")
    return gray
