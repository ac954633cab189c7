# SPDX-License-Identifier: Apache-2.0
"""What a viewer begins with, from the configuration: its photographs, and where a browser first looks from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from npcr.camera_paths import look_at
from npcr.config import changed
from npcr.data.scene import Scene, split_holdout
from npcr.factory import build_dataset
from npcr.renderers import Renderer
from npcr.viewer.app import Settings
from npcr.viewer.photographs import PhotographedViews

_CACHE_MB = 256  # of decoded photographs; a training has its own


def photographs_of(cfg: CfgNode, scene: Scene, renderer: Renderer) -> PhotographedViews:
    """Make what is compared with a renderer.

    Args:
        cfg: the configuration.
        scene: DATASETS.TRAIN's.
        renderer: on its device.

    Returns:
        The photographs at INPUT.SIZE_TEST, with the cameras that training does not see.
    """
    small = changed(cfg, DATASETS__CACHE_MB=min(cfg.DATASETS.CACHE_MB, _CACHE_MB))
    return PhotographedViews(build_dataset(small, scene, cfg.INPUT.SIZE_TEST, renderer.device),
                             split_holdout(len(scene.cameras), cfg.DATASETS.HOLDOUT_EVERY)[1])


def settings_of(cfg: CfgNode, renderer: Renderer, views: PhotographedViews | None, output: Path | None = None,
                largest: int = 1024) -> Settings:
    """Begin at the first photograph's camera; without photographs, far enough away to see the whole cloud.

    Args:
        cfg: the configuration.
        renderer: on its device.
        views: the photographs; None: there are none.
        output: where saved paths and films go; None: OUTPUT_DIR/view.
        largest: pixels of a full frame's longer side at most.

    Returns:
        The settings.
    """
    points = renderer.points(0).double().cpu().numpy()
    low, high = np.percentile(points, [1, 99], axis=0)
    center = (low + high) / 2
    fov = views.fovs[0] if views else 40.0
    far = 1.3 * float(np.linalg.norm(high - low)) / np.tan(np.radians(fov) / 2) / 2
    pose = views.poses[0] if views else look_at(center + np.array([far, 0, 0]), center)
    return Settings(center, pose, fov, tuple(cfg.INPUT.SIZE_TEST), tuple(cfg.INPUT.SIZE_RAW), cfg.RENDER.FPS,
                    cfg.BACKGROUND_GRAY, output or Path(cfg.OUTPUT_DIR) / "view", largest)
