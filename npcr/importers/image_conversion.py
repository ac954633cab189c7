# SPDX-License-Identifier: Apache-2.0
"""Photographs of a capture become a scene's: undistorted, brought to one size, with mattes."""

from __future__ import annotations

import logging
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from npcr.errors import SceneError
from npcr.importers.base import Capture, View, named_after
from npcr.importers.lenses import Lens, Rectified, rectify, undistortion_maps
from npcr.importers.matting import Matting, keyed_matte, solved_matte
from npcr.io.images import inspect_image, read_image, read_matte, write_image

logger = logging.getLogger("npcr")

_COPIED = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg"}
_SAME_SHAPE = 0.02  # relative difference of aspect ratios


@dataclass(frozen=True)
class Recipe:
    """How one photograph becomes a picture of the scene."""

    view: View
    rectified: Rectified
    size: tuple[int, int]  # (width, height) of the result
    matte: str  # "alpha": the photograph's own; "mask": its mask file; "key", "trimap": made here; "none"

    @property
    def intrinsics(self) -> np.ndarray:
        """(3, 3) K of the result, by the pixel-center rule."""
        result = self.rectified.matrix
        for axis in range(2):
            scale = self.size[axis] / self.rectified.size[axis]
            result[axis] *= scale
            result[axis, 2] += 0.5 * scale - 0.5
        return result

    @property
    def unchanged(self) -> bool:
        return not self.rectified.changes_pixels and self.size == self.rectified.size


@dataclass(frozen=True)
class Written:
    """What `write_picture` wrote."""

    image: Path
    matte: Path | None  # the image's own path where its alpha channel is the matte
    small: np.ndarray | None  # the matte (H, W) uint8, at most 320 pixels wide


def plan(capture: Capture, downscale: float, mask: bool | None, matting: Matting | None = None) -> list[Recipe]:
    """What to do with each photograph, in the order of `capture.views`.

    All end at the size that most have, divided by `downscale`; others are resized and, where their shape is
    another, cut to it about the middle. Raises `SceneError` where mattes are wanted and missing.
    """
    inspected = [inspect_image(view.image) for view in capture.views]
    common = _common_size([size for size, _ in inspected], capture)
    size = (max(1, round(common[0] / downscale)), max(1, round(common[1] / downscale)))
    kinds = _matte_kinds(capture, [alpha for _, alpha in inspected], mask, matting)
    recipes = []
    for view, (own_size, _), kind in zip(capture.views, inspected, kinds, strict=True):
        try:
            rectified = rectify(_fitted_lens(view, own_size, capture.file), _cut(own_size, common))
        except SceneError as error:
            raise SceneError(f"{capture.file}, {view.label}: {error}") from None
        recipes.append(Recipe(view, rectified, size, kind))
    return recipes


def write_picture(recipe: Recipe, stem: Path, matting: Matting | None = None) -> Written:
    """Write photograph and matte as STEM.suffix and STEM_alpha.png."""
    source = recipe.view.image
    suffix = _COPIED.get(source.suffix.lower(), ".png")
    pixels = _with_matte(recipe, matting)
    result = pixels if recipe.unchanged else _transformed(pixels, recipe)
    if recipe.matte == "trimap":
        assert recipe.view.mask is not None
        result = solved_matte(result[..., :3], result[..., 3], recipe.view.mask)
    if recipe.matte == "alpha" and not (recipe.unchanged and source.suffix.lower() in _COPIED):
        suffix = ".png"
    image = stem.with_name(stem.name + suffix)
    if recipe.unchanged and source.suffix.lower() in _COPIED and _keeps_pixels(recipe):
        shutil.copyfile(source, image)  # so that a JPEG is not compressed twice
    else:
        write_image(image, result if recipe.matte == "alpha" else result[..., :3])
    if recipe.matte == "none":
        return Written(image, None, None)
    matte = image
    if recipe.matte != "alpha":
        matte = stem.with_name(stem.name + "_alpha.png")
        write_image(matte, result[..., 3])
    width, height = recipe.size
    scale = min(1.0, 320 / width)
    small = cv2.resize(np.ascontiguousarray(result[..., 3]), (round(width * scale), max(1, round(height * scale))),
                       interpolation=cv2.INTER_AREA)
    return Written(image, matte, small)


def _keeps_pixels(recipe: Recipe) -> bool:
    """Whether the scene's picture has the very pixels of an unchanged photograph: not new colors, nor less alpha."""
    if recipe.matte == "trimap":
        return False
    return recipe.matte == "alpha" or not inspect_image(recipe.view.image)[1]


