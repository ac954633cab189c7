# SPDX-License-Identifier: Apache-2.0
"""The scene of the study, and copies of it with changed point clouds."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from yacs.config import CfgNode

from benchmarks.quality.variants import CloudChange
from npcr.cameras import Cameras
from npcr.config import load_config
from npcr.data.cloud_geometry import near_far_size, point_spacing
from npcr.data.scene import load_clouds, split_holdout
from npcr.data.scene_config import FILE_NAME
from npcr.data.scene_files import find_clouds
from npcr.data.scene_folder import new_scene_folder
from npcr.errors import ConfigError, SceneError
from npcr.io.camera_files import read_cameras
from npcr.io.points import PointCloud, write_points
from npcr.reconstruction.point_filters import merge_clouds, select_points

_JITTER = 0.5  # spacings: standard deviation of each coordinate of a duplicated point


@dataclass(frozen=True)
class StudyScene:
    """A scene with its configuration, read once for all runs."""

    folder: Path
    cfg: CfgNode
    cameras: Cameras  # at the photographs' size
    clouds: list[PointCloud]
    digest: str  # of configuration, cameras and clouds

    @property
    def config_file(self) -> Path:
        return self.folder / FILE_NAME

    @property
    def steps_per_epoch(self) -> int:
        training = split_holdout(len(self.cameras), self.cfg.DATASETS.HOLDOUT_EVERY)[0]
        return math.ceil(len(training) * self.cfg.DATASETS.FRAME_NUM / self.cfg.SOLVER.IMS_PER_BATCH)


def open_scene(folder: Path) -> StudyScene:
    """Read SCENE/scene.yml, cameras and clouds.

    Args:
        folder: of the scene.

    Returns:
        The scene.

    Raises:
        SceneError: a file is missing or wrong.
        ConfigError: no view is held out.
    """
    config_file = folder / FILE_NAME
    if not config_file.exists():
        raise SceneError(f"{config_file}: no such file; make a scene with python tools/make_hair.py {folder}")
    cfg = load_config(config_file, ["DATASETS.TRAIN", str(folder.resolve())])
    size = (cfg.INPUT.SIZE_RAW[0], cfg.INPUT.SIZE_RAW[1])
    poses, intrinsics = folder / "CamPose.inf", folder / "Intrinsic.inf"
    cameras = read_cameras(poses, intrinsics, size)
    if not cfg.DATASETS.TEST and not split_holdout(len(cameras), cfg.DATASETS.HOLDOUT_EVERY)[1]:
        raise ConfigError(f"{config_file}: the study compares held-out views, but none is held out "
                          f"(DATASETS.HOLDOUT_EVERY {cfg.DATASETS.HOLDOUT_EVERY}, {len(cameras)} cameras, no "
                          "DATASETS.TEST)")
    files = [config_file, poses, intrinsics, *find_clouds(folder, cfg.DATASETS.FRAME_NUM)]
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return StudyScene(folder, cfg, cameras, load_clouds(folder, cfg.DATASETS.FRAME_NUM), digest[:16])


def image_size(cfg: CfgNode, longest_side: int) -> list[int]:
    """Return [width, height] with the aspect ratio of the photographs, and not larger than they are."""
    scale = min(1.0, longest_side / max(cfg.INPUT.SIZE_RAW))
    return [round(side * scale) for side in cfg.INPUT.SIZE_RAW]


def changed_cloud(cloud: PointCloud, change: CloudChange, seed: int) -> PointCloud:
    """Return the cloud with another number of points and with noise, drawn by `seed`; points keep their colors."""
    if change == CloudChange():
        return cloud
    rng = np.random.default_rng([seed, 4])
    spacing = point_spacing(cloud.positions)
    if change.density < 1:
        count = max(1, round(change.density * len(cloud)))
        cloud = select_points(cloud, np.sort(rng.choice(len(cloud), count, replace=False)))
    elif change.density > 1:
        copies = select_points(cloud, rng.choice(len(cloud), round((change.density - 1) * len(cloud)),
                                                 replace=change.density > 2))
        cloud = merge_clouds(cloud, _add_noise(copies, _JITTER * spacing, rng))
    return _add_noise(cloud, change.noise * spacing, rng) if change.noise else cloud


def splat_sizes(clouds: Sequence[PointCloud], cameras: Cameras, size: Sequence[int]) -> list[float]:
    """Return INPUT.NEAR_FAR_SIZE for these clouds and images of `size`, as in a new scene's configuration."""
    return near_far_size(clouds[0].positions, cameras.resized((size[0], size[1])))


def write_scene_copy(destination: Path, scene: StudyScene, clouds: Sequence[PointCloud]) -> None:
    """Write a scene folder with other clouds; everything else is linked (copied where links cannot be created)."""
    with new_scene_folder(destination) as folder:
        for entry in sorted(scene.folder.resolve().iterdir()):
            if entry.name not in ("pointclouds", FILE_NAME):
                _link(entry, folder / entry.name)
        for number, cloud in enumerate(clouds, 1):
            write_points(folder / "pointclouds" / f"frame{number}.ply", cloud)


def _add_noise(cloud: PointCloud, deviation: float, rng: np.random.Generator) -> PointCloud:
    noise = rng.normal(0, deviation, cloud.positions.shape)
    return PointCloud((cloud.positions + noise).astype(np.float32), cloud.colors)


def _link(source: Path, destination: Path) -> None:
    try:
        os.symlink(source, destination, target_is_directory=source.is_dir())
    except OSError:  # Windows without the permission to create links
        if source.is_dir():
            shutil.copytree(source, destination)
        else:
            shutil.copy2(source, destination)
