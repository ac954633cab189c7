# SPDX-License-Identifier: Apache-2.0
"""The quick encoder of PNG, whose files other programs decode."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from PIL import Image

from npcr.io import png
from npcr.io.png import encode_png
from tests.scenes import photograph


@pytest.fixture(params=["isal", "zlib"])
def compressor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        pytest.importorskip("isal")
    png._compressor.cache_clear()
    yield request.param
    png._compressor.cache_clear()


@pytest.mark.usefixtures("compressor")
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (33, 20)])
def test_other_decoders_find_the_same_pixels(channels: int, size: tuple[int, int]) -> None:
    shape = (size[1], size[0], channels) if channels > 1 else (size[1], size[0])
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    data = encode_png(pixels)
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
        assert np.array_equal(np.asarray(image), pixels)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(decoded, pixels if channels == 1 else pixels[..., [2, 1, 0, 3][:channels]])


@pytest.mark.usefixtures("compressor")
def test_hair_is_compressed_nearly_as_by_an_ordinary_encoder() -> None:
    pixels = np.asarray(Image.fromarray(photograph(0)).resize((200, 150)))
    ordinary = io.BytesIO()
    Image.fromarray(pixels).save(ordinary, format="PNG")
    assert len(encode_png(pixels)) < 1.3 * len(ordinary.getvalue())


def test_a_slower_compressor_is_said(compressor: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "npcr"):
        for _ in range(2):
            encode_png(np.zeros((2, 2), np.uint8))
    assert [record.getMessage() for record in caplog.records] == (
        [] if compressor == "isal" else
        ["images: isal is not installed; writing PNGs takes up to four times longer. pip install isal"])
