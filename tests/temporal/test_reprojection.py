# SPDX-License-Identifier: Apache-2.0
"""Reprojection of planes, whose result is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras, project, unproject
from npcr.temporal import RenderedFrame, find_warp, reproject, reproject_legacy, sample_smoothly, surface_depth
from npcr.temporal.reprojection import EMPTY_CROP, occupied_crop
from tests.temporal.planes import NO_LIMIT, SIZE, camera, plane_depth, plane_frame


def warped(current: RenderedFrame, earlier: RenderedFrame, tolerance: float = 0.01,
           threshold: float = NO_LIMIT) -> Tensor:
    return reproject(current, earlier, [earlier.image], color_threshold=threshold,
                     depth_tolerance=tolerance)[0]


def test_a_plane_warps_to_itself_under_a_moving_camera() -> None:
    current, earlier = plane_frame(camera(0.27, 0.1)), plane_frame(camera(0.0))
    surfaces = [surface_depth(frame.depth) for frame in (current, earlier)]
    warp = find_warp(surfaces[0], current.cameras, surfaces[1], earlier.cameras, 0.02)
    taken = warp.confidence > 0
    assert taken.float().mean() > 0.7
    assert warp.confidence[taken].mean() > 0.9  # a tilted plane's depths, nearest in their window, differ a little
    error = (sample_smoothly(earlier.image, warp.grid) - current.image).abs().amax(1)[taken]
    assert error.quantile(0.9) < 0.01  # the window's nearest depth is off by up to a pixel's slope
    assert error.max() < 0.06  # at the picture's border, where sampling repeats the last pixel

    marked = replace(current, image=current.image + 0.5)
    result = warped(marked, earlier, tolerance=0.02)
    expected = torch.lerp(marked.image, current.image, warp.confidence[:, None])
    assert (result - expected).abs()[taken[:, None].expand_as(result)].quantile(0.9) < 0.01
    assert torch.equal(result[:, :, ~taken[0]], marked.image[:, :, ~taken[0]])

    legacy = reproject_legacy(current, earlier, [earlier.image], color_threshold=NO_LIMIT)[0]
    assert (legacy - current.image).abs().amax(1)[taken].mean() > 4 * error.mean()


def test_a_warp_is_projection_of_unprojected_points() -> None:
    current, earlier = plane_frame(camera(0.27, 0.1)), plane_frame(camera(0.0, -0.05))
    warp = find_warp(current.depth, current.cameras, earlier.depth, earlier.cameras, 0.02)
    pixels, _ = project(unproject(current.depth, current.cameras).permute(0, 2, 3, 1), earlier.cameras)
    ours = (warp.grid + 1) * torch.tensor(SIZE) / 2 - 0.5
    inside = warp.confidence > 0
    assert inside.float().mean() > 0.5
    assert torch.allclose(ours[inside], pixels[inside], atol=1e-4)
    crop = (slice(4, 20), slice(7, 31))
    part = find_warp(current.depth, current.cameras, earlier.depth, earlier.cameras, 0.02, crop=crop)
    assert torch.allclose(part.grid, warp.grid[:, 4:20, 7:31], atol=1e-5)
    assert torch.allclose(part.confidence, warp.confidence[:, 4:20, 7:31], atol=1e-4)


def test_confidence_falls_with_depth_and_angle() -> None:
    frame = plane_frame(camera())
    depth = torch.full_like(frame.depth, 4.0)

    def confidence(other_depth: Tensor, cameras: Cameras, angle: float = math.inf) -> float:
        return find_warp(depth, frame.cameras, other_depth, cameras, 0.02, angle).confidence[0, 15, 20].item()

    assert confidence(depth, frame.cameras) == pytest.approx(1)
    assert confidence(depth * 1.02, frame.cameras) == pytest.approx(math.exp(-1), rel=1e-3)
    assert confidence(depth * 0.96, frame.cameras) == pytest.approx(math.exp(-4), rel=1e-3)
    radians = 0.2
    turned = camera(-4 * math.sin(radians), radians)  # looks at (0, 0, 4) from the same distance
    turned.cam_to_world[:, 2, 3] = 4 - 4 * math.cos(radians)
    expected = math.exp(-((radians / math.radians(10)) ** 2))
    center = find_warp(depth, frame.cameras, depth, turned, 0.1, 10).confidence[0]
    without = find_warp(depth, frame.cameras, depth, turned, 0.1).confidence[0]
    seen = without > 0
    assert (center[seen] / without[seen]).mean().item() == pytest.approx(expected, rel=1e-3)


def test_the_surface_lies_at_the_nearest_points_and_keeps_steps() -> None:
    depth = torch.full((1, 20, 30), 4.0)
    depth[:, ::2, ::2] = 5.0  # seen through gaps between the front's points
    depth[:, :, 15:] = 8.0  # what lies behind, beside
    depth[:, :, 25:] = 0
    surface = surface_depth(depth)
    assert torch.allclose(surface[:, :, :16], torch.tensor(4.0))  # the window reaches one pixel further
    assert torch.allclose(surface[:, :, 16:26], torch.tensor(8.0))
    assert (surface[:, :, 26:] == 0).all()
    slope = 4 + 0.01 * torch.arange(30.0).expand(1, 20, 30)
    assert (surface_depth(slope) - slope).abs().max() < 0.025


def occluded_pair() -> tuple[RenderedFrame, RenderedFrame, Tensor]:
    """A red post before a plane; the camera moves so that the post uncovers plane. Also where it does."""
    frames, uncovered = [], None
    for x in (0.5, 0.0):
        cameras = camera(x)
        far, near = plane_frame(cameras, 4.0), plane_depth(cameras, 2.0)
        at = unproject(near, cameras)
        post = (at[:, 0].abs() < 0.2)
        red = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 4, 1, 1)
        image = torch.where(post[:, None], red, far.image * torch.tensor([0, 1.0, 1.0, 1.0]).view(1, 4, 1, 1))
        frames.append(RenderedFrame(image, torch.where(post, near, far.depth), cameras))
        if uncovered is None:  # plane in the current view whose line to the other camera meets the post
            points = unproject(far.depth, cameras)
            uncovered = ~post & ((points[:, 0] * 0.5).abs() < 0.2)
    assert uncovered is not None
    return frames[0], frames[1], uncovered


def test_occluded_points_leave_no_ghost() -> None:
    current, earlier, uncovered = occluded_pair()
    assert uncovered.sum() > 50
    where = uncovered[:, None].expand_as(current.image)
    result = warped(current, earlier)
    # The post's surface reaches one pixel over the plane, which by its depth then is the post.
    clear = where & (surface_depth(current.depth) > 3)[:, None]
    assert clear.sum() > 100
    assert torch.allclose(result[clear], current.image[clear], atol=1e-5)
    assert result[:, 0][uncovered].max() < 0.05
    assert warped(current, earlier, tolerance=1.0)[:, 0][uncovered].max() > 0.3  # what visibility prevents


def test_pixels_without_depth_or_history_keep_the_current_color() -> None:
    current, earlier = plane_frame(camera(1.0)), plane_frame(camera(0.0))
    depth = current.depth.clone()
    depth[:, 4:10, 4:10] = 0  # the surface reaches one pixel into it
    current = RenderedFrame(current.image + 1, depth, current.cameras)
    result = warped(current, earlier)
    assert torch.equal(result[:, :, 5:9, 5:9], current.image[:, :, 5:9, 5:9])
    # 1 unit to the right is 10 pixels at depth 4: the last 10 columns were outside the earlier picture
    assert torch.equal(result[..., -10:], current.image[..., -10:])
    assert not torch.isclose(result[:, :, 12:, :29], current.image[:, :, 12:, :29]).any()
    empty = replace(earlier, depth=torch.zeros_like(earlier.depth))
    assert torch.equal(warped(current, empty, tolerance=1.0), current.image)


def test_pixels_without_depth_are_not_taken_for_the_camera_itself() -> None:
    """They unproject to the camera's center, which the earlier frame may have seen something at."""
    ahead = camera()
    ahead.cam_to_world[:, 2, 3] = 2.0
    current = RenderedFrame(torch.ones(1, 4, 30, 40), torch.zeros(1, 30, 40), ahead)
    earlier = RenderedFrame(torch.zeros(1, 4, 30, 40), torch.full((1, 30, 40), 2.0), camera())
    assert torch.equal(warped(current, earlier), current.image)


