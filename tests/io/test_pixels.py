# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np

from npcr.io.pixels import checkerboard, fill_transparent, fit_size, over, resized


def half_red(height: int = 8, width: int = 8) -> np.ndarray:
    """The left half red and opaque, the right half hidden: black of alpha 0."""
    pixels = np.zeros((height, width, 4), np.uint8)
    pixels[:, :width // 2] = (200, 20, 10, 255)
    return pixels


def test_over_a_background() -> None:
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 51], [9, 9, 9, 0]]], np.uint8)
    assert over(pixels, 100).tolist() == [[[200, 100, 0], [120, 100, 80], [100, 100, 100]]]
    behind = np.full((1, 3, 3), 10, np.uint8)
    assert over(pixels, behind)[0, 2].tolist() == [10, 10, 10]
    assert over(pixels[..., :3], 50) is not None
    assert np.array_equal(over(pixels[..., :3], 50), pixels[..., :3])


def test_resizing_keeps_hidden_colors_hidden() -> None:
    small = resized(half_red(6, 6), (1, 1))  # half of it is red
    assert small[0, 0, :3].tolist() == [200, 20, 10]
    assert abs(int(small[0, 0, 3]) - 128) <= 1
    large = resized(half_red(), (16, 16))
    visible = large[..., 3] > 20
    assert visible.any()
    assert np.abs(large[visible][:, :3].astype(int) - (200, 20, 10)).max() <= 1
    assert resized(half_red()[..., :3], (4, 2)).shape == (2, 4, 3)


def test_fit_size() -> None:
    assert fit_size((1000, 500), 480) == (480, 240)
    assert fit_size((100, 50), 480) == (100, 50)
    assert fit_size((10000, 2), 100) == (100, 1)


def test_hidden_pixels_take_their_neighbors_color() -> None:
    pixels = half_red(9, 13)
    pixels[0, 0] = (0, 0, 255, 3)  # barely visible, and yet its own color
    filled = fill_transparent(pixels)
    assert np.array_equal(filled[..., 3], pixels[..., 3])
    assert np.array_equal(filled[pixels[..., 3] > 0], pixels[pixels[..., 3] > 0])
    assert np.abs(filled[:, 6:, :3].astype(int) - (200, 20, 10)).max() < 30  # a little of the blue is in it
    for alpha in (0, 255):
        same = np.full((3, 3, 4), alpha, np.uint8)
        assert np.array_equal(fill_transparent(same), same)


def test_checkerboard() -> None:
    board = checkerboard((5, 3), square=2)
    assert board.shape == (3, 5, 3)
    assert board[..., 0].tolist() == [[204, 204, 255, 255, 204], [204, 204, 255, 255, 204],
                                      [255, 255, 204, 204, 255]]
