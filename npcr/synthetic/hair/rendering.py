# SPDX-License-Identifier: Apache-2.0
"""Ray tracing with Mitsuba 3 (extra `hair`): its `hair` BSDF on B-spline curves, rough plastic on meshes.

The only module that imports Mitsuba. A model is written to a folder once, from which several processes read it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plyfile

from npcr.extras import import_extra
from npcr.synthetic.hair.bodies import Body
from npcr.synthetic.hair.lighting import environment_map
from npcr.synthetic.hair.meshes import Mesh
from npcr.synthetic.hair.strands import Strands, to_splines

_PIGMENT_BINS = 8  # strands are sorted into by pigment; each has one material
_MAX_DEPTH = 10  # bounces of a light path
_BLOCK_SIZE = 16  # pixels; fixed, since an image's random numbers depend on its blocks
# Mitsuba's cameras have x to the left and y up, this project's x to the right and y down.
_TO_MITSUBA_AXES = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Intrinsics:
    """Intrinsics that all images of a scene share, with the principal point at ((width - 1) / 2, (height - 1) / 2)."""

    width: int
    height: int
    focal: float  # pixels


@dataclass(frozen=True)
class GeometryImage:
    """The first intersections of the rays through the pixel centers."""

    position: np.ndarray  # (H, W, 3) float32 world points; NaN where a ray hits nothing
    depth: np.ndarray  # (H, W) float32 camera-space z; 0 where a ray hits nothing


def load_mitsuba() -> Any:
    """Import Mitsuba and set its variant.

    Returns:
        The module `mitsuba`.

    Raises:
        MissingExtraError: it is not installed.
    """
    mitsuba = import_extra("mitsuba")
    mitsuba.set_variant("scalar_rgb")
    return mitsuba


def write_model(folder: Path, body: Body | None, strands: Strands) -> None:
    """Write the files that `HairRenderer` reads: model.json, meshes as .ply, curves as text.

    Args:
        folder: an existing folder.
        body: its meshes are rendered; None for strands alone.
        strands: the hair.
    """
    shapes: list[dict[str, Any]] = []
    for i, mesh in enumerate(body.meshes if body else ()):
        _write_mesh(folder / f"mesh_{i}.ply", mesh)
        shapes.append({"type": "ply", "filename": f"mesh_{i}.ply", "bsdf": {
            "type": "roughplastic", "alpha": mesh.roughness,
            "diffuse_reflectance": {"type": "rgb", "value": list(mesh.color)}}})
    order = np.argsort(strands.pigment.sum(1), kind="stable")
    for i, members in enumerate(np.array_split(order, min(_PIGMENT_BINS, len(strands)))):
        bin_strands = strands.subset(members)
        _write_curves(folder / f"curves_{i}.txt", bin_strands)
        eumelanin, pheomelanin = bin_strands.pigment.mean(0).tolist()
        shapes.append({"type": "bsplinecurve", "filename": f"curves_{i}.txt", "bsdf": {
            "type": "hair", "eumelanin": eumelanin, "pheomelanin": pheomelanin, "azimuthal_roughness": 0.4}})
    (folder / "model.json").write_text(json.dumps(shapes), encoding="utf-8")


class HairRenderer:
    """Renders the model that `write_model` wrote.

    Args:
        folder: that of `write_model`.
        intrinsics: of all images.
        threads: of Mitsuba; None for its own choice.
    """

    def __init__(self, folder: Path, intrinsics: Intrinsics, threads: int | None = None) -> None:
        self._mitsuba = mitsuba = load_mitsuba()
        self._intrinsics = intrinsics
        if threads is not None:
            import drjit
            drjit.set_thread_count(threads)
        scene: dict[str, Any] = {"type": "scene", "light": {"type": "envmap",
                                                            "bitmap": mitsuba.Bitmap(environment_map())}}
        for i, shape in enumerate(json.loads((folder / "model.json").read_text(encoding="utf-8"))):
            scene[f"shape_{i}"] = {**shape, "filename": str(folder / shape["filename"])}
        self._scene = mitsuba.load_dict(scene)
        self._path_tracer = mitsuba.load_dict({"type": "path", "max_depth": _MAX_DEPTH, "hide_emitters": True,
                                          "block_size": _BLOCK_SIZE})
        self._ray_caster = mitsuba.load_dict({"type": "aov", "aovs": "position:position,distance:depth",
                                          "block_size": _BLOCK_SIZE})

    def render(self, cam_to_world: np.ndarray, seed: int, samples: int) -> np.ndarray:
        """Render an image by path tracing.

        Args:
            cam_to_world: (4, 4).
            seed: of the random numbers.
            samples: light paths for each pixel.

        Returns:
            (H, W, 4) float32 premultiplied RGBA, linear light; alpha is the covered fraction of the pixel.
        """
        sensor = self._sensor(cam_to_world, {"type": "multijitter", "sample_count": samples})
        image = self._mitsuba.render(self._scene, sensor=sensor, integrator=self._path_tracer, seed=seed, spp=samples)
        return np.array(image, np.float32)

    def render_geometry(self, cam_to_world: np.ndarray) -> GeometryImage:
        """Trace one ray through each pixel center of a camera, (4, 4) camera-to-world."""
        sensor = self._sensor(cam_to_world, {"type": "stratified", "sample_count": 1, "jitter": False})
        values = np.array(self._mitsuba.render(self._scene, sensor=sensor, integrator=self._ray_caster, seed=0, spp=1))
        position, distance = values[..., -4:-1], values[..., -1]
        empty = distance <= 0
        forward, eye = cam_to_world[:3, 2], cam_to_world[:3, 3]
        depth = np.where(empty, 0, (position.astype(np.float64) - eye) @ forward)
        return GeometryImage(np.where(empty[..., None], np.nan, position).astype(np.float32), depth.astype(np.float32))

    def _sensor(self, cam_to_world: np.ndarray, sampler: dict[str, Any]) -> Any:
        intrinsics = self._intrinsics
        return self._mitsuba.load_dict({
            "type": "perspective", "fov_axis": "x",
            "fov": math.degrees(2 * math.atan(intrinsics.width / (2 * intrinsics.focal))),
            "to_world": self._mitsuba.ScalarTransform4f(np.asarray(cam_to_world) @ _TO_MITSUBA_AXES),
            "near_clip": 1e-3, "far_clip": 1e6, "sampler": sampler,
            # With a box filter a pixel is the mean over its own area, and alpha its coverage.
            "film": {"type": "hdrfilm", "width": intrinsics.width, "height": intrinsics.height, "pixel_format": "rgba",
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
    """Write Mitsuba's text format: a row "x y z radius" for each control point, a blank line after each curve."""
    splines = to_splines(strands)
    ends = np.cumsum(splines.counts)
    with path.open("w", encoding="ascii") as file:
        for start, end in zip(ends - splines.counts, ends, strict=True):
            values = splines.controls[start:end]
            file.write(("%.9g %.9g %.9g %.9g\n" * len(values) + "\n") % tuple(values.ravel().tolist()))
