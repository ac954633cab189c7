# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from npcr.cameras import Cameras, unproject
from npcr.refine.losses import OUTLINE_WEIGHT, anchor_loss, eroded_alpha, flicker, sample_other_frame, steady_loss
from npcr.temporal import RenderedFrame
from tests.path_stub import SIZE, orbit

DEPTH = torch.full((1, SIZE[1], SIZE[0]), 2.0)


def plane(camera: Cameras, offset: float = 0.0) -> RenderedFrame:
    """A plane at depth 2 whose color is linear in the world, so that samples are nearly exact."""
    points = unproject(DEPTH, camera)
    color = 0.5 + 0.1 * points + offset
    return RenderedFrame(torch.cat([color, torch.ones_like(color[:, :1])], dim=1), DEPTH, camera)


def two_planes(offset: float = 0.0) -> tuple[RenderedFrame, RenderedFrame]:
    cameras = orbit(2, step=0.07)
    return plane(cameras[0]), plane(cameras[1], offset)


def test_a_point_is_found_where_the_other_frame_shows_it() -> None:
    earlier, current = two_planes()
    sample, confidence = sample_other_frame(current, earlier, 0.02)
    inside = confidence[0, 0] > 0.999
    assert inside.float().mean() > 0.9
    assert not inside[:, -1].any()  # came into the picture by the move: the camera moved to the right
    torch.testing.assert_close(sample[0, :, inside], current.image[0, :, inside], atol=1e-3, rtol=0)


def test_confidence_fades_with_the_depth_difference_and_is_zero_where_nothing_is() -> None:
    earlier, current = two_planes()
    behind = RenderedFrame(earlier.image, DEPTH * 1.02, earlier.cameras)
    _, confidence = sample_other_frame(current, behind, 0.02)
    assert confidence[0, 0, 9, 12].item() == pytest.approx(torch.exp(torch.tensor(-1.0)).item(), rel=1e-3)
    assert sample_other_frame(current, RenderedFrame(earlier.image, DEPTH * 1.5, earlier.cameras), 0.02)[1].max() < 1e-6
    for empty in (sample_other_frame(RenderedFrame(current.image, DEPTH * 0, current.cameras), earlier, 0.02),
                  sample_other_frame(current, RenderedFrame(earlier.image, DEPTH * 0, earlier.cameras), 0.02)):
        assert empty[1].max() == 0


def test_a_camera_in_the_points_own_plane_finds_nothing() -> None:
    earlier, current = two_planes()
    pose = earlier.cameras.cam_to_world.clone()
    pose[:, 2, 3] = 2.0
    in_plane = RenderedFrame(earlier.image, DEPTH, Cameras(pose, earlier.cameras.intrinsics, SIZE))
    sample, confidence = sample_other_frame(current, in_plane, 0.02)
    assert confidence.max() == 0
    assert sample.isfinite().all()


def test_frames_that_agree_cost_nothing_and_others_pull_at_each_other() -> None:
    assert steady_loss(two_planes(), 0.02).item() < 1e-6
    earlier, current = two_planes(offset=0.1)
    for frame in (earlier, current):
        frame.image.requires_grad_()
    loss = steady_loss([earlier, current], 0.02)
    assert loss.item() == pytest.approx(0.75 * 0.01, rel=1e-2)  # three of four channels
    loss.backward()
    assert earlier.image.grad is not None
    assert current.image.grad is not None
    assert earlier.image.grad[:, :3].sum() < 0 < current.image.grad[:, :3].sum()
    assert earlier.image.grad.sum().item() == pytest.approx(-current.image.grad.sum().item(), rel=1e-3)


def test_flicker_is_the_difference_of_colors_between_0_and_1() -> None:
    assert flicker(two_planes(), 0.02) < 2e-4
    assert flicker(two_planes(offset=0.1), 0.02) == pytest.approx(0.1, rel=2e-3)
    earlier, current = two_planes(offset=0.1)
    outside = RenderedFrame(current.image * torch.tensor([1, 1, 1, 0.4])[:, None, None], DEPTH, current.cameras)
    assert flicker([earlier, outside], 0.02) == 0


def half_plane(camera: Cameras, offset: float, columns: slice) -> RenderedFrame:
    """The plane, its left 8 columns transparent, and other columns brighter by `offset`."""
    frame = plane(camera)
    frame.image[..., :8] = 0
    frame.image[:, :3, :, columns] += offset
    return frame


def test_only_what_is_well_within_the_matte_has_to_agree() -> None:
    cameras = orbit(2, step=0.0)

    def loss(columns: slice) -> float:
        return steady_loss([half_plane(cameras[0], 0.0, columns), half_plane(cameras[1], 0.1, columns)], 0.02).item()

    assert loss(slice(8, 10)) < 1e-9
    assert loss(slice(10, 24)) == pytest.approx(0.75 * 0.01, rel=1e-3)
    alpha = eroded_alpha(half_plane(cameras[0], 0.0, slice(0, 0)))[0, 0]
    assert (alpha[:, :10] == 0).all()
    assert (alpha[:, 10:] == 1).all()


def test_the_anchor_holds_outlines_harder() -> None:
    camera = orbit(1)[0]
    wanted = half_plane(camera, 0.0, slice(0, 0))
    within, outline = (half_plane(camera, 0.1, columns) for columns in (slice(12, 14), slice(8, 10)))
    assert anchor_loss(wanted, wanted) == 0
    expected = 0.01 * 0.75 * 2 / SIZE[0]
    assert anchor_loss(within, wanted).item() == pytest.approx(expected, rel=1e-4)
    assert anchor_loss(outline, wanted).item() == pytest.approx(expected * OUTLINE_WEIGHT, rel=1e-4)
    outline.image.requires_grad_()
    anchor_loss(outline, wanted).backward()
    assert outline.image.grad is not None
    assert outline.image.grad[:, :3, :, 8:10].min() > 0
