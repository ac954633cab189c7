# SPDX-License-Identifier: Apache-2.0
"""Files of images: opening, what their header says, decoding to 8 bits a channel.

An EXIF orientation is not applied, since calibrations refer to the stored pixels. HEIC is read by pillow-heif (extra
`heic`); a camera's raw file is refused, since what else reads it would find only its small preview.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from npcr.errors import SceneError
from npcr.extras import import_extra

RAW_SUFFIXES = (".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mos", ".mrw", ".nef",
                ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f")
_END_MARKS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_ORIENTATION, _DNG_VERSION = 0x0112, 0xC612  # tags of EXIF and TIFF
_TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
          5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
          8: Image.Transpose.ROTATE_90}
_HEIF_BRANDS = (b"hei", b"hev", b"mif1", b"msf1")  # at byte 8 of the file
_PROFILE_TOLERANCE = 6  # of 255: colors that differ by less are called equal
_SPECKS = 1e-3  # share of the pixels that a 16-bit matte may have nearly transparent, and nothing else


@dataclass(frozen=True)
class ImageHeader:
    """What a file says of its image before it is decoded."""

    size: tuple[int, int]  # (width, height) of the stored pixels
    alpha: bool
    format: str = "PNG"  # Pillow's names
    mode: str = "RGB"
    orientation: int = 1  # of EXIF, 1 to 8: how the stored pixels are to be shown
    frames: int = 1  # of an animation, or pages
    deep: bool = False  # more than 8 bits a channel
    profile: str = ""  # name of a color profile that is not sRGB
    complete: bool = True  # whether the end mark is there; False where the format has none


def read_header(path: Path) -> ImageHeader:
    """Read the header of an image.

    Args:
        path: the file.

    Returns:
        What it says.

    Raises:
        SceneError: the file is missing, not an image, or a camera's raw file.
        MissingExtraError: it is HEIC, and pillow-heif is missing.
    """
    with open_image(path) as image:
        orientation, size, kind = _orientation(image), image.size, image.format or ""
        if kind == "TIFF" and orientation >= 5:  # Pillow turns these
            size = size[::-1]
        deep = (kind in ("PNG", "TIFF") and ";16" in str(image.tile)) or image.info.get("bit_depth", 8) > 8
        profile = image.info.get("icc_profile")
        return ImageHeader(size, has_alpha(image), kind, image.mode, orientation, _frames(image), deep,
                           _foreign_profile(profile) if isinstance(profile, bytes) else "", _ends_properly(path, kind))


def open_image(path: Path) -> Image.Image:
    """Open an image and read its header; pixels are read on `load`.

    Args:
        path: the file.

    Returns:
        The image, in Pillow's form.

    Raises:
        SceneError: the file is missing, not an image, or a camera's raw file.
        MissingExtraError: it is HEIC, and pillow-heif is missing.
    """
    try:
        try:
            image = Image.open(path)
        except UnidentifiedImageError:
            if not _is_heif(path):
                raise
            import_extra("pillow_heif", path).register_heif_opener()
            image = Image.open(path)
    except FileNotFoundError:
        raise SceneError(f"{path}: no such picture") from None
    except UnidentifiedImageError:
        if path.suffix.lower() in RAW_SUFFIXES:
            raise _raw_file(path) from None
        raise SceneError(f"{path}: is not a picture") from None
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SceneError(f"{path}: cannot be read: {error}") from None
    if path.suffix.lower() in RAW_SUFFIXES or _DNG_VERSION in getattr(image, "tag_v2", {}):
        image.close()
        raise _raw_file(path)
    return image


def load_image(path: Path) -> tuple[Image.Image, str]:
    """Decode an image to 8 bits a channel, as it is stored.

    Args:
        path: the file.

    Returns:
        The image, and a remark on what had to be guessed of it; "" where nothing had to be.

    Raises:
        SceneError: the file is missing, not an image, cut short, or holds no gray values and no RGB.
        MissingExtraError: it is HEIC, and pillow-heif is missing.
    """
    with open_image(path) as image:
        orientation = _orientation(image) if image.format == "TIFF" else 1
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises SyntaxError on broken PNG chunks
            raise SceneError(f"{path}: cannot be decoded, it may be cut short: {error}") from None
        if image.mode == "LAB":  # Pillow does not convert it
            raise SceneError(f"{path}: its colors are {image.mode}; save it as RGB")
        if orientation > 1:  # Pillow has turned it
            image = image.transpose(_TURNS[inverse_turn(orientation)])
        if image.mode[0] in "IF":
            values, remark = _as_bytes(np.array(image), path)
            return Image.fromarray(values), remark
        return image, ""


def has_alpha(image: Image.Image) -> bool:
    """Say whether an image has an alpha channel, or a transparent color.

    Args:
        image: opened.

    Returns:
        Whether it does.
    """
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def turned(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn stored pixels as an EXIF orientation asks for.

    Args:
        pixels: (H, W) or (H, W, C).
        orientation: 1 to 8.

    Returns:
        The pixels as they are to be shown.
    """
    if orientation == 1:
        return pixels
    return np.array(Image.fromarray(np.ascontiguousarray(pixels)).transpose(_TURNS[orientation]))


