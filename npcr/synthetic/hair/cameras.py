# SPDX-License-Identifier: Apache-2.0
"""The cameras of a hair scene: photographs around the model, and a video path."""

from __future__ import annotations

import math

import numpy as np
import torch

from npcr.camera_paths import look_at, orbit, sphere_band
from npcr.cameras import Cameras
from npcr.synthetic.hair.model import HairModel
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.rendering import Intrinsics

_DISTANCE = 3.4  # of the cameras from the model's center, in its radii; times `HairOptions.distance`
_FILL = 0.47  # the model's radius in the image, as a fraction of the image's side
_ELEVATION = (-10.0, 45.0)  # degrees, of the photographs
_PATH_START = (-30.0, 12.0)  # degrees: azimuth from the face, elevation
_ELEVATION_WAVE = 8.0  # degrees by which the path rises and sinks


def scene_intrinsics(model: HairModel, options: HairOptions) -> Intrinsics:
    """Return the intrinsics of square images that the model fills from the default distance.

    Args:
        model: the hair model.
        options: give the image size.

    Returns:
        Intrinsics of all images of the scene.
    """
    distance = _DISTANCE * model.radius
    focal = _FILL * options.size * math.sqrt(distance**2 - model.radius**2) / model.radius
    return Intrinsics(options.size, options.size, focal)


def view_cameras(model: HairModel, options: HairOptions) -> Cameras:
    """Return the photographs' cameras, spread over a band of a sphere.

    Args:
        model: the hair model.
        options: give their number, distance and the image size.

    Returns:
        `options.views` cameras.
    """
    poses = sphere_band(options.views, _radius(model, options), elevation=_ELEVATION, center=model.center)
    return _to_cameras(poses, scene_intrinsics(model, options))


def path_cameras(model: HairModel, options: HairOptions) -> Cameras:
    """Return the video path's cameras, which orbit the model from beside the face, rising and sinking.

    Args:
        model: the hair model.
        options: give their number and distance, the angle of the path and the image size.

    Returns:
        `options.path_frames` cameras.
    """
    azimuth, elevation = np.radians(_PATH_START)
    direction = np.array([math.cos(elevation) * math.sin(azimuth), -math.cos(elevation) * math.cos(azimuth),
                          math.sin(elevation)])
    start = look_at(model.center + _radius(model, options) * direction, model.center)
    poses = orbit(start, options.path_frames, center=model.center, degrees=options.path_degrees,
                  elevation_wave=(_ELEVATION_WAVE, 1),
                  endpoint=options.path_degrees % 360 != 0)  # full turns repeat
    return _to_cameras(poses, scene_intrinsics(model, options))


def _radius(model: HairModel, options: HairOptions) -> float:
    """The cameras' distance from the model's center, world units."""
    return options.distance * _DISTANCE * model.radius


def _to_cameras(poses: np.ndarray, intrinsics: Intrinsics) -> Cameras:
    width, height, focal = intrinsics.width, intrinsics.height, intrinsics.focal
    matrix = torch.tensor([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    return Cameras(torch.from_numpy(poses).float(), matrix.expand(len(poses), 3, 3), (width, height))
