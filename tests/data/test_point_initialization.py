# SPDX-License-Identifier: Apache-2.0
"""What photographs say about points: colors and strands' directions, on a scene where both are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.data.point_initialization import mean_colors, strand_directions, texture_directions
from tests.scenes import orbit_cameras

SIZE = (96, 96)


def hair_sheet() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of parallel strands on a square plate, their colors (each strand its own), and the strands' direction."""
    rng = np.random.default_rng(0)
    direction = np.array([0.6, 0.0, 0.8])
    across = np.array([0.8, 0.0, -0.6])
    strand = np.repeat(np.arange(24), 200)
    along = rng.uniform(-0.5, 0.5, len(strand))
    points = along[:, None] * direction + (strand / 23 - 0.5)[:, None] * across
    shade = rng.permutation(np.linspace(40, 250, 24))[strand]
    return points.astype(np.float32), np.stack([shade, shade * 0.5, 255 - shade], axis=1), direction


def photograph(points: np.ndarray, colors: np.ndarray, camera: Cameras) -> Tensor:
    """(4, H, W) of a two-sided plate: every pixel takes the nearest point's color, where there is one nearby."""
    pixels = project(torch.from_numpy(points)[None], camera)[0][0]
    grid = torch.stack(torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="xy"), dim=-1).float()
    distance, nearest = torch.cdist(grid.reshape(-1, 2), pixels).min(1)
    alpha = (distance < 2).float()
    rgb = torch.from_numpy(colors).float()[nearest] / 255 * alpha[:, None]
    return torch.cat([rgb, alpha[:, None]], dim=1).T.unflatten(1, (SIZE[1], SIZE[0]))


@pytest.fixture(scope="module")
def seen() -> tuple[np.ndarray, np.ndarray, np.ndarray, Cameras, list[Tensor]]:
    points, colors, direction = hair_sheet()
    cameras = orbit_cameras(6, SIZE)
    return points, colors, direction, cameras, [photograph(points, colors, cameras[i]) for i in range(6)]


def test_colors_are_those_of_the_photographs(seen: tuple) -> None:
    points, colors, _, cameras, photographs = seen
    found = mean_colors(points, cameras, photographs)
    assert found.dtype == np.uint8
    assert np.median(np.abs(found.astype(float) - colors)) < 12


def test_points_that_none_sees_get_the_mean(seen: tuple) -> None:
    points, _, _, cameras, photographs = seen
    behind = np.concatenate([points, np.full((1, 3), 500.0, np.float32)])
    found = mean_colors(behind, cameras, photographs).astype(float)
    np.testing.assert_allclose(found[-1], found[:-1].mean(0), atol=2)


def test_directions_are_the_strands(seen: tuple) -> None:
    points, _, direction, cameras, photographs = seen
    found = strand_directions(points, cameras, photographs)
    sure = np.linalg.norm(found, axis=1)
    assert sure.max() <= 1 + 1e-5
    clear = sure > 0.5
    assert clear.mean() > 0.5
    cosine = np.abs(found[clear] @ direction) / sure[clear]
    assert math.degrees(math.acos(np.median(cosine))) < 15


def test_one_photograph_gives_no_direction(seen: tuple) -> None:
    points, _, _, cameras, photographs = seen
    found = strand_directions(points, cameras[:1], photographs[:1])
    assert np.linalg.norm(found, axis=1).max() < 0.02


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_the_textures_direction(degrees: int) -> None:
    y, x = np.mgrid[:64, :64]
    turn = math.radians(degrees)
    stripes = 0.5 + 0.5 * np.sin((-math.sin(turn) * x + math.cos(turn) * y) * 0.8)
    picture = np.concatenate([np.repeat(stripes[None], 3, 0), np.ones((1, 64, 64))]).astype(np.float32)
    direction, clear = texture_directions(picture)
    inside = (slice(8, -8), slice(8, -8))
    cosine = np.abs(direction[inside] @ np.array([math.cos(turn), math.sin(turn)]))
    assert cosine.min() > 0.99
    assert clear[inside].min() > 0.9
