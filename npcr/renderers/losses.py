# SPDX-License-Identifier: Apache-2.0
"""Training losses (docs/method.md, "Losses"): perceptual, squared error, L1, gradient magnitude, SSIM, regularizers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from npcr.errors import ConfigError
from npcr.metrics.image import ssim

logger = logging.getLogger("npcr")

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Convolutions of torchvision's VGG-19 up to relu2_2: name in `features`, channels in, channels out.
_VGG_CONVS = ((0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128))


class VggFeatures(nn.Module):
    """Frozen activations relu1_2 and relu2_2 of VGG-19, for the perceptual loss.

    The network is that of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
    (2015), trained on ImageNet; the loss that of Johnson et al., "Perceptual Losses for Real-Time Style Transfer and
    Super-Resolution" (2016).

    Args:
        checkpoint: a .safetensors or .pth file under torchvision's key names (`features.0.weight` …); empty:
            torchvision downloads its own.
        legacy: do not normalize by ImageNet's mean and standard deviation.

    Raises:
        ConfigError: the weights cannot be read or downloaded; the message says what to do.
    """

    def __init__(self, checkpoint: str = "", legacy: bool = False) -> None:
        super().__init__()
        weights = _read_weights(Path(checkpoint)) if checkpoint else _download_weights()
        self.convs = nn.ModuleDict()
        for number, channels_in, channels_out in _VGG_CONVS:
            conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
            for name, parameter in conv.named_parameters():
                parameter.data.copy_(_take(weights, f"features.{number}.{name}", parameter.shape, checkpoint))
            self.convs[str(number)] = conv
        self.legacy = legacy
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_IMAGENET_STD)[:, None, None])
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.requires_grad_(False)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both activations.

        Args:
            rgb: (B, 3, H, W), about 0 to 1.

        Returns:
            (B, 64, H, W) and (B, 128, H/2, W/2).
        """
        x = rgb if self.legacy else (rgb - self.mean) / self.std
        x = x.contiguous(memory_format=torch.channels_last)
        relu1_2 = F.relu(self.convs["2"](F.relu(self.convs["0"](x))))
        x = F.max_pool2d(relu1_2, 2)
        relu2_2 = F.relu(self.convs["7"](F.relu(self.convs["5"](x))))
        return relu1_2, relu2_2

    def distance(self, image: Tensor, target: Tensor) -> Tensor:
        """Compute the mean squared difference of activations, averaged over both.

        Args:
            image: (B, 3, H, W), about 0 to 1.
            target: the same shape; gets no gradient.

        Returns:
            A scalar.
        """
        with torch.no_grad():
            target_features = self(target)
        return torch.stack([F.mse_loss(a, b) for a, b in zip(self(image), target_features, strict=True)]).mean()


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"PERCEPTUAL.CHECKPOINT: {file}: no such file") from None
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise ConfigError(f"PERCEPTUAL.CHECKPOINT: {file}: not a readable .safetensors or .pth file: "
                          f"{str(error).splitlines()[0]}") from None


def _download_weights() -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights

    logger.info("VGG-19 for the perceptual loss: torchvision's weights, downloaded at first use (548 MB)")
    try:
        return VGG19_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
    except Exception as error:  # urllib, socket, ssl, hash mismatch
        raise ConfigError(
            f"VGG-19 could not be downloaded ({error}). Offline, either name a file with its weights, "
            "PERCEPTUAL.CHECKPOINT /path/to/vgg19.pth (fetch it elsewhere from "
            f"{VGG19_Weights.IMAGENET1K_V1.url}), or train without it: LOSS.PERCEPTUAL 0"
        ) from None


def _take(weights: dict[str, Tensor], key: str, shape: torch.Size, checkpoint: str) -> Tensor:
    found = weights.get(key) if isinstance(weights, dict) else None
    if found is None or found.shape != shape:
        problem = "missing" if found is None else f"{tuple(found.shape)}"
        raise ConfigError(f"PERCEPTUAL.CHECKPOINT: {checkpoint}: {key} is {problem}; VGG-19's is {tuple(shape)}")
    return found


def gradient_magnitude(image: Tensor) -> Tensor:
    """Compute the magnitude of an image's gradient by central differences.

    Args:
        image: (B, C, H, W); counts as 0 beyond the border.

    Returns:
        (B, C, H, W), differences per pixel.
    """
    padded = F.pad(image, (1, 1, 1, 1))
    horizontal = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    vertical = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    # The small term keeps the square root's gradient finite where the image is constant.
    return torch.sqrt(horizontal**2 + vertical**2 + 1e-12)


