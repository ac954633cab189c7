# SPDX-License-Identifier: Apache-2.0
"""What carving needs of a scene that has no point cloud yet: cameras, photographs, reduced mattes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from npcr.cameras import Cameras
from npcr.data.scene import load_frame
from npcr.io.images import read_image, read_matte
from npcr.reconstruction.mattes import reduce_matte


@dataclass(frozen=True)
class Silhouettes:
    """The mattes of one frame of a scene, reduced, and where its photographs are."""

    cameras: Cameras  # at the photographs' size
    images: list[Path]
    mattes: list[np.ndarray]  # (h, w) uint8, all of one size

    @property
    def matte_cameras(self) -> Cameras:
        """The cameras at the mattes' size."""
        return self.cameras.resized((self.mattes[0].shape[1], self.mattes[0].shape[0]))


def load_silhouettes(folder: str | Path, frame: int, longest_side: int) -> Silhouettes:
    """Load cameras and mattes of one frame of a scene.

    Args:
        folder: of the scene.
        frame: number of the frame, from 1.
        longest_side: mattes are averaged down to it, pixels.

    Returns:
        The mattes, the paths of their photographs, and the cameras.

    Raises:
        SceneError: files are missing or wrong, mattes included.
    """
    cameras, found = load_frame(folder, frame, mask=True)
    with ThreadPoolExecutor(4) as pool:
        mattes = list(pool.map(partial(_load_matte, longest_side=longest_side), found.images, found.mattes))
    return Silhouettes(cameras, found.images, mattes)


def _load_matte(image: Path, matte_path: Path | None, longest_side: int) -> np.ndarray:
    # A photograph's own alpha channel counts even where it is opaque throughout.
    matte = read_matte(matte_path) if matte_path not in (None, image) else read_image(image)[..., 3]
    return reduce_matte(matte, longest_side)
