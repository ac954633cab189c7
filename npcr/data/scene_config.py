# SPDX-License-Identifier: Apache-2.0
"""The file scene.yml that makes a new scene ready to train: its values follow from cameras and cloud."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from npcr.cameras import Cameras
from npcr.command_names import as_typed
from npcr.config import KEYS, from_dict
from npcr.config.recommended import RECOMMENDED
from npcr.data.cloud_geometry import near_far_size, object_centers
from npcr.errors import ConfigError, SceneError
from npcr.io.files import atomic_write

logger = logging.getLogger("npcr")

FILE_NAME = "scene.yml"
_FEW_CAMERAS = 20  # between 12, with which few directions of shared colors are better, and 24, with which many are
_HEADER = """\
# Made by {maker}. To train: npcr train --config-file THIS_FILE
# NEAR_FAR_SIZE and CENTER were computed from cameras and point cloud; npcr carve does it anew.
"""


def scene_settings(name: str, cameras: Cameras, *, mask: bool, longest_side: int = 800) -> dict[str, Any]:
    """Choose the configuration of a new scene: its own values, and the recommended ones (docs/quality.md).

    About an eighth of the cameras is held out, at least three of them where that leaves enough to train on.

    Args:
        name: of the scene's folder.
        cameras: at the size of the photographs.
        mask: whether the photographs have mattes.
        longest_side: limit of the training and test images' height and width, pixels; photographs below it are
            used at their size.

    Returns:
        Values by section and key.

    Raises:
        SceneError: a side would be shorter than the network takes.
    """
    width, height = cameras.size
    scale = min(1.0, longest_side / max(width, height))
    size = [round(width * scale), round(height * scale)]
    least, _ = KEYS["INPUT.SIZE_TRAIN"].range
    if min(size) < least:
        raise SceneError(f"{name}: photographs of {width}x{height} make pictures of {size[0]}x{size[1]} to train on; "
                         f"each side must be at least {least:g}")
    every = _holdout_every(len(cameras))
    own: dict[str, Any] = {
        "INPUT": {"SIZE_RAW": [width, height], "SIZE_TRAIN": size, "SIZE_TEST": list(size)},
        # Beside this file, wherever the folder is moved.
        "DATASETS": {"TRAIN": ".", "FRAME_NUM": 1, "MASK": mask, "ALPHA_MODE": "straight",
                     "HOLDOUT_EVERY": every},
        "OUTPUT_DIR": f"output/{name}",
        "MODEL": {"FIELD_LOBES": _field_lobes(len(cameras) - (len(cameras) // every if every else 0))},
    }
    for section, values in RECOMMENDED.items():
        own.setdefault(section, {}).update(values)
    return own


def _holdout_every(cameras: int) -> int:
    """Every how many cameras one is held out: 8, less for small scenes so that three are; 0 below six."""
    return 0 if cameras < 6 else max(2, min(8, cameras // 3))


def _field_lobes(training: int) -> int:
    """Directions of shared colors: fewer where few cameras can tell them apart (docs/quality.md)."""
    return 16 if training < _FEW_CAMERAS else KEYS["MODEL.FIELD_LOBES"].default


def point_settings(points: np.ndarray, cameras: Cameras, size: list[int], *, is_cloud: bool = True) -> dict[str, Any]:
    """Choose the values that follow from a cloud: INPUT.NEAR_FAR_SIZE and DATASETS.CENTER.

    Args:
        points: (N, 3), world coordinates.
        cameras: at the size of the photographs.
        size: [width, height] of the images that are rendered.
        is_cloud: False where the points merely fill the object's volume; the largest splat is then the published 1.

    Returns:
        Values by section and key.

    Raises:
        SceneError: no camera sees a point.
    """
    splats = near_far_size(points, cameras.resized((size[0], size[1])))
    return {"INPUT": {"NEAR_FAR_SIZE": splats if is_cloud else [*splats[:2], 1.0]},
            "DATASETS": {"CENTER": object_centers(points, cameras, "cloud" if is_cloud else "object")}}


def write_scene_config(folder: Path, settings: dict[str, Any], maker: str) -> None:
    """Write the file scene.yml of a scene.

    Args:
        folder: of the scene.
        settings: values by section and key.
        maker: the command that made it, such as `npcr hair`, for the comment on top.

    Raises:
        ConfigError: a key or a value is not allowed.
    """
    file = folder / FILE_NAME
    from_dict(settings, str(file))
    _write(file, as_typed(_HEADER.format(maker=maker)), settings)


def update_scene_config(file: Path, settings: dict[str, Any]) -> None:
    """Set values in a YAML file; other values and the comment on top stay, other comments go with a warning.

    Args:
        file: a configuration.
        settings: values by section and key.

    Raises:
        ConfigError: the file is no configuration, or a key or a value is not allowed.
    """
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: needs sections such as 'INPUT:', found {type(values).__name__}")
    for section, entries in settings.items():
        held = values.get(section) or {}  # an empty section is None
        values[section] = {**held, **entries} if isinstance(held, dict) else held
    from_dict(values, str(file))
    lines = text.splitlines(keepends=True)
    top = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    comments = [i for i, line in enumerate(lines[top:], top + 1) if re.search(r"(^|\s)#", line)]
    if comments:
        logger.warning("%s: was written anew, without the comments of %d lines, first line %d", file, len(comments),
                       comments[0])
    _write(file, "".join(lines[:top]), values)


def _write(file: Path, header: str, values: dict[str, Any]) -> None:
    with atomic_write(file, "w") as stream:
        stream.write(header + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110))
