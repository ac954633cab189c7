# SPDX-License-Identifier: Apache-2.0
"""Reprojection and blending on made-up planes, where the right answer is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras, camera_rays, unproject
from npcr.temporal import DefaultBlender, Frame, LegacyBlender, reproject, reproject_legacy

SIZE = (40, 30)
NEVER = math.inf  # a colour threshold that nothing exceeds
WEIGHTS = [0.25, 0.2, 0.2, 0.15, 0.1, 0.08, 0.02]


def camera(x: float = 0.0, angle: float = 0.0, batch: int = 1) -> Cameras:
    """A camera at (x, 0, 0) that looks along z, turned about y by `angle` radians."""
    pose = torch.eye(4)
    pose[0, 0] = pose[2, 2] = math.cos(angle)
    pose[0, 2], pose[2, 0] = math.sin(angle), -math.sin(angle)
    pose[0, 3] = x
    intrinsics = torch.tensor([[40.0, 0, 19.3], [0, 40.0, 14.8], [0, 0, 1]])
    return Cameras(pose.repeat(batch, 1, 1), intrinsics.repeat(batch, 1, 1), SIZE)


def plane_depth(cameras: Cameras, z: float) -> Tensor:
    """Camera-space depth (B, H, W) of the world plane at `z`, for cameras at z = 0."""
    return z / camera_rays(cameras)[..., 2]


def texture(points: Tensor, shift: float = 0.0) -> Tensor:
    """Premultiplied RGBA (B, 4, H, W) of world points (B, 3, H, W): smooth, never 0."""
    x, y = points[:, 0], points[:, 1]
    color = [0.5 + 0.4 * torch.sin(2 * x + shift + k) * torch.cos(3 * y - k) for k in range(3)]
    return torch.stack([*color, 0.8 + 0.2 * torch.sin(x + y)], dim=1)


def plane_frame(cameras: Cameras, z: float = 4.0) -> Frame:
    depth = plane_depth(cameras, z)
    return Frame(texture(unproject(depth, cameras)), depth, cameras)


def warped(current: Frame, earlier: Frame, tolerance: float = 0.01, threshold: float = NEVER) -> Tensor:
    return reproject(current, earlier, [earlier.image], color_threshold=threshold,
                     depth_tolerance=tolerance)[0]


def test_a_plane_warps_to_itself_under_a_moving_camera() -> None:
    current, earlier = plane_frame(camera(0.27, 0.1)), plane_frame(camera(0.0))
    marked = replace(current, image=current.image + 100.0)  # tells what came from the earlier frame
    result = warped(marked, earlier)
    taken = result < 50
    assert taken.float().mean() > 0.7
    assert torch.equal(result[~taken], marked.image[~taken])
    error = (result - current.image).abs()[taken]
    assert error.quantile(0.9) < 0.01  # curvature of the texture over a pixel
    assert error.max() < 0.06  # at the picture's border, where only the neighbours inside count

    legacy = reproject_legacy(current, earlier, [earlier.image], color_threshold=NEVER)[0]
    assert (legacy - current.image).abs()[taken].mean() > 4 * error.mean()


def test_a_static_camera_leaves_an_unchanging_picture_unchanged() -> None:
    frame = plane_frame(camera(0.4, 0.3))
    depth = frame.depth.clone()
    depth[:, :, 20:] *= 2  # a step, whose neighbours do not see each other's points
    depth[:, 10] = 0
    frame = replace(frame, depth=depth)
    blender = DefaultBlender(WEIGHTS, 8000, 0.01)
    for _ in range(9):
        blended = blender.blend(frame)
        assert torch.allclose(blended.image, frame.image, atol=2e-6)


def test_a_static_camera_steadies_a_flickering_picture() -> None:
    torch.manual_seed(0)
    frame = plane_frame(camera())
    blender = DefaultBlender(WEIGHTS, 8000, 0.01)
    noisy = [replace(frame, image=frame.image + 0.05 * torch.randn_like(frame.image)) for _ in range(12)]
    blended = [blender.blend(one) for one in noisy]
    assert torch.equal(blended[0].image, noisy[0].image)
    for index, share in ((1, 0.85), (2, 0.75), (11, 0.6)):  # the error shrinks from the second frame on
        before = (noisy[index].image - frame.image).square().mean().sqrt()
        after = (blended[index].image - frame.image).square().mean().sqrt()
        assert after < share * before


def occluded_pair() -> tuple[Frame, Frame, Tensor]:
    """A red post before a plane; the camera moves so that the post uncovers plane. Also where it does."""
    frames, uncovered = [], None
    for x in (0.5, 0.0):
        cameras = camera(x)
        far, near = plane_frame(cameras, 4.0), plane_depth(cameras, 2.0)
        at = unproject(near, cameras)
        post = (at[:, 0].abs() < 0.2)
        red = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 4, 1, 1)
        image = torch.where(post[:, None], red, far.image * torch.tensor([0, 1.0, 1.0, 1.0]).view(1, 4, 1, 1))
        frames.append(Frame(image, torch.where(post, near, far.depth), cameras))
        if uncovered is None:  # plane in the current view whose line to the other camera meets the post
            points = unproject(far.depth, cameras)
            uncovered = ~post & ((points[:, 0] * 0.5).abs() < 0.2)
    assert uncovered is not None
    return frames[0], frames[1], uncovered


def test_what_an_earlier_frame_did_not_see_does_not_ghost() -> None:
    current, earlier, uncovered = occluded_pair()
    assert uncovered.sum() > 50
    where = uncovered[:, None].expand_as(current.image)
    result = warped(current, earlier)
    assert torch.equal(result[where], current.image[where])
    assert result[:, 0][current.depth > 3].max() == 0  # no red on the plane, not even at the post's edge
    assert warped(current, earlier, tolerance=1.0)[:, 0][uncovered].max() > 0.5  # what visibility prevents


def test_pixels_without_depth_or_history_keep_the_current_colour() -> None:
    current, earlier = plane_frame(camera(1.0)), plane_frame(camera(0.0))
    depth = current.depth.clone()
    depth[:, 5:9, 5:9] = 0
    current = Frame(current.image + 1, depth, current.cameras)
    result = warped(current, earlier)
    assert torch.equal(result[:, :, 5:9, 5:9], current.image[:, :, 5:9, 5:9])
    # 1 unit to the right is 10 pixels at depth 4: the last 10 columns were outside the earlier picture
    assert torch.equal(result[..., -10:], current.image[..., -10:])
    assert not torch.isclose(result[:, :, 12:, :29], current.image[:, :, 12:, :29]).any()
    empty = replace(earlier, depth=torch.zeros_like(earlier.depth))
    assert torch.equal(warped(current, empty, tolerance=1.0), current.image)


def test_pixels_without_depth_are_not_taken_for_the_camera_itself() -> None:
    """They unproject to the camera's centre, which the earlier frame may have seen something at."""
    ahead = camera()
    ahead.cam_to_world[:, 2, 3] = 2.0
    current = Frame(torch.ones(1, 4, 30, 40), torch.zeros(1, 30, 40), ahead)
    earlier = Frame(torch.zeros(1, 4, 30, 40), torch.full((1, 30, 40), 2.0), camera())
    assert torch.equal(warped(current, earlier), current.image)