def test_a_camera_that_looks_away_contributes_nothing() -> None:
    current = plane_frame(camera(0.0))
    turned = plane_frame(camera(0.0, math.pi))
    earlier = RenderedFrame(torch.zeros_like(turned.image), torch.full_like(turned.depth, 4.0), turned.cameras)
    assert torch.equal(warped(current, earlier), current.image)


def test_a_color_counts_less_the_further_it_is_from_the_current() -> None:
    frame = plane_frame(camera())
    other = replace(frame, image=frame.image.clone())
    step = math.sqrt(8000) / 255
    other.image[:, 3, :, :20] += step
    other.image[:, 0, :, 20:] += 3 * step
    result = warped(frame, other, threshold=8000)
    assert (result - frame.image)[:, 3, 8:20, 5:15].numpy() == pytest.approx(step * math.exp(-1), rel=1e-2)
    assert (result - frame.image)[..., 25:].abs().max() < 2e-4


def test_the_occupied_crop_ends_with_the_image() -> None:
    depth = torch.zeros(2, 10, 12)
    assert occupied_crop(depth, margin=3) == EMPTY_CROP
    depth[0, 2, 5] = depth[1, 8, 11] = 1.0
    assert occupied_crop(depth) == (slice(2, 9), slice(5, 12))
    assert occupied_crop(depth, margin=2) == (slice(0, 10), slice(3, 12))


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"image must be \(1, 3 or more, 30, 40\), is \(1, 3, 40, 30\)"):
        RenderedFrame(torch.zeros(1, 3, 40, 30), torch.zeros(1, 30, 40), camera())
    with pytest.raises(ValueError, match=r"must be a batch of 1 of 30 by 40, are \(1, 3, 30, 40\) and \(2, 30, 40\)"):
        RenderedFrame(torch.zeros(1, 3, 30, 40), torch.zeros(2, 30, 40), camera())
