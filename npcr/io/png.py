# SPDX-License-Identifier: Apache-2.0
"""Encoding of PNG, quickly: the usual encoders try filters and compression levels for each row, which takes longer than
a GPU takes for the picture. Here each row is stored as its difference from the one above, and compressed by ISA-L."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("npcr")

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOR_TYPES = {1: 0, 3: 2, 4: 6}  # of the standard, by channels: gray, RGB, RGBA
_UP = 2  # the standard's number of the filter
_LEVEL = 1


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode an image, without Python's lock, so that threads encode side by side.

    Args:
        pixels: gray (H, W), RGB (H, W, 3) or RGBA (H, W, 4).

    Returns:
        The bytes of the file.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOR_TYPES[channels], 0, 0, 0)
    return b"".join([_SIGNATURE, _chunk(b"IHDR", header), _chunk(b"IDAT", _compressor()(_filtered(pixels))),
                     _chunk(b"IEND", b"")])


def _filtered(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows = pixels.reshape(len(pixels), -1)
    filtered = np.empty((rows.shape[0], 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as the standard has it
    return filtered


@lru_cache
def _compressor() -> Callable[[NDArray[np.uint8]], bytes]:
    """ISA-L, which compresses four times faster than zlib; where it is not installed, zlib."""
    try:
        from isal import isal_zlib
    except ImportError:
        logger.warning("images: isal is not installed; writing PNGs takes up to four times longer. pip install isal")
        return _compress_by_zlib
    return partial(isal_zlib.compress, level=_LEVEL)


def _compress_by_zlib(data: NDArray[np.uint8]) -> bytes:
    # Looking for runs alone is quicker, and on filtered hair the result is smaller.
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    return compressor.compress(data.data) + compressor.flush()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
