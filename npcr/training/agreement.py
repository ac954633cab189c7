# SPDX-License-Identifier: Apache-2.0
"""Refusals of several processes that cannot train or refine as one: other settings, scenes, versions; small batches."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from yacs.config import CfgNode

import npcr
from npcr import distributed
from npcr.cameras import Cameras
from npcr.config import KEYS, source_of
from npcr.config.keys import locate
from npcr.data.scene import Scene
from npcr.errors import ConfigError
from npcr.io.points import PointCloud
from npcr.ops import compiled_available
from npcr.renderers import Renderer

logger = logging.getLogger("npcr")

# Machines may have the same files in other places; the scene's content is compared, and only the first process writes.
_PLACES = {"DATASETS.TRAIN", "DATASETS.TEST", "PERCEPTUAL.CHECKPOINT", "OUTPUT_DIR"}


def refuse_different_settings(cfg: CfgNode, device: torch.device) -> None:
    """Compare the processes' configurations, versions and kinds of device; nothing where there is one.

    Args:
        cfg: the configuration.
        device: of this process.

    Raises:
        NpcrError: they differ.
    """
    if distributed.world_size() == 1:
        return
    values = {name: locate(cfg, name) for name in KEYS if name not in _PLACES}
    distributed.refuse_differences({
        "the version of npcr": npcr.__version__, "the checksum of npcr's code": _code(),
        "the version of torch": torch.__version__, "the version of numpy": np.__version__,
        "the kind of device": device.type, "whether kernels are compiled": compiled_available(),
        **{name: node[leaf] for name, (node, leaf) in values.items()}})


def refuse_untrainable(cfg: CfgNode) -> None:
    """Refuse what several processes cannot train as one does.

    Args:
        cfg: the configuration.

    Raises:
        ConfigError: MODEL.NORM batch, or SOLVER.IMS_PER_BATCH has no view for each process.
    """
    processes, size, source = distributed.world_size(), cfg.SOLVER.IMS_PER_BATCH, source_of(cfg, "SOLVER.IMS_PER_BATCH")
    if processes == 1:
        return
    if cfg.MODEL.NORM == "batch" and cfg.MODEL.FORM == "layered":
        raise ConfigError(f"{source_of(cfg, 'MODEL.NORM')}: MODEL.NORM batch keeps running statistics, which each of "
                          f"{processes} processes would take from its own views alone; use instance or none")
    if size < processes:
        remedy = (f"start at most {size}: a training that goes on keeps its batch" if cfg.RESUME else
                  f"set it to {processes} or a multiple (docs/distributed.md has the rule for rates)")
        raise ConfigError(f"{source}: SOLVER.IMS_PER_BATCH is {size}, which counts the views of all processes, and "
                          f"there are {processes}; {remedy}")
    if size % processes:
        logger.info("SOLVER.IMS_PER_BATCH %d is no multiple of %d processes: some wait for others", size, processes)


def warn_of_idle_processes(views: int) -> None:
    """Say where there are more processes than training views, which one process each would show at most.

    Args:
        views: of the training.
    """
    idle = distributed.world_size() - views
    if idle > 0 and distributed.is_writer():
        logger.warning("the scene has %d training views for %d processes: %d of them have nothing to learn from", views,
                       distributed.world_size(), idle)


def refuse_different_scenes(scene: Scene, clouds: Sequence[PointCloud]) -> None:
    """Compare the processes' scenes: cameras, clouds, and names and sizes of the photographs' and mattes' files.

    Args:
        scene: as read.
        clouds: one for each frame.

    Raises:
        NpcrError: they differ.
    """
    if distributed.world_size() == 1:
        return
    files = [path for frame in scene.frames for path in (*frame.images, *frame.mattes) if path is not None]
    distributed.refuse_differences({
        "the number of frames of the scene": len(scene.frames),
        "the number of cameras of the scene": len(scene.cameras),
        "the checksum of the cameras": _of_cameras(scene.cameras),
        "the checksum of the point clouds": _checksum(np.ascontiguousarray(part).tobytes() for cloud in clouds
                                                      for part in (cloud.positions, cloud.colors) if part is not None),
        "the checksum of the photographs' names and sizes": _checksum(map(_name_and_size, files))})


def refuse_different_paths(cameras: Cameras, frame: int) -> None:
    """Compare the processes' camera paths.

    Args:
        cameras: the path.
        frame: of the scene that it shows, from 0.

    Raises:
        NpcrError: they differ.
    """
    if distributed.world_size() == 1:
        return
    distributed.refuse_differences({"the number of cameras of the path": len(cameras), "--frame": frame + 1,
                                    "the checksum of the path's cameras": _of_cameras(cameras)})


def refuse_different_weights(renderer: Renderer, step: int) -> None:
    """Compare the processes' weights bit for bit.

    Args:
        renderer: of this process.
        step: steps done, for the message.

    Raises:
        NpcrError: they differ, as on GPUs of several kinds, whose roundings differ.
    """
    if distributed.world_size() == 1:
        return
    distributed.refuse_differences({f"the checksum of the weights after step {step}": weights_checksum(renderer)})


def weights_checksum(renderer: Renderer) -> str:
    """Compute a checksum of a renderer's weights, bit for bit, on their device.

    Args:
        renderer: any.

    Returns:
        16 digits.
    """
    bits = [parameter.detach().flatten().view(torch.int32) for parameter in renderer.parameters()]
    sums = torch.stack([each.sum(dtype=torch.int64) for each in bits]).tolist()
    return _checksum([str(sums).encode()])


def _code() -> str:
    """The checksum of this package's source files."""
    folder = Path(npcr.__file__).parent
    return _checksum(part for file in sorted(folder.rglob("*.py"))
                     for part in (file.relative_to(folder).as_posix().encode(), file.read_bytes()))


def _of_cameras(cameras: Cameras) -> str:
    return _checksum(part.cpu().contiguous().numpy().tobytes() for part in (cameras.cam_to_world, cameras.intrinsics))


def _name_and_size(path: Path) -> bytes:
    return f"{path.name} {path.stat().st_size}".encode()


def _checksum(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
