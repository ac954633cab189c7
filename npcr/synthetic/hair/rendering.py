# SPDX-License-Identifier: Apache-2.0
"""Ray tracing with Mitsuba 3 (extra `hair`): its `hair` BSDF on B-spline curves, skin under a thin varnish.

The only module that knows Mitsuba. A model is written to a folder once and read from there, which is what
lets several processes render it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plyfile

from npcr.errors import MissingExtraError
from npcr.synthetic.hair.lighting import environment_map
from npcr.synthetic.hair.meshes import Mesh, Surface
from npcr.synthetic.hair.strands import Strands, splines_of

_TONES = 8  # into which the strands' pigment is sorted: one material each
_DEPTH = 10  # bounces of a path
_BLOCK = 16  # pixels; fixed, for the random numbers of a picture follow its blocks
# Mitsuba's camera looks along its z with x to the left and y up; the project's has x right and y down.
_AXES = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Optics:
    """What all pictures of a scene share."""

    width: int
    height: int
    focal: float  # pixels; the principal point is the picture's middle, ((width - 1) / 2, (height - 1) / 2)


@dataclass(frozen=True)
class Geometry:
    """What the rays through the pixels' centers meet first."""

    position: np.ndarray  # (H, W, 3) float32 world points; NaN where there is nothing
    depth: np.ndarray  # (H, W) float32 camera-space z; 0 where there is nothing


def load_mitsuba() -> Any:
    """Mitsuba with its variant set. Raises `MissingExtraError`."""
    try:
        import mitsuba
    except ImportError:
        raise MissingExtraError("ray tracing needs Mitsuba 3: pip install 'npcr[hair]'") from None
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


def write_model(folder: Path, surface: Surface | None, strands: Strands) -> None:
    """Write what `HairRenderer` reads: model.json, meshes as .ply, curves as text."""
    shapes: list[dict[str, Any]] = []
    for i, mesh in enumerate(surface.meshes if surface else ()):
        _write_mesh(folder / f"mesh_{i}.ply", mesh)
        shapes.append({"type": "ply", "filename": f"mesh_{i}.ply", "bsdf": {
            "type": "roughplastic", "alpha": mesh.roughness,
            "diffuse_reflectance": {"type": "rgb", "value": list(mesh.color)}}})
    order = np.argsort(strands.pigment.sum(1), kind="stable")
    for i, members in enumerate(np.array_split(order, min(_TONES, len(strands)))):
        tone = strands.subset(members)
        _write_curves(folder / f"curves_{i}.txt", tone)
        eumelanin, pheomelanin = tone.pigment.mean(0).tolist()
        shapes.append({"type": "bsplinecurve", "filename": f"curves_{i}.txt", "bsdf": {
            "type": "hair", "eumelanin": eumelanin, "pheomelanin": pheomelanin, "azimuthal_roughness": 0.4}})
    (folder / "model.json").write_text(json.dumps(shapes), encoding="utf-8")


class HairRenderer:
    """A model from a folder that `write_model` filled, ready to be photographed."""

    def __init__(self, folder: Path, optics: Optics, threads: int | None = None) -> None:
        self._mitsuba = mitsuba = load_mitsuba()
        self.optics = optics
        if threads is not None:
            import drjit
            drjit.set_thread_count(threads)
        scene: dict[str, Any] = {"type": "scene", "light": {"type": "envmap",
                                                            "bitmap": mitsuba.Bitmap(environment_map())}}
        for i, shape in enumerate(json.loads((folder / "model.json").read_text(encoding="utf-8"))):
            scene[f"shape_{i}"] = {**shape, "filename": str(folder / shape["filename"])}
        self._scene = mitsuba.load_dict(scene)
        self._tracer = mitsuba.load_dict({"type": "path", "max_depth": _DEPTH, "hide_emitters": True,
                                          "block_size": _BLOCK})
        self._finder = mitsuba.load_dict({"type": "aov", "aovs": "position:position,distance:depth",
                                          "block_size": _BLOCK})

    def photograph(self, cam_to_world: np.ndarray, seed: int, samples: int) -> np.ndarray:
        """(H, W, 4) float32: linear light, premultiplied, and the share of each pixel that is covered.

        samples: light paths for each pixel.
        """
        sensor = self._sensor(cam_to_world, {"type": "multijitter", "sample_count": samples})
        picture = self._mitsuba.render(self._scene, sensor=sensor, integrator=self._tracer, seed=seed, spp=samples)
        return np.array(picture, np.float32)

    def geometry(self, cam_to_world: np.ndarray) -> Geometry:
        """What one ray through each pixel's center meets."""
        sensor = self._sensor(cam_to_world, {"type": "stratified", "sample_count": 1, "jitter": False})
        values = np.array(self._mitsuba.render(self._scene, sensor=sensor, integrator=self._finder, seed=0, spp=1))
        position, distance = values[..., -4:-1], values[..., -1]
        nothing = distance <= 0
        forward, eye = cam_to_world[:3, 2], cam_to_world[:3, 3]
        depth = np.where(nothing, 0, (position.astype(np.float64) - eye) @ forward)
        return Geometry(np.where(nothing[..., None], np.nan, position).astype(np.float32), depth.astype(np.float32))

    def _sensor(self, cam_to_world: np.ndarray, sampler: dict[str, Any]) -> Any:
        optics = self.optics
        return self._mitsuba.load_dict({
            "type": "perspective", "fov_axis": "x",
            "fov": math.degrees(2 * math.atan(optics.width / (2 * optics.focal))),
            "to_world": self._mitsuba.ScalarTransform4f(np.asarray(cam_to_world) @ _AXES),
            "near_clip": 1e-3, "far_clip": 1e6, "sampler": sampler,
            # A box filter: a pixel is the mean over its own square, alpha its coverage.
            "film": {"type": "hdrfilm", "width": optics.width, "height": optics.height, "pixel_format": "rgba",
                     "component_format": "float32", "rfilter": {"type": "box"}},
        })


def _write_mesh(path: Path, mesh: Mesh) -> None:
    columns = np.concatenate([mesh.vertices, mesh.normals], axis=1).astype(np.float32)
    vertices = np.array([tuple(row) for row in columns], dtype=[(name, "f4") for name in ("x", "y", "z", "nx", "ny",
                                                                                         "nz")])
    faces = np.empty(len(mesh.triangles), dtype=[("vertex_indices", "i4", (3,))])
    faces["vertex_indices"] = mesh.triangles
    plyfile.PlyData([plyfile.PlyElement.describe(vertices, "vertex"),
                     plyfile.PlyElement.describe(faces, "face")]).write(str(path))


def _write_curves(path: Path, strands: Strands) -> None:
    """Mitsuba's text of B-splines: a row "x y z radius" for each control point, a blank line after each curve."""
    splines = splines_of(strands)
    ends = np.cumsum(splines.counts)
    with path.open("w", encoding="ascii") as file:
        for start, end in zip(ends - splines.counts, ends, strict=True):
            values = splines.controls[start:end]
            file.write(("%.9g %.9g %.9g %.9g\n" * len(values) + "\n") % tuple(values.ravel().tolist()))
