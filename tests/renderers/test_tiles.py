# SPDX-License-Identifier: Apache-2.0
"""Pictures in tiles equal whole ones, for every form that can."""

from __future__ import annotations

import logging
import math

import pytest
import torch

from npcr.cameras import Cameras
from npcr.config import changed, default_config
from npcr.errors import ConfigError
from npcr.factory import prepare_rendering
from npcr.renderers import BlendedRenderer, LayeredRenderer, Renderer, StrandsRenderer
from npcr.renderers.receptive_field import PixelRegion
from npcr.renderers.tiles import render_pictures, tiles
from tests.renderers.test_patches import randomized
from tests.scenes import orbit_cameras

SIZE, SMALL = (90, 75), (58, 45)  # (width, height): no multiples of the networks' halvings
SPLAT = (2.0, 6.0, 1.0)


def cloud(points: int = 3000) -> torch.Tensor:
    """A ball that is larger than the picture, so that splats lie at its border and beyond."""
    return 1.4 * torch.randn(points, 3, generator=torch.Generator().manual_seed(0))


def make(form: str) -> Renderer:
    torch.manual_seed(1)
    points = cloud()
    renderer: Renderer
    if form.startswith("strands"):
        renderer = StrandsRenderer([points], [0.15], feature_dim=3, width=8, halvings=int(form.endswith("half")))
    elif form == "splats":
        renderer = StrandsRenderer([points], [0.15], width=0)
    elif form == "blended":
        renderer = BlendedRenderer([points], feature_dim=3, layers=6, splat=SPLAT, width=8, dots=3, spacing=[0.15])
    else:
        norm, _, option = form.removeprefix("layered ").partition(" ")
        renderer = LayeredRenderer([points], feature_dim=4, layers=2, splat=SPLAT, norm=norm,
                                   legacy=option == "legacy", margin=2 if option == "margin" else -1,
                                   backend="auto" if option == "kernels" else "torch")
    if not isinstance(renderer, LayeredRenderer):
        with torch.no_grad():
            for values in (*renderer.colors, *renderer.strands, *renderer.opacity):
                values.add_(0.7 * torch.randn(values.shape))
    randomized(renderer.network)
    if isinstance(renderer, LayeredRenderer):
        with torch.no_grad():  # else no layer may be seen, and colors hardly differ
            renderer.network.alpha_out.point.bias.fill_(0.3)
            renderer.network.out.spatial.weight.mul_(50)
    return renderer.eval()


def largest_difference(renderer: Renderer, cameras: Cameras) -> float:
    """Between pictures in tiles and whole ones, relative to the largest number: color, alpha, depth, legacy color."""
    renderer.tile = 0
    with torch.no_grad():
        whole = render_pictures(renderer, cameras)
    renderer.tile = 32
    tiled = render_pictures(renderer, cameras)
    assert tiled.layer_rgba.shape[1] == 0  # it was not rendered whole
    assert whole.color.std() > 1e-3
    assert (whole.legacy_color is None) == (tiled.legacy_color is None)
    pairs = [(whole.color, tiled.color), (whole.alpha, tiled.alpha), (whole.depth, tiled.depth),
             (whole.trained_color, tiled.trained_color)]
    return max(float((one - other).abs().max() / one.abs().max()) for one, other in pairs)


@pytest.mark.parametrize("form", ["strands", "strands, half", "splats", "blended"])
def test_tiles_equal_the_whole_picture(form: str) -> None:
    assert largest_difference(make(form), orbit_cameras(2, SIZE)) <= 1e-6


@pytest.mark.parametrize("form", ["layered batch margin", *(pytest.param(form, marks=pytest.mark.slow) for form in (
    "layered none", "layered none legacy"))])
def test_tiles_of_layers_equal_the_whole_picture(form: str) -> None:
    """Convolutions of another size add up in another order, which `make` enlarges 50 times in the output."""
    assert largest_difference(make(form), orbit_cameras(1, SMALL)) <= 1e-5


def test_tiles_of_splats_alone_are_the_same_bits() -> None:
    """The kernels' own tiles lie where they do in the whole picture."""
    assert largest_difference(make("splats"), orbit_cameras(1, SIZE)) == 0


@pytest.mark.slow
def test_tiles_equal_what_the_kernels_of_the_layered_form_render() -> None:
    assert largest_difference(make("layered none kernels"), orbit_cameras(1, SMALL)) < 1e-4  # Winograd's rounding


def test_tiles_show_points_alone() -> None:
    renderer = make("blended")
    with renderer.points_alone():
        assert largest_difference(renderer, orbit_cameras(1, SIZE)) <= 1e-6


def test_tiles_cover_the_image_once() -> None:
    seen = torch.zeros(75, 90)
    for region in tiles((75, 90), 32):
        region.within(seen).add_(1)
    assert (seen == 1).all()
    assert sum(1 for _ in tiles((75, 90), 32)) == math.ceil(75 / 32) * math.ceil(90 / 32)


def test_the_instance_norm_is_refused_with_the_reason() -> None:
    cfg = changed(default_config(), RENDER__TILE=512)
    with pytest.raises(ConfigError, match=r"RENDER.TILE is 512, but MODEL.NORM instance normalizes by mean and "
                                          r"variance of the whole picture"):
        prepare_rendering(make("layered instance"), cfg)


def test_how_many_tiles_is_said(caplog: pytest.LogCaptureFixture) -> None:
    renderer = make("strands")
    cfg = changed(default_config(), RENDER__TILE=512, INPUT__SIZE_TEST=[1100, 600], RENDER__CUDA_GRAPHS=True)
    with caplog.at_level(logging.INFO, logger="npcr"):
        prepare_rendering(renderer, cfg)
    assert renderer.input_region(PixelRegion(1024, 1024, 1536, 1536, (3000, 3000))).right == 1536 + 78
    assert "rendered in 6 tiles, the network of each seeing up to 78 pixels more" in caplog.text
    assert "RENDER.CUDA_GRAPHS: tiles are rendered without" in caplog.text


def test_a_picture_no_larger_than_a_tile_is_rendered_whole() -> None:
    renderer = make("splats")
    renderer.tile = 90
    assert render_pictures(renderer, orbit_cameras(1, SIZE)).layer_rgba.shape[1] == 1
