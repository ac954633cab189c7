# SPDX-License-Identifier: Apache-2.0
"""Conversion of a capture's photographs into a scene's: undistorted, brought to one size, with mattes."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from npcr.errors import SceneError
from npcr.importers.base import Capture, View
from npcr.importers.lenses import MAX_ANGLE, Lens, UndistortedCamera, undistorted_camera, undistortion_maps
from npcr.importers.masks import find_masks
from npcr.importers.matte_sources import MatteSource, find_matte_sources
from npcr.importers.matting import Matting, matte_from_background, matte_from_trimap
from npcr.importers.photographs import SAME_SHAPE, Photograph, inspect_photographs, warn_of
from npcr.io.image_files import copy_stored, turned
from npcr.io.images import read_image, write_image
from npcr.io.mattes import decode_matte, read_trimap

logger = logging.getLogger("npcr")

_LEAST_KEPT = 0.5  # of a photograph's area; less is said
_LEAST_ZOOM = 0.5  # of its middle
_MOST_ZOOM = 1.25  # a strong lens that is right stays below
_COPIED = {"PNG": ".png", "JPEG": ".jpg", "MPO": ".jpg"}  # by Pillow's name of the format


@dataclass(frozen=True)
class ImageConversion:
    """How one photograph becomes an image of the scene."""

    view: View
    camera: UndistortedCamera
    size: tuple[int, int]  # (width, height) of the result
    photograph: Photograph
    source: MatteSource

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
    def matte(self) -> str:
        """The kind of its matte (`MatteSource.kind`)."""
        return self.source.kind

    @property
    def keeps_geometry(self) -> bool:
        """Whether the image is neither undistorted, cropped nor resized."""
        return not self.camera.changes_pixels and self.size == self.camera.size

    @property
    def copied_suffix(self) -> str | None:
        """Suffix of the photograph's copy; None where its pixels or channels change, or its format is another."""
        header = self.photograph.header
        same = self.keeps_geometry and self.photograph.turn == 1 and header.frames == 1 and header.mode != "CMYK"
        if self.matte == "alpha":
            same &= not self.source.labels
        elif header.alpha or self.matte == "trimap":
            same = False
        if header.orientation > 1 and header.format == "PNG":  # which other programs would apply
            same = False
        return _COPIED.get(header.format) if same else None


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
        A conversion for each view, in the order of `capture.views`, but for those whose mask is wanted and does not
        exist.

    Raises:
        SceneError: mattes are wanted and missing, or a photograph does not fit its camera.
    """
    capture = _without_lost_masks(capture, mask, matting)
    photographs = inspect_photographs(capture)
    common = _common_size([photograph.size for photograph in photographs], capture)
    size = (max(1, round(common[0] / downscale)), max(1, round(common[1] / downscale)))
    _warn_of_stretched(capture, photographs)
    sources = find_matte_sources(capture, photographs, mask, matting)
    conversions = []
    for view, photograph, source in zip(capture.views, photographs, sources, strict=True):
        try:
            camera = undistorted_camera(_lens(view, photograph.size),
                                        _cropped_size(photograph.size, common))
        except SceneError as error:
            raise SceneError(f"{capture.file}, {view.label}: {error}") from None
        conversions.append(ImageConversion(view, camera, size, photograph, source))
    _warn_of_lenses(capture, [conversion.camera for conversion in conversions])
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
    pixels = _with_matte(conversion, matting)
    result = pixels if conversion.keeps_geometry else _transformed(pixels, conversion)
    if conversion.matte == "trimap":
        assert conversion.view.mask is not None
        result = matte_from_trimap(result[..., :3], result[..., 3], conversion.view.mask)
    image = stem.with_name(stem.name + (conversion.copied_suffix or _written_suffix(conversion)))
    if conversion.copied_suffix is not None:  # so that a JPEG is not compressed twice
        copy = shutil.copyfile if conversion.photograph.header.orientation == 1 else copy_stored
        copy(conversion.view.image, image)
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


def _written_suffix(conversion: ImageConversion) -> str:
    return ".png" if conversion.matte == "alpha" else _COPIED.get(conversion.photograph.header.format, ".png")


def _without_lost_masks(capture: Capture, mask: bool | None, matting: Matting | None) -> Capture:
    """The capture without masks that do not exist; where mattes are kept, without their photographs, which is said."""
    lost = [view.mask is not None and not os.path.isfile(view.mask) for view in capture.views]
    if not any(lost):
        return capture
    if mask is False or matting is not None:
        return replace(capture, views=[replace(view, mask=None) if is_lost else view
                                       for view, is_lost in zip(capture.views, lost, strict=True)])
    kept = [view for view, is_lost in zip(capture.views, lost, strict=True) if not is_lost]
    named = sum(view.mask is not None for view in capture.views)
    what = (f"{capture.file}: {sum(lost)} of the {named} masks that it names do not exist, first "
            f"{capture.views[lost.index(True)].mask}")
    splits = {view.split for view in kept}
    if mask or "train" not in splits:
        raise SceneError(f"{what}; put them there, or import the photographs without mattes (--no-mask), or make "
                         "mattes (--background, --trimap)")
    gone = sorted({view.split for view in capture.views} - splits)
    logger.warning("%s; their photographs are left out%s; --no-mask imports all of them, without mattes", what,
                   f", and with them all for {' and '.join(gone)}" if gone else "")
    return replace(capture, views=kept)


def _warn_of_lenses(capture: Capture, cameras: Sequence[UndistortedCamera]) -> None:
    """Warn where undistorting costs much of a photograph: its outer part, or the detail of its middle."""
    images = [view.image for view in capture.views]
    small = [camera.changes_pixels and camera.kept_share < _LEAST_KEPT for camera in cameras]
    if any(small):
        first = cameras[small.index(True)]
        warn_of(capture.file, images, small, f"photographs show less than {_LEAST_KEPT:.0%} of their picture once "
                "undistorted", f"it shows {first.kept_share:.1%}, magnified {first.zoom:.3g} times, since the image "
                f"must have no empty border and end {MAX_ANGLE:g} degrees off the axis; are the lens's coefficients "
                "right?")
    large = [camera.zoom > _MOST_ZOOM and not is_small for camera, is_small in zip(cameras, small, strict=True)]
    if any(large):
        first = cameras[large.index(True)]
        warn_of(capture.file, images, large, f"photographs are magnified more than {_MOST_ZOOM:g} times in their "
                "middle once undistorted", f"it is magnified {first.zoom:.3g} times and shows {first.kept_share:.1%} "
                "of its picture, since the image must have no empty border; are the lens's coefficients right?")
    coarse = [camera.zoom < _LEAST_ZOOM for camera in cameras]
    if any(coarse):
        warn_of(capture.file, images, coarse, f"photographs are reduced below {_LEAST_ZOOM:.0%} in their middle once "
                "undistorted", f"it is reduced to {cameras[coarse.index(True)].zoom:.0%}; are the lens's coefficients "
                "right?")


def _warn_of_stretched(capture: Capture, photographs: Sequence[Photograph]) -> None:
    """Warn of photographs whose shape is not quite their camera's."""
    stretched = []
    for view, photograph in zip(capture.views, photographs, strict=True):
        stated = view.lens.size if view.lens is not None and view.lens.size is not None else photograph.size
        # A size that was rounded after a reduction is a pixel off.
        error = abs(photograph.size[0] * stated[1] - photograph.size[1] * stated[0])
        ratio = photograph.size[0] * stated[1] / (photograph.size[1] * stated[0])
        stretched.append(error > max(*stated, *photograph.size) and max(ratio, 1 / ratio) <= 1 + SAME_SHAPE)
    warn_of(capture.file, [view.image for view in capture.views], stretched, "photographs have not quite the shape "
            "that their cameras were calibrated for", "they are taken to be stretched, not cropped")


