# SPDX-License-Identifier: Apache-2.0
"""A contact sheet of evaluated views: a row for each, photograph beside rendering."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from npcr.evaluation.views import ViewPictures, ViewScore
from npcr.io.images import write_image
from npcr.visualization.captions import BACKGROUND, GAP, Pixels, caption

LARGEST_ERROR = 0.25  # of full scale: the color map's upper end
COLUMNS = ("target", "rendered", "target matte", "matte", f"|error|, 0 to {LARGEST_ERROR:g}")
WIDTH = 320  # pixels, of a picture on the sheet at most


def sheet_row(score: ViewScore, pictures: ViewPictures, width: int = WIDTH) -> Pixels:
    """Draw one view: a line with its name and scores above its five pictures.

    Args:
        score: of the view.
        pictures: of the view.
        width: pixels, of each picture at most.

    Returns:
        (h, w, 3) RGB.
    """
    error = (pictures.rendered - pictures.target).abs().mean(0, keepdim=True) / LARGEST_ERROR
    heat = np.asarray(cv2.applyColorMap(_pixels(error), cv2.COLORMAP_INFERNO)[..., ::-1], np.uint8)
    images = [_pixels(pictures.target), _pixels(pictures.rendered), _pixels(pictures.target_alpha),
              _pixels(pictures.alpha), heat]
    gap = ((0, GAP), (0, GAP), (0, 0))
    cells = [np.pad(_shrunk(image, width), gap, constant_values=BACKGROUND) for image in images]
    body = np.concatenate(cells, axis=1)
    label = (f"{score.name}   camera {score.camera}   PSNR {score.psnr:.2f} dB   SSIM {score.ssim:.4f}   "
             f"alpha MAE {score.alpha_mae:.4f}")
    return np.concatenate([caption(body.shape[1], [(0, label)]), body])


def write_contact_sheet(path: str | Path, rows: Sequence[Pixels]) -> None:
    """Write rows below a line of captions as a PNG.

    Args:
        path: the file.
        rows: of `sheet_row`, all of one width.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("write_contact_sheet: no rows")
    width = rows[0].shape[1]
    captions = [(i * width // len(COLUMNS), text) for i, text in enumerate(COLUMNS)]
    write_image(path, np.concatenate([caption(width, captions), *rows]))


def _pixels(image: Tensor) -> Pixels:
    """(1 or 3, H, W) in 0..1 to (H, W, 3) uint8; gray is repeated."""
    array = (image.clamp(0, 1) * 255).round().byte().expand(3, -1, -1)
    return array.permute(1, 2, 0).contiguous().numpy()


def _shrunk(image: Pixels, width: int) -> Pixels:
    if image.shape[1] <= width:
        return image
    size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
