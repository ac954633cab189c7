# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest

from npcr.errors import ConfigError, SceneError
from npcr.synthetic.hair.bodies import BODIES, read_body
from npcr.synthetic.hair.grooming import grow_strands
from npcr.synthetic.hair.meshes import Mesh, sample_mesh, sphere_mesh
from npcr.synthetic.hair.presets import PRESETS
from npcr.synthetic.hair.signed_distance import SignedDistanceField
from npcr.synthetic.hair.strands import Strands, to_splines
from npcr.synthetic.hair.styling import resample

MADE_BODIES = {name: make() for name, make in BODIES.items()}


def small(preset: str, **changes):
    return replace(PRESETS[preset], number=80, **changes)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_groom_follows_its_seed_and_stays_outside(preset):
    groom = small(preset)
    body = MADE_BODIES[groom.body]
    strands = grow_strands(body, groom, 5)
    again, other = grow_strands(body, groom, 5), grow_strands(body, groom, 6)
    np.testing.assert_array_equal(strands.points, again.points)
    np.testing.assert_array_equal(strands.pigment, again.pigment)
    assert not np.array_equal(strands.points, other.points)
    assert np.isfinite(strands.points).all()
    assert (strands.radii > 0).all()
    assert strands.radii[strands.starts].mean() > 1.5 * strands.radii[strands.starts + strands.counts - 1].mean()
    assert (SignedDistanceField(body.skin, 0.5)(strands.points) > -0.04).mean() > 0.99


def test_options_shape_the_strands():
    base = small("bob", curl=0.0, frizz=0.0)
    body = MADE_BODIES["head"]
    plain = grow_strands(body, base, 0)
    lengths = {name: _lengths(grow_strands(body, replace(base, **change), 0)).mean() for name, change in
               {"plain": {}, "short": {"length": 0.5}, "curled": {"curl": 0.06}, "frizzy": {"frizz": 0.08}}.items()}
    assert lengths["short"] < 0.6 * lengths["plain"] < 0.6 * lengths["curled"]
    assert lengths["plain"] < lengths["frizzy"]
    loose = grow_strands(body, replace(base, clump=0.0), 0)
    assert _tip_gap(plain) < 0.8 * _tip_gap(loose)
    heavy = grow_strands(body, replace(base, thickness=2 * base.thickness, melanin=3 * base.melanin), 0)
    np.testing.assert_allclose(heavy.radii, 2 * plain.radii)
    np.testing.assert_allclose(heavy.pigment, plain.pigment * [3, 1])


def test_a_limit_is_named():
    with pytest.raises(ConfigError, match="--clump is 2; it must be from 0 to 1"):
        small("bob", clump=2.0)


def test_bare_places_stay_bare():
    strands = grow_strands(MADE_BODIES["head"], small("bob"), 0)
    roots = strands.points[strands.starts]
    assert roots[:, 2].min() > -0.8
    assert not ((roots[:, 1] < -0.5) & (roots[:, 2] < 0.2)).any()  # the face


def test_resampling_keeps_ends_and_evens_steps():
    lines = np.cumsum(np.random.default_rng(0).random((7, 9, 3)), axis=1)
    even = resample(lines, 20)
    np.testing.assert_allclose(even[:, [0, -1]], lines[:, [0, -1]])
    straight = resample(np.array([[[0.0, 0, 0], [1, 0, 0], [4, 0, 0]]]), 5)
    np.testing.assert_allclose(straight[0, :, 0], [0, 1, 2, 3, 4])


