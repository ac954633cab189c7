# SPDX-License-Identifier: Apache-2.0
"""The hair model of a scene, body and strands, made from the options."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from npcr.io.hair_files import read_hair
from npcr.synthetic.hair.bodies import BODIES, Body, read_body
from npcr.synthetic.hair.grooming import grow_strands
from npcr.synthetic.hair.meshes import to_z_up
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.strands import Strands

_OUTLIERS = 0.001  # fraction of the points that may be outside of the bounding sphere


@dataclass(frozen=True)
class HairModel:
    """What is rendered, and its bounding sphere."""

    body: Body | None  # None: strands alone
    strands: Strands
    center: np.ndarray  # (3,)
    radius: float


def build_model(options: HairOptions) -> HairModel:
    """Read or make the body and the strands.

    Args:
        options: of the scene.

    Returns:
        The model, with z up.

    Raises:
        SceneError: the mesh file or the .hair file is wrong.
        MissingExtraError: a mesh file needs trimesh.
    """
    body = _make_body(options)
    if options.hair:
        strands = _read_strands(options)
    else:
        strands = _grow(BODIES[options.groom.body]() if body is None else body, options)
    points = np.concatenate([strands.points, *(mesh.vertices for mesh in (body.meshes if body else ()))])
    # Quantiles, so that a few flyaways do not move the cameras away.
    center = np.quantile(points, (_OUTLIERS, 1 - _OUTLIERS), axis=0).mean(0)
    radius = float(np.quantile(np.linalg.norm(points - center, axis=1), 1 - _OUTLIERS))
    return HairModel(body, strands, center, radius)


def _make_body(options: HairOptions) -> Body | None:
    name = options.body_name
    if name == "none":
        return None
    return BODIES[name]() if name in BODIES else read_body(name, options.up, options.region_above)


def _grow(body: Body, options: HairOptions) -> Strands:
    if options.body_name in (*BODIES, "none"):
        return grow_strands(body, options.groom, options.seed)
    # Lengths are in units of the body: a mesh of any size is scaled to radius 1, and the strands back.
    low, high = body.skin.vertices.min(0), body.skin.vertices.max(0)
    center, scale = (low + high) / 2, float((high - low).max()) / 2
    strands = grow_strands(body.transformed(1 / scale, -center / scale), options.groom, options.seed)
    return strands.transformed(scale, center)


def _read_strands(options: HairOptions) -> Strands:
    file = read_hair(str(options.hair))
    strands = Strands(file.points, file.thickness / 2, file.counts, np.zeros((len(file.counts), 2)))
    if options.number is not None and options.number < len(strands):
        rng = np.random.default_rng(np.random.SeedSequence([options.seed, 2]))
        strands = strands.subset(np.sort(rng.choice(len(strands), options.number, replace=False)))
    points = to_z_up(strands.points, options.up)
    radii = strands.radii
    if options.thickness is not None or not file.has_thickness:
        radius = float(np.abs(points - (points.min(0) + points.max(0)) / 2).max())
        radii = np.full(len(points), 0.5 * options.groom.thickness * radius)
    rng = np.random.default_rng(np.random.SeedSequence([options.seed, 1]))
    tone = np.exp(options.groom.mottle * rng.normal(size=(len(strands), 1)))
    pigment = tone * [options.groom.melanin, options.groom.redness]
    return replace(strands, points=points, radii=radii, pigment=pigment)
