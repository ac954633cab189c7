# SPDX-License-Identifier: Apache-2.0
"""The YAML file that makes a freshly written scene ready to train: its values from cameras and cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from npcr.cameras import Cameras, project
from npcr.config import from_dict
from npcr.config.schema import RANGES
from npcr.errors import ConfigError, SceneError
from npcr.io.files import atomic_write

FILE_NAME = "scene.yml"
LEAST_RADIUS = 0.35  # pixels, at the object: what the published Hair2 configuration amounts to
_NEIGHBOR = 6
# What a new scene is trained with (docs/blended-form.md). The keys' own defaults are the published ones.
RECOMMENDED: dict[str, dict[str, Any]] = {
    "MODEL": {"FORM": "blended", "FEATURE_DIM": 8, "WIDTH": 16, "DOTS": 5},
    "INPUT": {"LAYER_NUM": 64},
    "PROJECTION": {"PEELING": "pixel"},
    "DATASETS": {"SHIFT": 0, "MAXRATION": 0},
    "LOSS": {"PERCEPTUAL": 0, "MSE": 0, "L1": 1, "SSIM": 0.2},
    "SOLVER": {"OPTIMIZER_NAME": "AdamW", "BASE_LR": 0.001, "FEATURE_LR_FACTOR": 15, "HARMONICS_LR_FACTOR": 15,
               "HARMONICS_DECAY": 1, "OPACITY_LR_FACTOR": 90, "POSITION_LR_FACTOR": 30, "WIDTH_LR_FACTOR": 30,
               "LR_DECAY": "cosine", "WARMUP_ITERS": 2, "WEIGHT_DECAY": 0, "MAX_EPOCHS": 100},
    "REFINE": {"PATH": "random", "LR": 0.0005, "STEADINESS": 1000, "ANCHOR": 10},
}
# With few photographs the points' many numbers would learn these by heart: one layer through the large network.
FEW_CAMERAS = 24
RECOMMENDED_FEW: dict[str, dict[str, Any]] = {
    "MODEL": {"FORM": "layered"},
    "DATASETS": {"SHIFT": 10, "MAXRATION": 0.5},
    "LOSS": {"PERCEPTUAL": 0, "SSIM": 0.1},
    "SOLVER": {"BASE_LR": 0.001, "FEATURE_LR_FACTOR": 5, "LR_DECAY": "cosine", "WARMUP_ITERS": 1, "MAX_EPOCHS": 100},
    "REFINE": {"LR": 0.0003},
}
_HEADER = """\
# Made by {maker}. To train: python tools/train.py --config-file THIS_FILE
# NEAR_FAR_SIZE and CENTER were computed from cameras and point cloud; tools/carve_hull.py does it anew.
"""


def scene_settings(name: str, cameras: Cameras, *, mask: bool, longest_side: int = 800) -> dict[str, Any]:
    """Configuration values of a scene in the folder `name`, nested by section: its own, and what is recommended.

    Training and test size are the photographs', reduced where a side exceeds `longest_side`; about an eighth
    of the cameras (at least three where that leaves enough to train on) is held out. Raises `SceneError` where
    a side would be shorter than the network takes.
    """
    width, height = cameras.size
    scale = min(1.0, longest_side / max(width, height))
    size = [round(width * scale), round(height * scale)]
    least = RANGES["INPUT.SIZE_TRAIN"][0]
    if min(size) < least:
        raise SceneError(f"{name}: photographs of {width}x{height} make pictures of {size[0]}x{size[1]} to train on; "
                         f"each side must be at least {least:g}")
    own: dict[str, Any] = {
        "INPUT": {"SIZE_RAW": [width, height], "SIZE_TRAIN": size, "SIZE_TEST": list(size)},
        # Beside this file, wherever the folder is moved.
        "DATASETS": {"TRAIN": ".", "FRAME_NUM": 1, "MASK": mask, "ALPHA_MODE": "straight",
                     "HOLDOUT_EVERY": holdout_every(len(cameras))},
        "OUTPUT_DIR": f"output/{name}",
    }
    for section, values in (RECOMMENDED if len(cameras) >= FEW_CAMERAS else RECOMMENDED_FEW).items():
        own.setdefault(section, {}).update(values)
    return own


def holdout_every(cameras: int) -> int:
    """Every how many cameras one is held out: 8, less for small scenes so that three are; 0 below six."""
    return 0 if cameras < 6 else max(2, min(8, cameras // 3))


def point_settings(points: np.ndarray, cameras: Cameras, size: list[int], *, is_cloud: bool = True) -> dict[str, Any]:
    """The values that follow from points (N, 3): NEAR_FAR_SIZE for pictures of `size`, and CENTER.

    is_cloud: False where the points merely fill the object's room; the largest splat is then the published 1.
    """
    splats = near_far_size(points, cameras.resized((size[0], size[1])))
    return {"INPUT": {"NEAR_FAR_SIZE": splats if is_cloud else [*splats[:2], 1.0]},
            "DATASETS": {"CENTER": object_centers(points, cameras)}}


def near_far_size(points: np.ndarray, cameras: Cameras) -> list[float]:
    """[near, far, max_size] that let the splats of `points` (N, 3) close up without covering each other.

    A splat should shrink as the gaps between projected points do, with 1/z; the radius falls linearly, so it
    follows the line that touches that curve at the median depth. near is where the nearest points are. The
    radius there makes a splat 1.5 times as wide as the points' spacing. Raises `SceneError` where no camera
    sees a point.
    """
    sample = torch.from_numpy(_subset(points, 20000)).float()
    depths = np.concatenate([_seen_depths(sample, cameras[i]) for i in range(len(cameras))])
    if not len(depths):
        raise SceneError("none of the cameras sees a point of the cloud; do cloud and cameras belong together?")
    middle, near = float(np.median(depths)), 0.98 * float(np.percentile(depths, 0.5))
    focal = float(cameras.intrinsics[:, 0, 0].median())
    gap = focal * point_spacing(points) / middle
    radius = max(LEAST_RADIUS, (1.5 * gap - 1) / 2)
    return [_rounded(near), _rounded(2 * middle), _rounded(radius * (2 - near / middle))]


def point_spacing(points: np.ndarray) -> float:
    """Side of the square that a point of a cloud (N, 3) on a surface has to itself, median over the cloud."""
    if len(points) <= _NEIGHBOR:
        return 0.0
    cloud = torch.from_numpy(_subset(points, 100000)).float()
    probes = cloud[torch.linspace(0, len(cloud) - 1, min(len(cloud), 512)).long()]
    # By differences: cdist's fast path loses nearby points in rounding.
    nearest = [torch.cdist(chunk, cloud, compute_mode="donot_use_mm_for_euclid_dist")
               .topk(_NEIGHBOR + 1, largest=False).values[:, -1] for chunk in probes.split(64)]
    # The disc out to the k-th neighbor holds k points besides its own; a subset lies sparser than the cloud.
    spacing = float(torch.cat(nearest).median()) * np.sqrt(np.pi / _NEIGHBOR)
    return float(spacing * np.sqrt(len(cloud) / len(points)))


def object_centers(points: np.ndarray, cameras: Cameras) -> list[int]:
    """CENTER: [y, x] of the cloud's middle, one pair where it hardly moves between cameras, else one each."""
    middle = torch.from_numpy(np.median(points, axis=0)).float()
    pixels, depth = project(middle.expand(len(cameras), 1, 3), cameras)
    width, height = cameras.size
    center = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    pixels = torch.where((depth > 0)[..., None] & pixels.isfinite(), pixels, center)[:, 0]
    pixels = torch.stack([pixels[:, 0].clamp(0, width - 1), pixels[:, 1].clamp(0, height - 1)], dim=1)
    mean = pixels.mean(0, keepdim=True)
    if (pixels - mean).abs().max() <= 0.1 * min(width, height):
        pixels = mean
    return [round(v) for v in pixels.flip(1).flatten().tolist()]