def _common_size(sizes: Sequence[tuple[int, int]], capture: Capture) -> tuple[int, int]:
    counts = Counter(sizes)
    common = max(counts, key=lambda size: (counts[size], size))
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {size[0]}x{size[1]}" for size, count in sorted(counts.items()))
        cut = sum(count for size, count in counts.items() if _cropped_size(size, common) != size)
        first = next(view.image for view, size in zip(capture.views, sizes, strict=True) if size != common)
        logger.warning("%s: its photographs differ in size (%s); %d of %d are brought to %dx%d, first %s%s",
                       capture.file, listed, len(sizes) - counts[common], len(sizes), *common, first,
                       f"; {cut} of them are cut to its shape about their middle" if cut else "")
    return common


def _cropped_size(size: tuple[int, int], common: tuple[int, int]) -> tuple[int, int]:
    """The largest part of an image of `size` that has the aspect ratio of `common`."""
    ratio = (size[0] * common[1]) / (size[1] * common[0])
    if abs(ratio - 1) <= SAME_SHAPE:
        return size
    return (max(1, round(size[0] / ratio)), size[1]) if ratio > 1 else (size[0], max(1, round(size[1] * ratio)))


def _lens(view: View, size: tuple[int, int]) -> Lens:
    """The view's lens for a photograph of `size`."""
    if view.lens is None:
        focal_x = 0.5 * size[0] / math.tan(view.angle[0] / 2)
        focal_y = 0.5 * size[1] / math.tan(view.angle[1] / 2) if view.angle[1] else focal_x
        return Lens((focal_x, focal_y), None, size).resized(size)
    stated = view.lens.size or size
    if abs(size[0] * stated[1] / (size[1] * stated[0]) - 1) > SAME_SHAPE:
        sideways = abs(size[1] * stated[1] / (size[0] * stated[0]) - 1) <= SAME_SHAPE
        raise SceneError(f"{view.image} is {size[0]}x{size[1]}, but its camera was calibrated for "
                         f"{stated[0]}x{stated[1]}; " + (
                             "turn its pixels by 90 degrees, as they were calibrated" if sideways else
                             "put the picture there that was calibrated, neither cropped nor stretched (a smaller or "
                             "larger copy will do), or leave this one out of the capture"))
    return view.lens.resized(size)


