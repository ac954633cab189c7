# SPDX-License-Identifier: Apache-2.0
"""Photographs with their mattes: decoding, alpha, resizing, and a cache of limited size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npcr.data.scene import Scene
from npcr.errors import SceneError
from npcr.io.images import read_image, read_matte

ALPHA_MODES = ("straight", "premultiplied", "composited")


class ImageCache:
    """An LRU cache of decoded and resized photographs with alpha, which threads may share.

    Colors come out premultiplied, except in legacy mode, which leaves them as they are.

    Args:
        scene: whose photographs are read.
        alpha_mode: what the photographs' colors are: straight, premultiplied, or composited over a background.
        alpha_background: RGB of that background, 0-255.
        legacy: leave the colors as they are.
        cache_bytes: limit of the pixels that are kept; an image beyond it is not kept at all.

    Raises:
        ValueError: `alpha_mode` is unknown.
    """

    def __init__(self, scene: Scene, alpha_mode: str, alpha_background: Sequence[float], legacy: bool,
                 cache_bytes: int) -> None:
        if alpha_mode not in ALPHA_MODES:
            raise ValueError(f"ImageCache: alpha_mode {alpha_mode!r}; allowed: {', '.join(ALPHA_MODES)}")
        self._scene = scene
        self._alpha_mode = "premultiplied" if legacy else alpha_mode  # both mean: leave the colors alone
        self._background = alpha_background
        self._cache_bytes = cache_bytes
        self._kept: OrderedDict[tuple[int, int, tuple[int, int]], NDArray[np.uint8]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes_kept = 0

    def get(self, frame: int, camera: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a photograph with alpha.

        Args:
            frame: index of the frame.
            camera: index of the camera.
            size: (width, height), to which it is resized.

        Returns:
            (height, width, 4) uint8, RGB and alpha, shared: not to be written to.

        Raises:
            SceneError: the photograph or its matte cannot be decoded.
        """
        key = (frame, camera, size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pixels = resize(self._decode(frame, camera), size)  # outside the lock: threads decode side by side
        with self._lock:
            self._keep(key, pixels)
        return pixels

    def _keep(self, key: tuple[int, int, tuple[int, int]], pixels: NDArray[np.uint8]) -> None:
        if key in self._kept or pixels.nbytes > self._cache_bytes:
            return
        self._kept[key] = pixels
        self.bytes_kept += pixels.nbytes
        while self.bytes_kept > self._cache_bytes:
            self.bytes_kept -= self._kept.popitem(last=False)[1].nbytes

    def _decode(self, frame: int, camera: int) -> NDArray[np.uint8]:
        """(H, W, 4) uint8 at the size on disk."""
        image, matte = self._scene.frames[frame].images[camera], self._scene.frames[frame].mattes[camera]
        pixels = read_image(image)
        if matte is None:
            alpha = np.full(pixels.shape[:2], 255, np.uint8)
        else:
            alpha = pixels[..., 3] if matte == image else read_matte(matte)
        width, height = self._scene.cameras.size
        if pixels.shape[:2] != (height, width) or alpha.shape != (height, width):  # replaced meanwhile
            raise SceneError(f"{image}: photograph or matte is no longer of {width}x{height}")
        color = premultiply(pixels[..., :3], alpha, self._alpha_mode, self._background)
        return np.dstack([color, alpha])


def premultiply(color: NDArray[np.uint8], alpha: NDArray[np.uint8], alpha_mode: str,
                background: Sequence[float] = (0, 0, 0)) -> NDArray[np.uint8]:
    """Convert color to premultiplied color.

    straight: rgb * a. composited over a background B: rgb - (1 - a) B, clamped to 0..a. premultiplied: as is.

    Args:
        color: (H, W, 3) uint8.
        alpha: (H, W) uint8.
        alpha_mode: one of ALPHA_MODES.
        background: RGB of 0-255, of the mode "composited".

    Returns:
        (H, W, 3) uint8.
    """
    if alpha_mode == "premultiplied":
        return color
    opacity = alpha[..., None].astype(np.float32)
    if alpha_mode == "straight":
        return np.rint(color * (opacity / 255)).astype(np.uint8)
    behind = (1 - opacity / 255) * np.asarray(background, np.float32)
    return np.rint(np.clip(color - behind, 0, opacity)).astype(np.uint8)


def resize(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an image by Pillow's bicubic filter, each channel by itself.

    The filter widens when it shrinks, so it does not alias; it is the published implementation's.

    Args:
        pixels: (H, W, 4) uint8.
        size: (width, height) of the result.

    Returns:
        (height, width, 4) uint8; `pixels` itself where it has this size.
    """
    height, width = pixels.shape[:2]
    if (width, height) == tuple(size):
        return pixels
    # Mode RGBX, for Pillow would premultiply RGBA itself.
    image = Image.frombuffer("RGBX", (width, height), np.ascontiguousarray(pixels), "raw", "RGBX", 0, 1)
    return cast("NDArray[np.uint8]", np.asarray(image.resize(size, Image.Resampling.BICUBIC)))
