# SPDX-License-Identifier: Apache-2.0
"""The strands form: what it renders, what of it learns, and that its lengths are the world's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from npcr.config import default_config
from npcr.errors import CheckpointError
from npcr.io.points import PointCloud
from npcr.renderers import Photographs, StrandsRenderer
from tests.scenes import orbit_cameras

SIZE = (48, 36)


def make_renderer(frames: Sequence[int] = (300,), **options: int) -> StrandsRenderer:
    torch.manual_seed(1)
    clouds = [torch.rand(count, 3) - 0.5 for count in frames]
    colors = [torch.rand(count, 3) for count in frames]
    renderer = StrandsRenderer(clouds, [0.1] * len(frames), colors, **options)
    generator = torch.Generator().manual_seed(2)
    for strands in renderer.strands:
        torch.nn.init.normal_(strands, generator=generator)
    return renderer


def test_a_new_model_renders_the_composited_points() -> None:
    renderer = make_renderer()
    output = renderer(orbit_cameras(2, SIZE))
    alone = make_renderer(width=0)(orbit_cameras(2, SIZE))
    assert output.color.shape == (2, 3, 36, 48)
    assert output.depth.shape == (2, 36, 48)
    torch.testing.assert_close(output.color, alone.color)  # the network's last layer starts from 0
    torch.testing.assert_close(output.alpha, alone.alpha)
    assert 0.2 < float(output.alpha.max()) <= 1
    depth = output.depth[output.alpha[:, 0] > 0.1]
    assert 3 < float(depth.min()) < float(depth.max()) < 5.5  # the cameras' distance is 4


def test_every_parameter_learns_and_is_in_one_group() -> None:
    renderer = make_renderer()
    torch.nn.init.normal_(renderer.network.out.weight)  # else what comes before it has no gradient yet
    output = renderer(orbit_cameras(1, SIZE))
    (output.color.square().sum() + output.alpha.square().sum()).backward()
    grouped = [id(parameter) for group in renderer.param_groups(default_config().SOLVER)
               for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in renderer.parameters())
    for name, parameter in renderer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_without_a_network_there_are_neither_features_nor_weights() -> None:
    cfg = default_config()
    cfg.MODEL.FORM, cfg.MODEL.NETWORK = "strands", False
    cloud = PointCloud(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32),
                       np.zeros((50, 3), np.uint8))
    renderer = StrandsRenderer.from_config(cfg, [cloud])
    assert not renderer.has_network
    assert {name.partition(".")[0] for name, _ in renderer.named_parameters()} == {
        "colors", "shades", "offsets", "strands", "opacity", "log_width"}


def test_frames_have_points_of_their_own() -> None:
    renderer = make_renderer(frames=(300, 40))
    first, second = (renderer(orbit_cameras(1, SIZE), frame) for frame in (0, 1))
    assert first.alpha.mean() > 1.5 * second.alpha.mean()
    (second.alpha.sum()).backward()
    assert renderer.offsets[1].grad is not None
    assert renderer.offsets[0].grad is None


def test_half_the_resolution_is_the_mean_of_four_pixels() -> None:
    renderer = make_renderer(frames=(60,), width=0)
    cameras = orbit_cameras(1, (96, 72))
    with torch.no_grad():
        large, small = renderer(cameras), renderer(cameras.resized((48, 36)))
    for ours, wanted in ((small.color, large.color), (small.alpha, large.alpha)):
        mean = F.avg_pool2d(wanted, 2)
        assert (ours - mean).square().mean() < 0.01 * mean.square().mean()


def test_a_scene_ten_times_as_large_looks_the_same() -> None:
    small = make_renderer()
    large = make_renderer()
    large.points_0.mul_(10)
    large.spacing = [1.0]
    near, far = orbit_cameras(1, SIZE), orbit_cameras(1, SIZE)
    far.cam_to_world[:, :3, 3] *= 10
    torch.testing.assert_close(small(near).color, large(far).color, rtol=1e-3, atol=1e-4)


def test_strands_and_colors_come_from_the_photographs() -> None:
    renderer = StrandsRenderer([torch.rand(200, 3) - 0.5], [0.1])
    cameras = orbit_cameras(6, (64, 48))
    stripes = 0.5 + 0.5 * torch.sin(torch.arange(48.0))[None, :, None].expand(4, 48, 64).clone()
    stripes[3] = 1
    cloud = PointCloud(renderer.points(0).numpy(), None)
    completed = renderer.initialize_from([cloud], lambda frame: Photographs(cameras, [stripes] * 6))
    assert completed[0].colors is not None
    strands = renderer.strands[0].detach()
    sure = strands[strands.norm(dim=1) > 1]
    assert len(sure) > 20
    assert (sure[:, 2].abs() / sure.norm(dim=1)).median() < 0.2  # the stripes are level, as the cameras are


def test_a_small_cloud_that_tells_no_spacing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    cfg = default_config()
    cfg.MODEL.FORM = "strands"
    renderer = StrandsRenderer.from_config(cfg, [PointCloud(np.eye(3, dtype=np.float32), None)])
    assert renderer.spacing[0] == pytest.approx(1 / 3**0.5)
    assert "3 points does not tell its spacing" in caplog.text


def test_a_checkpoint_of_another_cloud_is_refused() -> None:
    state = make_renderer().state_dict()
    StrandsRenderer.check_state(state, [torch.zeros(300, 3)], "model.pth")
    with pytest.raises(CheckpointError, match=r"model.pth: the weight colors.0 is \(300, 1, 3\) float32; .* 200 rows"):
        StrandsRenderer.check_state(state, [torch.zeros(200, 3)], "model.pth")


@pytest.mark.parametrize("options", [{"spacing": [0.1, 0.1]}, {"spacing": [0.0]}, {"degree": 4},
                                     {"colors": [torch.zeros(3, 3)]}])
def test_arguments_that_contradict_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="StrandsRenderer"):
        StrandsRenderer([torch.zeros(4, 3)], **({"spacing": [0.1]} | options))


def test_points_alone_are_the_picture_without_the_network() -> None:
    renderer = make_renderer()
    torch.nn.init.normal_(renderer.network.out.weight)
    finished, expected = renderer(orbit_cameras(1, SIZE)), make_renderer(width=0)(orbit_cameras(1, SIZE))
    with renderer.points_alone():
        alone = renderer(orbit_cameras(1, SIZE))
    torch.testing.assert_close(alone.color, expected.color)
    torch.testing.assert_close(alone.alpha, expected.alpha)
    assert (alone.color - finished.color).abs().max() > 0.01
    torch.testing.assert_close(renderer(orbit_cameras(1, SIZE)).color, finished.color)
