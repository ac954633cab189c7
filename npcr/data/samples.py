# SPDX-License-Identifier: Apache-2.0
"""Samples for training and evaluation: a photograph, resized or augmented, with the camera that matches it.

Every change of the image is an affine map of its pixels, and the camera changes with it: a crop or zoom changes K, a
rotation about the principal point is a roll of the camera. A world point falls on the same hair before and after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from npcr.cameras import Cameras
from npcr.data.image_cache import ImageCache
from npcr.data.prefetch import prefetch
from npcr.data.scene import Scene
from npcr.transfers import to_device


@dataclass(frozen=True)
class Sample:
    """One view of the scene to compare a rendering with."""

    name: str  # "frame/photograph", such as 0/img_0001.jpg
    frame: int
    camera: int
    cameras: Cameras  # a batch of one, at the target's size, on its device
    target: Tensor  # (5, H, W) float32 0..1: RGB, alpha, region of interest (1 where the photograph reaches)
    premultiplied: bool = True  # whether the target's RGB is; a legacy dataset leaves it as the photograph has it

    @property
    def color(self) -> Tensor:
        """(3, H, W): the target's RGB, premultiplied."""
        return self.target[:3] if self.premultiplied else self.target[:3] * self.target[3:4]

    def halved(self, times: int) -> Sample:
        """Return the sample at a lower resolution.

        Args:
            times: how often its sides are halved, by means of 2x2 pixels; an odd last row or column is left out.

        Returns:
            The sample, and the camera that matches it.
        """
        if not times:
            return self
        width, height = (side // 2 for side in self.cameras.size)
        even = Cameras(self.cameras.cam_to_world, self.cameras.intrinsics, (2 * width, 2 * height))
        half = replace(self, cameras=even.resized((width, height)), target=F.avg_pool2d(self.target, 2))
        return half.halved(times - 1)


class SceneDataset:
    """Samples of a scene's photographs.

    The target's RGB is premultiplied by its alpha. In legacy mode it is left as the photograph has it, and K follows
    the published rule for resizing, which knows no half pixels.

    Args:
        scene: whose photographs are read.
        size: (width, height) of the samples.
        alpha_mode: what the photographs' colors are; see `ImageCache`.
        alpha_background: RGB of 0-255, of the mode "composited".
        legacy: whether to follow the published implementation, as above.
        max_zoom: the largest that `augmented_sample` is called with; photographs are cached just large enough for it.
        cache_bytes: limit of the cached pixels.
        device: of the samples.
        workers: threads of `prefetch`.
    """

    def __init__(self, scene: Scene, *, size: Sequence[int], alpha_mode: str = "straight",
                 alpha_background: Sequence[float] = (0, 0, 0), legacy: bool = False, max_zoom: float = 0.0,
                 cache_bytes: int = 2 << 30, device: torch.device | str = "cpu", workers: int = 0) -> None:
        self.scene = scene
        self.size = (int(size[0]), int(size[1]))
        self.legacy = legacy
        self.device = torch.device(device)
        self.workers = workers
        self._raw_size = scene.cameras.size
        self._cached_size = (min(self._raw_size[0], math.ceil(self.size[0] * (1 + max_zoom))),
                           min(self._raw_size[1], math.ceil(self.size[1] * (1 + max_zoom))))
        self._photographs = ImageCache(scene, alpha_mode, alpha_background, legacy, cache_bytes)

    def name(self, frame: int, camera: int) -> str:
        """Name a view for messages.

        Args:
            frame: index of the frame.
            camera: index of the camera.

        Returns:
            "frame/photograph", such as 0/img_0001.jpg.
        """
        return f"{self.scene.frames[frame].name}/{self.scene.frames[frame].images[camera].name}"

    def sample(self, frame: int, camera: int) -> Sample:
        """Return the whole photograph, resized.

        Args:
            frame: index of the frame.
            camera: index of the camera.

        Returns:
            The sample.

        Raises:
            SceneError: the photograph cannot be decoded.
        """
        pixels = self._load(frame, camera, self.size)
        target = torch.cat([pixels, torch.ones_like(pixels[:1])])
        return self._make_sample(frame, camera, self.scene.cameras[camera].resized(self.size, self.legacy), target)

    def augmented_sample(self, frame: int, camera: int, rng: np.random.Generator, *, shift: float, max_zoom: float,
                  rotation: float) -> Sample:
        """Return a random crop around the object's center.

        Where nothing is random it is the whole photograph, so that none of it is left out, wherever the object's center
        lies; in legacy mode it is a crop all the same, as published.

        Args:
            frame: index of the frame.
            camera: index of the camera.
            rng: gives the same sample from the same state.
            shift: the crop moves by up to this many output pixels along x and along y.
            max_zoom: it is magnified by 1 to 1 + max_zoom.
            rotation: it turns about the principal point by up to half of this many degrees either way.

        Returns:
            The sample; outside the photograph the target is 0.

        Raises:
            SceneError: the photograph cannot be decoded.
        """
        if not (shift or max_zoom or rotation or self.legacy):
            return self.sample(frame, camera)
        x, y, z, roll = rng.random(4)  # always four draws: a value of 0 shifts no other draw
        offset = (shift * (2 * x - 1), shift * (2 * y - 1))
        zoom = 1 + max_zoom * z
        angle = math.radians(rotation * (roll - 0.5))
        cameras, to_raw = self._crop(camera, offset, zoom, angle)
        target = warp(self._load(frame, camera, self._cached_size), self._raw_size, to_raw, self.size)
        return self._make_sample(frame, camera, cameras, target)

    def prefetch(self, jobs: Iterable[Callable[[], Sample]]) -> Iterator[Sample]:
        """Prepare samples ahead on `workers` threads, which share the cached photographs.

        Args:
            jobs: such as `functools.partial(dataset.sample, 0, camera)`.

        Returns:
            The samples in the jobs' order; see `npcr.data.prefetch`.
        """
        return prefetch(jobs, self.workers)

    def _load(self, frame: int, camera: int, size: tuple[int, int]) -> Tensor:
        """(4, h, w) float32 0..1 on the device."""
        pixels = to_device(torch.from_numpy(self._photographs.get(frame, camera, size).copy()), self.device)
        return pixels.permute(2, 0, 1).float() / 255

    def _make_sample(self, frame: int, camera: int, cameras: Cameras, target: Tensor) -> Sample:
        return Sample(self.name(frame, camera), frame, camera, cameras.to(self.device), target,
                      premultiplied=not self.legacy)

    def _crop(self, camera: int, offset: tuple[float, float], zoom: float,
              angle: float) -> tuple[Cameras, NDArray[np.float64]]:
        """The camera of a crop, and the (3, 3) map from the crop's pixels to those of the raw photograph."""
        original = self.scene.cameras[camera]
        intrinsics = original.intrinsics[0].double().numpy()
        roll = np.array([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0],
                         [0, 0, 1]])
        turn = intrinsics @ roll @ np.linalg.inv(intrinsics)  # pixels before to pixels after the roll
        # Positions here are continuous: the image spans 0..width, and pixel 0's center is at 0.5.
        y, x = self.scene.centers[camera].tolist()
        center = _shifted(0.5) @ turn @ _shifted(-0.5) @ [x, y, 1]  # of the object, after the roll
        scale = [zoom * self.size[axis] / self._raw_size[axis] for axis in (0, 1)]
        target = [self.size[axis] / 2 + offset[axis] for axis in (0, 1)]  # of the object's center
        crop = np.array([[scale[0], 0, target[0] - scale[0] * center[0]],
                         [0, scale[1], target[1] - scale[1] * center[1]],
                         [0, 0, 1]])
        crop_pixels = _shifted(-0.5) @ crop @ _shifted(0.5)
        new_intrinsics = (crop if self.legacy else crop_pixels) @ intrinsics
        pose = original.cam_to_world.double()
        pose[:, :3, :3] = pose[:, :3, :3] @ torch.from_numpy(roll.T)
        cameras = Cameras(pose.float(), torch.from_numpy(new_intrinsics)[None].float(), self.size)
        return cameras, np.linalg.inv(crop_pixels @ turn)