def test_an_earlier_frame_behind_the_point_is_not_asked() -> None:
    current = plane_frame(camera(0.0))
    turned = plane_frame(camera(0.0, math.pi))
    earlier = Frame(torch.zeros_like(turned.image), torch.full_like(turned.depth, 4.0), turned.cameras)
    assert torch.equal(warped(current, earlier), current.image)


def test_a_colour_beyond_the_threshold_gives_way_to_the_current() -> None:
    frame = plane_frame(camera())
    other = replace(frame, image=frame.image.clone())
    other.image[:, 0, :, :20] += 90 / 255  # 90^2 = 8100
    other.image[:, 0, :, 20:] += 88 / 255  # 88^2 = 7744
    result = warped(frame, other, threshold=8000)
    assert torch.equal(result[..., :20], frame.image[..., :20])
    assert torch.allclose(result[..., 20:], other.image[..., 20:], atol=1e-5)


def test_weights_of_missing_history_go_to_what_is_there() -> None:
    frames = [Frame(torch.full((1, 4, 30, 40), value), torch.full((1, 30, 40), 4.0), camera())
              for value in (0.1, 0.2, 0.3)]
    blender = DefaultBlender([0.5, 0.3, 0.1, 0.1], 8000, 0.01)
    values = [blender.blend(frame).image for frame in frames]
    second = (0.5 * 0.2 + 0.3 * 0.1 + 0.1 * 0.1) / 0.9
    third = 0.5 * 0.3 + 0.3 * second + 0.1 * 0.2 + 0.1 * 0.1
    for value, expected in zip(values, (0.1, second, third), strict=True):
        assert torch.allclose(value, torch.full_like(value, expected), atol=1e-5)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [0.0, 1.0], [0.0, 0.0, 0.0], [0.4] + [0.05] * 12])
def test_any_number_of_weights(weights: list[float]) -> None:
    frame = plane_frame(camera())
    blender = DefaultBlender(weights, 8000, 0.01)
    for _ in range(4):
        assert torch.allclose(blender.blend(frame).image, frame.image, atol=1e-5)


def test_a_batch_is_several_paths_side_by_side() -> None:
    xs = [(0.0, 0.3), (0.05, 0.2), (0.1, 0.1)]
    together, *apart = (DefaultBlender(WEIGHTS, 8000, 0.01) for _ in range(3))
    for step in xs:
        singles = [plane_frame(camera(x)) for x in step]
        cameras = Cameras(torch.cat([f.cameras.cam_to_world for f in singles]),
                          torch.cat([f.cameras.intrinsics for f in singles]), SIZE)
        batch = Frame(torch.cat([f.image for f in singles]), torch.cat([f.depth for f in singles]), cameras)
        expected = torch.cat([one.blend(f).image for one, f in zip(apart, singles, strict=True)])
        assert torch.allclose(together.blend(batch).image, expected, atol=1e-6)


