# SPDX-License-Identifier: Apache-2.0
"""The CPU's kernels of camera paths against their torch references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from npcr.cameras import concatenate
from npcr.config import from_dict
from npcr.factory import build_blender
from npcr.ops import compiled_available
from npcr.temporal import DefaultBlender, RenderedFrame, blending
from npcr.temporal.reprojection import FULL_CROP, occupied_crop, surface_depth, surface_depth_reference
from tests.temporal.planes import NO_LIMIT, camera, plane_frame

pytestmark = pytest.mark.skipif(not compiled_available(torch.device("cpu")), reason="there is no CPU library")


def frames(batch: int = 1, turn: float = 0.01) -> list[RenderedFrame]:
    """Seven frames of planes with noise, holes, a step in depth, and an empty border."""
    torch.manual_seed(0)
    made = []
    for index in range(7):
        cameras = concatenate([camera(0.05 * index + path, turn * index) for path in range(batch)])
        frame = plane_frame(cameras)
        depth = frame.depth.clone()
        depth[:, :, 20:] *= 1.5
        depth[torch.rand_like(depth) < 0.3] = 0
        depth[:, :4], depth[..., 33:] = 0, 0
        made.append(replace(frame, depth=depth, image=frame.image + 0.1 * torch.randn_like(frame.image)))
    return made


def images(path: list[RenderedFrame], history: float = 3, color: float = 22, backend: str = "compiled") -> Tensor:
    return torch.stack([frame.image for frame in DefaultBlender(history, color, 0.02, 20, backend=backend).blend(path)])


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("history", [2, 3, 5])
@pytest.mark.parametrize("color", [22, NO_LIMIT])
def test_blending_is_that_of_torch(batch: int, history: float, color: float) -> None:
    path = frames(batch)
    found, expected = (images(path, history, color, backend) for backend in ("compiled", "torch"))
    unblended = torch.stack([frame.image for frame in path])
    assert (expected - unblended).abs().mean() > 1e-3
    # A place halfway between two pixels has either one's depth, as rounding falls.
    assert ((found - expected).abs() > 1e-5).float().mean() < 1e-3
    assert (found - expected).abs().mean() < 1e-6


def test_surface_depth_is_that_of_torch() -> None:
    depth = frames(batch=2)[0].depth
    crop = occupied_crop(depth, margin=1)
    assert crop != FULL_CROP
    found = surface_depth(depth, crop, backend="compiled")
    assert (found > 0).sum() > 500
    torch.testing.assert_close(found, surface_depth_reference(depth, crop))
    with_gradient = depth.clone().requires_grad_()
    assert surface_depth(with_gradient, crop, backend="compiled").requires_grad  # which torch alone has


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (4, 4), (5, 2), (64, 2), (65, 9), (131, 5)])
def test_small_and_narrow_pictures(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    width, height = size
    path = [RenderedFrame(torch.rand(1, 4, height, width), torch.full((1, height, width), 2.0),
                          replace(camera(), size=size)) for _ in range(3)]
    found, expected = (images(path, color=NO_LIMIT, backend=backend) for backend in ("compiled", "torch"))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_points_that_are_not_finite_stay_where_they_are() -> None:
    path = frames()
    depth = path[3].depth.clone()
    depth[0, 10, 10:20] = torch.tensor([float("nan"), float("inf"), 1e30, 1e-30, -1.0] * 2)
    path[3] = replace(path[3], depth=depth)
    found, expected = (images(path, backend=backend) for backend in ("compiled", "torch"))
    assert torch.isfinite(found).all()
    assert ((found - expected).abs() > 1e-5).float().mean() < 2e-3


def test_other_images_are_blended_in_torch() -> None:
    """Three channels, or double precision, have no kernel; nor has an image whose gradient is wanted."""
    path = frames()
    image = path[0].image
    assert blending._has_kernel(image, "auto")
    assert not blending._has_kernel(image, "torch")
    assert not blending._has_kernel(image.double(), "auto")
    for change in (lambda image: image[:, :3], lambda image: image.requires_grad_()):
        changed = [replace(frame, image=change(frame.image.clone())) for frame in path]
        assert not blending._has_kernel(changed[0].image, "auto")
        assert len(images(changed)) == 7


def test_the_configuration_switches_the_kernel_off() -> None:
    assert [build_blender(from_dict({"PROJECTION": {"BACKEND": backend}}, "test")).backend
            for backend in ("auto", "torch")] == ["auto", "torch"]


def test_images_may_begin_anywhere_in_memory() -> None:
    """A picture whose colors lie together is read in place; the kernel's vectors need no boundary of 16 bytes."""
    def moved(frame: RenderedFrame) -> RenderedFrame:
        pixels = frame.image.movedim(1, -1).contiguous()
        elsewhere = torch.empty(pixels.numel() + 1)[1:].view(pixels.shape).copy_(pixels)
        assert elsewhere.data_ptr() % 16
        return replace(frame, image=elsewhere.movedim(-1, 1))

    path = frames()
    assert torch.equal(images([moved(frame) for frame in path]), images(path))