def with_trimaps(capture: Capture, folder: Path) -> list[View]:
    """Give the views of a capture their trimaps as masks.

    Args:
        capture: the photographs.
        folder: of the trimaps, named as masks are (`find_masks`).

    Returns:
        The views, in their order.

    Raises:
        SceneError: a trimap is missing.
    """
    found = find_masks(folder, [view.image for view in capture.views], needed="all", kind="trimap")
    return [replace(view, mask=trimap) for view, trimap in zip(capture.views, found, strict=True)]


def _with_matte(conversion: ImageConversion, matting: Matting | None) -> np.ndarray:
    """The photograph's pixels (H, W, 3), with the matte (or trimap) as a fourth channel where there is one."""
    pixels = turned(read_image(conversion.view.image), conversion.photograph.turn)
    color = pixels[..., :3]
    if conversion.matte == "none":
        return color
    if conversion.matte == "key":
        assert matting is not None
        return np.dstack([color, matte_from_background(color, matting)])
    if conversion.matte != "alpha":
        return np.dstack([color, _mask(conversion)])
    return np.dstack([color, _opaque(pixels[..., 3])]) if conversion.source.labels else pixels


def _mask(conversion: ImageConversion) -> np.ndarray:
    """The view's mask (or trimap), turned and resized to lie over its photograph."""
    file, size = conversion.view.mask, conversion.photograph.size
    assert file is not None
    matte = read_trimap(file) if conversion.matte == "trimap" else decode_matte(file)[0]
    if conversion.source.labels:
        matte = _opaque(matte)  # before it is resized
    matte = turned(matte, conversion.source.turn)
    if matte.shape[::-1] == size:
        return matte
    method = cv2.INTER_AREA if size[0] < matte.shape[1] else cv2.INTER_LINEAR
    return cv2.resize(matte, size, interpolation=method)


def _opaque(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 255, 0).astype(np.uint8)


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
