# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from npcr.renderers.gated_unet import GatedUNet


def test_parameter_count_is_the_published_one() -> None:
    count = sum(parameter.numel() for parameter in GatedUNet(35).parameters())
    assert round(count / 1e6, 1) == 13.0


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("size", [(24, 24), (37, 50), (64, 33)])
def test_shape_is_kept(norm: str, size: tuple[int, int]) -> None:
    network = GatedUNet(8, norm)
    assert network(torch.randn(2, 8, *size)).shape == (2, 4, *size)


def test_layers_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    network = GatedUNet(6)
    x = torch.randn(3, 6, 32, 32)
    with torch.no_grad():
        together, apart = network(x), torch.cat([network(one) for one in x.split(1)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 7, 32, 32), (1, 6, 23, 32), (6, 32, 32)])
def test_wrong_input_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must be \(B, 6, H, W\) with H and W at least 24, is"):
        GatedUNet(6)(torch.zeros(shape))
