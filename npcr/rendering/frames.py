# SPDX-License-Identifier: Apache-2.0
"""Rendering of a camera path, one frame at a time, blended with its neighbors and composited over the background."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras
from npcr.out_of_memory import explain_out_of_memory
from npcr.renderers import Renderer, RenderOutput, over_background
from npcr.renderers.tiles import render_pictures
from npcr.temporal import Blender, LegacyBlender, RenderedFrame
from npcr.transfers import HostCopy

_LESS_MEMORY = ("RENDER.TILE 512, a smaller INPUT.SIZE_TEST or INPUT.LAYER_NUM and, on a GPU, RENDER.PRECISION float16 "
                "need less")


class RawPixels(NamedTuple):
    """The numbers of one frame, neither blended nor clamped, as numpy arrays of float32."""

    rgb: NDArray[np.float32]  # (H, W, 3); premultiplied, but of a legacy model its color sum
    alpha: NDArray[np.float32]  # (H, W)
    depth: NDArray[np.float32]  # (H, W) camera-space z of layer 0, 0 where empty


class FloatPixels(NamedTuple):
    """What a frame's bytes are rounded from, as numpy arrays of float32."""

    rgba: NDArray[np.float32]  # (H, W, 4) premultiplied; blended as `FramePixels.rgba` is, not clamped
    depth: NDArray[np.float32]  # (H, W) camera-space z of layer 0, 0 where empty


class FramePixels(NamedTuple):
    """One frame of a path, blended, as numpy arrays."""

    picture: NDArray[np.uint8]  # (H, W, 3) over the background
    rgba: NDArray[np.uint8]  # (H, W, 4) straight alpha; black where alpha is 0
    raw: RawPixels | None = None  # where they were asked for
    floats: FloatPixels | None = None  # where they were asked for


def render_path(renderer: Renderer, cameras: Cameras, *, gray: float, blender: Blender | None,
                frame: int | Sequence[int] = 0, raw: bool = False, floats: bool = False) -> Iterator[FramePixels]:
    """Render a camera path one frame at a time, in constant memory.

    On a GPU the next frame is begun before one is yielded, so that copies to the host overlap with rendering.

    Args:
        renderer: is put into eval mode.
        cameras: the path, in order.
        gray: the background, in [0, 1].
        blender: makes frames steadier; None: they are not blended.
        frame: of the scene, from 0; or one for each camera.
        raw: whether frames have their raw numbers, which take five times the bytes of the rest.
        floats: whether frames have what their bytes are rounded from.

    Yields:
        A frame for each camera, in the same order.

    Raises:
        OutOfMemoryError: the memory does not suffice.
    """
    outputs = render_outputs(renderer, cameras, frame)
    yield from finish_frames(outputs, cameras, renderer.device, gray=gray, blender=blender, raw=raw, floats=floats)


def render_outputs(renderer: Renderer, cameras: Cameras, frame: int | Sequence[int] = 0) -> Iterator[RenderOutput]:
    """Render a camera path one frame at a time, neither blended nor composited.

    Args:
        renderer: is put into eval mode.
        cameras: the path, in order.
        frame: of the scene, from 0; or one for each camera.

    Yields:
        The frame of each camera, a batch of one on the renderer's device.

    Raises:
        OutOfMemoryError: the memory does not suffice.
    """
    renderer.eval()
    cameras = cameras.to(renderer.device)  # at once: each frame's would be copies of their own
    frames = [frame] * len(cameras) if isinstance(frame, int) else frame
    for index in range(len(cameras)):
        with (torch.inference_mode(), explain_out_of_memory("rendering", cameras.size, _LESS_MEMORY),
              renderer.as_path_frames()):
            output = render_pictures(renderer, cameras[index], frames[index])
        yield output


def render_timed(renderer: Renderer, cameras: Cameras,
                 frame: int | Sequence[int] = 0) -> Iterator[tuple[RenderOutput, float]]:
    """Render as `render_outputs` does, and measure how long each frame takes.

    Args:
        renderer, cameras, frame: as of `render_outputs`.

    Yields:
        The frame of each camera, and its seconds.

    Raises:
        OutOfMemoryError: the memory does not suffice.
    """
    outputs = render_outputs(renderer, cameras, frame)
    for _ in range(len(cameras)):
        start = device_time(renderer.device)
        output = next(outputs)
        yield output, device_time(renderer.device) - start


