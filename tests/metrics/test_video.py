# SPDX-License-Identifier: Apache-2.0
"""Temporal metrics on synthetic videos, where the right value is known."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras, camera_rays, unproject
from npcr.errors import MissingExtraError
from npcr.metrics.video import (
    color_video_vdp,
    find_correspondences,
    flicker,
    flow_error,
    masked_mean,
    sample_bicubic,
    second_difference_error,
    warp_error,
)

SIZE = (40, 30)


def camera(x: float = 0.0) -> Cameras:
    pose = torch.eye(4)[None].clone()
    pose[0, 0, 3] = x
    return Cameras(pose, torch.tensor([[[40.0, 0, 19.3], [0, 40.0, 14.8], [0, 0, 1]]]), SIZE)


def plane(cameras: Cameras, z: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, positions and depth of a plane whose color is linear along x and y, which samples are exact on."""
    depth = z / camera_rays(cameras)[..., 2]
    points = unproject(depth, cameras)
    image = 0.5 + 0.1 * points[:, :1] + 0.05 * points[:, 1:2]
    return image.expand(-1, 3, -1, -1), points.permute(0, 2, 3, 1), depth


def test_a_warp_with_known_geometry_is_exact() -> None:
    now, positions, _ = plane(camera(0.35))
    before, _, depth = plane(camera(0.0))
    where = find_correspondences(positions, depth, camera(0.0))
    assert where.visible.float().mean() == pytest.approx(36 / 40)  # 0.35 * 40 / 4 is 3.5 pixels to the right
    assert (where.pixels[..., 0] - torch.arange(40.0)).numpy() == pytest.approx(3.5, abs=1e-4)
    assert warp_error(now, before, where).item() < 5e-5  # the samples at the border, whose neighbors are missing
    assert warp_error(now + 0.1, before, where).item() == pytest.approx(0.1, abs=5e-5)
    still = find_correspondences(plane(camera())[1], depth, camera())
    assert warp_error(now, before, still).item() == pytest.approx(0.1 * 0.35, abs=1e-5)  # without the motion


def test_what_the_other_frame_hides_or_lacks_is_not_compared() -> None:
    _, positions, depth = plane(camera())
    hidden = depth.clone()
    hidden[:, :, :20] = 2.0
    hidden[:, :10] = 0
    positions = positions.clone()
    positions[:, 25:] = math.nan
    seen = find_correspondences(positions, hidden, camera()).visible
    assert seen[0, 11:25, 21:].all()  # whole coordinates, but for rounding
    assert not seen[0, :9].any()
    assert not seen[0, 25:].any()
    assert not seen[0, :, :19].any()
    behind = camera()
    behind.cam_to_world[:, 2, 3] = 9.0
    assert not find_correspondences(positions, depth, behind).visible.any()
    nothing = find_correspondences(torch.full_like(positions, math.nan), depth, camera())
    assert torch.isfinite(nothing.pixels).all()
    assert warp_error(torch.rand(1, 3, 30, 40), torch.rand(1, 3, 30, 40), nothing).item() == 0


def test_a_constant_scene_has_no_flicker_and_a_planted_one_is_measured() -> None:
    pictures, positions, depths = zip(*(plane(camera(x)) for x in (0.0, 0.13, 0.26)), strict=True)
    back = find_correspondences(positions[1], depths[0], camera(0.0))
    on = find_correspondences(positions[1], depths[2], camera(0.26))
    assert flicker(*pictures, back, on).item() < 5e-5
    jump = flicker(pictures[0], pictures[1] + 0.08, pictures[2], back, on)
    assert jump.item() == pytest.approx(0.08, abs=5e-5)
    steady = flicker(pictures[0] - 0.03, pictures[1], pictures[2] + 0.03, back, on)  # a highlight wanders in
    assert steady.item() < 5e-5


def test_second_differences_against_the_truths() -> None:
    torch.manual_seed(0)
    true = [torch.rand(1, 3, 8, 9) for _ in range(3)]
    mask = torch.zeros(1, 8, 9, dtype=torch.bool)
    mask[:, :4] = True
    assert second_difference_error(true, true, mask).item() == 0
    brighter = [picture + 0.2 for picture in true]
    assert second_difference_error(brighter, true, mask).item() < 1e-6  # wrong, but as steady as the truth
    jumping = [true[0], true[1] + 0.1 * mask[:, None], true[2]]
    assert second_difference_error(jumping, true, mask).item() == pytest.approx(0.2, abs=1e-6)
    assert second_difference_error(jumping, true, ~mask).item() == 0


