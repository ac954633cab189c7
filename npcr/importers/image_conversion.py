# SPDX-License-Identifier: Apache-2.0
"""Conversion of a capture's photographs into a scene's: undistorted, brought to one size, with mattes."""

from __future__ import annotations

import logging
import math
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from npcr.errors import SceneError
from npcr.importers.base import Capture, View, find_mask
from npcr.importers.lenses import Lens, UndistortedCamera, undistorted_camera, undistortion_maps
from npcr.importers.matting import Matting, matte_from_background, matte_from_trimap
from npcr.io.images import inspect_image, read_image, read_matte, write_image

logger = logging.getLogger("npcr")

_COPIED = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg"}
_SAME_SHAPE = 0.02  # relative difference of aspect ratios


@dataclass(frozen=True)
class ImageConversion:
    """How one photograph becomes an image of the scene."""

    view: View
    camera: UndistortedCamera
    size: tuple[int, int]  # (width, height) of the result
    matte: str  # "alpha": the photograph's own; "mask": its mask file; "key", "trimap": computed here; "none"

    @property
    def intrinsics(self) -> np.ndarray:
        """(3, 3) K of the result, by the pixel-center rule."""
        result = self.camera.intrinsics
        for axis in range(2):
            scale = self.size[axis] / self.camera.size[axis]
            result[axis] *= scale
            result[axis, 2] += 0.5 * scale - 0.5
        return result

    @property
    def keeps_geometry(self) -> bool:
        """Whether the image is neither undistorted, cropped nor resized."""
        return not self.camera.changes_pixels and self.size == self.camera.size


@dataclass(frozen=True)
class ConvertedImage:
    """What `convert_image` wrote."""

    image: Path
    matte: Path | None  # the image's own path where its alpha channel is the matte
    small_matte: np.ndarray | None  # (h, w) uint8, at most 320 pixels wide


def plan_conversions(capture: Capture, downscale: float, mask: bool | None,
                     matting: Matting | None = None) -> list[ImageConversion]:
    """Decide how each photograph is converted.

    All end at the size that most have, divided by `downscale`; others are resized and, where their aspect ratio is
    another, cropped to it about the middle.

    Args:
        capture: the photographs.
        downscale: factor by which they are made smaller, at least 1.
        mask: whether to keep mattes; None: where every photograph has one.
        matting: how to compute mattes instead; None: do not.

    Returns:
        A conversion for each view, in the order of `capture.views`.

    Raises:
        SceneError: mattes are wanted and missing, or a photograph does not fit its camera.
    """
    inspected = [inspect_image(view.image) for view in capture.views]
    common = _common_size([size for size, _ in inspected], capture)
    size = (max(1, round(common[0] / downscale)), max(1, round(common[1] / downscale)))
    kinds = _matte_kinds(capture, [alpha for _, alpha in inspected], mask, matting)
    conversions = []
    for view, (own_size, _), kind in zip(capture.views, inspected, kinds, strict=True):
        try:
            camera = undistorted_camera(_lens(view, own_size, capture.file), _cropped_size(own_size, common))
        except SceneError as error:
            raise SceneError(f"{capture.file}, {view.label}: {error}") from None
        conversions.append(ImageConversion(view, camera, size, kind))
    return conversions


def convert_image(conversion: ImageConversion, stem: Path, matting: Matting | None = None) -> ConvertedImage:
    """Convert a photograph; write it and its matte as STEM.suffix and STEM_alpha.png.

    Args:
        conversion: what to do.
        stem: path of the result without suffix; its folder exists.
        matting: how to compute the matte where `conversion.matte` is "key".

    Returns:
        The files written.

    Raises:
        SceneError: photograph or matte cannot be read, or differ in size.
        MissingExtraError: `conversion.matte` is "trimap" and pymatting is missing.
    """
    source = conversion.view.image
    suffix = _COPIED.get(source.suffix.lower(), ".png")
    pixels = _with_matte(conversion, matting)
    result = pixels if conversion.keeps_geometry else _transformed(pixels, conversion)
    if conversion.matte == "trimap":
        assert conversion.view.mask is not None
        result = matte_from_trimap(result[..., :3], result[..., 3], conversion.view.mask)
    if conversion.matte == "alpha" and not (conversion.keeps_geometry and source.suffix.lower() in _COPIED):
        suffix = ".png"
    image = stem.with_name(stem.name + suffix)
    if conversion.keeps_geometry and source.suffix.lower() in _COPIED and _keeps_pixels(conversion):
        shutil.copyfile(source, image)  # so that a JPEG is not compressed twice
    else:
        write_image(image, result if conversion.matte == "alpha" else result[..., :3])
    if conversion.matte == "none":
        return ConvertedImage(image, None, None)
    matte = image
    if conversion.matte != "alpha":
        matte = stem.with_name(stem.name + "_alpha.png")
        write_image(matte, result[..., 3])
    width, height = conversion.size
    scale = min(1.0, 320 / width)
    small = cv2.resize(np.ascontiguousarray(result[..., 3]), (round(width * scale), max(1, round(height * scale))),
                       interpolation=cv2.INTER_AREA)
    return ConvertedImage(image, matte, small)


