# SPDX-License-Identifier: Apache-2.0
"""The default blending of planes, and what all blenders have in common."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from npcr.cameras import Cameras
from npcr.temporal import Blender, DefaultBlender, LegacyBlender, RenderedFrame
from npcr.temporal.blending import _mean_5x5
from npcr.temporal.reprojection import FULL_CROP
from tests.temporal.planes import NO_LIMIT, SIZE, camera, plane_frame

LEGACY_WEIGHTS = [0.25, 0.2, 0.2, 0.15, 0.1, 0.08, 0.02]


def blender(history: float = 3, color: float = 22, tolerance: float = 0.01, angle: float = 30) -> DefaultBlender:
    return DefaultBlender(history, color, tolerance, angle)


def checkered(value: float) -> Tensor:
    """(1, 4, 30, 40) of detail alone: plus and minus `value`, whose mean over 5x5 pixels is a 25th of it."""
    rows, columns = torch.arange(30)[:, None], torch.arange(40)[None]
    return (value * (1 - 2 * ((rows + columns) % 2))).float().expand(1, 4, 30, 40).clone()


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
    blended = list(blender(history=5, color=NO_LIMIT).blend(noisy))
    before = (noisy[8].image - frame.image).square().mean().sqrt()
    for index, frames in ((0, 3), (1, 4), (2, 5), (8, 5), (14, 4), (15, 3)):  # at the ends there are fewer
        after = (blended[index].image - frame.image).square().mean().sqrt()
        # Of a pixel's noise a 25th is that of the mean over 5x5, which stays.
        expected = before * math.sqrt(24 / 25 / frames + 1 / 25)
        assert after.item() == pytest.approx(expected.item(), rel=0.08)


def test_the_crop_that_a_cpu_takes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    frames = []
    for step in range(4):
        frame = plane_frame(camera(0.02 * step, 0.01 * step))
        depth = torch.zeros_like(frame.depth)
        depth[:, 5:20, 8:30] = frame.depth[:, 5:20, 8:30]
        frames.append(replace(frame, depth=depth, image=frame.image + 0.02 * torch.randn_like(frame.image)))
    cropped = [blended.image for blended in blender().blend(frames)]
    monkeypatch.setattr("npcr.temporal.blending.occupied_crop", lambda depth, margin: FULL_CROP)  # as on a GPU
    for before, image, blended in zip(frames, cropped, blender().blend(frames), strict=True):
        assert torch.equal(image, blended.image)
        assert not torch.equal(image, before.image)


def test_only_detail_is_blended() -> None:
    depth = torch.full((1, 30, 40), 4.0)
    frames = [RenderedFrame(checkered(0.1 * sign) + level, depth, camera())
              for sign, level in ((1, 0.3), (-1, 0.5), (1, 0.6))]
    first, second, third = (frame.image[0, 0, 5:25, 5:35] for frame in blender(color=NO_LIMIT).blend(frames))
    inner = checkered(0.1)[0, 0, 5:25, 5:35]
    assert torch.allclose(first, 0.3 + inner * (0 + 1 / 25), atol=2e-3)  # +1 and -1: none left but for the mean's
    assert torch.allclose(second, 0.5 + inner * (1 / 3 - 4 / 3 / 25), atol=2e-3)
    assert torch.allclose(third, 0.6 + inner * (0 + 1 / 25), atol=2e-3)


@pytest.mark.parametrize("channel", [0, 3])
def test_detail_counts_less_the_further_local_means_are_apart(channel: int) -> None:
    depth = torch.full((1, 30, 40), 4.0)
    images = [checkered(0.05 * sign) + 0.5 for sign in (1, -1)]
    images[1][:, channel] += 22 / 255
    frames = [RenderedFrame(image, depth, camera()) for image in images]
    blended = next(iter(blender(color=22, tolerance=1).blend(frames)))
    confidence = math.exp(-1)
    detail = (blended.image - frames[0].image)[0, 1, 8:22, 8:32] / checkered(0.05)[0, 1, 8:22, 8:32]
    assert detail.mean().item() == pytest.approx(-2 * 24 / 25 * confidence / (1 + confidence), rel=0.05)


def test_a_neighbor_that_did_not_see_a_point_does_not_count() -> None:
    depth = torch.full((1, 30, 40), 4.0)
    frames = [RenderedFrame(checkered(value), depth.clone(), camera()) for value in (0.1, 0.2, 0.3)]
    frames[2].depth[:, :, 20:] = 0
    steadied = list(blender(color=NO_LIMIT).blend(frames))[1].image[0, 0, 15]
    inner, kept = checkered(1.0)[0, 0, 15], 0.2 / 25
    left, right = steadied[8:16] / inner[8:16], steadied[24:34] / inner[24:34]
    assert left.mean().item() == pytest.approx(0.2, abs=kept)
    assert right.mean().item() == pytest.approx(0.15, abs=kept)


@pytest.mark.parametrize("history", [1, 1.5, 2, 3, 4, 99])
def test_any_length_of_history(history: float) -> None:
    depth, values = torch.full((1, 30, 40), 4.0), [0.1, 0.4, 0.2, 0.3, 0.0, 0.5, 0.1]
    frames = [RenderedFrame(checkered(value), depth, camera()) for value in values]
    steadied = list(blender(history, NO_LIMIT).blend(frames))
    assert len(steadied) == len(values)
    for index, frame in enumerate(steadied):
        shares = [min(max((history - 1) / 2 - abs(index - other) + 1, 0), 1) if other != index else 1
                  for other in range(len(values))]
        mean = sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)
        expected = mean + (values[index] - mean) / 25
        found = (frame.image / checkered(1.0))[0, 0, 5:25, 5:35]
        assert torch.allclose(found, torch.tensor(expected), atol=2e-3)


def test_empty_frames_stay_as_they_are() -> None:
    frame = RenderedFrame(torch.rand(1, 4, 30, 40), torch.zeros(1, 30, 40), camera())
    frames = [frame, plane_frame(camera()), frame]
    assert all(torch.equal(a.image, b.image) for a, b in zip(blender().blend(frames), frames, strict=True))
    assert list(blender().blend([])) == []


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (9, 3), (30, 40)])
def test_means_over_neighbors_are_pooling(size: tuple[int, int]) -> None:
    image = torch.rand(2, 4, *size)
    assert torch.allclose(_mean_5x5(image), avg_pool2d(image, 5, stride=1, padding=2), atol=1e-6)


def test_a_lone_point_in_the_corner_is_blended_too() -> None:
    depth = torch.zeros(1, 30, 40)
    depth[:, 0, 0] = 4.0
    frames = [RenderedFrame(checkered(value), depth, camera()) for value in (0.1, 0.4)]
    first = next(iter(blender(color=NO_LIMIT).blend(frames))).image
    assert first[0, 0, 0, 0].item() == pytest.approx(0.25, abs=0.05)
    assert torch.equal(first[..., 3:], frames[0].image[..., 3:])


def test_a_batch_is_several_paths_side_by_side() -> None:
    paths = [[plane_frame(camera(x)) for x in path] for path in ((0.0, 0.05, 0.1), (0.3, 0.2, 0.1))]
    batches = [RenderedFrame(torch.cat([f.image for f in singles]), torch.cat([f.depth for f in singles]),
                     Cameras(torch.cat([f.cameras.cam_to_world for f in singles]),
                             torch.cat([f.cameras.intrinsics for f in singles]), SIZE))
               for singles in zip(*paths, strict=True)]
    apart = [list(blender().blend(path)) for path in paths]
    for index, together in enumerate(blender().blend(batches)):
        expected = torch.cat([path[index].image for path in apart])
        assert torch.allclose(together.image, expected, atol=1e-5)


@pytest.mark.parametrize(("steady", "kept"), [(blender(history=5), 5), (blender(history=1), 1),
                                              (LegacyBlender(LEGACY_WEIGHTS, 8000), 5)])
def test_only_a_few_frames_are_kept_in_memory(steady: Blender, kept: int) -> None:
    pictures = []

    def path() -> Iterator[RenderedFrame]:
        for _ in range(12):
            frame = plane_frame(camera())
            pictures.append(weakref.ref(frame.image))
            yield frame
            del frame

    most = 0
    for frame in steady.blend(path()):
        del frame
        most = max(most, sum(picture() is not None for picture in pictures))
    assert most <= kept + 1  # and the one that the path itself holds
    assert [picture() is None for picture in pictures] == [True] * 12


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="the path's frames are"):
        list(blender().blend([plane_frame(camera()), plane_frame(camera(batch=2))]))
    with pytest.raises(ValueError, match=r"history is 0\.5 frames"):
        blender(history=0.5)
