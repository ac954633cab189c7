# SPDX-License-Identifier: Apache-2.0
"""The light network: adds nothing before training, and stays alive in it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from npcr.renderers.residual_unet import ResidualUNet


def test_adds_nothing_before_training_and_keeps_its_values_size() -> None:
    torch.manual_seed(0)
    network, x = ResidualUNet(5, 4, 16), torch.randn(1, 5, 32, 24)
    hidden: list[torch.Tensor] = []
    network.out.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0]))
    with torch.no_grad():
        assert (network(x) == 0).all()
    assert 0.1 < hidden[0].square().mean().sqrt() < 10  # torch's own start makes it 0.04


def test_learns_a_blur_with_a_warm_up() -> None:
    """With the recommended rate the network must not die in its first steps."""
    torch.manual_seed(0)
    network = ResidualUNet(3, 3, 8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for step in range(60):
        x = torch.rand(1, 3, 24, 24)
        loss = F.l1_loss(network(x), F.avg_pool2d(x, 3, 1, 1))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 10) / 40)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
