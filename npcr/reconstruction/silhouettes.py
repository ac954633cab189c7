# SPDX-License-Identifier: Apache-2.0
"""What carving needs of a scene that has no point cloud yet: cameras, photographs, reduced mattes."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from npcr.cameras import Cameras
from npcr.data.scene import load_frame
from npcr.errors import SceneError
from npcr.io.images import read_image, read_matte
from npcr.reconstruction.mattes import reduce_matte

logger = logging.getLogger("npcr")


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


def check_silhouettes(silhouettes: Silhouettes, threshold: float, tolerated: int) -> None:
    """Refuse mattes without the object, which leave nothing of a hull; warn of those that are the object throughout.

    Args:
        silhouettes: the mattes.
        threshold: 0 to 1, from which a pixel is the object.
        tolerated: number of mattes that may be wrong about a point.

    Raises:
        SceneError: more mattes than are tolerated show nothing, or all are the object throughout.
    """
    count = len(silhouettes.mattes)
    empty, full = ([image for image, matte in zip(silhouettes.images, silhouettes.mattes, strict=True)
                    if test(matte > 255 * threshold)] for test in (lambda inside: not inside.any(), np.all))
    if empty:
        message = f"{empty[0]}: its matte shows nothing above {threshold:g}, as {len(empty)} of {count} mattes do"
        if len(empty) > tolerated:
            raise SceneError(f"{message}; a hull lies within all mattes: mend these, or remove their photographs and "
                             f"cameras" + (f", or --tolerate {len(empty)}" if len(empty) < count else ""))
        logger.warning("%s; they are tolerated", message)
    if len(full) == count:
        raise SceneError(f"{full[0]}: its matte is the object throughout, as are all {count}; nothing can be carved")
    if full:
        logger.warning("%s: its matte is the object throughout, as are %d of %d mattes; they carve nothing", full[0],
                       len(full), count)


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
