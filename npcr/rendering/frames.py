# SPDX-License-Identifier: Apache-2.0
"""Rendering a camera path: frames one at a time, blended with their neighbors, written as pictures and video."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras
from npcr.io.files import atomic_write, reraise_with_path
from npcr.io.images import write_image
from npcr.renderers import Renderer
from npcr.renderers.base import RenderOutput
from npcr.renderers.compositing import over_background
from npcr.rendering.frame_writer import PathVideos
from npcr.temporal import Blender, LegacyBlender, RenderedFrame

logger = logging.getLogger("npcr")

# Frames that may wait for the disk; more would let memory grow with a slow one.
WRITE_AHEAD = 4


class FramePixels(NamedTuple):
    """One frame of a path, in the computer's memory. Raw: as composited, neither blended nor clamped."""

    rgb: NDArray[np.float32]  # (H, W, 3) raw color sum; premultiplied, in legacy not
    alpha: NDArray[np.float32]  # (H, W) raw
    depth: NDArray[np.float32]  # (H, W) camera-space z of layer 0, 0 where empty
    picture: NDArray[np.uint8]  # (H, W, 3) blended, over the background
    rgba: NDArray[np.uint8]  # (H, W, 4) blended, straight alpha; black where alpha is 0


@torch.inference_mode()
def render_path(renderer: Renderer, cameras: Cameras, *, gray: float, blender: Blender | None,
                frame: int = 0) -> Iterator[FramePixels]:
    """Render `cameras` one after another, in constant memory.

    renderer: a `LayeredRenderer`; it is put into eval mode. gray: the background, 0-1. frame: which of
    the scene's frames (clouds) to show.
    """
    renderer.eval()
    device = renderer.device
    rendered: deque[tuple[RenderOutput, RenderedFrame]] = deque()  # not shown yet: a blender may look ahead

    def singles() -> Iterator[RenderedFrame]:
        for index in range(len(cameras)):
            camera = cameras[index].to(device)
            output = renderer(camera, frame)
            rendered.append((output, single_frame(output, camera)))
            yield rendered[-1][1]

    for picture, rgba in show(singles(), gray, blender):
        output, single = rendered.popleft()
        yield FramePixels(_pixels(output.trained_color), _pixels(output.alpha)[..., 0], single.depth[0].cpu().numpy(),
                            _pixels(_to_bytes(picture)), _pixels(_to_bytes(_straight(rgba))))


def single_frame(output: RenderOutput, camera: Cameras) -> RenderedFrame:
    """Make a frame of premultiplied RGBA, as blenders and refiners take them.

    Args:
        output: of a batch of one or several.
        camera: that were rendered.

    Returns:
        The frame, with the output's graph.
    """
    return RenderedFrame(torch.cat([output.color, output.alpha], dim=1), output.depth, camera)


def show(frames: Iterable[RenderedFrame], gray: float, blender: Blender | None) -> Iterator[tuple[Tensor, Tensor]]:
    """A path's frames as they are shown: each (B, 3, H, W) over a gray in [0, 1] and RGBA (B, 4, H, W).

    frames: premultiplied RGBA, single. Both results are blended, RGBA premultiplied; a `LegacyBlender` blends
    opaque pictures and leaves RGBA as it was rendered.
    """
    if isinstance(blender, LegacyBlender):
        yield from _show_legacy(frames, gray, blender)
        return
    for frame in frames if blender is None else blender.blend(frames):
        yield _over(frame.image, gray), frame.image


def _show_legacy(frames: Iterable[RenderedFrame], gray: float,
                 blender: LegacyBlender) -> Iterator[tuple[Tensor, Tensor]]:
    waiting: deque[Tensor] = deque()

    def opaque() -> Iterator[RenderedFrame]:
        for frame in frames:
            waiting.append(frame.image)
            yield replace(frame, image=_over(frame.image, gray).clamp(0, 1) * 255)

    for blended in blender.blend(opaque()):
        yield blended.image / 255, waiting.popleft()


def _over(rgba: Tensor, gray: float) -> Tensor:
    return over_background(rgba[:, :3], rgba[:, 3:], gray)


def _straight(rgba: Tensor) -> Tensor:
    """Premultiplied (B, 4, H, W) to straight alpha; black where alpha is not above 0."""
    alpha = rgba[:, 3:]
    color = torch.where(alpha > 0, rgba[:, :3] / alpha.clamp_min(1e-12), 0)
    return torch.cat([color, alpha], dim=1)


def _to_bytes(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255).to(torch.uint8)


def _pixels(image: Tensor) -> NDArray[Any]:
    """(1, C, H, W) on any device to a numpy array (H, W, C)."""
    return image[0].permute(1, 2, 0).contiguous().cpu().numpy()


class FrameWriter:
    """Writes the frames of a path into `folder`; a context manager.

    `img_0001.jpg`, `rgba/img_0001.png`, with `raw` also `raw/img_0001.npz`, and a video in each of the
    formats `videos` (see `PathVideos`). A thread compresses and writes while the next frame is rendered.
    Leaving the context, by an exception or Ctrl-C too, finishes what was handed over and closes the videos,
    so that what there is can be played. A file that cannot be written raises `NpcrError` naming it, at a
    later `write` or on leaving; an encoder that is missing at once.
    """

    def __init__(self, folder: Path, fps: float, raw: bool, videos: Sequence[str] = ("h264",)) -> None:
        self.folder = folder
        self.count = 0
        self._raw = raw
        self.videos = PathVideos(folder, fps, videos)
        for sub in ("", "rgba", *(["raw"] if raw else [])):
            (folder / sub).mkdir(parents=True, exist_ok=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="frame-writer")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> FrameWriter:
        return self

    def write(self, frame: FramePixels) -> None:
        """Hand over the path's next frame."""
        if len(self._pending) >= WRITE_AHEAD:
            self._pending.popleft().result()
        self.count += 1
        self._pending.append(self._thread.submit(self._save, frame, f"img_{self.count:04d}"))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._thread.shutdown(wait=True)
        failures = [reason for future in self._pending if (reason := future.exception())]
        failures.extend(self.videos.close())
        if failures and error is None:
            raise failures[0]
        for failure in failures:
            logger.warning("%s", failure)

    def _save(self, frame: FramePixels, name: str) -> None:
        picture, matte = self.folder / f"{name}.jpg", self.folder / "rgba" / f"{name}.png"
        reraise_with_path(picture, lambda: write_image(picture, frame.picture))
        reraise_with_path(matte, lambda: write_image(matte, frame.rgba))
        if self._raw:
            raw = self.folder / "raw" / f"{name}.npz"
            reraise_with_path(raw, lambda: _write_raw(raw, frame))
        self.videos.write(frame.picture, frame.rgba)


def _write_raw(path: Path, frame: FramePixels) -> None:
    with atomic_write(path) as file:
        np.savez(file, rgb=frame.rgb, alpha=frame.alpha, depth=frame.depth)
