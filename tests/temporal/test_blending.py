# SPDX-License-Identifier: Apache-2.0
"""Reprojection and blending on made-up planes, where the right answer is known."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from npcr.cameras import Cameras, camera_rays, project, unproject
from npcr.temporal.reprojection import (
    Blender,
    DefaultBlender,
    Frame,
    LegacyBlender,
    _mean_over_neighbors,
    find_warp,
    reproject,
    reproject_legacy,
    sample_smoothly,
    surface_depth,
)

SIZE = (40, 30)
NEVER = math.inf  # a color threshold that nothing exceeds
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


def blender(history: float = 3, color: float = 22, tolerance: float = 0.01, angle: float = 30) -> DefaultBlender:
    return DefaultBlender(history, color, tolerance, angle)


def checkered(value: float) -> Tensor:
    """(1, 4, 30, 40) of detail alone: plus and minus `value`, whose mean over 5x5 pixels is a 25th of it."""
    rows, columns = torch.arange(30)[:, None], torch.arange(40)[None]
    return (value * (1 - 2 * ((rows + columns) % 2))).float().expand(1, 4, 30, 40).clone()


def test_a_plane_warps_to_itself_under_a_moving_camera() -> None:
    current, earlier = plane_frame(camera(0.27, 0.1)), plane_frame(camera(0.0))
    surfaces = [surface_depth(frame.depth) for frame in (current, earlier)]
    warp = find_warp(surfaces[0], current.cameras, surfaces[1], earlier.cameras, 0.02)
    taken = warp.trust > 0
    assert taken.float().mean() > 0.7
    assert warp.trust[taken].mean() > 0.9  # a tilted plane's depths, nearest in their window, differ a little
    error = (sample_smoothly(earlier.image, warp.grid) - current.image).abs().amax(1)[taken]
    assert error.quantile(0.9) < 0.01  # the window's nearest depth is off by up to a pixel's slope
    assert error.max() < 0.06  # at the picture's border, where sampling repeats the last pixel

    marked = replace(current, image=current.image + 0.5)
    result = warped(marked, earlier, tolerance=0.02)
    expected = torch.lerp(marked.image, current.image, warp.trust[:, None])
    assert (result - expected).abs()[taken[:, None].expand_as(result)].quantile(0.9) < 0.01
    assert torch.equal(result[:, :, ~taken[0]], marked.image[:, :, ~taken[0]])

    legacy = reproject_legacy(current, earlier, [earlier.image], color_threshold=NEVER)[0]
    assert (legacy - current.image).abs().amax(1)[taken].mean() > 4 * error.mean()


def test_a_warp_is_projection_of_unprojected_points() -> None:
    current, earlier = plane_frame(camera(0.27, 0.1)), plane_frame(camera(0.0, -0.05))
    warp = find_warp(current.depth, current.cameras, earlier.depth, earlier.cameras, 0.02)
    pixels, _ = project(unproject(current.depth, current.cameras).permute(0, 2, 3, 1), earlier.cameras)
    ours = (warp.grid + 1) * torch.tensor(SIZE) / 2 - 0.5
    inside = warp.trust > 0
    assert inside.float().mean() > 0.5
    assert torch.allclose(ours[inside], pixels[inside], atol=1e-4)
    window = (slice(4, 20), slice(7, 31))
    part = find_warp(current.depth, current.cameras, earlier.depth, earlier.cameras, 0.02, window=window)
    assert torch.allclose(part.grid, warp.grid[:, 4:20, 7:31], atol=1e-5)
    assert torch.allclose(part.trust, warp.trust[:, 4:20, 7:31], atol=1e-4)


def test_trust_falls_with_depth_and_angle_as_told() -> None:
    frame = plane_frame(camera())
    depth = torch.full_like(frame.depth, 4.0)
    def trust(other_depth: Tensor, cameras: Cameras, angle: float = math.inf) -> float:
        return find_warp(depth, frame.cameras, other_depth, cameras, 0.02, angle).trust[0, 15, 20].item()
    assert trust(depth, frame.cameras) == pytest.approx(1)
    assert trust(depth * 1.02, frame.cameras) == pytest.approx(math.exp(-1), rel=1e-3)
    assert trust(depth * 0.96, frame.cameras) == pytest.approx(math.exp(-4), rel=1e-3)
    radians = 0.2
    turned = camera(-4 * math.sin(radians), radians)  # looks at (0, 0, 4) from the same distance
    turned.cam_to_world[:, 2, 3] = 4 - 4 * math.cos(radians)
    expected = math.exp(-((radians / math.radians(10)) ** 2))
    center = find_warp(depth, frame.cameras, depth, turned, 0.1, 10).trust[0]
    without = find_warp(depth, frame.cameras, depth, turned, 0.1).trust[0]
    seen = without > 0
    assert (center[seen] / without[seen]).mean().item() == pytest.approx(expected, rel=1e-3)


def test_the_surface_lies_at_the_nearest_points_and_keeps_its_steps() -> None:
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


def test_a_static_camera_leaves_an_unchanging_picture_unchanged() -> None:
    frame = plane_frame(camera(0.4, 0.3))
    depth = frame.depth.clone()
    depth[:, :, 20:] *= 2  # a step, whose neighbors do not see each other's points
    depth[:, 10] = 0
    frame = replace(frame, depth=depth)
    for blended in blender(history=5).blend([frame] * 9):
        assert torch.allclose(blended.image, frame.image, atol=2e-5)


def test_a_static_camera_steadies_a_flickering_picture() -> None:
    torch.manual_seed(0)
    frame = plane_frame(camera())
    noisy = [replace(frame, image=frame.image + 0.05 * torch.randn_like(frame.image)) for _ in range(16)]
    blended = list(blender(history=5, color=NEVER).blend(noisy))
    before = (noisy[8].image - frame.image).square().mean().sqrt()
    for index, frames in ((0, 3), (1, 4), (2, 5), (8, 5), (14, 4), (15, 3)):  # at the ends there are fewer
        after = (blended[index].image - frame.image).square().mean().sqrt()
        # Of a pixel's noise a 25th is that of the mean over 5x5, which stays.
        expected = before * math.sqrt(24 / 25 / frames + 1 / 25)
        assert after.item() == pytest.approx(expected.item(), rel=0.08)


def test_only_detail_is_blended() -> None:
    depth = torch.full((1, 30, 40), 4.0)
    frames = [Frame(checkered(0.1 * sign) + level, depth, camera()) for sign, level in ((1, 0.3), (-1, 0.5), (1, 0.6))]
    first, second, third = (frame.image[0, 0, 5:25, 5:35] for frame in blender(color=NEVER).blend(frames))
    inner = checkered(0.1)[0, 0, 5:25, 5:35]
    assert torch.allclose(first, 0.3 + inner * (0 + 1 / 25), atol=2e-3)  # +1 and -1: none left but for the mean's
    assert torch.allclose(second, 0.5 + inner * (1 / 3 - 4 / 3 / 25), atol=2e-3)
    assert torch.allclose(third, 0.6 + inner * (0 + 1 / 25), atol=2e-3)


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
    current = Frame(current.image + 1, depth, current.cameras)
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
    current = Frame(torch.ones(1, 4, 30, 40), torch.zeros(1, 30, 40), ahead)
    earlier = Frame(torch.zeros(1, 4, 30, 40), torch.full((1, 30, 40), 2.0), camera())
    assert torch.equal(warped(current, earlier), current.image)


def test_an_earlier_frame_behind_the_point_is_not_asked() -> None:
    current = plane_frame(camera(0.0))
    turned = plane_frame(camera(0.0, math.pi))
    earlier = Frame(torch.zeros_like(turned.image), torch.full_like(turned.depth, 4.0), turned.cameras)
    assert torch.equal(warped(current, earlier), current.image)


def test_a_color_weighs_less_the_further_it_is_from_the_current() -> None:
    frame = plane_frame(camera())
    other = replace(frame, image=frame.image.clone())
    step = math.sqrt(8000) / 255
    other.image[:, 3, :, :20] += step
    other.image[:, 0, :, 20:] += 3 * step
    result = warped(frame, other, threshold=8000)
    assert (result - frame.image)[:, 3, 8:20, 5:15].numpy() == pytest.approx(step * math.exp(-1), rel=1e-2)
    assert (result - frame.image)[..., 25:].abs().max() < 2e-4


@pytest.mark.parametrize("channel", [0, 3])
def test_detail_weighs_less_the_further_local_means_are_apart(channel: int) -> None:
    depth = torch.full((1, 30, 40), 4.0)
    images = [checkered(0.05 * sign) + 0.5 for sign in (1, -1)]
    images[1][:, channel] += 22 / 255
    frames = [Frame(image, depth, camera()) for image in images]
    blended = next(iter(blender(color=22, tolerance=1).blend(frames)))
    trust = math.exp(-1)
    detail = (blended.image - frames[0].image)[0, 1, 8:22, 8:32] / checkered(0.05)[0, 1, 8:22, 8:32]
    assert detail.mean().item() == pytest.approx(-2 * 24 / 25 * trust / (1 + trust), rel=0.05)


def test_what_a_neighbor_did_not_see_is_the_others_matter() -> None:
    depth = torch.full((1, 30, 40), 4.0)
    frames = [Frame(checkered(value), depth.clone(), camera()) for value in (0.1, 0.2, 0.3)]
    frames[2].depth[:, :, 20:] = 0
    steadied = list(blender(color=NEVER).blend(frames))[1].image[0, 0, 15]
    inner, kept = checkered(1.0)[0, 0, 15], 0.2 / 25
    left, right = steadied[8:16] / inner[8:16], steadied[24:34] / inner[24:34]
    assert left.mean().item() == pytest.approx(0.2, abs=kept)
    assert right.mean().item() == pytest.approx(0.15, abs=kept)


@pytest.mark.parametrize("history", [1, 1.5, 2, 3, 4, 99])
def test_any_length_of_history(history: float) -> None:
    depth, values = torch.full((1, 30, 40), 4.0), [0.1, 0.4, 0.2, 0.3, 0.0, 0.5, 0.1]
    frames = [Frame(checkered(value), depth, camera()) for value in values]
    steadied = list(blender(history, NEVER).blend(frames))
    assert len(steadied) == len(values)
    for index, frame in enumerate(steadied):
        shares = [min(max((history - 1) / 2 - abs(index - other) + 1, 0), 1) if other != index else 1
                  for other in range(len(values))]
        mean = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
        expected = mean + (values[index] - mean) / 25
        found = (frame.image / checkered(1.0))[0, 0, 5:25, 5:35]
        assert torch.allclose(found, torch.tensor(expected), atol=2e-3)


def test_nothing_to_see_stays_as_it_is() -> None:
    frame = Frame(torch.rand(1, 4, 30, 40), torch.zeros(1, 30, 40), camera())
    frames = [frame, plane_frame(camera()), frame]
    assert all(torch.equal(a.image, b.image) for a, b in zip(blender().blend(frames), frames, strict=True))
    assert list(blender().blend([])) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 3), (30, 40)])
def test_means_over_neighbors_are_pooling(size: tuple[int, int]) -> None:
    image = torch.rand(2, 4, *size)
    assert torch.allclose(_mean_over_neighbors(image), avg_pool2d(image, 5, stride=1, padding=2), atol=1e-6)


def test_a_lone_point_in_the_corner_is_blended_too() -> None:
    depth = torch.zeros(1, 30, 40)
    depth[:, 0, 0] = 4.0
    frames = [Frame(checkered(value), depth, camera()) for value in (0.1, 0.4)]
    first = next(iter(blender(color=NEVER).blend(frames))).image
    assert first[0, 0, 0, 0].item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(first[..., 3:], frames[0].image[..., 3:])


def test_a_batch_is_several_paths_side_by_side() -> None:
    paths = [[plane_frame(camera(x)) for x in path] for path in ((0.0, 0.05, 0.1), (0.3, 0.2, 0.1))]
    batches = [Frame(torch.cat([f.image for f in singles]), torch.cat([f.depth for f in singles]),
                     Cameras(torch.cat([f.cameras.cam_to_world for f in singles]),
                             torch.cat([f.cameras.intrinsics for f in singles]), SIZE))
               for singles in zip(*paths, strict=True)]
    apart = [list(blender().blend(path)) for path in paths]
    for index, together in enumerate(blender().blend(batches)):
        expected = torch.cat([path[index].image for path in apart])
        assert torch.allclose(together.image, expected, atol=1e-5)


@pytest.mark.parametrize(("steady", "kept"), [(blender(history=5), 5), (blender(history=1), 1),
                                              (LegacyBlender(WEIGHTS, 8000), 5)])
def test_a_few_frames_are_all_that_is_kept(steady: Blender, kept: int) -> None:
    pictures = []

    def path() -> Iterator[Frame]:
        for _ in range(12):
            frame = plane_frame(camera())
            pictures.append(weakref.ref(frame.image))
            yield frame
            del frame

    most = 0
    for frame in steady.blend(path()):
        del frame
        gc.collect()
        most = max(most, sum(picture() is not None for picture in pictures))
    assert most <= kept + 1  # and the one that the path itself holds
    assert [picture() is None for picture in pictures] == [True] * 12


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
    blended = [frame.image[0, 0, 15, 20].item() for frame in blender.blend(frames)]
    sixth = 0.25 * 60 + 0.3 * 50 + 0.1 * 50 + 0.15 * 40 + 0.1 * 30 + 0.08 * 20 + 0.02 * 10
    seventh = 0.25 * 70 + 0.3 * sixth + 0.1 * 60 + 0.15 * 50 + 0.1 * 40 + 0.08 * 30 + 0.02 * 20
    assert blended[:5] == [10, 20, 30, 40, 50]
    assert blended[5:] == pytest.approx([sixth, seventh], rel=1e-5)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"image must be \(1, 3 or more, 30, 40\), is \(1, 3, 40, 30\)"):
        Frame(torch.zeros(1, 3, 40, 30), torch.zeros(1, 30, 40), camera())
    with pytest.raises(ValueError, match="the path's frames are"):
        list(blender().blend([plane_frame(camera()), plane_frame(camera(batch=2))]))
    with pytest.raises(ValueError, match="weights are empty"):
        LegacyBlender([], 8000)
    with pytest.raises(ValueError, match=r"history is 0\.5 frames"):
        blender(history=0.5)
