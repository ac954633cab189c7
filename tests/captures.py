# SPDX-License-Identifier: Apache-2.0
"""Tiny captures with known cameras, in the layouts that the importers read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from npcr.camera_paths import sphere_band
from npcr.cameras import Cameras, project
from npcr.io.camera_files import read_cameras
from npcr.io.images import read_image, write_image

SIZE = (48, 36)
TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def poses(count: int = 4) -> np.ndarray:
    return sphere_band(count, 3.0)


def points(count: int = 40) -> np.ndarray:
    return np.random.default_rng(3).uniform(-0.4, 0.4, (count, 3))


def write_photographs(folder: Path, count: int = 4, size: tuple[int, int] = SIZE) -> list[str]:
    """Write smooth color images 0.png, ...; return their names."""
    y, x = np.mgrid[:size[1], :size[0]]
    for i in range(count):
        picture = np.stack([128 + 100 * np.sin(x / (4 + i)), 128 + 100 * np.cos(y / 5), (x + y) % 200], -1)
        write_image(folder / f"{i}.png", picture.astype(np.uint8))
    return [f"{i}.png" for i in range(count)]


def write_dots(path: Path, pixels: np.ndarray, size: tuple[int, int], radius: float = 1.6) -> None:
    """Write a black image with a soft dot at each of the pixels (N, 2)."""
    y, x = np.mgrid[:size[1], :size[0]]
    light = np.exp(-((x[..., None] - pixels[:, 0])**2 + (y[..., None] - pixels[:, 1])**2) / (2 * radius**2)).sum(-1)
    write_image(path, np.repeat(light[..., None], 3, 2).clip(0, 1).astype(np.float32))


def dot_errors(scene: Path, world: np.ndarray) -> np.ndarray:
    """Distances in pixels between where a scene's cameras project `world` points and where its pictures have dots."""
    files = sorted((scene / "img" / "0").glob("img_*.png"))
    size = read_image(files[0]).shape[1::-1]
    cameras: Cameras = read_cameras(scene / "CamPose.inf", scene / "Intrinsic.inf", (size[0], size[1]))
    import torch
    seen = project(torch.from_numpy(world).float().expand(len(cameras), -1, 3), cameras)[0].numpy()
    errors = []
    for file, pixels in zip(files, seen, strict=True):
        picture = read_image(file)[..., 0].astype(float)
        for x, y in pixels:
            column, row = round(x), round(y)
            if 6 <= column < size[0] - 6 and 6 <= row < size[1] - 6:
                window = picture[row - 5:row + 6, column - 5:column + 6]
                dy, dx = np.mgrid[-5:6, -5:6]
                found = np.array([(window * dx).sum(), (window * dy).sum()]) / max(window.sum(), 1e-9) + [column, row]
                errors.append(np.hypot(*(found - [x, y])))
    return np.array(errors)


def write_transforms(folder: Path, **more: Any) -> Path:
    names = write_photographs(folder / "images")
    frames = [{"file_path": f"images/{name}", "transform_matrix": (pose @ TO_OPENGL).tolist()}
              for name, pose in zip(names, poses(), strict=True)]
    values = {"w": SIZE[0], "h": SIZE[1], "fl_x": 50.0, "cx": 24.0, "cy": 18.0, "frames": frames, **more}
    (folder / "transforms.json").write_text(json.dumps(values))
    return folder


def edit_transforms(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the values of a transforms.json, which `change` is given; return `folder`."""
    values = json.loads((folder / "transforms.json").read_text())
    change(values)
    (folder / "transforms.json").write_text(json.dumps(values))
    return folder


def write_colmap(folder: Path, *, model: str = "PINHOLE", params: tuple[float, ...] = (50.0, 50.0, 24.0, 18.0),
                 size: tuple[int, int] = SIZE, binary: bool = True, dots: np.ndarray | None = None) -> Any:
    """A workspace with sparse/0 and images/ (with dots where the cameras see the points `dots`); its model."""
    import pycolmap
    rec = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=size[0], height=size[1], params=list(params), camera_id=1)
    rec.add_camera_with_trivial_rig(camera)
    write_photographs(folder / "images", size=size)
    world = points()
    for i, pose in enumerate(poses()):
        world_to_cam = np.linalg.inv(pose)
        local = world @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
        pixels = camera.img_from_cam(local)
        image = pycolmap.Image(name=f"{i}.png", camera_id=1, image_id=i + 1,
                               points2D=pycolmap.Point2DList([pycolmap.Point2D(p) for p in pixels]))
        rec.add_image_with_trivial_frame(image, pycolmap.Rigid3d(world_to_cam[:3]))
        if dots is not None:
            seen = camera.img_from_cam(dots @ world_to_cam[:3, :3].T + world_to_cam[:3, 3])
            write_dots(folder / "images" / f"{i}.png", seen - 0.5, size)
    for k, point in enumerate(world):
        track = pycolmap.Track()
        for i in range(len(poses())):
            track.add_element(i + 1, k)
        rec.add_point3D(point, track, np.array([k, 2 * k, 255 - k], np.uint8))
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    (rec.write_binary if binary else rec.write_text)(place)
    return rec


def metashape_xml(*, calibration: str = "<f>50</f>", kind: str = "frame", chunk: str = "", cameras: str = "",
                  component: str = "", inner: Callable[[np.ndarray], np.ndarray] = lambda pose: pose) -> str:
    """A cameras.xml of the four poses; `inner` takes a pose to the chunk's (or component's) coordinates."""
    belongs = ' component_id="0"' if component else ""
    rows = "".join(f'<camera id="{i}" sensor_id="0" label="{i}"{belongs}><transform>'
                   f'{" ".join(repr(float(v)) for v in inner(pose).ravel())}</transform></camera>'
                   for i, pose in enumerate(poses()))
    return (f'<?xml version="1.0" encoding="UTF-8"?><document version="2.0.0"><chunk label="c" enabled="true">'
            f'<sensors next_id="1"><sensor id="0" label="s" type="{kind}">'
            f'<resolution width="{SIZE[0]}" height="{SIZE[1]}"/>'
            f'<calibration type="{kind}" class="adjusted"><resolution width="{SIZE[0]}" height="{SIZE[1]}"/>'
            f'{calibration}</calibration></sensor></sensors>{component}'
            f'<cameras next_id="4">{rows}{cameras}</cameras>{chunk}</chunk></document>')


def write_metashape(folder: Path, **options: Any) -> Path:
    write_photographs(folder / "images")
    (folder / "cameras.xml").write_text(metashape_xml(**options))
    return folder / "cameras.xml"
