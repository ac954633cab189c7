# SPDX-License-Identifier: Apache-2.0
"""What a browser may draw over the picture: the cloud, and the photographs' cameras, which lead there when clicked."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from npcr.viewer.photographs import PhotographedViews

CLOUD = "/cloud"  # names of viser's scene
CAMERAS = "/cameras"
CLOUD_LIMIT = 50_000  # points that a browser is sent at most
CLOUD_COLOR = (255, 60, 160)
_CAMERA_COLOR = (255, 170, 0)
_HELD_OUT_COLOR = (60, 160, 255)


class Landmarks:
    """The cloud and the cameras as one browser draws them, over the picture and whatever hides them in it.

    Args:
        scene: viser's, of this browser alone.
        center: (3,) of the scene, world.
    """

    def __init__(self, scene: Any, center: NDArray[np.float64]) -> None:
        self._scene = scene
        self._center = center
        self._cloud: Any = None
        self._cameras: Any = None

    def draw_cloud(self, points: NDArray[np.float32]) -> int:
        """Draw a cloud in place of the one before.

        Args:
            points: (N, 3) world; those that are not finite are left out.

        Returns:
            How many points are drawn: all, or of more than `CLOUD_LIMIT` an even choice.
        """
        self.hide_cloud()
        points = points[np.isfinite(points).all(axis=1)]
        points = points[::max(1, math.ceil(len(points) / CLOUD_LIMIT))]
        if len(points):
            extent = float(np.linalg.norm(np.percentile(points, 99, axis=0) - np.percentile(points, 1, axis=0)))
            size = 0.3 * extent / math.sqrt(len(points))
            self._cloud = self._scene.add_point_cloud(CLOUD, points, CLOUD_COLOR, point_size=size or 1e-3,
                                                      precision="float32", point_shading="flat")
        return len(points)

    def hide_cloud(self) -> None:
        """Remove the cloud, if it is drawn."""
        if self._cloud is not None:
            self._cloud.remove()
            self._cloud = None

    def draw_cameras(self, views: PhotographedViews, on_click: Callable[[int], None]) -> None:
        """Draw a pyramid for each camera: orange, and blue where it is held out from training.

        Args:
            views: the cameras.
            on_click: called with the camera, from 0, that was clicked.
        """
        self.hide_cameras()
        self._cameras = self._scene.add_frame(CAMERAS, show_axes=False)
        distances = np.linalg.norm(views.poses[:, :3, 3] - self._center, axis=1)
        scale = 0.08 * float(np.median(distances)) or 0.1
        quaternions = Rotation.from_matrix(views.poses[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]  # w first
        for index, (pose, fov) in enumerate(zip(views.poses, views.fovs, strict=True)):
            frustum = self._scene.add_camera_frustum(
                f"{CAMERAS}/{index + 1}", math.radians(fov), views.aspect, scale=scale, thickness=2.0,
                thickness_units="screen", color=_HELD_OUT_COLOR if index in views.held_out else _CAMERA_COLOR,
                wxyz=quaternions[index], position=pose[:3, 3], cast_shadow=False, receive_shadow=False)
            frustum.on_click(lambda _, index=index: on_click(index))

    def hide_cameras(self) -> None:
        """Remove the cameras, if they are drawn."""
        if self._cameras is not None:
            self._cameras.remove()  # and with it what lies below
            self._cameras = None
