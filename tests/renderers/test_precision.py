# SPDX-License-Identifier: Apache-2.0
"""What half types cost the picture of the gated U-Net: the largest errors that docs/performance.md states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from npcr.config import explicit_keys, load_config
from npcr.factory import load_renderer
from npcr.io.camera_files import read_cameras
from npcr.numerics import PRECISIONS, autocast, autocast_dtype
from npcr.renderers.gated_unet import HALF_BLOCKS, GatedUNet
from npcr.renderers.norms import ImageNorm
from tests.devices import DEVICES

SIDE = 64


@pytest.fixture(autouse=True)
def convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions of half types on a CPU as a GPU computes them, added up in float32: torch's own take minutes."""
    real = F.conv2d

    def rounded(x: Tensor, weight: Tensor, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        half = autocast_dtype(x.device)
        if half is None or x.device.type != "cpu":
            return real(x, weight, bias, *args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            operands = [None if part is None else part.to(half).float() for part in (x, weight, bias)]
            return real(*operands, *args, **kwargs).to(half)

    monkeypatch.setattr(F, "conv2d", rounded)


def random_layer(seed: int) -> tuple[GatedUNet, Tensor]:
    """A random network, and the feature image of a random cloud: a disc of points before an empty background."""
    torch.manual_seed(seed)
    net = GatedUNet(35, backend="torch").eval()
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIDE), torch.linspace(-1, 1, SIDE), indexing="ij")
    inside = x**2 + y**2 < 0.7
    image = torch.where(inside, torch.randn(1, 35, SIDE, SIDE), torch.randn(1, 35, 1, 1))
    image[:, 32:] = inside * F.normalize(torch.stack([x, y, torch.full_like(x, 4.0)]), dim=0)
    return net, image


def largest_error(net: GatedUNet, image: Tensor, precision: str, device: torch.device) -> float:
    net, image = net.to(device), image.to(device)
    with torch.no_grad():
        wanted = net(image)
        with autocast(precision, device):
            return (net(image).float() - wanted).abs().max().item()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("precision", "allowed"), [("float16", 0.01), ("bfloat16", 0.06)])
def test_a_random_network(precision: str, allowed: float, seed: int, device: str) -> None:
    """bfloat16 has 8 bits of mantissa: norms enlarge what even one block rounds to more than 0.01."""
    assert 0 < largest_error(*random_layer(seed), precision, torch.device(device)) < allowed


@pytest.mark.parametrize("device", DEVICES)
def test_the_published_model(parity: Path, device: str) -> None:
    given = parity / "config.yml"
    renderer, _, _ = load_renderer(load_config(given), parity / "nr_model_0.pth", torch.device(device),
                                   explicit=explicit_keys(given))
    cameras = read_cameras(parity / "scene" / "CamPose.inf", parity / "scene" / "Intrinsic.inf", (160, 128))
    camera = cameras.resized((120, 96), legacy=True)[0].to(device)
    with torch.no_grad():
        renderer.network.backend = "torch"
        wanted = renderer(camera)
        for renderer.runner.precision in ("float16", "bfloat16"):
            found = renderer(camera)
            assert 0 < (found.color - wanted.color).abs().max() < 0.01
            assert 0 < (found.alpha - wanted.alpha).abs().max() < 0.01


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_blocks_that_show_their_rounding_stay_in_float32(precision: str) -> None:
    net, image = random_layer(0)
    seen: dict[str, torch.dtype | None] = {}
    for name, block in net.named_children():
        block.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: autocast_dtype(image.device)}))
    with torch.no_grad(), autocast(precision, image.device):
        assert net(image).dtype == torch.float32
    half = PRECISIONS[precision]
    assert half is not None
    assert {name for name, dtype in seen.items() if dtype == half} == HALF_BLOCKS[half]
    assert seen.keys() == dict(net.named_children()).keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_of_a_half_type_is_computed_in_float32(dtype: torch.dtype) -> None:
    """Values beyond the square root of float16's largest, and a mean a thousand times the deviation."""
    norm = ImageNorm(2)
    x = (1000 + 4 * torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))).to(dtype)
    with torch.no_grad():
        assert torch.equal(norm(x), norm(x.float()))
        assert norm(x).abs().max() < 10
