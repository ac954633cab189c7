# SPDX-License-Identifier: Apache-2.0
"""Networks on a region: as the whole image, for any region and size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from npcr.renderers.gated_unet import GatedUNet
from npcr.renderers.patches import Patch, RegionalNetwork
from npcr.renderers.receptive_field import PixelRegion
from npcr.renderers.residual_unet import ResidualUNet

SIZES = {"residual": [(86, 103)], "residual-half": [(86, 103), (187, 190)],  # (height, width)
         "batch": [(71, 75)], "none": [(64, 80)]}


def regions(size: tuple[int, int]) -> list[PixelRegion]:
    """Two of the image's corners, its middle, a pixel."""
    height, width = size
    return [PixelRegion(0, 0, 31, 20, size), PixelRegion(width - 17, height - 33, width, height, size),
            PixelRegion(30, 40, 61, 53, size), PixelRegion(width // 2, 50, width // 2 + 1, 51, size)]


def made(kind: str) -> nn.Module:
    if kind.startswith("residual"):
        return ResidualUNet(5, 4, 8, halvings=int(kind.endswith("-half")))
    return GatedUNet(5, kind, backend="torch")


def randomized(network: nn.Module) -> nn.Module:
    """In eval mode, with weights and statistics that leave no channel out and let no value grow."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if tensor.ndim == 4:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.ndim == 1:
                tensor.uniform_(-0.5, 0.5, generator=generator)
    return network.eval()


@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind, sizes in SIZES.items() for size in sizes])
@torch.no_grad()
def test_a_region_is_as_in_the_whole_image(kind: str, size: tuple[int, int]) -> None:
    network = randomized(made(kind))
    assert isinstance(network, RegionalNetwork)
    image = torch.randn(1, 5, *size, generator=torch.Generator().manual_seed(1))
    whole = network(image)
    assert whole.std() > 1e-3
    for region in regions(size):
        seen = network.input_region(region)
        found = network.forward_region(Patch(seen.within(image), seen), region)
        torch.testing.assert_close(found, region.within(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["residual", "residual-half", pytest.param("none", marks=pytest.mark.slow)])
@torch.no_grad()
def test_pixels_beyond_the_input_region_do_not_count(kind: str) -> None:
    """The input region is wide enough: what lies beyond it may be anything."""
    network = randomized(made(kind))
    assert isinstance(network, RegionalNetwork)
    size = {"residual": (185, 185), "residual-half": (375, 375)}.get(kind, (485, 485))
    region = PixelRegion(size[1] // 2, size[0] // 2, size[1] // 2 + 8, size[0] // 2 + 8, size)
    seen = network.input_region(region)
    assert seen.left > 8
    assert seen.right < size[1] - 8
    image = torch.full((1, 5, *size), 100.0)
    seen.within(image).copy_(torch.randn(5, seen.bottom - seen.top, seen.right - seen.left))
    torch.testing.assert_close(network.forward_region(Patch(seen.within(image), seen), region),
                               region.within(network(image)), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("norm", "training"), [("instance", False), ("batch", True)])
def test_a_norm_that_looks_at_the_whole_image_is_refused(norm: str, training: bool) -> None:
    network = GatedUNet(5, norm, backend="torch").train(training)
    region = PixelRegion.whole((32, 32))
    with pytest.raises(ValueError, match="looks at the whole image"):
        network.forward_region(Patch(torch.zeros(1, 5, 32, 32), region), region)
