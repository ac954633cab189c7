# SPDX-License-Identifier: Apache-2.0
"""Scores of the held-out views of a trained model: npcr's metrics, FLIP and a perceptual distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from yacs.config import CfgNode

from npcr.evaluation.contact_sheet import sheet_row
from npcr.evaluation.views import ViewPictures, ViewScore, evaluate_views
from npcr.extras import import_extra
from npcr.factory import load_renderer
from npcr.io.images import write_image
from npcr.renderers.losses import VggFeatures
from npcr.training.trainer import held_out_views, open_scene

METRICS = ("psnr", "ssim", "flip", "alpha_mae", "alpha_sad", "perceptual")


def load_flip() -> Callable[..., Any]:
    """Return the evaluator of NVIDIA's FLIP package. Raises `MissingExtraError`."""
    return import_extra("flip_evaluator").evaluate  # type: ignore[no-any-return]


def flip(image: Tensor, target: Tensor) -> float:
    """Compute the mean LDR-FLIP (Andersson et al. 2020), at 67 pixels per degree.

    Args:
        image: (3, H, W) sRGB in [0, 1].
        target: (3, H, W) sRGB in [0, 1].

    Returns:
        0 for equal images, up to 1.
    """
    if image.shape != target.shape or image.ndim != 3 or len(image) != 3:
        raise ValueError(f"flip: shapes must be (3, H, W) and equal, are {tuple(image.shape)} and "
                         f"{tuple(target.shape)}")
    reference, test = (picture.movedim(0, -1).contiguous().float().cpu().numpy() for picture in (target, image))
    return float(load_flip()(reference, test, "LDR", applyMagma=False)[1])


def score_held_out(cfg: CfgNode, explicit: Collection[str], checkpoint: Path, device: torch.device,
                   vgg: VggFeatures | None, label: str, row: Path) -> list[dict[str, Any]]:
    """Score the held-out views; colors are compared over black.

    Args:
        cfg: of the trained model.
        checkpoint: the model.
        device: to render on.
        vgg: for the metric `perceptual`; None: it is None.
        label: of the image written to `row`.
        row: file for an image of the middle one of the views.

    Returns:
        Name and `METRICS` of each view.
    """
    renderer, cfg, _ = load_renderer(cfg, checkpoint, device, explicit=explicit)
    held_out = held_out_views(cfg, open_scene(cfg, cfg.DATASETS.TRAIN), device)
    if held_out is None:
        raise ValueError("score_held_out: the configuration holds out no view")
    views, which = held_out
    shown = which[len(which) // 2]
    scores: list[dict[str, Any]] = []

    def keep(score: ViewScore, pictures: ViewPictures) -> None:
        scores.append({"name": score.name, "psnr": score.psnr, "ssim": score.ssim,
                       "flip": flip(pictures.rendered, pictures.target), "alpha_mae": score.alpha_mae,
                       "alpha_sad": score.alpha_sad, "perceptual": _distance(vgg, pictures)})
        if (score.frame, score.camera) == shown:
            named = dataclasses.replace(score, name=f"{label}   {score.name}")
            write_image(row, sheet_row(named, pictures))

    evaluate_views(renderer, views, which, batch=cfg.TEST.IMS_PER_BATCH, device=device, progress=False, on_view=keep)
    return scores


def mean_of(scores: list[dict[str, Any]]) -> dict[str, float | None]:
    """Return the mean of each metric over the views; None where it was not measured."""
    means: dict[str, float | None] = {}
    for name in METRICS:
        values = [score[name] for score in scores]
        means[name] = None if None in values else sum(values) / len(values)
    return means


@torch.no_grad()
def _distance(vgg: VggFeatures | None, pictures: ViewPictures) -> float | None:
    """The training loss's perceptual distance between the colors, on VGG-19's relu1_2 and relu2_2."""
    if vgg is None:
        return None
    return vgg.distance(pictures.rendered[None], pictures.target[None]).item()
