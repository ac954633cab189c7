# SPDX-License-Identifier: Apache-2.0
"""Mattes for photographs that have none: by keying a known background color, or by closed-form matting of a trimap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npcr.errors import SceneError
from npcr.extras import import_extra

TRIMAP_TOLERANCE = 5  # of 255: how far from 0 and 255 a trimap's certain pixels may be


@dataclass(frozen=True)
class Matting:
    """How mattes are computed: exactly one of `background` and `trimaps` is given."""

    background: tuple[int, int, int] | None = None  # RGB behind the object
    tolerance: tuple[float, float] = (20.0, 60.0)  # RGB distance up to which a pixel is background, from which object
    trimaps: Path | None = None  # folder: black background, white object, gray unknown

    def __post_init__(self) -> None:
        low, high = self.tolerance
        if not 0 <= low < high:
            raise SceneError(f"--tolerance is {low:g} {high:g}; it needs two distances, the smaller first")
        if (self.background is None) == (self.trimaps is None):
            raise SceneError("--background and --trimap are two ways to the same matte; give one of them")
        if self.background is not None and not all(0 <= value <= 255 for value in self.background):
            raise SceneError(f"--background is {self.background}; each of R,G,B must be within 0-255")
        if self.trimaps is not None and not self.trimaps.is_dir():
            raise SceneError(f"{self.trimaps}: no such folder of trimaps")


def matte_from_background(pixels: NDArray[np.uint8], matting: Matting) -> NDArray[np.uint8]:
    """Key out the background: alpha is a ramp of the distance from its color.

    Args:
        pixels: (H, W, 3) RGB.
        matting: the background's color, and the distances between which the ramp runs.

    Returns:
        (H, W) matte.
    """
    distance = np.linalg.norm(pixels.astype(np.float32) - np.array(matting.background, np.float32), axis=2)
    low, high = matting.tolerance
    return np.rint(np.clip((distance - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def matte_from_trimap(pixels: NDArray[np.uint8], trimap: NDArray[np.uint8], name: Path) -> NDArray[np.uint8]:
    """Estimate alpha and the object's own color from a trimap, with pymatting.

    Alpha is by Levin et al., "A Closed-Form Solution to Natural Image Matting" (2008); color by Germer et al., "Fast
    Multi-Level Foreground Estimation" (2021).

    Args:
        pixels: (H, W, 3) RGB.
        trimap: (H, W), 0 background, 255 object, else unknown.
        name: the trimap's path, for messages.

    Returns:
        (H, W, 4) RGBA, straight alpha.

    Raises:
        SceneError: the trimap has no certain background, or no certain object.
        MissingExtraError: pymatting is missing.
    """
    known = np.where(trimap <= TRIMAP_TOLERANCE, 0.0, np.where(trimap >= 255 - TRIMAP_TOLERANCE, 1.0, 0.5))
    if not (known == 0).any() or not (known == 1).any():
        raise SceneError(f"{name}: a trimap needs black pixels (background) and white ones (object)")
    pymatting = import_extra("pymatting")
    image = pixels / 255.0
    alpha = known if not (known == 0.5).any() else np.clip(pymatting.estimate_alpha_cf(image, known), 0, 1)
    color = pymatting.estimate_foreground_ml(image, alpha)
    return np.rint(np.clip(np.dstack([color, alpha]), 0, 1) * 255).astype(np.uint8)