def device_time(device: torch.device) -> float:
    """Read the clock when a device has done what it was given.

    Args:
        device: a GPU is waited for.

    Returns:
        Seconds, to subtract from others.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def finish_frames(outputs: Iterable[RenderOutput], cameras: Cameras, device: torch.device, *, gray: float,
                  blender: Blender | None, raw: bool = False, floats: bool = False) -> Iterator[FramePixels]:
    """Blend and composite the frames of a path.

    Args:
        outputs: of `render_outputs`.
        cameras: the path, in order.
        device: of the outputs.
        gray, blender, raw, floats: as of `render_path`.

    Yields:
        A frame for each camera, in the same order.
    """
    cameras = cameras.to(device)
    pending: deque[RenderOutput] = deque()  # of frames that are not yielded yet: a blender may read ahead

    def rendered_frames() -> Iterator[RenderedFrame]:
        for index, output in enumerate(outputs):
            pending.append(output)
            yield frame_from_output(output, cameras[index])

    ahead = 1 if device.type == "cuda" else 0
    copies: deque[HostCopy] = deque()
    for picture, rgba in composite_frames(rendered_frames(), gray, blender):
        output = pending.popleft()
        numbers = [output.trained_color, output.alpha, output.depth[None]] if raw else []
        numbers += [rgba, output.depth[None]] if floats else []
        copies.append(HostCopy(_to_bytes(picture), _straight_bytes(rgba), *numbers))
        if len(copies) > ahead:
            yield _read(copies.popleft(), raw, floats)
    while copies:
        yield _read(copies.popleft(), raw, floats)


def frame_from_output(output: RenderOutput, cameras: Cameras) -> RenderedFrame:
    """Make a frame of premultiplied RGBA, as blenders and refiners take them.

    Args:
        output: of B cameras.
        cameras: B, from which it was rendered.

    Returns:
        The frame, (B, 4, H, W), with the output's graph.
    """
    return RenderedFrame(torch.cat([output.color, output.alpha], dim=1), output.depth, cameras)


def composite_frames(frames: Iterable[RenderedFrame], gray: float,
                     blender: Blender | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Blend the frames of a path and composite them over a gray background.

    A `LegacyBlender` blends what is composited, and RGBA stays as it was rendered.

    Args:
        frames: premultiplied RGBA, not blended, in the path's order.
        gray: the background, in [0, 1].
        blender: None: frames are not blended.

    Yields:
        For each frame the picture over the background (B, 3, H, W), and premultiplied RGBA (B, 4, H, W).
    """
    if isinstance(blender, LegacyBlender):
        yield from _composite_legacy(frames, gray, blender)
        return
    for frame in frames if blender is None else blender.blend(frames):
        yield _over_gray(frame.image, gray), frame.image


def _composite_legacy(frames: Iterable[RenderedFrame], gray: float,
                      blender: LegacyBlender) -> Iterator[tuple[Tensor, Tensor]]:
    unblended: deque[Tensor] = deque()

    def opaque_frames() -> Iterator[RenderedFrame]:
        for frame in frames:
            unblended.append(frame.image)
            yield replace(frame, image=_over_gray(frame.image, gray).clamp(0, 1) * 255)

    for blended in blender.blend(opaque_frames()):
        yield blended.image / 255, unblended.popleft()


def _over_gray(rgba: Tensor, gray: float) -> Tensor:
    return over_background(rgba[:, :3], rgba[:, 3:], gray)


def _straight_bytes(rgba: Tensor) -> Tensor:
    """Premultiplied (B, 4, H, W) to bytes of straight alpha; black where alpha is not above 0."""
    straight, alpha = rgba.clone(), rgba[:, 3:]
    straight[:, :3].div_(alpha.clamp_min(1e-12)).masked_fill_(~(alpha > 0), 0)
    return _to_bytes(straight)


def _to_bytes(image: Tensor) -> Tensor:
    """0-1 to bytes; the image is used up, for fresh memory takes a CPU longer than the arithmetic."""
    return image.mul_(255).round_().clamp_(0, 255).to(torch.uint8)


def _read(copy: HostCopy, raw: bool, floats: bool) -> FramePixels:
    """The frame of a batch of one. OpenCV interleaves channels several times faster than torch."""
    picture, rgba, *numbers = (cv2.merge([*image[0].numpy()]) for image in copy.read())
    return FramePixels(picture, rgba, RawPixels(*numbers[:3]) if raw else None,
                       FloatPixels(*numbers[-2:]) if floats else None)