def warp(pixels: Tensor, raw_size: tuple[int, int], to_raw: NDArray[np.float64],
         size: tuple[int, int]) -> Tensor:
    """Resample a photograph through an affine map of pixels.

    Args:
        pixels: (C, h, w), the photograph at any resolution.
        raw_size: (width, height) of the photograph in which `to_raw` is given.
        to_raw: (3, 3) map from a pixel of the result to a pixel of the photograph at `raw_size`.
        size: (width, height) of the result.

    Returns:
        (C + 1, H, W): bilinear samples, 0 outside the photograph, and a last channel that is 1 inside, 0 outside.
    """
    matrix = _to_unit(raw_size) @ to_raw @ np.linalg.inv(_to_unit(size))
    theta = to_device(torch.from_numpy(matrix[None, :2]).to(pixels.dtype), pixels.device)
    grid = F.affine_grid(theta, [1, pixels.shape[0], size[1], size[0]], align_corners=False)
    inside = (grid.abs() <= 1).all(dim=-1).to(pixels)  # (1, H, W)
    samples = F.grid_sample(pixels[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.cat([samples[0] * inside, inside])


def _shifted(offset: float) -> NDArray[np.float64]:
    return np.array([[1, 0, offset], [0, 1, offset], [0, 0, 1]])


def _to_unit(size: tuple[int, int]) -> NDArray[np.float64]:
    """Pixels of an image to -1..1 over its extent, as grid_sample has it with align_corners=False."""
    return np.array([[2 / size[0], 0, 1 / size[0] - 1], [0, 2 / size[1], 1 / size[1] - 1], [0, 0, 1]])
