# SPDX-License-Identifier: Apache-2.0
"""What the torch reference of Gaussians cuts its work into, for its memory's sake: nothing that shows."""

from __future__ import annotations

import pytest
import torch

from npcr.ops import gaussians_reference, project_gaussians
from npcr.ops.gaussians_reference import _blocks, _Fragments
from tests.ops.gaussians_oracle import KINDS, gradients, random_scene, relative, render


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
