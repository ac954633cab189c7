# SPDX-License-Identifier: Apache-2.0
"""The model of a scene, strands and surface, as the options describe it; the cameras that look at it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from npcr.camera_paths import look_at, orbit, sphere_band
from npcr.cameras import Cameras
from npcr.io.hair_files import read_hair
from npcr.synthetic.hair.bodies import BODIES
from npcr.synthetic.hair.grooming import grow
from npcr.synthetic.hair.meshes import Surface, read_surface, upright
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.rendering import Optics
from npcr.synthetic.hair.strands import Strands

_DISTANCE = 3.4  # of the cameras, in radii of the object
_FILL = 0.47  # share of the picture that the object's radius takes
_OUTLIERS = 0.001  # share of the points that may reach beyond it
_ELEVATION = (-10.0, 45.0)  # degrees, of the photographs
_PATH_START = (-30.0, 12.0)  # degrees: azimuth from the face, elevation
_WAVE = 8.0  # degrees that the path rises and sinks


@dataclass(frozen=True)
class Model:
    """What is rendered, and the sphere around it."""

    surface: Surface | None
    strands: Strands
    middle: np.ndarray  # (3,)
    radius: float


def build_model(options: HairOptions) -> Model:
    """Read or make surface and strands. Raises an `NpcrError` for files that are wrong."""
    name = options.surface_name
    surface = None if name == "none" else BODIES[name]() if name in BODIES else read_surface(
        name, options.up, options.region_above)
    if options.hair:
        strands = _from_file(options)
    else:
        if surface is None:
            surface = BODIES[options.groom.body]()
        strands = _grown(surface, options)
    # Hair of a preset with --surface none: grown on its body, shown without it.
    shown = None if name == "none" else surface
    everything = np.concatenate([strands.points, *(mesh.vertices for mesh in (shown.meshes if shown else ()))])
    # A few flyaways do not decide how near the cameras come.
    middle = np.quantile(everything, (_OUTLIERS, 1 - _OUTLIERS), axis=0).mean(0)
    radius = float(np.quantile(np.linalg.norm(everything - middle, axis=1), 1 - _OUTLIERS))
    return Model(shown, strands, middle, radius)


def _grown(surface: Surface, options: HairOptions) -> Strands:
    if options.surface_name in (*BODIES, "none"):
        return grow(surface, options.groom, options.seed)
    # Lengths are in units of the surface: a mesh of any size is brought to radius 1 and back.
    low, high = surface.skin.vertices.min(0), surface.skin.vertices.max(0)
    middle, scale = (low + high) / 2, float((high - low).max()) / 2
    grown = grow(surface.moved(1 / scale, -middle / scale), options.groom, options.seed)
    return grown.moved(scale, middle)


def _from_file(options: HairOptions) -> Strands:
    file = read_hair(str(options.hair))
    strands = Strands(file.points, file.thickness / 2, file.counts, np.zeros((len(file.counts), 2)))
    if options.number is not None and options.number < len(strands):
        rng = np.random.default_rng(np.random.SeedSequence([options.seed, 2]))
        strands = strands.subset(np.sort(rng.choice(len(strands), options.number, replace=False)))
    points = upright(strands.points, options.up)
    radii = strands.radii
    if options.thickness is not None or not file.has_thickness:
        radius = float(np.abs(points - (points.min(0) + points.max(0)) / 2).max())
        radii = np.full(len(points), 0.5 * options.groom.thickness * radius)
    rng = np.random.default_rng(np.random.SeedSequence([options.seed, 1]))
    tone = np.exp(options.groom.mottle * rng.normal(size=(len(strands), 1)))
    pigment = tone * [options.groom.melanin, options.groom.redness]
    return replace(strands, points=points, radii=radii, pigment=pigment)


def optics_of(model: Model, options: HairOptions) -> Optics:
    """Square pictures that the model fills from where the cameras stand."""
    distance = _DISTANCE * model.radius
    focal = _FILL * options.size * math.sqrt(distance**2 - model.radius**2) / model.radius
    return Optics(options.size, options.size, focal)


def view_cameras(model: Model, options: HairOptions) -> Cameras:
    """The photographs' cameras, spread over a band of a sphere."""
    poses = sphere_band(options.views, _DISTANCE * model.radius, elevation=_ELEVATION, center=model.middle)
    return _cameras(poses, optics_of(model, options))


def path_cameras(model: Model, options: HairOptions) -> Cameras:
    """The video path's cameras: around the model from beside the face, rising and sinking."""
    azimuth, elevation = np.radians(_PATH_START)
    toward = np.array([math.cos(elevation) * math.sin(azimuth), -math.cos(elevation) * math.cos(azimuth),
                       math.sin(elevation)])
    start = look_at(model.middle + _DISTANCE * model.radius * toward, model.middle)
    poses = orbit(start, options.path_frames, center=model.middle, degrees=options.path_degrees,
                  elevation_wave=(_WAVE, 1))
    return _cameras(poses, optics_of(model, options))


def _cameras(poses: np.ndarray, optics: Optics) -> Cameras:
    matrix = torch.tensor([[optics.focal, 0, (optics.width - 1) / 2], [0, optics.focal, (optics.height - 1) / 2],
                           [0, 0, 1]])
    return Cameras(torch.from_numpy(poses).float(), matrix.expand(len(poses), 3, 3), (optics.width, optics.height))
