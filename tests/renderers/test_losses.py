# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models import vgg19

from npcr.config import default_config
from npcr.errors import ConfigError
from npcr.factory import build_loss
from npcr.renderers.losses import RenderLoss, VggFeatures, gradient_magnitude


def random_vgg(path: Path) -> Path:
    """A file with untrained VGG-19 weights under torchvision's names."""
    torch.manual_seed(0)
    torch.save({f"features.{i}.{name}": torch.randn(shape) * 0.05 for i, (a, b) in
                {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128)}.items()
                for name, shape in (("weight", (b, a, 3, 3)), ("bias", (b,)))}, path)
    return path


def test_features_equal_torchvisions(tmp_path: Path) -> None:
    file = random_vgg(tmp_path / "vgg.pth")
    reference = vgg19(weights=None).features[:9].eval()
    reference.load_state_dict({name.removeprefix("features."): value
                               for name, value in torch.load(file, weights_only=True).items()})
    x = torch.rand(1, 3, 20, 24)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for legacy in (False, True):
        y = x if legacy else (x - mean[:, None, None]) / std[:, None, None]
        first, second = VggFeatures(str(file), legacy)(x)
        torch.testing.assert_close(first, reference[:4](y), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(second, reference(y), rtol=1e-4, atol=1e-4)


def test_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("name resolution failed")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(ConfigError, match=r"name resolution failed.*PERCEPTUAL.CHECKPOINT.*LOSS.PERCEPTUAL 0"):
        VggFeatures()


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: None, "no such file"),
    (lambda p: p.write_bytes(b"not a checkpoint"), "not a readable"),
    (lambda p: torch.save({"features.0.weight": torch.zeros(2)}, p), r"features.0.weight is \(2,\)"),
    (lambda p: torch.save({}, p), "features.0.weight is missing"),
])
def test_bad_weight_files(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    make(tmp_path / "vgg.pth")
    with pytest.raises(ConfigError, match=message):
        VggFeatures(str(tmp_path / "vgg.pth"))


def test_gradient_magnitude_of_a_ramp() -> None:
    x, y = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="xy")
    ramp = (3 * x + 4 * y)[None, None]
    torch.testing.assert_close(gradient_magnitude(ramp)[..., 1:-1, 1:-1], torch.full((1, 1, 4, 6), 5.0))
    flat = torch.zeros(1, 1, 4, 4, requires_grad=True)
    gradient_magnitude(flat).sum().backward()
    assert torch.isfinite(flat.grad).all()


def picture(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(1, 3, 32, 32, generator=g).requires_grad_(),
            torch.rand(1, 1, 32, 32, generator=g).requires_grad_(),
            torch.rand(1, 32, 32, generator=g).round(), torch.rand(1, 5, 32, 32, generator=g))


def test_weighted_sum_and_what_each_weight_changes(tmp_path: Path) -> None:
    vgg = VggFeatures(str(random_vgg(tmp_path / "vgg.pth")))
    weights = {"perceptual": 0.5, "mse": 2.0, "gradient": 3.0, "ssim": 0.25}
    terms = RenderLoss(**weights, vgg=vgg)(*picture(0))
    total = sum(weights[name] * terms[name] for name in weights)
    torch.testing.assert_close(terms["total"], total)
    terms["total"].backward()


def test_unweighted_terms_cost_nothing() -> None:
    terms = RenderLoss(perceptual=0, mse=1, gradient=0, ssim=0, vgg=None)(*picture(1))
    assert set(terms) == {"total", "mse", "gradient"}
    assert not terms["gradient"].requires_grad
    assert terms["total"].item() == terms["mse"].item()
    with pytest.raises(ValueError, match="needs vgg"):
        RenderLoss(perceptual=1, mse=1, gradient=0, ssim=0, vgg=None)


def test_colors_count_only_on_the_object_and_nothing_outside_the_region_of_interest() -> None:
    loss = RenderLoss(perceptual=0, mse=1, gradient=1, ssim=0, vgg=None)
    rgb, alpha, depth, target = picture(2)
    with torch.no_grad():
        target[:, 3] = (target[:, 3] > 0.5).float()
        target[:, 4] = (target[:, 4] > 0.3).float()
        target[:, :4] *= target[:, 4:]
        depth = depth * (target[:, 3] > 0)
    loss(rgb, alpha, depth, target)["total"].backward()
    nowhere = (target[:, 3:4] * target[:, 4:5]) == 0
    # The gradient term's central differences reach one pixel out, so look two pixels away from the object.
    far = torch.nn.functional.max_pool2d((~nowhere).float(), 5, 1, 2) == 0
    assert (rgb.grad * nowhere).abs().sum() == (rgb.grad * far).abs().sum() == 0
    assert (alpha.grad * (target[:, 4:] == 0)).abs().sum() == 0
    assert (alpha.grad * nowhere).abs().sum() > 0


def test_color_beside_the_object_counts_only_everywhere() -> None:
    """A premultiplied picture must be black where nothing is; the published loss never looks there."""
    target, depth = torch.zeros(1, 5, 12, 12), torch.zeros(1, 12, 12)
    target[:, 4] = 1  # the whole picture is the photograph's
    gray, alpha = torch.full((1, 3, 12, 12), 0.5), torch.zeros(1, 1, 12, 12)
    for everywhere, wanted in ((False, 0.0), (True, 0.375)):  # three of four channels are half off
        loss = RenderLoss(perceptual=0, mse=0, gradient=0, ssim=0, l1=1, vgg=None, everywhere=everywhere)
        assert float(loss(gray, alpha, depth, target)["total"]) == pytest.approx(wanted)
        assert float(loss(gray, alpha, depth, target)["l1"]) == pytest.approx(wanted)


def test_the_matte_counts_by_its_factor() -> None:
    target, depth = torch.zeros(1, 5, 12, 12), torch.zeros(1, 12, 12)
    target[:, 4] = 1
    color, alpha = torch.full((1, 3, 12, 12), 0.5), torch.full((1, 1, 12, 12), 0.2)
    for matte, l1, mse in ((1, 0.425, 0.1975), (3, 0.525, 0.2175), (0, 0.375, 0.1875)):
        terms = RenderLoss(perceptual=0, mse=1, gradient=0, ssim=0, l1=1, matte=matte, vgg=None,
                           everywhere=True)(color, alpha, depth, target)
        assert float(terms["l1"]) == pytest.approx(l1)
        assert float(terms["mse"]) == pytest.approx(mse)


def test_where_photographs_have_no_mattes_their_factor_is_one() -> None:
    cfg = default_config()
    cfg.LOSS.PERCEPTUAL, cfg.LOSS.MATTE = 0.0, 3.0
    assert build_loss(cfg).matte == 3
    cfg.DATASETS.MASK = False
    assert build_loss(cfg).matte == 1
