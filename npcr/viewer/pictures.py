# SPDX-License-Identifier: Apache-2.0
"""What the viewer shows: a camera's rendering as color, matte, depth or coverage, over a background."""

from __future__ import annotations

import io
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from npcr.cameras import Cameras
from npcr.io.camera_path_files import make_cameras
from npcr.io.pixels import resized
from npcr.out_of_memory import explain_out_of_memory
from npcr.renderers import Renderer, RenderOutput
from npcr.viewer.gate import TrainingGate

Pixels = NDArray[np.uint8]
MODES = ("color", "matte", "depth", "without network", "coverage")  # the last two are of the points alone
_CHECKER = (102, 153)
_TILE = 16  # pixels of a checker's square
_LESS_MEMORY = "A smaller window or --max-size needs less"


@dataclass(frozen=True)
class View:
    """What a browser wants to see."""

    cam_to_world: NDArray[np.float64]  # (4, 4), OpenCV's axes
    fov: float  # vertical, degrees
    size: tuple[int, int]  # (width, height), pixels
    mode: str = "color"  # of MODES
    background: float | str = 255.0  # a gray 0-255, "checker", or "picture"
    frame: int = 0  # of the scene


class Shown(NamedTuple):
    """A rendered view."""

    picture: Pixels  # (H, W, 3)
    seconds: float  # that rendering took


class Engine:
    """Renders views, one at a time, whoever asks.

    Args:
        renderer: in eval mode, on its device; or in training, with a gate.
        backdrop: (H, W, 3) behind views with the background "picture"; None: there is none.
        gate: of the renderer's training; None: it is in none.
    """

    def __init__(self, renderer: Renderer, backdrop: Pixels | None = None, gate: TrainingGate | None = None) -> None:
        self.renderer = renderer
        self.backdrop = backdrop
        self.lock: AbstractContextManager[object] = gate or threading.Lock()
        self._gate = gate

    @property
    def changing(self) -> bool:
        """Whether the model is in training, and this is not paused."""
        return self._gate is not None and not self._gate.paused

    @property
    def modes(self) -> tuple[str, ...]:
        """The modes that the model has."""
        return MODES if self.renderer.shows_points_alone else MODES[:3]

    def show(self, view: View, scale: float = 1.0) -> Shown:
        """Render a view.

        Args:
            view: what to show.
            scale: of the picture's size, for quick frames.

        Returns:
            The picture, of the view's size times `scale`, and the time it took.

        Raises:
            OutOfMemoryError: the memory does not suffice.
        """
        size = (max(24, round(view.size[0] * scale)), max(24, round(view.size[1] * scale)))
        output, seconds = self._render(make_cameras([view.cam_to_world], [view.fov], size), view.frame,
                                       view.mode in MODES[3:])
        start = time.perf_counter()
        picture = draw(output, view.mode, background_pixels(view.background, size, self.backdrop))
        return Shown(picture, seconds + time.perf_counter() - start)

    def points(self, frame: int) -> NDArray[np.float32]:
        """A frame's cloud, (N, 3) world; frames count from 0."""
        with self.lock:
            return self.renderer.points(frame).float().cpu().numpy()  # type: ignore[no-any-return]

    def render(self, camera: Cameras, frame: int) -> RenderOutput:
        """Render one camera.

        Args:
            camera: a batch of one.
            frame: of the scene, from 0.

        Returns:
            What the renderer gives.

        Raises:
            OutOfMemoryError: the memory does not suffice.
        """
        return self._render(camera, frame)[0]

    @torch.no_grad()  # not inference_mode, whose tensors a training that is looked at could not use
    def _render(self, camera: Cameras, frame: int, alone: bool = False) -> tuple[RenderOutput, float]:
        """The rendering, and the seconds it took once its turn had come."""
        with self.lock, explain_out_of_memory("viewing", camera.size, _LESS_MEMORY):
            start = time.perf_counter()
            with self.renderer.points_alone() if alone else nullcontext():
                output = self.renderer(camera.to(self.renderer.device), frame)
            return output, time.perf_counter() - start

    def still(self, view: View) -> Pixels:
        """Render a view as straight RGBA.

        Args:
            view: its mode and background do not matter.

        Returns:
            (H, W, 4), black where alpha is 0.
        """
        output = self.render(make_cameras([view.cam_to_world], [view.fov], view.size), view.frame)
        color, alpha = _color(output), _alpha(output)
        straight = np.divide(color, alpha, out=np.zeros_like(color), where=alpha > 0)
        return _bytes(np.concatenate([straight, alpha], axis=2))


