# SPDX-License-Identifier: Apache-2.0
"""The published reprojection and blending."""

from __future__ import annotations

import pytest
import torch

from npcr.cameras import Cameras
from npcr.temporal import LegacyBlender, RenderedFrame, reproject_legacy
from tests.temporal.planes import NO_LIMIT, SIZE, camera


def test_the_warp_is_half_a_pixel_off() -> None:
    """At (2u/W - 1) with align_corners=False column u of a still camera falls between u - 1 and u."""
    columns = torch.arange(1.0, 41.0).view(1, 1, 1, 40).expand(1, 3, 30, 40)
    moved = camera()
    moved.intrinsics[:, :2, 2] += 0.25  # off the ties, at which rounding decides
    frame = RenderedFrame(torch.full_like(columns, 50.0), torch.full((1, 30, 40), 4.0), camera())
    earlier = RenderedFrame(columns, frame.depth, moved)
    result = reproject_legacy(frame, earlier, [columns], color_threshold=NO_LIMIT)[0]
    assert torch.equal(result[..., 1:, :], columns[..., 1:, :])  # u + 0.25 is read at u - 0.25, which is u
    moved.intrinsics[:, :2, 2] -= 0.5
    result = reproject_legacy(frame, earlier, [columns], color_threshold=NO_LIMIT)[0]
    assert torch.equal(result[..., 1:, 1:], columns[..., 1:, :-1])  # u - 0.25 is read at u - 0.75: u - 1
    assert (result[..., 0] == 50).all()  # outside: 0, which takes the current value


def test_thresholds_then_zeros() -> None:
    cameras = camera()
    cameras.intrinsics[:, :2, 2] = 0
    depth = torch.full((1, 30, 40), 4.0)
    earlier_cameras = Cameras(cameras.cam_to_world, cameras.intrinsics.clone(), SIZE)
    earlier_cameras.intrinsics[:, :2, 2] += 0.5  # makes the legacy sample fall on the same pixel
    current = RenderedFrame(torch.full((1, 3, 30, 40), 10.0), depth, cameras)
    image = torch.full((1, 3, 30, 40), 20.0)
    image[:, :, 5] = 100.0  # 3 * 90^2 > 8000
    image[:, 1, 7] = 0.0  # one channel: a hole only there
    result = reproject_legacy(current, RenderedFrame(image, depth, earlier_cameras), [image], color_threshold=8000)[0]
    assert (result[:, :, 5] == 10).all()
    assert (result[:, 1, 7] == 10).all()
    assert (result[:, 0, 7] == 20).all()
    assert (result[:, :, 6] == 20).all()


def test_points_in_the_cameras_own_plane_take_the_current_value() -> None:
    frame = RenderedFrame(torch.full((1, 3, 30, 40), 7.0), torch.zeros(1, 30, 40), camera())
    result = reproject_legacy(frame, frame, [torch.full_like(frame.image, 9.0)], color_threshold=NO_LIMIT)[0]
    assert (result == 7).all()


def test_blending_begins_with_the_sixth_frame() -> None:
    frames = []
    for value in range(1, 8):
        cameras = camera()
        cameras.intrinsics[:, :2, 2] += 0.1 * value  # samples fall between 0.1 and 0.6 pixels further left
        frames.append(RenderedFrame(torch.full((1, 3, 30, 40), 10.0 * value), torch.full((1, 30, 40), 4.0), cameras))
    blender = LegacyBlender([0.25, 0.3, 0.1, 0.15, 0.1, 0.08, 0.02], NO_LIMIT)
    blended = [frame.image[0, 0, 15, 20].item() for frame in blender.blend(frames)]
    sixth = 0.25 * 60 + 0.3 * 50 + 0.1 * 50 + 0.15 * 40 + 0.1 * 30 + 0.08 * 20 + 0.02 * 10
    seventh = 0.25 * 70 + 0.3 * sixth + 0.1 * 60 + 0.15 * 50 + 0.1 * 40 + 0.08 * 30 + 0.02 * 20
    assert blended[:5] == [10, 20, 30, 40, 50]
    assert blended[5:] == pytest.approx([sixth, seventh], rel=1e-5)


def test_no_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights are empty"):
        LegacyBlender([], 8000)
