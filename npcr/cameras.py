# SPDX-License-Identifier: Apache-2.0
"""Pinhole cameras: resizing, projection, unprojection, view directions.

Axes are OpenCV's (x right, y down, z forward); poses are camera-to-world; integer pixel coordinates lie at
pixel centers (docs/conventions.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from npcr.transfers import to_device

Box = tuple[int, int, int, int]  # pixels left <= x < right, top <= y < bottom of an image: left, top, right, bottom


@dataclass(frozen=True)
class Cameras:
    """B pinhole cameras that share one image size."""

    cam_to_world: Tensor  # (B, 4, 4) float32
    intrinsics: Tensor  # (B, 3, 3) float32, in pixels of `size`, upper triangular, last row 0 0 1
    size: tuple[int, int]  # (width, height)

    def __post_init__(self) -> None:
        batch = self.cam_to_world.shape[0] if self.cam_to_world.ndim == 3 else -1
        if tuple(self.cam_to_world.shape) != (batch, 4, 4):
            raise ValueError(f"Cameras: cam_to_world must be (B, 4, 4), is {tuple(self.cam_to_world.shape)}")
        if tuple(self.intrinsics.shape) != (batch, 3, 3):
            raise ValueError(f"Cameras: intrinsics must be ({batch}, 3, 3), is {tuple(self.intrinsics.shape)}")

    def __len__(self) -> int:
        return self.cam_to_world.shape[0]

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Cameras:
        """Return a sub-batch, a view where the index is no list; an integer gives a batch of one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"camera {index} of {len(self)}")
            index %= len(self)
            index = slice(index, index + 1)  # no list: a GPU would wait for it to be copied
        return Cameras(self.cam_to_world[index], self.intrinsics[index], self.size)

    def to(self, device: torch.device | str) -> Cameras:
        """Return the cameras on another device."""
        return Cameras(to_device(self.cam_to_world, device), to_device(self.intrinsics, device), self.size)

    def resized(self, size: tuple[int, int], legacy: bool = False) -> Cameras:
        """Return the cameras of the images resized by a factor s in each direction.

        Args:
            size: (width, height) of the resized images.
            legacy: False: integer coordinates are at pixel centers, c' = (c + 0.5) s - 0.5 and f' = f s. True: the
                first two rows of K times s, as the published implementation does.

        Returns:
            Cameras with the same poses.
        """
        scale = [size[0] / self.size[0], size[1] / self.size[1]]
        intrinsics = self.intrinsics.clone()
        intrinsics[:, 0] *= scale[0]
        intrinsics[:, 1] *= scale[1]
        if not legacy:
            intrinsics[:, 0, 2] += 0.5 * scale[0] - 0.5
            intrinsics[:, 1, 2] += 0.5 * scale[1] - 0.5
        return Cameras(self.cam_to_world, intrinsics, size)

    @property
    def world_to_cam(self) -> Tensor:
        """(B, 4, 4) inverse of `cam_to_world`, by transposing the rotation."""
        rotation = self.cam_to_world[:, :3, :3].transpose(1, 2)
        matrix = torch.zeros_like(self.cam_to_world)
        matrix[:, :3, :3] = rotation
        matrix[:, :3, 3:] = -(rotation @ self.cam_to_world[:, :3, 3:])
        matrix[:, 3, 3] = 1
        return matrix


def concatenate(cameras: list[Cameras]) -> Cameras:
    """Concatenate batches of cameras.

    Args:
        cameras: at least one batch; all have the same image size.

    Returns:
        One batch with all cameras, in order.

    Raises:
        ValueError: the image sizes differ.
    """
    if len({one.size for one in cameras}) != 1:
        raise ValueError(f"concatenate: cameras of different sizes {sorted({one.size for one in cameras})}")
    return Cameras(torch.cat([one.cam_to_world for one in cameras]),
                   torch.cat([one.intrinsics for one in cameras]), cameras[0].size)


def camera_rays(cameras: Cameras, box: Box | None = None) -> Tensor:
    """Return the ray through each pixel center, R K^-1 [x, y, 1], integer x and y.

    Args:
        cameras: B cameras.
        box: the pixels that are wanted, H by W of them; None: all.

    Returns:
        (B, H, W, 3) float32 directions in world axes, of camera-space z 1.
    """
    left, top, right, bottom = (0, 0, *cameras.size) if box is None else box
    rotation, intrinsics = cameras.cam_to_world[:, :3, :3], cameras.intrinsics
    device = intrinsics.device
    x = torch.arange(left, right, device=device, dtype=torch.float32).view(-1, 1)
    y = torch.arange(top, bottom, device=device, dtype=torch.float32).view(-1, 1, 1)
    # R K^-1: K being triangular, a GPU needs no LU decomposition, in many small kernels, for it.
    to_world = torch.linalg.solve_triangular(intrinsics, rotation, upper=True, left=False)  # (B, 3, 3)
    by_x, by_y, origin = to_world.mT.view(-1, 3, 1, 1, 3).unbind(1)
    return torch.addcmul(torch.addcmul(origin, by_y, y), by_x, x)


def view_directions(cameras: Cameras, legacy: bool = False, box: Box | None = None) -> Tensor:
    """Return unit vectors from the camera through each pixel center.

    Args:
        cameras: B cameras.
        legacy: add the camera center before normalizing, as the published implementation does.
        box: the pixels that are wanted, H by W of them; None: all.

    Returns:
        (B, 3, H, W) float32, in world axes.
    """
    rays = camera_rays(cameras, box)
    if legacy:  # a sum that may be 0, and then stays 0
        directions = torch.nn.functional.normalize(rays + cameras.cam_to_world[:, None, None, :3, 3], dim=-1)
    else:
        directions = rays / torch.linalg.vector_norm(rays, dim=-1, keepdim=True)
    return directions.permute(0, 3, 1, 2)


def unproject(depth: Tensor, cameras: Cameras) -> Tensor:
    """Return the world points of pixels of known depth.

    Args:
        depth: (B, H, W) camera-space z; 0 gives the camera center.
        cameras: B cameras of size (W, H).

    Returns:
        (B, 3, H, W) world coordinates.
    """
    rays = camera_rays(cameras) * depth[..., None]
    return (rays + cameras.cam_to_world[:, None, None, :3, 3]).permute(0, 3, 1, 2)


def project(points: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Project world points into images.

    Args:
        points: (B, ..., 3) world coordinates.
        cameras: B cameras.

    Returns:
        Pixel coordinates (x, y), (B, ..., 2), and camera-space z, (B, ...). Where z is at or below 0 the point is
        behind the camera and its pixel coordinates are meaningless (they may not be finite).
    """
    world_to_cam = cameras.world_to_cam
    flat = points.reshape(len(cameras), -1, 3)
    camera = flat @ world_to_cam[:, :3, :3].transpose(1, 2) + world_to_cam[:, None, :3, 3]
    image = camera @ cameras.intrinsics.transpose(1, 2)
    pixels = image[..., :2] / image[..., 2:]
    return pixels.reshape(*points.shape[:-1], 2), camera[..., 2].reshape(points.shape[:-1])