def test_history_is_all_that_is_kept() -> None:
    blender = DefaultBlender(WEIGHTS, 8000, 0.01)
    for _ in range(10):
        blender.blend(plane_frame(camera()))
    assert len(blender._raw) == 5


def test_legacy_is_half_a_pixel_off() -> None:
    """At (2u/W - 1) with align_corners=False column u of a still camera falls between u - 1 and u."""
    columns = torch.arange(1.0, 41.0).view(1, 1, 1, 40).expand(1, 3, 30, 40)
    moved = camera()
    moved.intrinsics[:, :2, 2] += 0.25  # off the ties, at which rounding decides
    frame = Frame(torch.full_like(columns, 50.0), torch.full((1, 30, 40), 4.0), camera())
    earlier = Frame(columns, frame.depth, moved)
    result = reproject_legacy(frame, earlier, [columns], color_threshold=NEVER)[0]
    assert torch.equal(result[..., 1:, :], columns[..., 1:, :])  # u + 0.25 is read at u - 0.25, which is u
    moved.intrinsics[:, :2, 2] -= 0.5
    result = reproject_legacy(frame, earlier, [columns], color_threshold=NEVER)[0]
    assert torch.equal(result[..., 1:, 1:], columns[..., 1:, :-1])  # u - 0.25 is read at u - 0.75: u - 1
    assert (result[..., 0] == 50).all()  # outside: 0, which takes the current value


def test_legacy_thresholds_then_zeros() -> None:
    cameras = camera()
    cameras.intrinsics[:, :2, 2] = 0
    depth = torch.full((1, 30, 40), 4.0)
    earlier_cameras = Cameras(cameras.cam_to_world, cameras.intrinsics.clone(), SIZE)
    earlier_cameras.intrinsics[:, :2, 2] += 0.5  # makes the legacy sample fall on the same pixel
    current = Frame(torch.full((1, 3, 30, 40), 10.0), depth, cameras)
    image = torch.full((1, 3, 30, 40), 20.0)
    image[:, :, 5] = 100.0  # 3 * 90^2 > 8000
    image[:, 1, 7] = 0.0  # one channel: a hole only there
    result = reproject_legacy(current, Frame(image, depth, earlier_cameras), [image], color_threshold=8000)[0]
    assert (result[:, :, 5] == 10).all()
    assert (result[:, 1, 7] == 10).all()
    assert (result[:, 0, 7] == 20).all()
    assert (result[:, :, 6] == 20).all()


def test_legacy_points_in_the_cameras_own_plane_take_the_current_value() -> None:
    frame = Frame(torch.full((1, 3, 30, 40), 7.0), torch.zeros(1, 30, 40), camera())
    result = reproject_legacy(frame, frame, [torch.full_like(frame.image, 9.0)], color_threshold=NEVER)[0]
    assert (result == 7).all()


def test_legacy_blends_from_the_sixth_frame_on_the_raw_history() -> None:
    frames = []
    for value in range(1, 8):
        cameras = camera()
        cameras.intrinsics[:, :2, 2] += 0.1 * value  # samples fall between 0.1 and 0.6 pixels further left
        frames.append(Frame(torch.full((1, 3, 30, 40), 10.0 * value), torch.full((1, 30, 40), 4.0), cameras))
    blender = LegacyBlender([0.25, 0.3, 0.1, 0.15, 0.1, 0.08, 0.02], NEVER)
    blended = [blender.blend(frame).image[0, 0, 15, 20].item() for frame in frames]
    sixth = 0.25 * 60 + 0.3 * 50 + 0.1 * 50 + 0.15 * 40 + 0.1 * 30 + 0.08 * 20 + 0.02 * 10
    seventh = 0.25 * 70 + 0.3 * sixth + 0.1 * 60 + 0.15 * 50 + 0.1 * 40 + 0.08 * 30 + 0.02 * 20
    assert blended[:5] == [10, 20, 30, 40, 50]
    assert blended[5:] == pytest.approx([sixth, seventh], rel=1e-5)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"image must be \(1, 3 or more, 30, 40\), is \(1, 3, 40, 30\)"):
        Frame(torch.zeros(1, 3, 40, 30), torch.zeros(1, 30, 40), camera())
    blender = DefaultBlender(WEIGHTS, 8000, 0.01)
    blender.blend(plane_frame(camera()))
    with pytest.raises(ValueError, match="the path's frames are"):
        blender.blend(plane_frame(camera(batch=2)))
    with pytest.raises(ValueError, match="weights are empty"):
        DefaultBlender([], 8000, 0.01)
