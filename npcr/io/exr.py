# SPDX-License-Identifier: Apache-2.0
"""OpenEXR images for compositing, by the OpenEXR library (extra `exr`): premultiplied R, G, B, A, and depth Z."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from npcr.extras import import_extra
from npcr.io.files import atomic_path

FAR = 1e10  # Z where nothing is, as Blender writes it: behind all else
_REC_709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)  # sRGB's primaries and white, x and y of each
_NOTES = {
    True: "scene-linear: decoded from sRGB, straight color and alpha clipped to 0-1",
    False: "as rendered: not linear, sRGB-encoded as the photographs are, not clipped",
}
_COMMENT = ("R, G, B premultiplied by A (associated alpha); Z is the distance along the camera's axis in the scene's "
            f"units, {FAR:g} where nothing is")


class ExrFormat(NamedTuple):
    """What EXR files hold."""

    half: bool = True  # color and alpha in 16 bits; Z always has 32
    linear: bool = True  # color is scene-linear; False: as rendered


def write_exr(path: str | Path, rgba: NDArray[np.float32], depth: NDArray[np.float32],
              form: ExrFormat) -> None:
    """Write an EXR file, atomically: channels R, G, B, A, Z, with ZIP compression.

    The header says in `npcrColor` whether color is scene-linear, and has its primaries; `comments` says the rest.

    Args:
        path: the file.
        rgba: (H, W, 4) premultiplied, sRGB-encoded color and alpha.
        depth: (H, W) camera-space z, 0 where nothing is.
        form: what the file is to hold.

    Raises:
        MissingExtraError: OpenEXR is not installed.
        OSError: the file cannot be written.
    """
    library = import_extra("OpenEXR", path)
    pixels = to_scene_linear(rgba) if form.linear else np.asarray(rgba)
    channels = {"RGBA": np.ascontiguousarray(pixels, np.float16 if form.half else np.float32),
                "Z": np.where(depth > 0, depth, np.float32(FAR)).astype(np.float32)}
    header = {"compression": library.ZIP_COMPRESSION, "type": library.scanlineimage, "chromaticities": _REC_709,
              "npcrColor": _NOTES[form.linear], "comments": _COMMENT}
    with atomic_path(path) as temporary:
        temporary.touch()  # the library's own error names no reason
        with library.File(header, channels) as file:
            try:
                file.write(str(temporary))
            except RuntimeError as error:
                raise OSError(0, str(error)) from error


def to_scene_linear(rgba: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decode sRGB of premultiplied color: the straight color is decoded, then premultiplied again.

    Args:
        rgba: (H, W, 4) premultiplied, sRGB-encoded color and alpha.

    Returns:
        (H, W, 4) premultiplied, scene-linear; straight color and alpha clipped to 0-1, for beyond it the curve means
        nothing, and a division by little alpha would make fireflies of noise.
    """
    alpha = rgba[..., 3:].clip(0, 1)
    straight = np.divide(rgba[..., :3], alpha, out=np.zeros_like(rgba[..., :3]), where=alpha > 0).clip(0, 1)
    linear = np.where(straight <= 0.04045, straight / 12.92, ((straight + 0.055) / 1.055) ** 2.4)
    return np.concatenate([linear * alpha, alpha], axis=-1).astype(np.float32)
