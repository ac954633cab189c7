# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import torch

from npcr.renderers.compositing import composite, drop_distant_layers, over_background


def layers(values: list[list[float]]) -> torch.Tensor:
    """One pixel: rows of r, g, b, a, front to back -> (1, K, 4, 1, 1)."""
    return torch.tensor(values)[None, :, :, None, None]


def plain(rgba: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    color, alpha, passing = torch.zeros(3), 0.0, 1.0
    for layer in rgba[0, :, :, 0, 0]:
        a = layer[3].clamp(0, 1)
        color, alpha, passing = color + a * passing * layer[:3], alpha + a * passing, passing * (1 - a)
    return color, alpha


def test_front_to_back_by_hand() -> None:
    torch.manual_seed(0)
    rgba = torch.rand(1, 5, 4, 1, 1) * 1.6 - 0.3
    for legacy in (False, True):
        rgb, alpha = composite(rgba, torch.ones(1, 5, 1, 1), 0, legacy)
        expected_rgb, expected_alpha = plain(rgba)
        torch.testing.assert_close(rgb[0, :, 0, 0], expected_rgb)
        torch.testing.assert_close(alpha[0, 0, 0, 0], expected_alpha)


def test_single_layer_is_passed_on_in_legacy_and_premultiplied_otherwise() -> None:
    one = layers([[0.2, 0.4, 0.6, 1.5]])
    rgb, alpha = composite(one, torch.ones(1, 1, 1, 1), 0.5, legacy=True)
    assert alpha.item() == 1.5
    assert torch.equal(rgb, one[:, 0, :3])
    rgb, alpha = composite(layers([[0.2, 0.4, 0.6, 0.5]]), torch.ones(1, 1, 1, 1), 0.5, legacy=False)
    torch.testing.assert_close(rgb.flatten(), torch.tensor([0.1, 0.2, 0.3]))


def test_gap_rule_drops_all_behind_a_dropped_layer() -> None:
    depth = torch.tensor([1.0, 1.2, 2.0, 2.1, 0.4])[None, :, None, None]
    alpha = torch.ones(1, 5, 1, 1)
    # 2.0 lies 0.8 behind; it becomes 0, then 2.1 lies 2.1 behind that; 0.4 lies 0.4 behind 0.
    assert drop_distant_layers(alpha, depth, 0.5).flatten().tolist() == [1, 1, 0, 0, 1]
    assert drop_distant_layers(alpha, depth, 0).flatten().tolist() == [1] * 5


def test_alpha_outside_its_range_still_learns_the_way_back() -> None:
    rgba = layers([[0.5, 0.5, 0.5, -0.2], [0.5, 0.5, 0.5, 1.3]]).requires_grad_()
    _, alpha = composite(rgba[:, :1], torch.ones(1, 1, 1, 1), 0, legacy=False)
    alpha.sum().backward()  # descending it means less alpha: no gradient below 0
    assert rgba.grad[0, 0, 3].item() == 0
    rgba.grad = None
    _, alpha = composite(rgba[:, :1], torch.ones(1, 1, 1, 1), 0, legacy=False)
    (-alpha).sum().backward()  # descending it means more alpha: back into the range
    assert rgba.grad[0, 0, 3].item() == -1


def test_backgrounds() -> None:
    color, alpha = torch.full((1, 3, 1, 1), 0.3), torch.full((1, 1, 1, 1), 0.5)
    assert over_background(color, alpha, 0.2).mean().item() == torch.tensor(0.3 + 0.1).item()
