# SPDX-License-Identifier: Apache-2.0
"""What the torch reference of Gaussians does in its own way, for speed and memory: nothing that shows."""

from __future__ import annotations

import pytest
import torch

from npcr.ops import compiled_available, gaussians_reference, project_gaussians
from npcr.ops.gaussians_reference import _blocks, _Fragments
from tests.ops.gaussians_oracle import KINDS, Scene, gradients, random_scene, relative, render


def cut(ellipses: torch.Tensor, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a block have a sixth of a picture's fragments, and return that number."""
    (whole,) = _blocks(ellipses, size)
    most = len(_Fragments(ellipses[whole.members], whole).share) // 6
    monkeypatch.setattr(gaussians_reference, "FRAGMENTS_AT_ONCE", {"cpu": most})
    return most


@pytest.mark.parametrize("kept", [0, 2])
@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_neither_blocks_nor_what_is_kept_of_them_show(seed: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(seed).to(torch.float32)
    wanted = render(scene, "torch")
    weight = wanted[0].detach().cos()
    wanted_grads = gradients(scene, wanted[0], weight)
    with torch.no_grad():
        most = cut(project_gaussians(*scene[:6], scene.size), scene.size, monkeypatch)
    monkeypatch.setattr(gaussians_reference, "FRAGMENTS_KEPT", kept * most)
    found = render(scene, "torch")
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
    grads = gradients(scene, found[0], weight)
    assert max(relative(grads[name], wanted_grads[name]) for name in grads) < 1e-5


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_a_block_has_few_fragments_and_each_pixel_is_in_at_most_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = random_scene(seed, count=300)
    ellipses = project_gaussians(*scene[:6], scene.size)
    most = cut(ellipses, scene.size, monkeypatch)
    covered = torch.zeros(scene.size[::-1])
    blocks = list(_blocks(ellipses, scene.size))
    for block in blocks:
        fragments = _Fragments(ellipses[block.members], block)
        assert len(fragments.share) <= most or block.width == block.height == 1
        block.of(covered).add_(1)
    assert len(blocks) > 1 or scene.size == (1, 1)
    assert covered.max() == 1
    image, _ = gaussians_reference.composite(ellipses, ellipses[:, :0], scene.size)
    assert image[..., -1].max() > 0.1
    assert (image[covered == 0] == 0).all()


def test_half_types_are_summed_in_single_precision() -> None:
    scene = random_scene(0)
    ellipses = project_gaussians(*scene[:6], scene.size).half()
    found, mean_depth = gaussians_reference.composite(ellipses, scene.values.half(), scene.size)
    wanted = gaussians_reference.composite(ellipses.float(), scene.values.half().float(), scene.size)
    assert (found.dtype, mean_depth.dtype) == (torch.float16, torch.float16)
    torch.testing.assert_close(found, wanted[0].half())
    torch.testing.assert_close(mean_depth, wanted[1].half())


@pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
def test_it_draws_the_same_pixels_as_the_kernels() -> None:
    """But where rounding decides on which side of the smallest share one of millions falls."""
    generator = torch.Generator().manual_seed(0)
    count, size = 30_000, (300, 300)
    means = torch.randn(count, 3, generator=generator)
    scene = Scene(means, 0.03 * torch.randn(count, 3, generator=generator), torch.full((count,), 0.01),
                  torch.full((count,), 0.5), torch.eye(4), torch.tensor([[300.0, 0, 150], [0, 300, 150], [0, 0, 1]]),
                  torch.rand(count, 3, generator=generator), size)
    scene.cam_to_world[2, 3] = -5
    found, wanted = (render(scene, backend)[0] for backend in ("torch", "compiled"))
    assert wanted[..., -1].mean() > 0.1
    difference = (found - wanted).abs()
    assert difference.max() < 1 / 255
    assert (difference > 1e-5).float().mean() < 1e-4