def _keeps_pixels(conversion: ImageConversion) -> bool:
    """Whether colors and channels stay those of the photograph, where the geometry stays."""
    if conversion.matte == "trimap":
        return False
    return conversion.matte == "alpha" or not inspect_image(conversion.view.image)[1]


def _common_size(sizes: Sequence[tuple[int, int]], capture: Capture) -> tuple[int, int]:
    counts = Counter(sizes)
    common = max(counts, key=lambda size: (counts[size], size))
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {size[0]}x{size[1]}" for size, count in sorted(counts.items()))
        cut = sum(count for size, count in counts.items() if _cropped_size(size, common) != size)
        logger.warning("%s: its photographs differ in size (%s); all are brought to %dx%d%s", capture.file, listed,
                       *common, f", of which {cut} are cut to its shape about their middle" if cut else "")
    return common


def _cropped_size(size: tuple[int, int], common: tuple[int, int]) -> tuple[int, int]:
    """The largest part of an image of `size` that has the aspect ratio of `common`."""
    ratio = (size[0] * common[1]) / (size[1] * common[0])
    if abs(ratio - 1) <= _SAME_SHAPE:
        return size
    return (max(1, round(size[0] / ratio)), size[1]) if ratio > 1 else (size[0], max(1, round(size[1] * ratio)))


def _lens(view: View, size: tuple[int, int], file: Path) -> Lens:
    """The view's lens for a photograph of `size`."""
    if view.lens is None:
        focal_x = 0.5 * size[0] / math.tan(view.angle[0] / 2)
        focal_y = 0.5 * size[1] / math.tan(view.angle[1] / 2) if view.angle[1] else focal_x
        return Lens((focal_x, focal_y), None, size).resized(size)
    stated = view.lens.size or size
    if abs(size[0] * stated[1] / (size[1] * stated[0]) - 1) > _SAME_SHAPE:
        raise SceneError(f"{view.image} is {size[0]}x{size[1]}, but {file.name} says {stated[0]}x{stated[1]}")
    return view.lens.resized(size)


def _matte_kinds(capture: Capture, own_alpha: Sequence[bool], mask: bool | None,
                 matting: Matting | None) -> list[str]:
    """`ImageConversion.matte` of each view: all have a matte, or none."""
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
    """Give the views of a capture their trimaps as masks.

    Args:
        capture: the photographs.
        folder: of the trimaps, named as masks are (`find_mask`).

    Returns:
        The views, in their order.

    Raises:
        SceneError: a trimap is missing.
    """
    views = []
    for view in capture.views:
        found = find_mask(folder, view.image)
        if found is None:
            raise SceneError(f"{folder}: has no trimap {view.image.name}.png or {view.image.stem}.png")
        views.append(replace(view, mask=found))
    return views


def _with_matte(conversion: ImageConversion, matting: Matting | None) -> np.ndarray:
    """The photograph's pixels (H, W, 3), with the matte (or trimap) as a fourth channel where there is one."""
    pixels = read_image(conversion.view.image)
    if conversion.matte == "alpha":
        return pixels
    color = pixels[..., :3]
    if conversion.matte == "none":
        return color
    if conversion.matte == "key":
        assert matting is not None
        return np.dstack([color, matte_from_background(color, matting)])
    assert conversion.view.mask is not None
    matte = read_matte(conversion.view.mask)
    if matte.shape != color.shape[:2]:
        raise SceneError(f"{conversion.view.mask}: is {matte.shape[1]}x{matte.shape[0]}; its photograph is "
                         f"{color.shape[1]}x{color.shape[0]}")
    return np.dstack([color, matte])


def _transformed(pixels: np.ndarray, conversion: ImageConversion) -> np.ndarray:
    """Undistorted and resized uint8 pixels; averaged premultiplied, so that no color bleeds out of the matte.

    Colors that still hold the background (keyed, or before matting) are averaged as they are.
    """
    values: np.ndarray = pixels.astype(np.float32)
    premultiply = conversion.matte in ("alpha", "mask")
    if premultiply:
        values[..., :3] *= values[..., 3:] / 255
    if conversion.camera.changes_pixels:
        maps = undistortion_maps(conversion.camera)
        values = cv2.remap(values, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if conversion.size != conversion.camera.size:
        values = cv2.resize(values, conversion.size, interpolation=cv2.INTER_AREA)
    if premultiply:
        alpha = np.clip(values[..., 3:], 0, 255)
        values[..., :3] = np.where(alpha > 0.5, values[..., :3] * 255 / np.maximum(alpha, 0.5), 0)
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
