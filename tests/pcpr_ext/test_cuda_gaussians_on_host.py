# SPDX-License-Identifier: Apache-2.0
"""The Gaussians' CUDA kernels without a GPU: their sources built for the host, beside the CPU's kernels."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import pcpr_ext
from npcr.ops import compiled_available, native_gaussians
from npcr.ops.gaussians import FILTER_VARIANCE, MIN_SHARE
from npcr.ops.native_gaussians import TilePairs
from tests.ops import test_view_colors as view_colors
from tests.ops.gaussians_oracle import SCENES, Scene, line_up, random_scene, relative

pytestmark = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
SETTINGS = (FILTER_VARIANCE, MIN_SHARE)


class Results(NamedTuple):
    """Of all functions, for one scene."""

    ellipses: Tensor
    pairs: TilePairs
    picture: tuple[Tensor, ...]  # image, mean depth and what passes
    ends: Tensor
    grads: tuple[Tensor, ...]


def results(scene: Scene, grad_image: Tensor) -> Results:
    """By the library that `pcpr_ext.library` returns."""
    inputs = [tensor.detach().float().contiguous() for tensor in scene.tensors]
    *geometry, values = inputs
    ellipses = native_gaussians.project(*geometry, scene.size, *SETTINGS).clone()
    image, mean_depth, visibility = native_gaussians.composite(ellipses, values, scene.size)
    of_ellipses, of_values = native_gaussians.composite_grad(ellipses, values, visibility, grad_image)
    of_geometry = native_gaussians.project_grad(*geometry, ellipses, of_ellipses, scene.size, *SETTINGS,
                                                with_camera=True)
    without_camera = native_gaussians.project_grad(*geometry, ellipses, of_ellipses, scene.size, *SETTINGS,
                                                   with_camera=False)
    for with_it, without in zip(of_geometry[:4], without_camera[:4], strict=True):
        assert torch.equal(with_it, without)
    grads = (of_ellipses, of_values, *of_geometry)
    return Results(ellipses, visibility.pairs, (image, mean_depth, visibility.passing), visibility.ends, grads)


def compare(scene: Scene, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Assert that both libraries agree, and this one with itself."""
    channels, (width, height) = scene.values.shape[1], scene.size
    grad_image = torch.randn(height, width, channels + 1, generator=torch.Generator().manual_seed(channels))
    expected = results(scene, grad_image)
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    found, again = results(scene, grad_image), results(scene, grad_image)
    assert torch.equal(found.ellipses, expected.ellipses)
    for name in TilePairs._fields:
        assert torch.equal(getattr(found.pairs, name), getattr(expected.pairs, name)), name
    assert torch.equal(found.ends, expected.ends)
    for ours, wanted in zip(found.picture, expected.picture, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=2e-5, atol=1e-6)  # a depth is divided by a small difference
    for ours, wanted in zip(found.grads, expected.grads, strict=True):
        assert relative(ours, wanted) < 3e-5  # other sums: of moments there
    for ours, wanted in zip((*found.picture, *found.grads), (*again.picture, *again.grads), strict=True):
        assert torch.equal(ours, wanted)  # the same sums in the same order
    return found


@pytest.mark.parametrize("seed", SCENES)
def test_random_scenes(seed: int, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    found = compare(random_scene(seed), library, monkeypatch)
    assert len(found.pairs.members) > 0


def test_127_channels(library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(0, count=20)
    values = torch.randn(20, 127, generator=torch.Generator().manual_seed(0))
    compare(scene._replace(values=values), library, monkeypatch)


def test_more_in_a_tile_than_are_fetched_at_once(library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the batches' ends are met, on the way there and on the way back, and a pixel's end in a later one."""
    scene = line_up(300, (17, 16), opacities=torch.full((300,), 0.05))
    found = compare(scene, library, monkeypatch)
    assert found.ends.max() > 128
    assert found.ends.max() < 300  # nothing shines through those before


def test_more_than_one_block_of_gaussians(library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera's sums are those of blocks of 2048."""
    compare(random_scene(3, count=4500)._replace(size=(9, 7)), library, monkeypatch)


@pytest.mark.parametrize("shown", [False, True])
def test_nothing_to_see(shown: bool, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    some = line_up(3, (21, 19))
    scene = some._replace(means=-some.means) if shown else Scene(
        *(x[:0] for x in some[:4]), *some[4:6], some.values[:0], some.size)
    found = compare(scene, library, monkeypatch)
    assert len(found.pairs.members) == 0
    assert found.picture[0].abs().max() == 0


def test_some_that_cover_all_and_some_that_are_no_numbers(library: pcpr_ext.Library,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    scene = line_up(12, (37, 41))
    scene.widths[:3] = torch.tensor([1.9, 1.5, 0.9])
    scene.means[3, 0], scene.strands[4, 1], scene.widths[5], scene.opacities[6] = (float("nan"),) * 4
    scene.means[7, 2], scene.widths[8], scene.opacities[9] = float("inf"), float("inf"), float("-inf")
    found = compare(scene, library, monkeypatch)
    assert found.picture[0][..., -1].min() > 0.2
    assert (found.ellipses[3:10] == 0).all()


def test_too_little_scratch_memory_is_refused(library: pcpr_ext.Library) -> None:
    sizes = {"count": 5, "width": 20, "height": 20}
    pairs = pcpr_ext.TilePairs(**sizes, pairs=8)
    for task, name in ((pcpr_ext.ProjectGaussiansGrad(**sizes), "npcr_project_gaussians_grad"),
                       (pairs, "npcr_count_pairs"), (pairs, "npcr_list_pairs"),
                       (pcpr_ext.CompositeGaussiansGrad(**sizes, pairs=8), "npcr_composite_gaussians_grad")):
        task.scratch_bytes = library.scratch_bytes(task, name) - 1
        with pytest.raises(pcpr_ext.KernelError, match=f"{name}: the scratch memory is too small"):
            library.run(task, name)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colors_by_view_direction(degree: int, library: pcpr_ext.Library, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = view_colors.case(333, degree)
    expected = view_colors.results(inputs, "compiled")
    monkeypatch.setattr(pcpr_ext, "library", lambda kind: library)
    for ours, wanted in zip(view_colors.results(inputs, "compiled"), expected, strict=True):
        assert torch.equal(ours, wanted)
