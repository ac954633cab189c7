# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from npcr.cameras import Cameras, camera_rays, concatenate, project, unproject, view_directions


def random_cameras(count: int = 3, size: tuple[int, int] = (30, 20), seed: int = 0) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(count, 3, 3, generator=generator))
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    pose = torch.eye(4).repeat(count, 1, 1)
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = torch.randn(count, 3, generator=generator)
    intrinsics = torch.tensor([[40.0, 0, 14.2], [0, 38.0, 9.1], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(pose, intrinsics, size)


def test_unprojecting_then_projecting_returns_each_pixel() -> None:
    cameras = random_cameras()
    depth = torch.rand(3, 20, 30) * 4 + 1
    pixels, z = project(unproject(depth, cameras).permute(0, 2, 3, 1), cameras)
    expected = np.stack(np.meshgrid(np.arange(30), np.arange(20)), -1)
    assert np.abs(pixels.numpy() - expected).max() < 1e-3
    torch.testing.assert_close(z, depth, rtol=1e-5, atol=1e-5)


def test_axes_are_right_down_forward() -> None:
    camera = Cameras(torch.eye(4)[None], torch.tensor([[[10.0, 0, 5], [0, 10, 4], [0, 0, 1]]]), (11, 9))
    pixels, depth = project(torch.tensor([[[0.0, 0, 2], [1, 0, 2], [0, 1, 2]]]), camera)
    assert pixels[0].tolist() == [[5, 4], [10, 4], [5, 9]]
    assert depth[0].tolist() == [2, 2, 2]


def test_resizing_keeps_rays() -> None:
    """The corner of the picture lies half a pixel outside the first pixel's center, at every size."""
    camera = random_cameras(1)
    small = camera.resized((15, 10))
    # A pixel of the small picture covers 2 × 2 of the large one; their centers average to its own.
    rays = camera_rays(camera).reshape(1, 10, 2, 15, 2, 3).mean((2, 4))
    torch.testing.assert_close(camera_rays(small), rays, rtol=1e-5, atol=1e-6)


def test_legacy_resizing_scales_the_first_two_rows() -> None:
    camera = random_cameras(1)
    expected = camera.intrinsics * torch.tensor([0.5, 0.25, 1])[None, :, None]
    assert torch.equal(camera.resized((15, 5), legacy=True).intrinsics, expected)


def test_directions_are_unit_rays_and_legacy_adds_the_center() -> None:
    cameras = random_cameras()
    rays = camera_rays(cameras)
    directions = view_directions(cameras).permute(0, 2, 3, 1)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(3, 20, 30))
    torch.testing.assert_close(torch.cross(directions, rays, dim=-1), torch.zeros_like(rays), atol=1e-5, rtol=0)
    legacy = view_directions(cameras, legacy=True).permute(0, 2, 3, 1)
    shifted = rays + cameras.cam_to_world[:, None, None, :3, 3]
    torch.testing.assert_close(legacy, torch.nn.functional.normalize(shifted, dim=-1))


def test_rays_of_a_skewed_camera_and_their_gradients() -> None:
    """As of R K^-1 [x, y, 1] in float64."""
    cameras = random_cameras()
    cameras.intrinsics[:, 0, 1] = 3.5
    weights = torch.rand(3, 20, 30, 3, generator=torch.Generator().manual_seed(1))

    def gradients(rays: torch.Tensor, *of: torch.Tensor) -> list[torch.Tensor]:
        return [grad.triu() if grad.shape[1] == 3 else grad
                for grad in torch.autograd.grad((rays * weights).sum(), of)]  # below K's diagonal nothing can change

    pose, intrinsics = (x.double().requires_grad_() for x in (cameras.cam_to_world, cameras.intrinsics))
    pixels = torch.from_numpy(np.stack([*np.meshgrid(np.arange(30.0), np.arange(20.0)), np.ones((20, 30))], -1))
    expected = torch.einsum("bij,hwj->bhwi", pose[:, :3, :3] @ torch.linalg.inv(intrinsics), pixels)
    moved = Cameras(*(x.float().detach().requires_grad_() for x in (pose, intrinsics)), cameras.size)
    rays = camera_rays(moved)
    torch.testing.assert_close(rays.double(), expected, rtol=1e-5, atol=1e-6)
    for grad, wanted in zip(gradients(rays, moved.cam_to_world, moved.intrinsics),
                            gradients(expected, pose, intrinsics), strict=True):
        torch.testing.assert_close(grad.double(), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
    torch.testing.assert_close(camera_rays(cameras, (4, 3, 11, 20)), camera_rays(cameras)[:, 3:20, 4:11])


def test_a_legacy_direction_that_is_0_stays_0() -> None:
    camera = Cameras(torch.eye(4)[None].clone(), torch.tensor([[[8.0, 0, 5], [0, 8, 4], [0, 0, 1]]]), (11, 9))
    camera.cam_to_world[:, 2, 3] = -1  # a unit before the origin, which the ray of pixel (5, 4) meets
    directions = view_directions(camera, legacy=True)[0]
    assert (directions[:, 4, 5] == 0).all()
    assert directions.isfinite().all()


def test_batches() -> None:
    cameras = random_cameras()
    assert len(cameras[1]) == 1
    assert torch.equal(cameras[-1].cam_to_world, cameras.cam_to_world[2:])
    assert torch.equal(cameras[[2, 0]].intrinsics, cameras.intrinsics[[2, 0]])
    assert len(cameras[1:]) == 2
    assert torch.equal(concatenate([cameras[0], cameras[1:]]).cam_to_world, cameras.cam_to_world)
    identity = cameras.world_to_cam @ cameras.cam_to_world
    torch.testing.assert_close(identity, torch.eye(4).repeat(3, 1, 1), atol=1e-6, rtol=0)
    with pytest.raises(IndexError, match="camera 3 of 3"):
        cameras[3]
    with pytest.raises(ValueError, match=r"intrinsics must be \(3, 3, 3\), is \(2, 3, 3\)"):
        Cameras(cameras.cam_to_world, cameras.intrinsics[:2], (3, 3))