def write_scene_config(folder: Path, settings: dict[str, Any], maker: str) -> None:
    """Write FOLDER/scene.yml with `settings` (nested by section), checked against the known keys."""
    file = folder / FILE_NAME
    from_dict(settings, str(file))
    _write(file, _HEADER.format(maker=maker), settings)


def update_scene_config(file: Path, settings: dict[str, Any]) -> None:
    """Set `settings` (nested by section) in a YAML file; other values and the comment on top stay."""
    text = file.read_text(encoding="utf-8")
    values = yaml.safe_load(text) or {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: needs sections such as 'INPUT:', found {type(values).__name__}")
    for section, entries in settings.items():
        values.setdefault(section, {}).update(entries)
    from_dict(values, str(file))
    lines = text.splitlines(keepends=True)
    header = "".join(lines[:next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))])
    _write(file, header, values)


def _write(file: Path, header: str, values: dict[str, Any]) -> None:
    with atomic_write(file, "w") as stream:
        stream.write(header + yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110))


def _seen_depths(points: torch.Tensor, camera: Cameras) -> np.ndarray:
    """Depths of the points (N, 3) that fall into the picture of one camera."""
    pixels, depth = project(points[None], camera)
    inside = (depth > 0) & (pixels >= 0).all(-1) & (pixels < torch.tensor(camera.size)).all(-1)
    return depth[inside].numpy()


def _subset(points: np.ndarray, limit: int) -> np.ndarray:
    if len(points) <= limit:
        return points
    return points[np.random.default_rng(0).choice(len(points), limit, replace=False)]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