def draw(output: RenderOutput, mode: str, background: NDArray[np.float32]) -> Pixels:
    """Draw what a mode shows of a rendering.

    Args:
        output: of one camera; of the points alone in the modes that show these.
        mode: of `MODES`.
        background: (H, W, 3) or (1, 1, 3) in [0, 1]; seen behind color alone.

    Returns:
        (H, W, 3). Mattes and coverage are gray; depth is colored from the nearest (red) to the farthest (blue), black
        where nothing is.
    """
    if mode in ("matte", "coverage"):
        return np.repeat(_bytes(_alpha(output)), 3, axis=2)
    if mode == "depth":
        return _depth_picture(output.depth[0].float().cpu().numpy())
    return _bytes(_color(output) + (1 - _alpha(output)) * background)


def background_pixels(background: float | str, size: tuple[int, int],
                      backdrop: Pixels | None = None) -> NDArray[np.float32]:
    """Make what lies behind a picture.

    Args:
        background: a gray 0-255, "checker", or "picture".
        size: (width, height).
        backdrop: (H, W, 3) the picture, which is stretched; gray without one.

    Returns:
        (H, W, 3) or (1, 1, 3) in [0, 1].
    """
    if background == "checker":
        rows, columns = np.indices((size[1], size[0])) // _TILE
        gray: NDArray[np.float32] = np.array(_CHECKER, np.float32)[(rows + columns) % 2] / np.float32(255)
        return np.repeat(gray[..., None], 3, axis=2)
    if background == "picture" and backdrop is not None:
        return resized(backdrop, size).astype(np.float32) / np.float32(255)
    gray_level = 128.0 if isinstance(background, str) else background
    return np.full((1, 1, 3), gray_level / 255, np.float32)


def compare(photograph: Pixels, rendering: Pixels) -> Pixels:
    """Put a photograph, its rendering and their difference side by side.

    Args:
        photograph: (H, W, 3).
        rendering: (H, W, 3).

    Returns:
        (H, 3 W, 3); the absolute difference is doubled, so that it can be seen.
    """
    difference = np.minimum(2 * cv2.absdiff(photograph, rendering).astype(np.int32), 255).astype(np.uint8)
    return np.concatenate([photograph, rendering, difference], axis=1)


def png_bytes(rgba: NDArray[np.uint8]) -> bytes:
    """Encode a picture as PNG.

    Args:
        rgba: (H, W, 4) straight alpha.

    Returns:
        The file's content.
    """
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    return file.getvalue()


def _color(output: RenderOutput) -> NDArray[np.float32]:
    return output.color[0].float().movedim(0, -1).cpu().numpy()


def _alpha(output: RenderOutput) -> NDArray[np.float32]:
    return output.alpha[0].float().movedim(0, -1).cpu().numpy()


def _bytes(values: NDArray[np.float32]) -> Pixels:
    return np.rint(255 * values.clip(0, 1)).astype(np.uint8)


def _depth_picture(depth: NDArray[np.float32]) -> Pixels:
    there = depth > 0
    if not there.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[there], [1, 99])
    level = 1 - ((depth - near) / max(far - near, 1e-9)).clip(0, 1)
    colors = cv2.applyColorMap(_bytes(level), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(there[..., None], colors, 0).astype(np.uint8)
