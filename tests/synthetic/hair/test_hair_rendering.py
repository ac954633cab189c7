# SPDX-License-Identifier: Apache-2.0
"""Mitsuba's images agree with the project's cameras."""

import numpy as np
import pytest
import torch

from npcr.camera_paths import look_at
from npcr.cameras import Cameras, project
from npcr.synthetic.hair.bodies import Body
from npcr.synthetic.hair.meshes import sphere_mesh
from npcr.synthetic.hair.rendering import HairRenderer, Intrinsics, write_model
from npcr.synthetic.hair.scene import to_straight_srgb
from npcr.synthetic.hair.strands import Strands, to_splines

pytest.importorskip("mitsuba", reason="mitsuba is not installed: pip install 'npcr[hair]'")

SIZE = (28, 24)
PIXELS = np.stack(np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1])), -1)  # (H, W, 2) their centers
INTRINSICS = Intrinsics(*SIZE, focal=52.0)
POSE = look_at([1.0, -4.0, 1.5], [0.05, 0.0, 0.1])
SPOTS = np.array([[-0.5, 0.2, 0.4], [0.6, -0.3, -0.2], [0.1, 0.3, -0.45]])


def cameras(pose: np.ndarray = POSE) -> Cameras:
    intrinsics = torch.tensor([[52.0, 0, (SIZE[0] - 1) / 2], [0, 52.0, (SIZE[1] - 1) / 2], [0, 0, 1]])
    return Cameras(torch.from_numpy(pose)[None].float(), intrinsics[None], SIZE)


def dots(spots: np.ndarray, radius: float = 0.03) -> Strands:
    """Strands so short and thick that each is a blob about its spot."""
    along = np.array([0.0, 0.0, radius])
    points = np.stack([spots - along / 2, spots + along / 2], axis=1).reshape(-1, 3)
    return Strands(points, np.full(len(points), radius), np.full(len(spots), 2), np.ones((len(spots), 2)))


def wisps(count: int = 60) -> Strands:
    rng = np.random.default_rng(0)
    points = rng.normal(scale=0.3, size=(count, 1, 3)) + np.cumsum(rng.normal(scale=0.1, size=(count, 6, 3)), axis=1)
    return Strands(points.reshape(-1, 3), np.full(6 * count, 0.03), np.full(count, 6), rng.random((count, 2)))


@pytest.fixture(scope="module")
def renderer(tmp_path_factory) -> HairRenderer:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder, Body(sphere_mesh((0, 0, 0), 0.4, (0.5, 0.3, 0.2)), np.ones(384)), wisps())
    return HairRenderer(folder, INTRINSICS)


def test_positions_project_onto_the_pixels_that_saw_them(renderer):
    geometry = renderer.render_geometry(POSE)
    hit = geometry.depth > 0
    assert 0.1 < hit.mean() < 0.9
    pixels, depth = project(torch.from_numpy(geometry.position[hit])[None], cameras())
    np.testing.assert_allclose(pixels[0], PIXELS[hit], atol=2e-3)
    np.testing.assert_allclose(depth[0], geometry.depth[hit], atol=1e-4)
    assert np.isnan(geometry.position[~hit]).all()


def test_positions_lie_on_the_curves_and_the_skin(renderer):
    geometry = renderer.render_geometry(POSE)
    hits = geometry.position[geometry.depth > 0]
    splines = to_splines(wisps())
    first, _ = splines.segments
    steps = np.linspace(0, 1, 100)
    centers = splines.evaluate(np.repeat(first, 100), np.tile(steps, len(first)))[0][:, :3]
    off_curve = np.abs(np.linalg.norm(hits[:, None] - centers[None], axis=2).min(1) - 0.03)
    off_skin = np.abs(np.linalg.norm(hits, axis=1) - 0.4)
    assert np.minimum(off_curve, off_skin).max() < 0.006
    assert (off_curve < 0.003).sum() > 20