def test_splines_begin_at_roots_and_end_at_tips():
    points = np.random.default_rng(1).normal(size=(9, 3))
    strands = Strands(points, np.linspace(1, 2, 9), np.array([2, 4, 3]), np.zeros((3, 2)))
    splines = to_splines(strands)
    first, owner = splines.segments
    assert owner.tolist() == [0, 1, 1, 1, 2, 2]
    begins = splines.evaluate(first, np.zeros(len(first)))[0]
    ends, slopes = splines.evaluate(first, np.ones(len(first)))
    np.testing.assert_allclose(begins[[0, 1, 4], :3], points[[0, 2, 6]])
    np.testing.assert_allclose(ends[[0, 3, 5], :3], points[[1, 5, 8]])
    np.testing.assert_allclose(begins[[2, 3, 5]], ends[[1, 2, 4]])  # one piece runs into the next
    near = splines.evaluate(first, np.full(len(first), 1 - 1e-6))[0]
    np.testing.assert_allclose(slopes, (ends - near) / 1e-6, atol=1e-4)


def test_distance_of_a_sphere():
    field = SignedDistanceField(sphere_mesh((0.5, 0, 0), 1.0, (0, 0, 0), resolution=24), margin=0.4)
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    for radius in (0.9, 1.0, 1.2):
        points = [0.5, 0, 0] + radius * directions
        np.testing.assert_allclose(field(points), radius - 1, atol=0.012)
    assert ((field.normals(points) * directions).sum(1) > 0.95).all()
    moved = field.push_out([0.5, 0, 0] + 0.95 * directions, np.full(200, 0.05))
    np.testing.assert_allclose(np.linalg.norm(moved - [0.5, 0, 0], axis=1), 1.05, atol=0.02)


def test_points_on_a_mesh_are_as_dense_as_weighted():
    square = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [3, 0, 0]])
    mesh = Mesh(square, np.array([[0, 1, 2, 3], [1, 4, 2, 2]]))  # a quad of area 1 and a triangle of area 1
    points, normals = sample_mesh(mesh, np.array([1.0, 3.0]), 4000, np.random.default_rng(0))
    assert abs((points[:, 0] > 1).mean() - 0.75) < 0.01
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 4000, atol=1e-12)
    on_triangle = points[points[:, 0] > 1]
    assert (on_triangle[:, 1] <= (3 - on_triangle[:, 0]) / 2 + 1e-9).all()
    np.testing.assert_allclose(on_triangle.mean(0), [5 / 3, 1 / 3, 0], atol=0.03)
    assert mesh.triangles.tolist() == [[0, 1, 2], [1, 4, 2], [0, 2, 3]]


@pytest.mark.parametrize("name", BODIES)
def test_built_in_surfaces_are_closed_and_face_outwards(name):
    for mesh in MADE_BODIES[name].meshes:
        corners = mesh.vertices[mesh.triangles]
        volume = np.einsum("ij,ij->i", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6
        assert volume > 0
        edges = np.concatenate([mesh.quads[:, [i, (i + 1) % 4]] for i in range(4)])
        assert len(np.unique(edges, axis=0)) == len(edges)
        assert {tuple(edge) for edge in edges} == {tuple(edge[::-1]) for edge in edges}


def test_meshes_are_read_upright(tmp_path):
    pytest.importorskip("trimesh", reason="trimesh is not installed: pip install 'npcr[hair]'")
    file = tmp_path / "x.obj"
    file.write_text("v 0 0 0\nv 1 0 0\nv 0 2 0\nf 1 2 3\n")
    body = read_body(file, up="y")
    np.testing.assert_allclose(body.skin.vertices, [[0, 0, 0], [1, 0, 0], [0, 0, 2]])
    np.testing.assert_allclose(body.skin.normals, [[0, -1, 0]] * 3)
    with pytest.raises(SceneError, match="--region-above"):
        read_body(file, up="y", min_height=0.9)
    file.write_text("v 0 0 0\n")
    with pytest.raises(SceneError, match=r"x\.obj: (has no faces|cannot be read)"):
        read_body(file)


def _lengths(strands: Strands) -> np.ndarray:
    return np.linalg.norm(np.diff(strands.points.reshape(len(strands), -1, 3), axis=1), axis=2).sum(1)


def _tip_gap(strands: Strands) -> float:
    tips = strands.points.reshape(len(strands), -1, 3)[:, -1]
    gaps = np.linalg.norm(tips[:, None] - tips[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    return float(np.median(gaps.min(1)))
