# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from npcr.ops import Fragments, compiled_available, rasterize, reference, release_scratch
from tests.ops.clouds import random_case

needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]
PEELINGS = ["point", "pixel"]
E = -1  # empty


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def camera() -> tuple[Tensor, Tensor]:
    """At the origin, looking along z; (0, 0, z) falls on pixel (2, 2)."""
    return torch.eye(4)[None], torch.tensor([[[1.0, 0, 2], [0, 1, 2], [0, 0, 1]]])


SMALL = torch.tensor(
    [
        [0, 0, 3],  # 0: radius 0, pixel (2, 2)
        [0, 0, 1],  # 1: radius 1, columns and rows 1..3
        [2, 0, 2],  # 2: u = 3, radius 0.5: columns 3..4 (2.5 and 3.5 away from zero), rows 2..3
        [2, 0, 2],  # 3: the same place, loses the tie
        [-6, -6, 3],  # 4: pixel (0, 0)
        [0, 0, -1],  # 5: behind the camera
        [float("nan"), 0, 1],  # 6: skipped
        [-7.2, 6, 3],  # 7: u = -0.4, still on column 0; row 4
        [-10, 0, 4],  # 8: u = -0.5, rounds to -1: outside
        [0, 0, float("inf")],  # 9: skipped
        [3e38, 0, 1e-30],  # 10: u overflows, skipped
    ],
    dtype=torch.float32,
)
FIRST = [[4, E, E, E, E], [E, 1, 1, 1, E], [E, 1, 1, 1, 2], [E, 1, 1, 1, 2], [7, E, E, E, E]]
NOTHING = [[E] * 5] * 5
EXPECTED = {
    "point": [FIRST, [[E] * 5, [E] * 5, [E, E, 0, 3, 3], [E, E, E, 3, 3], [E] * 5], NOTHING],
    "pixel": [
        FIRST,
        [[E] * 5, [E] * 5, [E, E, 0, 2, 3], [E, E, E, 2, 3], [E] * 5],
        [[E] * 5, [E] * 5, [E, E, E, 3, E], [E, E, E, 3, E], [E] * 5],
    ],
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("peeling", PEELINGS)
def test_five_by_five_by_hand(peeling: str, backend: str) -> None:
    index, depth = rasterize(
        SMALL, *camera(), (5, 5), near=1, far=3, max_size=1, layers=3, peeling=peeling, backend=backend
    )
    expected = torch.tensor(EXPECTED[peeling], dtype=torch.int32)[None]
    assert torch.equal(index, expected)
    assert torch.equal(depth, torch.where(expected >= 0, SMALL[expected.clamp_min(0).long(), 2], 0.0))


@needs_kernel
@pytest.mark.parametrize("peeling", PEELINGS)
@pytest.mark.parametrize("seed", range(30))
def test_kernel_equals_the_reference(seed: int, peeling: str) -> None:
    arguments, settings = random_case(seed)
    reference, kernel = (
        rasterize(*arguments, **settings, peeling=peeling, backend=backend) for backend in ("torch", "compiled")
    )
    assert_equal(reference, kernel)


@needs_kernel
@pytest.mark.parametrize("peeling", PEELINGS)
def test_kernel_does_not_depend_on_the_number_of_threads(peeling: str, threads: None) -> None:
    points = torch.randn(120_000, 3, generator=torch.Generator().manual_seed(0))
    pose, intrinsics = torch.eye(4)[None].clone(), torch.tensor([[[90.0, 0, 60], [0, 90, 50], [0, 0, 1]]])
    pose[:, 2, 3] = -5
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(
            rasterize(
                points, pose, intrinsics, (120, 100), near=3, far=7, max_size=1.5, layers=5, peeling=peeling,
                backend="compiled",
            )
        )  # fmt: skip
    assert (results[0].index[:, -1] >= 0).any()
    for other in results[1:]:
        assert_equal(results[0], other)


@needs_kernel
@pytest.mark.parametrize("peeling", PEELINGS)
def test_more_layers_than_a_byte_counts(peeling: str) -> None:
    points = torch.tensor([[0.0, 0.0, 1.0]]).repeat(400, 1)
    points[:, 2] += torch.arange(400).flip(0) / 1000
    for backend in ("torch", "compiled"):
        index, _ = rasterize(
            points, *camera(), (5, 5), near=1, far=3, max_size=0, layers=300, peeling=peeling, backend=backend
        )
        assert torch.equal(index[0, :, 2, 2], torch.arange(399, 99, -1, dtype=torch.int32))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("peeling", PEELINGS)
@pytest.mark.parametrize("points", [torch.zeros(0, 3), torch.tensor([[0.0, 0.0, -1.0], [1.0, 2.0, 0.0]])])
@pytest.mark.parametrize("size", [(1, 1), (7, 3)])
def test_nothing_to_see(points: Tensor, size: tuple[int, int], peeling: str, backend: str) -> None:
    index, depth = rasterize(
        points, *camera(), size, near=1, far=2, max_size=3, layers=2, peeling=peeling, backend=backend
    )
    assert index.shape == depth.shape == (1, 2, size[1], size[0])
    assert (index == -1).all()
    assert (depth == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("peeling", PEELINGS)
def test_one_splat_over_the_whole_image(peeling: str, backend: str) -> None:
    points = torch.tensor([[0.0, 0, 2], [0, 0, 1.5], [0, 0, 1]])
    index, _ = rasterize(
        points, *camera(), (4, 6), near=3, far=9, max_size=1000, layers=4, peeling=peeling, backend=backend
    )
    for layer, visible in enumerate((2, 1, 0, -1)):
        assert (index[0, layer] == visible).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_cameras_of_a_batch_do_not_mix(backend: str) -> None:
    (points, poses, intrinsics, size), settings = random_case(13)
    poses = poses[:1].repeat(3, 1, 1)
    poses[1, :3, 3] += 0.1
    poses[2, :3, 3] -= 0.2
    intrinsics = intrinsics[:1].repeat(3, 1, 1)
    together = rasterize(points, poses, intrinsics, size, **settings, backend=backend)
    assert not torch.equal(together.index[0], together.index[1])
    for i in range(3):
        alone = rasterize(points, poses[i : i + 1], intrinsics[i : i + 1], size, **settings, backend=backend)
        assert_equal(alone, Fragments(together.index[i : i + 1], together.depth[i : i + 1]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_in_memory_does_not_matter(backend: str) -> None:
    (points, poses, intrinsics, size), settings = random_case(3)
    scattered = points.T.contiguous().T, poses.mT.contiguous().mT, intrinsics.mT.contiguous().mT
    assert_equal(
        rasterize(points, poses, intrinsics, size, **settings, backend=backend),
        rasterize(*scattered, size, **settings, backend=backend),
    )


@needs_kernel
def test_scratch_memory_can_be_given_back() -> None:
    arguments, settings = random_case(3)
    before = rasterize(*arguments, **settings, backend="compiled")
    release_scratch()
    assert_equal(before, rasterize(*arguments, **settings, backend="compiled"))


def test_reference_in_small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, settings = random_case(13)
    settings["max_size"] = 9.0
    whole: dict[str, Any] = {
        peeling: rasterize(*arguments, **settings, peeling=peeling, backend="torch") for peeling in PEELINGS
    }
    monkeypatch.setattr(reference, "FRAGMENTS_AT_A_TIME", 7)
    for peeling in PEELINGS:
        assert_equal(whole[peeling], rasterize(*arguments, **settings, peeling=peeling, backend="torch"))


def test_index_dtype_grows_with_the_cloud() -> None:
    assert reference.index_dtype(2**31 - 1) == torch.int32
    assert reference.index_dtype(2**31) == torch.int64
    # Through the operator, without the memory.
    cloud = torch.empty(2**31, 3, device="meta")
    cameras = torch.empty(1, 4, 4, device="meta"), torch.empty(1, 3, 3, device="meta")
    index, depth = rasterize(cloud, *cameras, (4, 3), near=1, far=2, max_size=1, layers=2)
    assert index.dtype == torch.int64
    assert depth.shape == (1, 2, 3, 4)


@needs_kernel
@pytest.mark.parametrize("peeling", PEELINGS)
def test_kernel_writes_int64_indices(peeling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, settings = random_case(13)
    narrow = rasterize(*arguments, **settings, peeling=peeling, backend="compiled")
    monkeypatch.setattr("npcr.ops.native.index_dtype", lambda points: torch.int64)
    wide = rasterize(*arguments, **settings, peeling=peeling, backend="compiled")
    assert wide.index.dtype == torch.int64
    assert torch.equal(wide.index, narrow.index.long())


def test_nothing_is_differentiated() -> None:
    (points, poses, intrinsics, size), settings = random_case(13)
    result = rasterize(points.requires_grad_(), poses, intrinsics.requires_grad_(), size, **settings)
    assert not result.depth.requires_grad


def assert_equal(first: Fragments, second: Fragments) -> None:
    assert torch.equal(first.index, second.index)
    assert torch.equal(first.depth, second.depth)
