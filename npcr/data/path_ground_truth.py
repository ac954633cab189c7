# SPDX-License-Identifier: Apache-2.0
"""Ground truth of a camera path, images and geometry, as `tools/make_hair.py` writes it.

    FOLDER/img_0001.png …       RGBA with straight alpha; an image without alpha counts as opaque
    FOLDER/geometry_0001.npz …  `position` (H, W, 3) in world space, NaN in the background, `depth` (H, W), 0 there
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from npcr.data.image_cache import premultiply, resize
from npcr.errors import SceneError
from npcr.io.images import read_image

logger = logging.getLogger("npcr")


class GroundTruthGeometry(NamedTuple):
    """The first surface along the ray through each pixel's center."""

    position: Tensor  # (1, H, W, 3) world space, NaN in the background
    depth: Tensor  # (1, H, W) camera-space z, 0 in the background


class PathGroundTruth:
    """Reads the ground truth of a camera path frame by frame.

    Images are resized. Geometry, which cannot be, is left out with a warning where it has another size.

    Args:
        folder: of the files.
        count: number of the path's cameras.
        size: (width, height) of the frames.

    Raises:
        SceneError: there are some frames but not all, or the first geometry file cannot be read.
    """

    def __init__(self, folder: str | Path, count: int, size: tuple[int, int]) -> None:
        self.folder = Path(folder)
        self.size = size
        self._images = _numbered(self.folder, "img_{:04d}.png", count)
        self._geometry = _numbered(self.folder, "geometry_{:04d}.npz", count)
        if self._geometry and self.geometry(0).depth.shape[1:] != (size[1], size[0]):
            height, width = self.geometry(0).depth.shape[1:]
            logger.warning("%s: geometry is of %dx%d, INPUT.SIZE_TEST is %dx%d: left out", self._geometry[0],
                           width, height, *size)
            self._geometry = []

    @property
    def has_images(self) -> bool:
        """Whether there are images."""
        return bool(self._images)

    @property
    def has_geometry(self) -> bool:
        """Whether there is geometry of the frames' size."""
        return bool(self._geometry)

    def image(self, index: int) -> Tensor:
        """Read the image of a frame, `index` from 0: (1, 4, H, W) premultiplied RGBA in [0, 1]."""
        pixels = read_image(self._images[index])
        alpha = pixels[..., 3] if pixels.shape[2] == 4 else np.full(pixels.shape[:2], 255, np.uint8)
        rgba = np.dstack([premultiply(pixels[..., :3], alpha, "straight"), alpha])
        return torch.from_numpy(resize(rgba, self.size).copy()).permute(2, 0, 1)[None].float() / 255

    def geometry(self, index: int) -> GroundTruthGeometry:
        """Read the geometry of a frame, `index` from 0; raises `SceneError` where the file is not valid."""
        path = self._geometry[index]
        try:
            with np.load(path, allow_pickle=False) as arrays:
                position, depth = (torch.from_numpy(arrays[name]).float() for name in ("position", "depth"))
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise SceneError(f"{path}: is not a geometry file (position, depth): {error}") from None
        if depth.ndim != 2 or tuple(position.shape) != (*depth.shape, 3):
            raise SceneError(f"{path}: position must be (H, W, 3) and depth (H, W), are {tuple(position.shape)} "
                             f"and {tuple(depth.shape)}")
        return GroundTruthGeometry(position[None], depth[None])


def _numbered(folder: Path, pattern: str, count: int) -> list[Path]:
    """The files of `count` frames, or none where the first is not there."""
    paths = [folder / pattern.format(number) for number in range(1, count + 1)]
    if not paths[0].exists():
        return []
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise SceneError(f"{missing[0]}: missing; the path has {count} cameras, and {paths[0].name} is there")
    return paths