def inverse_turn(orientation: int) -> int:
    """Find the orientation that undoes another.

    Args:
        orientation: 1 to 8.

    Returns:
        1 to 8.
    """
    return {6: 8, 8: 6}.get(orientation, orientation)


def copy_stored(source: Path, target: Path) -> None:
    """Copy a JPEG without its EXIF and XMP, whose orientation other programs would apply; its pixels stay as they are.

    Args:
        source: a JPEG.
        target: the copy.
    """
    data, at = source.read_bytes(), 2
    kept = [data[:2]]
    while data[at:at + 1] == b"\xff" and data[at + 1] != 0xDA:  # up to the start of the scan
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2:at + 4], "big")
        if data[at + 1] != 0xE1:  # APP1
            kept.append(data[at:end])
        at = end
    target.write_bytes(b"".join([*kept, data[at:]]))


def _as_bytes(values: NDArray[Any], path: Path) -> tuple[NDArray[np.uint8], str]:
    """8-bit gray of integers of 16 bits or more, or of floats; and a remark.

    Pillow's own conversion would clip instead of scaling.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (low >= 0 and high <= 65535):  # nan fails, too
        raise SceneError(f"{path}: its values go from {low:g} to {high:g}; gray values of 8 or 16 bits (0-255, "
                         "0-65535) or floats of 0-1 are needed")
    if np.issubdtype(values.dtype, np.floating):
        scale = 255.0 if high <= 1 else 1.0 if high <= 255 else 255 / 65535
        return np.rint(values * scale).astype(np.uint8), ""
    if high > 255 or np.count_nonzero(values) <= _SPECKS * values.size:
        return (values >> 8).astype(np.uint8), ""
    return values.astype(np.uint8), f"has 16 bits but no value above {high:g}; its values are taken as 8-bit ones"


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # Pillow would decode all of it in search of one
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # whatever a damaged EXIF makes Pillow raise
        return 1
    return found if found in _TURNS else 1


def _frames(image: Image.Image) -> int:
    """Of an animation or pages; what an MPO has more are previews and gain maps of the same photograph."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    except (OSError, SyntaxError, ValueError, EOFError):  # a later frame is damaged
        return 1


@lru_cache(maxsize=64)
def _foreign_profile(data: bytes) -> str:
    """Name of a color profile by which colors are others than sRGB's; "" where they are not, or it cannot be read."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = ImageCms.getProfileDescription(profile).strip() or "unnamed"
        kind = {"RGB": "RGB", "GRAY": "L"}.get(profile.profile.xcolor_space.strip())
        if kind is None:
            return name
        steps = np.linspace(0, 255, 6).astype(np.uint8)
        colors = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
        probe = Image.fromarray(colors).convert(kind)
        seen = ImageCms.profileToProfile(probe, profile, ImageCms.createProfile("sRGB"),
                                         ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
                                         flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return ""
    difference = np.abs(np.array(seen).astype(int) - np.array(probe.convert("RGB"))).max()
    return name if difference > _PROFILE_TOLERANCE else ""


def _is_heif(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:].startswith(_HEIF_BRANDS)


def _raw_file(path: Path) -> SceneError:
    return SceneError(f"{path}: is a camera's raw file, which is not read; develop it to JPEG, PNG or TIFF (with the "
                      "camera's software, darktable or RawTherapee, all with the same settings) and import that")


def _ends_properly(path: Path, file_format: str) -> bool:
    """Return whether the last bytes contain the format's end mark (cameras may append a little after it)."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4096))
        return _END_MARKS.get(file_format, b"\0missing\0") in file.read()
