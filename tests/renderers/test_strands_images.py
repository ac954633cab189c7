# SPDX-License-Identifier: Apache-2.0
"""The strands form at any size of picture, over backgrounds, and with several frames or nothing to see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from npcr.cameras import Cameras
from npcr.ops import compiled_available
from npcr.renderers import StrandsRenderer
from npcr.rendering.frames import render_path
from npcr.training.trainer import Trainer
from tests.scenes import orbit_cameras, write_tiny_scene
from tests.training.test_trainer import STRANDS, config

CPU = torch.device("cpu")
BACKENDS = ["torch", pytest.param("compiled", marks=pytest.mark.skipif(not compiled_available(),
                                                                       reason="no compiled CPU kernel"))]


def make_renderer(count: int, spacing: float, **options: int | str) -> StrandsRenderer:
    generator = torch.Generator().manual_seed(1)
    cloud = torch.rand(count, 3, generator=generator) * 2 - 1
    renderer = StrandsRenderer([cloud], [spacing], [torch.rand(count, 3, generator=generator)], **options)
    torch.nn.init.normal_(renderer.strands[0], std=0.5, generator=generator)
    return renderer


def cropped(camera: Cameras, left: int, top: int, size: tuple[int, int]) -> Cameras:
    """The same camera, of a part of its picture."""
    intrinsics = camera.intrinsics.clone()
    intrinsics[:, 0, 2] -= left
    intrinsics[:, 1, 2] -= top
    return Cameras(camera.cam_to_world, intrinsics, size)


@torch.no_grad()
def assert_a_crop_is_a_part(renderer: StrandsRenderer, camera: Cameras, left: int, top: int,
                            size: tuple[int, int], alike: float = 0.999) -> None:
    """But for pixels in which rounding decides whether a share is above 1/255."""
    whole, part = renderer(camera), renderer(cropped(camera, left, top, size))
    window = (..., slice(top, top + size[1]), slice(left, left + size[0]))
    assert whole.color.isfinite().all()
    assert whole.depth.isfinite().all()
    assert part.alpha.mean() > 0.05
    for found, wanted in ((part.color, whole.color[window]), (part.alpha, whole.alpha[window])):
        apart = (found - wanted).abs()
        assert apart.max() < 1 / 255
        assert (apart < 1e-4).double().mean() >= alike
    covered = part.alpha[:, 0] > 0.01
    torch.testing.assert_close(part.depth[covered], whole.depth[window][covered], rtol=5e-3, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_of_a_large_picture_is_that_part_rendered_alone(backend: str) -> None:
    renderer = make_renderer(20_000, 0.02, width=0, backend=backend)
    assert_a_crop_is_a_part(renderer, orbit_cameras(1, (800, 800)), 311, 423, (150, 97))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_part_of_a_picture_in_4k_is_that_part_rendered_alone(backend: str) -> None:
    renderer = make_renderer(300_000, 0.006, width=0, backend=backend)
    assert_a_crop_is_a_part(renderer, orbit_cameras(1, (3840, 2160)), 1701, 901, (403, 301))


@pytest.mark.slow
def test_a_picture_in_4k_through_the_network() -> None:
    renderer = make_renderer(100_000, 0.01, width=4, feature_dim=1)
    torch.nn.init.normal_(renderer.network.out.weight, std=0.01)
    with torch.no_grad():
        output = renderer(orbit_cameras(1, (3840, 2160)))
    assert output.color.shape == (1, 3, 2160, 3840)
    assert output.color.isfinite().all()
    assert output.alpha.amax() > 0.3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_picture_of_one_pixel(backend: str) -> None:
    renderer = make_renderer(300, 0.2, width=0, backend=backend)
    camera = orbit_cameras(1, (9, 9))
    assert_a_crop_is_a_part(renderer, camera, 4, 4, (1, 1), alike=0)  # most splats' slopes are those at its border
    output = renderer(cropped(camera, 4, 4, (1, 1)))
    (output.color.sum() + output.alpha.sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in renderer.parameters())
    assert renderer.offsets[0].grad.abs().max() > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [0, 4])
def test_a_camera_that_sees_nothing(width: int, backend: str) -> None:
    renderer = make_renderer(300, 0.1, width=width, backend=backend)
    seeing = orbit_cameras(1, (32, 28))
    away = seeing.cam_to_world.clone()
    away[:, :3, :3] = away[:, :3, :3] @ torch.diag(torch.tensor([-1.0, 1.0, -1.0]))  # it turns its back
    blind = Cameras(torch.cat([away, seeing.cam_to_world]), seeing.intrinsics.repeat(2, 1, 1), seeing.size)
    output = renderer(blind)
    for image in (output.color, output.alpha, output.depth):
        assert (image[0] == 0).all()
        assert image[1].abs().max() > 0.1
    output.color[0].square().sum().backward()
    assert all(p.grad is None or (p.grad == 0).all() for name, p in renderer.named_parameters()
               if not name.startswith("network"))


def test_a_path_over_a_background() -> None:
    """The background shows in proportion to what the splats leave of it, and in straight alpha not at all."""
    renderer = make_renderer(300, 0.1, width=0)
    cameras = orbit_cameras(2, (32, 28))
    black, gray = (list(render_path(renderer, cameras, gray=value, blender=None)) for value in (0, 0.6))
    for first, second in zip(black, gray, strict=True):
        assert (first.rgba == second.rgba).all()
        alpha = second.rgba[..., 3:].astype(float) / 255
        expected = first.picture + 0.6 * 255 * (1 - alpha)
        assert abs(expected - second.picture).max() < 1.5
        assert 0 < alpha.mean() < 0.9


@pytest.mark.parametrize("network", [True, False])
def test_photographs_with_a_background_are_learned_whole(network: bool, tmp_path: Path) -> None:
    """Without mattes all is to be opaque, and what the points cover takes the photographs' colors, all of them."""
    scene = write_tiny_scene(tmp_path / "scene", cameras=5, size=(32, 28), points=400, mattes="none")
    options = [*STRANDS, "DATASETS.MASK", "False", "MODEL.NETWORK", str(network), "SOLVER.MAX_EPOCHS", "4",
               "DATASETS.SHIFT", "0", "DATASETS.ROTATION", "0", "SOLVER.BASE_LR", "0.001", "TEST.PERIOD", "0",
               "SOLVER.FEATURE_LR_FACTOR", "100"]
    trainer = Trainer(config(scene, tmp_path / "out", *options), CPU)
    batch = next(trainer._batches())
    trainer.step(batch)
    before = trainer.result
    trainer.run()
    trainer.step(batch)
    after = trainer.result
    assert before is not None
    assert after is not None
    assert after.output.alpha.mean() > 1.02 * before.output.alpha.mean()
    wanted = batch[0].color
    covered = before.output.alpha[0, 0] > 0.3
    assert covered.sum() > 20
    errors = [float((x.output.color[0] - wanted)[:, covered].detach().abs().mean()) for x in (before, after)]
    assert errors[1] < 0.8 * errors[0]


def test_each_of_several_frames_learns_and_renders_its_own(tmp_path: Path) -> None:
    scene = write_tiny_scene(tmp_path / "scene", cameras=3, size=(32, 28), points=200, frames=3)
    trainer = Trainer(config(scene, tmp_path / "out", *STRANDS, "DATASETS.FRAME_NUM", "3"), CPU)
    renderer = trainer.renderer
    start = {name: value.clone() for name, value in renderer.state_dict().items()}
    trainer.run()
    camera = orbit_cameras(1, (32, 28))
    pictures = [next(iter(render_path(renderer, camera, gray=1, blender=None, frame=frame))).picture
                for frame in range(3)]
    for frame in range(3):
        for name in ("colors", "offsets", "opacity", "log_width"):
            assert not torch.equal(start[f"{name}.{frame}"], renderer.state_dict()[f"{name}.{frame}"]), (name, frame)
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[1] != pictures[2]).any()
