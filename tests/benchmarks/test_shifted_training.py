# SPDX-License-Identifier: Apache-2.0
"""Ways of shifting the study's photographs: what they do to a picture, and that the camera moves with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.quality.runs import Job, run
from benchmarks.quality.shifted_training import WAYS, blurred, cubic, linear, make_sample, moved
from benchmarks.quality.variants import Variant
from npcr.data.samples import SceneDataset
from npcr.data.scene import load_scene
from tests.benchmarks.test_quality_study import make_study
from tests.scenes import write_tiny_scene

SIZE = (24, 16)


def test_whole_pixels_move_and_parts_are_interpolated() -> None:
    picture = torch.rand(2, 9, 11, generator=torch.Generator().manual_seed(0))
    for kernel in (linear, cubic):
        torch.testing.assert_close(moved(picture, 2, -1, kernel)[:, 2:-2, 2:-3], picture[:, 1:-3, 4:-1])
        for offset in (0.0, 0.3, 0.9):
            assert sum(kernel(offset)[1]) == pytest.approx(1)
    torch.testing.assert_close(moved(picture, 0.5, 0, linear)[:, :, :-1], (picture[:, :, :-1] + picture[:, :, 1:]) / 2)


def test_cubic_shifts_blur_less_than_linear_ones() -> None:
    noise = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    spread = {kernel: float(moved(noise, 0.5, 0.5, kernel)[0, 4:-4, 4:-4].std()) for kernel in (linear, cubic)}
    assert spread[linear] < spread[cubic] < float(noise.std())


def test_the_blur_is_that_of_linear_shifts_on_average() -> None:
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1
    squares = ((torch.arange(15) - 7.0) ** 2)[:, None] * torch.ones(15)

    def variance(picture: torch.Tensor) -> float:
        y = (picture[0] * (torch.arange(15) - 7.0)[:, None]).sum()
        return float((picture[0] * squares).sum() - y * y)

    shifts = (np.arange(50) + 0.5) / 50
    mean = np.mean([variance(moved(point, 0, float(shift), linear)) for shift in shifts])
    assert variance(blurred(point)) == pytest.approx(float(mean), rel=1e-3)


def test_the_camera_moves_with_the_photograph(tmp_path: Path) -> None:
    write_tiny_scene(tmp_path / "s")
    scene = load_scene(tmp_path / "s", size_raw=SIZE, frame_num=1, mask=True, center=[])
    dataset = SceneDataset(scene, size=SIZE)
    expected = dataset.augmented_sample(0, 0, np.random.default_rng(5), shift=3, max_zoom=0, rotation=0)
    rng = np.random.default_rng(5)  # the object is in the middle, so that training cuts out the same crop

    class Mirrored:  # training's shift is the object's, which moves the other way
        def random(self, count: int) -> np.ndarray:
            return 1 - rng.random(count)

    sample = make_sample("linear", dataset, 0, 0, Mirrored(), 3)  # type: ignore[arg-type]
    torch.testing.assert_close(sample.cameras.intrinsics, expected.cameras.intrinsics)
    inside = (slice(None), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(sample.target[inside], expected.target[inside], atol=1e-4, rtol=0)
    whole = dataset.sample(0, 0)
    for way in WAYS:
        changed = make_sample(way, dataset, 0, 0, np.random.default_rng(2), 2)
        assert not torch.equal(changed.target, whole.target)
        assert torch.equal(changed.cameras.intrinsics, whole.cameras.intrinsics) == (way == "blur")


@pytest.mark.slow
def test_a_variant_is_trained_its_way(tmp_path: Path) -> None:
    pytest.importorskip("flip_evaluator", reason="flip-evaluator is not installed")
    made = make_study(tmp_path)
    small = {"MODEL.WIDTH": 4, "DATASETS.SHIFT": 1}
    assert run(Job(made, Variant("cubic", small, shifted="cubic"), 0))["settings"]["shifted"] == "cubic"
    unknown = Job(made, Variant("other", small, shifted="sideways"), 0)
    with pytest.raises(Exception, match="sideways: no such way of shifting"):
        run(unknown)
