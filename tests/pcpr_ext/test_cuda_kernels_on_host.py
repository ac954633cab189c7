# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels' logic without a GPU: their sources built for the host, beside the reference."""

from __future__ import annotations

import ctypes

import pytest
import torch

import pcpr_ext
from npcr.ops import native, reference
from npcr.ops.compositing import composite_reference
from tests.ops.clouds import random_case


@pytest.mark.parametrize("peeling", ["point", "pixel"])
@pytest.mark.parametrize("seed", [1, 2, 3, 6, 7, 8, 12, 13, 17, 27])
def test_rasterize(seed: int, peeling: str, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    (points, poses, intrinsics, size), settings = random_case(seed)
    arguments = (points, poses, intrinsics, *size, *settings.values(), peeling)
    expected = reference.rasterize(*arguments)
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    for found, wanted in zip(native.rasterize(*arguments), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("peeling", ["point", "pixel"])
def test_large_splats_are_filled_by_a_whole_warp(
    peeling: str, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    (points, poses, intrinsics, size), settings = random_case(13)
    settings["max_size"] = 9.0
    arguments = (points, poses, intrinsics, *size, *settings.values(), peeling)
    expected = reference.rasterize(*arguments)
    assert len(torch.unique(expected[0])) > 20
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    for found, wanted in zip(native.rasterize(*arguments), expected, strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(("size", "max_size", "layers"), [((19, 21), 1.4, 3), ((5, 40), 3.0, 2)])
def test_points_behind_all_of_a_dense_cloud_read_no_pixel(
    size: tuple[int, int], max_size: float, layers: int, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = 2 * torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0)) - 1
    points[::3] = (points[::3] * 8).round() / 8  # equal depths
    pose = torch.eye(4).repeat(2, 1, 1)
    pose[:, 2, 3] = torch.tensor([-4.0, -3.0])
    focal = 1.7 * max(size)
    intrinsics = torch.tensor([[focal, 0, size[0] / 2], [0, focal, size[1] / 2], [0, 0, 1]]).repeat(2, 1, 1)
    arguments = (points, pose, intrinsics, *size, 3.0, 5.0, max_size, layers, "point")
    expected = reference.rasterize(*arguments)
    splats = [reference.project(points, *camera, *size, 3.0, 5.0, max_size)
              for camera in zip(pose, intrinsics, strict=True)]
    covered = sum(int(((each.x1 - each.x0 + 1) * (each.y1 - each.y0 + 1)).sum()) for each in splats)
    reads = ctypes.c_uint64.in_dll(ctypes.CDLL(str(library.path)), "on_host_reads")
    reads.value = 0
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    for found, wanted in zip(native.rasterize(*arguments), expected, strict=True):
        assert torch.equal(found, wanted)
    assert 0 < reads.value < layers * covered / 3


def test_a_dense_cloud_is_seen_through_the_last_pixel_of_a_tile(library: pcpr_ext.Library,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    points = 2 * torch.rand(60_000, 3, generator=torch.Generator().manual_seed(1)) - 1
    intrinsics, pose = torch.tensor([[40.0, 0, 10], [0, 40.0, 10], [0, 0, 1]]), torch.eye(4)
    pose[2, 3] = -4.0
    column, row = (40 * points[:, :2] / (points[:, 2:] + 4) + 10).round().unbind(1)
    last = ((column % 8 == 7) | (column == 20)) & ((row % 8 == 7) | (row == 18))
    points = points[~last | (points[:, 2] > 0.8)]
    arguments = (points, pose[None], intrinsics[None], 21, 19, 3.0, 5.0, 0.0, 2, "point")
    expected = reference.rasterize(*arguments)
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    for found, wanted in zip(native.rasterize(*arguments), expected, strict=True):
        assert torch.equal(found, wanted)
    assert (expected[1][0, 0, 7::8, 7::8] > 4.8).all()
    assert (expected[1][0, 0] > 4.8).sum() <= 9


@pytest.mark.parametrize("peeling", ["point", "pixel"])
def test_rasterize_with_int64_indices(peeling: str, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    (points, poses, intrinsics, size), settings = random_case(12)
    arguments = (points, poses, intrinsics, *size, *settings.values(), peeling)
    expected, _ = reference.rasterize(*arguments)
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    monkeypatch.setattr(native, "index_dtype", lambda points: torch.int64)
    assert torch.equal(native.rasterize(*arguments)[0], expected.long())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("points", "channels"), [(0, 3), (1, 1), (60, 35), (400, 64)])
def test_gather_and_scatter(points: int, channels: int, dtype: torch.dtype, library: pcpr_ext.Library) -> None:
    generator = torch.Generator().manual_seed(points)
    features = torch.randn(points, channels, generator=generator)
    default = torch.randn(channels, generator=generator)
    index = torch.randint(-1, max(points, 1), (2, 3, 37, 29), generator=generator).to(dtype)
    index[0] = -1  # enough empty ones for more than one partial sum
    index.clamp_max_(points - 1)
    images = torch.empty(*index.shape, channels)
    sizes = {
        "point_count": points,
        "channels": channels,
        "fragments": index.numel(),
        "index_bytes": index.element_size(),
    }
    library.run(
        pcpr_ext.Gather(
            features=features.data_ptr(),
            default_feature=default.data_ptr(),
            index=index.data_ptr(),
            output=images.data_ptr(),
            **sizes,
        )
    )
    assert torch.equal(images, reference.gather(features, default, index))

    grad = torch.randn(images.shape, generator=generator)
    rows, order = torch.sort(index.reshape(-1), stable=True)
    grad_features, grad_default = torch.zeros_like(features), torch.empty(channels)
    task = pcpr_ext.Scatter(
        grad_output=grad.data_ptr(),
        index=rows.data_ptr(),
        order=order.data_ptr(),
        grad_features=grad_features.data_ptr(),
        grad_default=grad_default.data_ptr(),
        **sizes,
    )
    task.scratch_bytes = library.scratch_bytes(task)
    scratch = torch.empty(task.scratch_bytes, dtype=torch.uint8)
    task.scratch = scratch.data_ptr()
    library.run(task)
    expected, expected_default = reference.scatter(grad, index, points)
    assert torch.equal(grad_features, expected)  # the same sums in the same order
    torch.testing.assert_close(grad_default, expected_default, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize(("points", "dots", "channels", "layers"), [(1, 1, 1, 1), (40, 3, 11, 5), (7, 2, 30, 9)])
def test_composite(points: int, dots: int, channels: int, layers: int, dtype: torch.dtype, library: pcpr_ext.Library,
                   monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(points)
    places = 24 * torch.rand(points * dots, 2, generator=generator)
    table = torch.rand(points, 3 + channels, generator=generator)
    table[:, 1:3] /= 300  # dots that reach the pixels, with no more order than that
    table[::5, 0] = 1.0  # clamped where a dot lies close to the pixel's center
    index = torch.randint(-1, points * dots, (layers, 24, 29), generator=generator).to(dtype)
    depth, background = torch.rand(index.shape, generator=generator), torch.rand(channels, generator=generator)
    leaves = [leaf.clone().requires_grad_() for leaf in (places, table, background)]
    image, mean_depth = composite_reference(leaves[0], leaves[1], index, depth, leaves[2])
    grad = torch.randn(image.shape, generator=generator)
    expected = torch.autograd.grad(image, leaves, grad)

    on_cpu = native.composite_grad(places, table, index, background, grad)
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    found, found_depth = native.composite(places, table, index, depth, background)
    torch.testing.assert_close(found, image.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_depth, mean_depth, rtol=1e-5, atol=1e-5)
    order = torch.sort(torch.div(index.reshape(-1), dots, rounding_mode="floor"), stable=True).indices
    grads = torch.zeros_like(places), torch.zeros_like(table), torch.empty(channels)
    task = pcpr_ext.CompositeGrad(**native._composite_inputs(places, table, index, background),
                                  grad_image=grad.data_ptr(), order=order.data_ptr(), grad_dots=grads[0].data_ptr(),
                                  grad_points=grads[1].data_ptr(), grad_background=grads[2].data_ptr())
    scratch = torch.empty(library.scratch_bytes(task), dtype=torch.uint8)
    task.scratch, task.scratch_bytes = scratch.data_ptr(), scratch.numel()
    library.run(task)
    for ours, cpu, wanted in zip(grads, on_cpu, expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(ours, cpu, rtol=1e-5, atol=1e-5)  # the same sums in the same order
