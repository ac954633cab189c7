# SPDX-License-Identifier: Apache-2.0
"""The files of one frame of a scene, read for a check, with images reduced to what measuring needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from npcr.cameras import Cameras
from npcr.data.scene import load_frame
from npcr.data.scene_files import find_cloud
from npcr.io.images import read_image, read_matte
from npcr.io.points import PointCloud, read_points
from npcr.progress import Progress, no_progress
from npcr.reconstruction.mattes import reduced_size

_LONGEST_SIDE = 640  # pixels: to this, photographs and mattes are averaged down for all measurements


@dataclass(frozen=True)
class SceneData:
    """One frame of a scene, photographs and mattes reduced."""

    folder: Path
    cameras: Cameras  # at the photographs' size
    images: list[Path]
    photographs: list[np.ndarray]  # (h, w, 3) uint8 each, all of one size
    mattes: list[np.ndarray] | None  # (h, w) uint8 each; None: the whole image counts
    separate_mattes: bool  # the mattes are files of their own, not alpha channels
    cloud: PointCloud


def load_scene_data(folder: str | Path, *, frame: int = 1, mask: bool | None = None,
                    progress: Progress = no_progress) -> SceneData:
    """Read a frame of a scene.

    Args:
        folder: of the scene.
        frame: number of the frame, from 1.
        mask: whether to read mattes; None: where all photographs have one, with a warning where only some do.
        progress: wraps the iteration over the images.

    Returns:
        The frame's cameras, images and cloud.

    Raises:
        SceneError: something is missing or cannot be read.
    """
    folder = Path(folder)
    cameras, files = load_frame(folder, frame, mask=mask)
    cloud = read_points(find_cloud(folder, frame))
    with ThreadPoolExecutor(4) as pool:
        images = list(progress(pool.map(_read_reduced, files.images, files.mattes), len(files.images)))
    has_mattes = files.mattes[0] is not None
    return SceneData(folder, cameras, files.images, [image[..., :3] for image in images],
                     [image[..., 3] for image in images] if has_mattes else None,
                     any(m not in (None, i) for m, i in zip(files.mattes, files.images, strict=True)), cloud)


def downscale(pixels: np.ndarray, longest_side: int) -> np.ndarray:
    """Average an image down.

    Args:
        pixels: (H, W) or (H, W, C).
        longest_side: limit of the result's height and width, pixels.

    Returns:
        (h, w) or (h, w, C), of the same type.
    """
    size = reduced_size((pixels.shape[1], pixels.shape[0]), longest_side)
    return cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)


def _read_reduced(image: Path, matte: Path | None) -> np.ndarray:
    """(h, w, 3 or 4) uint8; colors are not premultiplied."""
    pixels = read_image(image)
    if matte is None:
        return downscale(pixels[..., :3], _LONGEST_SIDE)
    alpha = pixels[..., 3] if matte == image else read_matte(matte)
    return downscale(np.dstack([pixels[..., :3], alpha]), _LONGEST_SIDE)