def _common_size(sizes: Sequence[tuple[int, int]], capture: Capture) -> tuple[int, int]:
    counts = Counter(sizes)
    common = max(counts, key=lambda size: (counts[size], size))
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {size[0]}x{size[1]}" for size, count in sorted(counts.items()))
        cut = sum(count for size, count in counts.items() if _cut(size, common) != size)
        logger.warning("%s: its photographs differ in size (%s); all are brought to %dx%d%s", capture.file, listed,
                       *common, f", of which {cut} are cut to its shape about their middle" if cut else "")
    return common


def _cut(size: tuple[int, int], common: tuple[int, int]) -> tuple[int, int]:
    """The largest part of a picture of `size` that has the shape of `common`."""
    ratio = (size[0] * common[1]) / (size[1] * common[0])
    if abs(ratio - 1) <= _SAME_SHAPE:
        return size
    return (max(1, round(size[0] / ratio)), size[1]) if ratio > 1 else (size[0], max(1, round(size[1] * ratio)))


def _fitted_lens(view: View, size: tuple[int, int], file: Path) -> Lens:
    """The view's lens in numbers for a photograph of `size`."""
    if view.lens is None:
        focal_x = 0.5 * size[0] / math.tan(view.angle[0] / 2)
        focal_y = 0.5 * size[1] / math.tan(view.angle[1] / 2) if view.angle[1] else focal_x
        return Lens((focal_x, focal_y), None, size).fitted(size)
    stated = view.lens.size or size
    if abs(size[0] * stated[1] / (size[1] * stated[0]) - 1) > _SAME_SHAPE:
        raise SceneError(f"{view.image} is {size[0]}x{size[1]}, but {file.name} says {stated[0]}x{stated[1]}")
    return view.lens.fitted(size)


def _matte_kinds(capture: Capture, own_alpha: Sequence[bool], mask: bool | None,
                 matting: Matting | None) -> list[str]:
    """`Recipe.matte` of each view: all have a matte, or none."""
    if matting is not None:
        if mask is False:
            raise SceneError("--no-mask leaves mattes out; --background and --trimap make them")
        return ["key" if matting.trimaps is None else "trimap"] * len(own_alpha)
    own = ["mask" if view.mask else "alpha" if alpha else "none"
           for view, alpha in zip(capture.views, own_alpha, strict=True)]
    lacking = [view.image for view, kind in zip(capture.views, own, strict=True) if kind == "none"]
    if mask and lacking:
        raise SceneError(f"{capture.file}: {len(lacking)} of {len(own)} photographs have neither an alpha channel nor "
                         f"a mask, first {lacking[0]}; --no-mask imports them without mattes, --background or "
                         "--trimap make them")
    if mask is None and lacking and len(lacking) < len(own):
        logger.warning("%s: %d of %d photographs have no matte; mattes are left out altogether",
                       capture.file, len(lacking), len(own))
    return ["none"] * len(own) if mask is False or lacking else own


def with_trimaps(capture: Capture, folder: Path) -> list[View]:
    """The capture's views with their trimaps as masks. Raises `SceneError` where one is missing."""
    views = []
    for view in capture.views:
        found = named_after(folder, view.image)
        if found is None:
            raise SceneError(f"{folder}: has no trimap {view.image.name}.png or {view.image.stem}.png")
        views.append(View(**{**view.__dict__, "mask": found}))
    return views


def _with_matte(recipe: Recipe, matting: Matting | None) -> np.ndarray:
    """The photograph's pixels (H, W, 3), with the matte (or trimap) as a fourth channel where there is one."""
    pixels = read_image(recipe.view.image)
    if recipe.matte == "alpha":
        return pixels
    color = pixels[..., :3]
    if recipe.matte == "none":
        return color
    if recipe.matte == "key":
        assert matting is not None
        return np.dstack([color, keyed_matte(color, matting)])
    assert recipe.view.mask is not None
    matte = read_matte(recipe.view.mask)
    if matte.shape != color.shape[:2]:
        raise SceneError(f"{recipe.view.mask}: is {matte.shape[1]}x{matte.shape[0]}; its photograph is "
                         f"{color.shape[1]}x{color.shape[0]}")
    return np.dstack([color, matte])


def _transformed(pixels: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Undistorted and resized uint8 pixels; averaged premultiplied, so that no color bleeds out of the matte.

    Colors that still hold the background (keyed, or to be solved) are averaged as they are.
    """
    values: np.ndarray = pixels.astype(np.float32)
    premultiply = recipe.matte in ("alpha", "mask")
    if premultiply:
        values[..., :3] *= values[..., 3:] / 255
    if recipe.rectified.changes_pixels:
        maps = undistortion_maps(recipe.rectified)
        values = cv2.remap(values, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if recipe.size != recipe.rectified.size:
        values = cv2.resize(values, recipe.size, interpolation=cv2.INTER_AREA)
    if premultiply:
        alpha = np.clip(values[..., 3:], 0, 255)
        values[..., :3] = np.where(alpha > 0.5, values[..., :3] * 255 / np.maximum(alpha, 0.5), 0)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