def test_flow_error_is_the_distance_of_motions() -> None:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    def waves(shift: float) -> Tensor:
        wave = 0.5 + 0.25 * torch.sin((x - shift) / 4) + 0.2 * torch.sin(y / 3 + (x - shift) / 7)
        return wave.expand(1, 3, -1, -1)
    mask = torch.zeros(1, 64, 80, dtype=torch.bool)
    mask[:, 16:48, 16:64] = True
    true = (waves(0.0), waves(2.0))
    assert flow_error(true, true, mask).item() == 0
    assert flow_error((waves(0.0), waves(0.0)), true, mask).item() == pytest.approx(2, abs=0.2)
    assert flow_error((waves(0.0), waves(1.0)), true, mask).item() == pytest.approx(1, abs=0.2)


def test_sampling_is_whole_at_pixel_centers() -> None:
    image = torch.rand(1, 2, 5, 7)
    grid = torch.stack(torch.meshgrid(torch.arange(7.0), torch.arange(5.0), indexing="xy"), dim=-1)[None]
    assert torch.allclose(sample_bicubic(image, grid), image, atol=1e-6)
    between = sample_bicubic(image, grid[:, :, 1:5] + torch.tensor([0.5, 0.0]))
    wanted = (9 * (image[..., 1:5] + image[..., 2:6]) - image[..., :4] - image[..., 3:7]) / 16
    assert torch.allclose(between, wanted, atol=1e-6)
    far = sample_bicubic(image, torch.tensor([-1e30, 1e30]).expand(1, 5, 7, 2))
    assert torch.allclose(far, image[:, :, -1:, :1].expand_as(far), atol=1e-6)


def test_samples_of_squares_are_exact() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    places = 2 + 5 * torch.rand(1, 4, 4, 2, generator=torch.Generator().manual_seed(0))
    picture = (0.02 * x * x - 0.1 * x) * (0.03 * y * y + 0.2)
    u, v = places.unbind(-1)
    wanted = (0.02 * u * u - 0.1 * u) * (0.03 * v * v + 0.2)
    assert torch.allclose(sample_bicubic(picture[None, None], places)[:, 0], wanted, atol=1e-5)


def test_sharp_texture_that_moves_steadily_hardly_counts_as_flicker() -> None:
    depth = torch.full((1, 30, 40), 4.0)
    cameras = [camera(x) for x in (0.0, 0.021, 0.042)]  # a fifth of a pixel from frame to frame, as on a fine orbit
    points = [unproject(depth, one) for one in cameras]
    pictures = [0.5 + 0.3 * torch.sin(2 * math.pi / 0.4 * place[:, :1]).expand(-1, 3, -1, -1) for place in points]
    where = [find_correspondences(points[1].permute(0, 2, 3, 1), depth, cameras[other]) for other in (0, 2)]
    bilinear = torch.sin(torch.tensor(2 * math.pi / 4)) * 0.2 * 0.3  # of bilinear interpolation, wave of 4 pixels
    assert flicker(*pictures, *where).item() < 0.2 * bilinear


def test_a_mean_over_nothing_is_zero() -> None:
    values = torch.arange(12.0).view(1, 2, 2, 3)
    mask = torch.tensor([[[True, False, False], [False, False, True]]])
    assert masked_mean(values, mask).item() == pytest.approx((0 + 5 + 6 + 11) / 4)
    assert masked_mean(values, torch.zeros_like(mask)).item() == 0


def test_color_video_vdp_recognizes_flicker() -> None:
    pytest.importorskip("pycvvdp", reason="needs the extra cvvdp")
    still = np.full((6, 32, 32, 3), 100, np.uint8)
    still[:, 8:24, 8:24] = 180
    assert color_video_vdp(still, still, 30) == pytest.approx(10, abs=1e-3)
    slight, strong = still.copy(), still.copy()
    slight[::2] += 4
    strong[::2] += 30
    assert 10 > color_video_vdp(slight, still, 30) > color_video_vdp(strong, still, 30) + 0.5


def test_color_video_vdp_names_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycvvdp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'npcr\[cvvdp\]'"):
        color_video_vdp(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8), 30)
