# SPDX-License-Identifier: Apache-2.0
"""The light of a hair scene as an environment map: sky and ground, a soft key light, a cool rim light.

An environment map in place of area lights is importance-sampled as a whole and hides nothing from a camera.
"""

from __future__ import annotations

import numpy as np

from npcr.camera_paths import normalize

_SKY, _GROUND = (0.62, 0.68, 0.76), (0.26, 0.22, 0.19)
_LIGHTS = (  # direction towards the light, radiance at its center, half width in degrees
    ((-0.55, -0.75, 0.85), (13.0, 11.9, 10.4), 24.0),  # key
    ((0.75, 0.70, 0.55), (7.0, 7.8, 9.2), 20.0),  # rim
)


def radiance(directions: np.ndarray) -> np.ndarray:
    """Return the incoming radiance from directions at infinity.

    Args:
        directions: (..., 3) unit vectors towards the light.

    Returns:
        (..., 3) linear RGB.
    """
    up = 0.5 + 0.5 * directions[..., 2:]
    up = up * up * (3 - 2 * up)
    light = up * np.array(_SKY) + (1 - up) * np.array(_GROUND)
    for toward, color, width in _LIGHTS:
        cosine = np.clip(directions @ normalize(toward), -1, 1)
        angle = np.degrees(np.arccos(cosine))
        light = light + np.exp(-0.5 * (angle / (0.6 * width)) ** 2)[..., None] * np.array(color)
    return light


def environment_map(height: int = 64) -> np.ndarray:
    """Return the environment map in Mitsuba's layout: +y at the top row, columns about y from -z.

    Args:
        height: rows.

    Returns:
        (height, 2 height, 3) float32 linear RGB.
    """
    theta = (np.arange(height) + 0.5) / height * np.pi
    phi = (np.arange(2 * height) + 0.5) / (2 * height) * 2 * np.pi
    theta, phi = np.meshgrid(theta, phi, indexing="ij")
    directions = np.stack([np.sin(phi) * np.sin(theta), np.cos(theta), -np.cos(phi) * np.sin(theta)], axis=-1)
    return radiance(directions).astype(np.float32)