class RenderLoss(nn.Module):
    """The weighted sum of several losses between a rendered image and its target (docs/method.md, "Losses").

    Args:
        perceptual: weight of the distance of VGG features.
        mse: weight of the mean squared error.
        gradient: weight of the mean squared error of gradient magnitudes.
        ssim: weight of 1 - SSIM.
        vgg: for the perceptual term; None only where its weight is 0.
        l1: weight of the mean absolute error.
        matte: factor of alpha's error in the squared and in the absolute error; that of each color channel is 1.
        everywhere: compare colors in the whole region of interest; else only where layer 0 or the matte is there too.
        opacity: weight of the splats' mean opacity.
        size: weight of the splats' mean size.

    Raises:
        ValueError: vgg is missing.
    """

    def __init__(self, *, perceptual: float, mse: float, gradient: float, ssim: float,
                 vgg: VggFeatures | None, l1: float = 0.0, matte: float = 1.0, everywhere: bool = False,
                 opacity: float = 0.0, size: float = 0.0) -> None:
        super().__init__()
        if perceptual and vgg is None:
            raise ValueError("RenderLoss: a perceptual weight needs vgg")
        self.weights = {"perceptual": perceptual, "mse": mse, "l1": l1, "gradient": gradient, "ssim": ssim}
        self.regularizers = {name: weight for name, weight in (("opacity", opacity), ("size", size)) if weight}
        self.vgg = vgg
        self.matte = matte
        self.everywhere = everywhere

    @property
    def names(self) -> list[str]:
        """The names of what `forward` gives, in its order, where it is given the regularizers."""
        terms = ("mse", "l1", "gradient", "perceptual", "ssim")
        always = ("mse", "gradient")
        return ["total", *(name for name in terms if name in always or self.weights[name]), *self.regularizers]

    def forward(self, rgb: Tensor, alpha: Tensor, depth: Tensor, target: Tensor,
                regularizers: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Compute the loss.

        Args:
            rgb: (B, 3, H, W), rendered.
            alpha: (B, 1, H, W), rendered.
            depth: (B, H, W) of layer 0, 0 where empty.
            target: (B, 5, H, W): color, alpha, region of interest.
            regularizers: scalars by the names in `self.regularizers`, of `SplatRenderer.regularizers`; None: left out.

        Returns:
            Scalars: `total`, and by their names the terms, without their weights.
        """
        target_rgb, target_alpha, roi = target.split([3, 1, 1], dim=1)
        mask = roi if self.everywhere else roi * ((depth[:, None] + target_alpha) > 0)
        rgb, target_rgb, alpha = rgb * mask, target_rgb * mask, alpha * roi
        both, target_both = torch.cat([rgb, alpha], 1), torch.cat([target_rgb, target_alpha], 1)
        terms = {"mse": self._if_weighted("mse", lambda: self._mean(F.mse_loss, both, target_both))}
        if self.weights["l1"]:
            terms["l1"] = self._mean(F.l1_loss, both, target_both)
        terms["gradient"] = self._if_weighted("gradient", lambda: F.mse_loss(
            gradient_magnitude(rgb), gradient_magnitude(target_rgb)))
        if self.vgg is not None and self.weights["perceptual"]:
            gray, target_gray = alpha.expand(-1, 3, -1, -1), target_alpha.expand(-1, 3, -1, -1)
            terms["perceptual"] = (self.vgg.distance(rgb, target_rgb)
                                   + self.vgg.distance(gray, target_gray)) / 2
        if self.weights["ssim"]:
            terms["ssim"] = 1 - ssim(both, target_both).mean()
        weights = self.weights
        if regularizers is not None:
            terms |= {name: regularizers[name] for name in self.regularizers}
            weights = weights | self.regularizers
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"total": total, **terms}

    def _mean(self, error: Callable[[Tensor, Tensor], Tensor], both: Tensor, target: Tensor) -> Tensor:
        """Average an error over the four channels, alpha's with its factor."""
        if self.matte == 1:
            return error(both, target)
        return (3 * error(both[:, :3], target[:, :3]) + self.matte * error(both[:, 3:], target[:, 3:])) / 4

    def _if_weighted(self, name: str, term: Callable[[], Tensor]) -> Tensor:
        """Evaluate `term`, without a graph where its weight is 0 and it is only logged."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.weights[name] > 0):
            return term()
