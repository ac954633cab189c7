# SPDX-License-Identifier: Apache-2.0
"""Samples: parity with the published ones, and images that move exactly as their cameras do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from npcr.cameras import Cameras, project
from npcr.data.image_cache import ImageCache, premultiply, resize
from npcr.data.prefetch import prefetch
from npcr.data.samples import SceneDataset
from npcr.data.scene import Scene, SceneFrame, load_scene
from tests.scenes import SIZE, orbit_poses, photograph, write_tiny_scene


def _tiny(tmp_path: Path, **options: Any) -> Scene:
    write_tiny_scene(tmp_path / "s", **options)
    return load_scene(tmp_path / "s", size_raw=SIZE, frame_num=options.get("frames", 1), mask=True, center=[])


# ---- parity ----

def test_a_legacy_sample_is_the_published_training_sample(parity: Path) -> None:
    scene = load_scene(parity / "scene", size_raw=[160, 128], frame_num=1, mask=True, center=[64, 80])
    dataset = SceneDataset(scene, size=(120, 96), legacy=True)
    with np.load(parity / "expected.npz") as expected:
        for camera in (0, 1):
            sample = dataset.sample(0, camera)
            np.testing.assert_array_equal(sample.target.numpy(), expected[f"step{camera}_target"])
            np.testing.assert_array_equal(sample.cameras.intrinsics[0].numpy(), expected[f"step{camera}_K"])
            np.testing.assert_array_equal(sample.cameras.cam_to_world[0].numpy(), expected[f"step{camera}_T"])


# ---- whole photographs ----

def test_a_sample_at_full_size_is_the_photograph_premultiplied(tmp_path: Path) -> None:
    sample = SceneDataset(_tiny(tmp_path), size=SIZE).sample(0, 2)
    pixels = torch.from_numpy(photograph(2)).permute(2, 0, 1).float() / 255
    assert sample.name == "0/img_0003.png"
    assert (sample.frame, sample.camera) == (0, 2)
    assert sample.target.shape == (5, 16, 24)
    assert sample.target.dtype == torch.float32
    torch.testing.assert_close(sample.target[:3], pixels[:3] * pixels[3], atol=0.5 / 255 + 1e-6, rtol=0)
    assert torch.equal(sample.target[3], pixels[3])
    assert (sample.target[4] == 1).all()


def test_legacy_leaves_colors_and_half_pixels_alone(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    legacy, default = (SceneDataset(scene, size=(12, 8), legacy=legacy) for legacy in (True, False))
    assert legacy.sample(0, 0).target[:3, 0, 0].min() > 0  # alpha is 0 in the corner
    assert default.sample(0, 0).target[:3, 0, 0].max() == 0
    raw = scene.cameras.intrinsics[0]
    assert legacy.sample(0, 0).cameras.intrinsics[0, 0, 2] == raw[0, 2] / 2
    assert default.sample(0, 0).cameras.intrinsics[0, 0, 2] == (raw[0, 2] + 0.5) / 2 - 0.5


def test_own_alpha_and_no_alpha(tmp_path: Path) -> None:
    write_tiny_scene(tmp_path / "s", mattes="rgba")
    load = partial(load_scene, tmp_path / "s", size_raw=SIZE, frame_num=1, center=[])
    own = SceneDataset(load(mask=True), size=SIZE).sample(0, 1).target
    none = SceneDataset(load(mask=False), size=SIZE).sample(0, 1).target
    pixels = torch.from_numpy(photograph(1)).permute(2, 0, 1).float() / 255
    assert torch.equal(own[3], pixels[3])
    assert torch.equal(none[:3], pixels[:3])
    assert (none[3] == 1).all()


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (10, 200, 90)])
def test_all_alpha_modes_come_to_the_same_premultiplied_color(background: tuple[int, int, int]) -> None:
    color, alpha = photograph(3)[..., :3], photograph(3)[..., 3]
    opacity = alpha[..., None] / 255
    expected = color * opacity
    composited = np.rint(expected + (1 - opacity) * np.array(background)).astype(np.uint8)
    for mode, given in (("straight", color), ("composited", composited),
                        ("premultiplied", np.rint(expected).astype(np.uint8))):
        result = premultiply(given, alpha, mode, background)
        assert result.dtype == np.uint8
        assert np.abs(result - expected).max() <= 1.001, mode


def test_color_taken_out_of_a_background_stays_within_alpha() -> None:
    alpha = np.array([[0, 0, 51, 51]], np.uint8)
    color = np.array([[[255] * 3, [0] * 3, [255] * 3, [0] * 3]], np.uint8)
    result = premultiply(color, alpha, "composited", (100, 100, 100))
    assert result[0, :, 0].tolist() == [0, 0, 51, 0]


def test_channels_are_resized_each_for_itself() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200  # color where alpha is 0 must not vanish
    pixels[:, 4:, 3] = 255
    half = resize(pixels, (4, 4))
    assert (half[..., 0] == 200).all()
    assert half[0, 0, 3] == 0
    assert half[0, 3, 3] == 255


# ---- augmentation ----

def _dot_scene(tmp_path: Path, size: tuple[int, int], intrinsics: list[list[float]], point: np.ndarray,
               centers: list[float]) -> Scene:
    """A scene of one camera whose photograph shows a Gaussian dot where `point` is."""
    cameras = Cameras(torch.from_numpy(orbit_poses(5)[2:3]).float(), torch.tensor([intrinsics]), size)
    u, v = project(torch.from_numpy(point)[None].float(), cameras)[0][0, 0].tolist()
    y, x = np.mgrid[:size[1], :size[0]]
    dot = np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * 6.0**2))
    path = tmp_path / "dot.png"
    Image.fromarray(np.rint(np.dstack([dot] * 3) * 255).astype(np.uint8)).save(path)
    return Scene(tmp_path, cameras, [SceneFrame("0", path, [path], [None])], torch.tensor([centers]))


def _centroid(image: torch.Tensor) -> np.ndarray:
    weights = image.double().clamp(min=0.02) - 0.02
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in image.shape), indexing="ij")
    return np.array([float((weights * x).sum()), float((weights * y).sum())]) / float(weights.sum())


@pytest.mark.parametrize("center", [[75.0, 100.0], [70.0, 110.0]], ids=["middle", "off-center"])
@pytest.mark.parametrize(("size", "focal"), [((100, 75), (210, 210)), ((90, 90), (210, 210)),
                                             ((100, 75), (230, 190)), ((260, 200), (200, 260))],
                         ids=["same-shape", "other-shape", "fx-not-fy", "enlarged"])
def test_the_image_moves_with_its_camera(tmp_path: Path, size: tuple[int, int],
                                              focal: tuple[float, float], center: list[float]) -> None:
    point = np.array([[0.1, -0.15, 0.08]])
    intrinsics = [[focal[0], 3, 103.2], [0, focal[1], 71.7], [0, 0, 1.0]]
    scene = _dot_scene(tmp_path, (200, 150), intrinsics, point, center)
    dataset = SceneDataset(scene, size=size, max_zoom=0.5)
    rng = np.random.default_rng(0)
    samples = [dataset.sample(0, 0)]
    samples += [dataset.augmented_sample(0, 0, rng, shift=10, max_zoom=0.5, rotation=60) for _ in range(12)]
    samples += [sample.halved(1) for sample in samples]
    places = []
    for sample in samples:
        expected, _ = project(torch.from_numpy(point)[None].float(), sample.cameras)
        places.append(expected[0, 0].numpy())
        np.testing.assert_allclose(_centroid(sample.target[0]), places[-1], atol=0.05)
    assert np.std(places, axis=0).min() > 1  # they do move


def test_a_halved_sample_has_the_means_of_2x2_pixels(tmp_path: Path) -> None:
    sample = SceneDataset(_tiny(tmp_path), size=(15, 13)).sample(0, 1)
    half, quarter = sample.halved(1), sample.halved(2)
    assert half.cameras.size == (7, 6)
    assert quarter.cameras.size == (3, 3)
    torch.testing.assert_close(half.target[:, 5, 6], sample.target[:, 10:12, 12:14].mean(dim=(1, 2)))
    torch.testing.assert_close(quarter.target[:, 2, 1], sample.target[:, 8:12, 4:8].mean(dim=(1, 2)))
    assert sample.halved(0) is sample


def test_no_augmentation_gives_the_whole_photograph(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    for legacy in (False, True):
        dataset = SceneDataset(scene, size=(15, 12), legacy=legacy)
        whole = dataset.sample(0, 1)
        same = dataset.augmented_sample(0, 1, np.random.default_rng(0), shift=0, max_zoom=0, rotation=0)
        torch.testing.assert_close(same.target, whole.target, atol=1e-5, rtol=0)
        torch.testing.assert_close(same.cameras.intrinsics, whole.cameras.intrinsics)
        assert torch.equal(same.cameras.cam_to_world, whole.cameras.cam_to_world)


def test_no_augmentation_leaves_nothing_out_where_the_object_is_not_in_the_middle(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    scene.centers[:] = torch.tensor([8.0, 2.0])
    dataset = SceneDataset(scene, size=SIZE)
    sample = dataset.augmented_sample(0, 0, np.random.default_rng(0), shift=0, max_zoom=0, rotation=0)
    assert torch.equal(sample.target, dataset.sample(0, 0).target)


def test_legacy_and_default_crops_differ_by_the_half_pixels_only(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    samples = [SceneDataset(scene, size=(15, 12), legacy=legacy).augmented_sample(
        0, 1, np.random.default_rng(3), shift=3, max_zoom=0.5, rotation=0) for legacy in (False, True)]
    default, legacy = (sample.cameras.intrinsics[0] for sample in samples)
    assert torch.equal(samples[0].target[3:], samples[1].target[3:])
    scale = default[0, 0] / scene.cameras.intrinsics[1, 0, 0]
    torch.testing.assert_close(default[0, 2], legacy[0, 2] + 0.5 * scale - 0.5)


def test_the_draws_stay_within_their_bounds(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    dataset = SceneDataset(scene, size=SIZE, max_zoom=1.0)
    rng = np.random.default_rng(0)
    samples = [dataset.augmented_sample(0, 0, rng, shift=4, max_zoom=1.0, rotation=30).cameras for _ in range(200)]
    zooms = np.array([float(one.intrinsics[0, 0, 0]) for one in samples]) / SIZE[0]
    assert 1 <= zooms.min() < 1.05
    assert 1.95 < zooms.max() <= 2
    x = np.array([float(one.intrinsics[0, 0, 2]) for one in samples])  # principal point: the middle, shifted
    assert np.abs(x - (SIZE[0] / 2 - 0.5)).max() <= 4 + 1e-4
    rolls = [np.linalg.inv(orbit_poses(4)[0, :3, :3]) @ one.cam_to_world[0, :3, :3].double().numpy()
             for one in samples]
    angles = np.degrees([np.arctan2(roll[1, 0], roll[0, 0]) for roll in rolls])
    assert 13 < np.abs(angles).max() <= 15 + 1e-3
    assert (angles > 0).any()
    assert (angles < 0).any()


def test_the_region_of_interest_is_where_the_photograph_reaches(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    scene.centers[:] = torch.tensor([8.0, 2.0])  # crops reach 10 pixels beyond the left border
    dataset = SceneDataset(scene, size=SIZE, legacy=True)
    sample = dataset.augmented_sample(0, 0, np.random.default_rng(0), shift=0, max_zoom=0, rotation=0)
    assert (sample.target[:, :, :10] == 0).all()
    assert (sample.target[4, :, 10:] == 1).all()
    whole = dataset.sample(0, 0)
    torch.testing.assert_close(sample.target[:4, :, 10:], whole.target[:4, :, :14], atol=1e-5, rtol=0)


def test_samples_depend_on_their_generator_alone(tmp_path: Path) -> None:
    dataset = SceneDataset(_tiny(tmp_path), size=(12, 8), max_zoom=0.5)
    augmented = partial(dataset.augmented_sample, 0, 0, shift=2, max_zoom=0.5, rotation=9)
    first, again, other = (augmented(rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.cameras.intrinsics, again.cameras.intrinsics)
    assert not torch.equal(first.target, other.target)


@pytest.mark.gpu
def test_samples_on_a_gpu(tmp_path: Path) -> None:
    scene = _tiny(tmp_path)
    cpu, gpu = (SceneDataset(scene, size=(15, 12), max_zoom=0.5, device=device).augmented_sample(
        0, 1, np.random.default_rng(3), shift=3, max_zoom=0.5, rotation=20) for device in ("cpu", "cuda"))
    assert gpu.target.is_cuda
    assert gpu.cameras.intrinsics.is_cuda
    torch.testing.assert_close(gpu.target.cpu(), cpu.target, atol=1e-4, rtol=0)


# ---- cache ----

class _CountingCache(ImageCache):
    decoded = 0

    def _decode(self, frame: int, camera: int) -> np.ndarray:
        self.decoded += 1
        return super()._decode(frame, camera)


def _cache(scene: Scene, cache_bytes: int) -> _CountingCache:
    return _CountingCache(scene, "straight", (0, 0, 0), False, cache_bytes)


def test_the_cache_keeps_the_newest_within_its_bound(tmp_path: Path) -> None:
    one = SIZE[0] * SIZE[1] * 4
    cache = _cache(_tiny(tmp_path), 2 * one)
    for camera in (0, 1, 0, 1):
        cache.get(0, camera, SIZE)
    assert (cache.decoded, cache.bytes_kept) == (2, 2 * one)
    cache.get(0, 0, SIZE)
    cache.get(0, 2, SIZE)  # 1 has waited longest and goes
    cache.get(0, 0, SIZE)
    assert (cache.decoded, cache.bytes_kept) == (3, 2 * one)
    cache.get(0, 1, SIZE)
    assert (cache.decoded, cache.bytes_kept) == (4, 2 * one)


def test_an_image_beyond_the_bound_is_not_kept(tmp_path: Path) -> None:
    cache = _cache(_tiny(tmp_path), SIZE[0] * SIZE[1] * 4 - 1)
    for _ in range(2):
        assert cache.get(0, 0, SIZE).shape == (16, 24, 4)
    assert (cache.decoded, cache.bytes_kept) == (2, 0)


def test_photographs_are_kept_no_larger_than_needed(tmp_path: Path) -> None:
    dataset = SceneDataset(_tiny(tmp_path), size=(8, 8), max_zoom=0.5, cache_bytes=10**6)
    dataset.augmented_sample(0, 0, np.random.default_rng(0), shift=0, max_zoom=0.5, rotation=0)
    assert dataset._photographs.bytes_kept == 12 * 12 * 4
    full = SceneDataset(dataset.scene, size=(20, 8), max_zoom=0.5, cache_bytes=10**6)
    full.augmented_sample(0, 0, np.random.default_rng(0), shift=0, max_zoom=0.5, rotation=0)
    assert full._photographs.bytes_kept == 24 * 12 * 4


# ---- prefetching ----

@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetching_gives_the_same_samples_in_order(tmp_path: Path, workers: int) -> None:
    scene = _tiny(tmp_path, cameras=6)
    dataset = SceneDataset(scene, size=(12, 8), max_zoom=0.5, cache_bytes=2000, workers=workers)
    reference = SceneDataset(scene, size=(12, 8), max_zoom=0.5)

    def jobs(source: SceneDataset) -> Iterator[Callable[[], Any]]:
        for camera in [0, 3, 1, 5, 2, 4] * 3:
            yield partial(source.augmented_sample, 0, camera, np.random.default_rng(camera), shift=2, max_zoom=0.5,
                          rotation=10)

    count = 0
    for job, sample in zip(jobs(reference), dataset.prefetch(jobs(dataset)), strict=True):
        expected = job()
        assert sample.camera == expected.camera
        assert torch.equal(sample.target, expected.target)
        count += 1
    assert count == 18


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_comes_in_its_place(workers: int) -> None:
    def job(number: int) -> int:
        if number == 3:
            raise ValueError("third")
        return number

    results = prefetch((partial(job, number) for number in range(100)), workers)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="third"):
        next(results)


def test_prefetching_is_bounded_and_stops_when_closed() -> None:
    taken: list[int] = []

    def jobs() -> Iterator[Callable[[], int]]:
        for number in range(1000):
            taken.append(number)
            yield lambda number=number: number

    before = threading.active_count()
    results = prefetch(jobs(), 2)
    assert next(results) == 0
    assert len(taken) <= 6
    results.close()
    assert threading.active_count() == before
    assert len(taken) <= 6