def test_photographs_show_things_where_they_project(tmp_path):
    for i, spot in enumerate(SPOTS):
        folder = tmp_path / str(i)
        folder.mkdir()
        # A sphere, since a curve's open ends would shift its center.
        mesh = sphere_mesh(tuple(spot), 0.12, (0.5, 0.5, 0.5), resolution=12)
        write_model(folder, Body(mesh, np.ones(len(mesh.quads))), dots(np.array([[0, 0, 5.0]])))
        alpha = HairRenderer(folder, Intrinsics(*SIZE, 52.0)).render(POSE, 0, 400)[..., 3]
        assert alpha.sum() > 3  # wide enough for its middle to mean something
        seen = (alpha[..., None] * PIXELS).sum((0, 1)) / alpha.sum()
        expected = project(torch.from_numpy(spot[None, None]).float(), cameras())[0][0, 0].numpy()
        np.testing.assert_allclose(seen, expected, atol=0.05)


def test_alpha_is_coverage(renderer):
    picture = renderer.render(POSE, 0, 64)
    assert picture.shape == (SIZE[1], SIZE[0], 4)
    alpha = picture[..., 3]
    assert alpha.min() == 0
    assert alpha.max() == pytest.approx(1)
    assert (picture[alpha == 0] == 0).all()  # no light is seen directly
    assert ((alpha > 0.02) & (alpha < 0.98)).mean() > 0.1
    # Coverage once more, by four rays a pixel.
    coverage = np.zeros_like(alpha)
    for dx, dy in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        shifted = POSE.copy()
        # A quarter pixel aside at this focal length: turn the camera about its own axes.
        ray = np.array([0.25 * dx / 52, 0.25 * dy / 52, 1])
        shifted[:3, :3] = POSE[:3, :3] @ look_at([0, 0, 0], ray, up=[0, -1, 0])[:3, :3]
        coverage += (renderer.render_geometry(shifted).depth > 0) / 4
    assert np.abs(alpha - coverage).mean() < 0.06
    assert np.corrcoef(alpha.ravel(), coverage.ravel())[0, 1] > 0.97


def test_a_view_follows_its_seed_and_no_number_of_threads(renderer, tmp_path):
    write_model(tmp_path, None, wisps())
    pictures = [HairRenderer(tmp_path, Intrinsics(*SIZE, 52.0), threads).render(POSE, seed, 4)
                for threads, seed in ((1, 3), (2, 3), (1, 4))]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_dark_pigment_makes_dark_hair(tmp_path):
    light = []
    for i, melanin in enumerate((0.1, 8.0)):
        folder = tmp_path / str(i)
        folder.mkdir()
        strands = wisps()
        write_model(folder, None, Strands(strands.points, strands.radii, strands.counts, np.full((60, 2), melanin)))
        light.append(HairRenderer(folder, Intrinsics(*SIZE, 52.0)).render(POSE, 0, 16)[..., :3].mean((0, 1)))
    assert (light[1] < 0.5 * light[0]).all()


def test_light_comes_from_where_it_is_said_to(tmp_path):
    """The map's layout: a white sphere_mesh is brightest towards the key."""
    write_model(tmp_path, Body(sphere_mesh((0, 0, 0), 0.6, (0.8, 0.8, 0.8), 0.9, 24), np.ones(6 * 24 * 24)),
                dots(np.array([[0, 0, 5.0]])))
    renderer = HairRenderer(tmp_path, Intrinsics(*SIZE, 52.0))
    brightness = renderer.render(look_at([0, -4.0, 0.5], [0, 0, 0]), 0, 64)[..., :3].mean(-1)
    half = SIZE[0] // 2
    assert brightness[:12, :half].sum() > 1.2 * brightness[:12, half:].sum()  # it stands at -x, on the left here
    assert brightness[:12].sum() > 1.2 * brightness[12:].sum()


def test_half_covered_pixels_show_the_hairs_own_color():
    linear = np.array([[[0.2, 0.1, 0.05, 1.0], [0.1, 0.05, 0.025, 0.5], [0, 0, 0, 0]]], np.float32)
    full, half, empty = to_straight_srgb(linear)[0].astype(int)
    assert full.tolist() == [124, 89, 63, 255]
    assert np.abs(half[:3] - full[:3]).max() <= 1
    assert half[3] == 128
    assert empty.tolist() == [0, 0, 0, 0]
