# SPDX-License-Identifier: Apache-2.0
"""The photographs beside the rendering: the cameras to jump to, and their comparison."""

from __future__ import annotations

import threading
from collections.abc import Collection

import numpy as np
import torch
from numpy.typing import NDArray

from npcr.camera_spline import field_of_view
from npcr.data.samples import SceneDataset
from npcr.viewer.pictures import Engine, background_pixels, compare, draw

Pixels = NDArray[np.uint8]


class PhotographedViews:
    """The cameras of a scene and what they saw.

    Args:
        dataset: at the size in which photographs are compared.
        held_out: cameras, from 0, that training does not see.
    """

    def __init__(self, dataset: SceneDataset, held_out: Collection[int] = ()) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()  # of the photographs' cache
        self.poses = dataset.scene.cameras.cam_to_world.double().cpu().numpy()
        size = dataset.scene.cameras.size
        focals = dataset.scene.cameras.intrinsics[:, 1, 1].tolist()
        self.aspect = size[0] / size[1]
        self.held_out = frozenset(held_out)
        self.fovs = [field_of_view(focal, size[1]) for focal in focals]

    def __len__(self) -> int:
        return len(self.poses)

    def photograph(self, camera: int, frame: int, gray: float = 255.0) -> Pixels:
        """Read a photograph over gray.

        Args:
            camera: from 0.
            frame: from 0.
            gray: 0-255.

        Returns:
            (H, W, 3).

        Raises:
            SceneError: it cannot be read.
        """
        with self._lock:
            sample = self._dataset.sample(frame, camera)
        over = sample.color + (1 - sample.target[3:4]) * gray / 255
        return (255 * over.clamp(0, 1)).round().to(torch.uint8).movedim(0, -1).cpu().numpy()

    def compared(self, engine: Engine, camera: int, frame: int, gray: float = 255.0) -> Pixels:
        """Put a photograph, the rendering of its very camera and their difference side by side.

        Args:
            engine: renders.
            camera: from 0.
            frame: from 0.
            gray: behind both, 0-255.

        Returns:
            (H, 3 W, 3).

        Raises:
            SceneError: the photograph cannot be read.
        """
        with self._lock:
            cameras = self._dataset.sample(frame, camera).cameras
        picture = draw(engine.render(cameras, frame), "color", background_pixels(gray, cameras.size))
        return compare(self.photograph(camera, frame, gray), picture)
