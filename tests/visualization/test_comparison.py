# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from npcr.errors import NpcrError
from npcr.io.frame_source import open_frames
from npcr.io.images import write_image
from npcr.visualization.captions import BACKGROUND, CAPTION_HEIGHT, GAP
from npcr.visualization.comparison import (
    FRAME_COLOR,
    REGION_COLOR,
    Comparison,
    composited_frames,
    difference,
    divider_at,
    evenly_spaced,
    match_sources,
    tiled,
    wipe,
    with_inset,
)


def flat(value: int, size: tuple[int, int] = (60, 40)) -> np.ndarray:
    return np.full((size[1], size[0], 3), value, np.uint8)


def test_a_wipe_shows_the_left_up_to_its_divider() -> None:
    shown = wipe(flat(10), flat(200), 0.25)[0, :, 0]
    assert (shown[:14] == 10).all()
    assert (shown[14:16] == 255).all()
    assert (shown[16:] == 200).all()
    assert (wipe(flat(10), flat(200), 0)[:, 1:] == 200).all()
    assert (wipe(flat(10), flat(200), 1)[:, :-1] == 10).all()


def test_the_divider_comes_back_so_that_a_loop_does_not_jump() -> None:
    places = [divider_at(index, 24) for index in range(25)]
    assert places[0] == places[12] == pytest.approx(0.5)
    assert places[24] == pytest.approx(places[0])
    assert (max(places), min(places)) == (pytest.approx(0.95), pytest.approx(0.05))
    assert np.abs(np.diff(places)).max() < 0.13


def test_the_difference_is_amplified_without_wrapping() -> None:
    assert (difference(flat(10), flat(13), 4) == 12).all()
    assert (difference(flat(13), flat(10), 4) == 12).all()
    assert (difference(flat(0), flat(200), 4) == 255).all()


@pytest.mark.parametrize(("corner", "inset_at"), [((2, 3), (-1, -1)), ((48, 3), (-1, 0)), ((2, 30), (0, -1)),
                                                  ((48, 30), (0, 0))])
def test_an_inset_repeats_its_pixels_in_the_farthest_corner(corner: tuple[int, int],
                                                            inset_at: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    x, y = corner
    shown = with_inset(picture, (x, y, 8, 6))  # three times larger: 24x18 pixels
    inset = (shown[-18:] if inset_at[0] else shown[:18])[:, slice(-24, None) if inset_at[1] else slice(24)]
    assert (inset[0] == FRAME_COLOR).all()
    assert np.array_equal(inset[4:-3:3, 4:-3:3], picture[y + 1:y + 5, x + 1:x + 7])
    assert np.array_equal(shown[y:y + 6, x:x + 8], picture[y:y + 6, x:x + 8])
    assert tuple(shown[y - 1, x + 2]) == REGION_COLOR
    assert tuple(shown[y + 2, x - 1]) == REGION_COLOR


@pytest.mark.parametrize("region", [(50, 0, 12, 5), (0, 36, 5, 6), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 20, 5)])
def test_a_region_that_cannot_be_magnified(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(NpcrError, match=r"must lie within the pictures of 60x40 and measure at most 13x9"):
        with_inset(flat(0), region)


def test_layouts() -> None:
    panels = [flat(value) for value in (10, 20, 30)]
    assert tiled(panels, "row").shape == (40, 3 * 60 + 2 * GAP, 3)
    assert tiled(panels, "column").shape == (3 * 40 + 2 * GAP, 60, 3)
    grid = tiled(panels, "grid")
    assert grid.shape == (2 * 40 + GAP, 2 * 60 + GAP, 3)
    assert (grid[-1, -1], grid[-1, 0], grid[0, 62]) == pytest.approx((BACKGROUND, 30, BACKGROUND))


def test_panels_of_three_inputs_are_taken_against_the_last() -> None:
    comparison = Comparison(("a", "b", "truth"), ("inputs", "wipe", "difference"), gain=2)
    panels = comparison.panels([flat(10), flat(50), flat(90)], 0.5)
    inner = [panel[CAPTION_HEIGHT:, :, 0] for panel in panels]
    assert [picture[0, 0] for picture in inner] == [10, 50, 90, 10, 50, 160, 80]
    assert [picture[0, -1] for picture in inner[3:5]] == [90, 90]
    labels = [panel[:CAPTION_HEIGHT] for panel in panels]
    assert all((label > 150).any() for label in labels)  # something is written
    assert len({label.tobytes() for label in labels}) == len(labels)  # and not twice the same
    assert tiled(panels, "row").shape == (40 + CAPTION_HEIGHT, 7 * 60 + 6 * GAP, 3)


def write_folder(folder: Path, count: int, size: tuple[int, int] = (60, 40), channels: int = 3) -> Path:
    for number in range(1, count + 1):
        pixels = np.full((size[1], size[0], channels), 100, np.uint8)
        if channels == 4:
            pixels[..., 3] = 0
        write_image(folder / f"img_{number:04d}.png", pixels)
    return folder


def test_sources_must_be_alike_or_made_so(tmp_path: Path) -> None:
    one = open_frames(write_folder(tmp_path / "one", 3))
    two = open_frames(write_folder(tmp_path / "two", 2, (30, 20), 4))
    with pytest.raises(NpcrError, match=r"the sizes differ: .*one 60x40, .*two 30x20; --fit"):
        match_sources([one, two], fit=False, trim=True)
    with pytest.raises(NpcrError, match=r"numbers of frames differ: .*one 3, .*two 2; --trim compares the first 2"):
        match_sources([one, two], fit=True, trim=False)
    alike = match_sources([one, two], fit=True, trim=True)
    gray = list(composited_frames(alike, 30.0))
    assert len(gray) == 2
    assert [picture.shape for picture in gray[0]] == [(40, 60, 3)] * 2
    assert [int(picture[5, 5, 0]) for picture in gray[0]] == [100, 30]
    checkered = next(composited_frames(alike, "checker"))
    assert set(np.unique(checkered[1])) == {204, 255}


def test_evenly_spaced() -> None:
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(2, 5) == [0, 1]
    assert evenly_spaced(9, 1) == [0]
