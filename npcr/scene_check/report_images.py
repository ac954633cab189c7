# SPDX-License-Identifier: Apache-2.0
"""The pictures of a scene's check: the cloud over photographs, and the cameras around the cloud."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from npcr.cameras import project
from npcr.io.images import read_image, write_image
from npcr.reconstruction.mattes import coverage
from npcr.reconstruction.progress import Progress
from npcr.scene_check.check import Material
from npcr.scene_check.consistency import TRACE
from npcr.visualization.preview import contact_sheet, draw_cameras, draw_projection

_DIRECTIONS = {"front": (0.62, -1.0, 0.62), "side": (1.0, 0.05, 0.1), "top": (0.02, -0.05, 1.0)}
_LONGEST = 1200  # pixels of a picture's longer side
_MOST_POINTS = 60000


def write_pictures(folder: Path, material: Material, views: int, *,
                   progress: Progress = lambda jobs, count: jobs) -> list[Path]:
    """Write contact_sheet.png, cameras.png and camera_NNNN.png of `views` evenly chosen cameras to `folder`."""
    points = material.cloud.positions
    chosen = np.sort(np.random.default_rng(0).permutation(len(points))[:_MOST_POINTS])
    points = points[chosen]
    count = len(material.cameras)
    numbers = np.unique(np.linspace(0, count - 1, min(views, count)).round().astype(int)).tolist()
    written, tiles = [], []
    for i in progress(numbers, len(numbers)):
        tiles.append(_over_photograph(material, points, i))
        written.append(folder / f"camera_{i + 1:04d}.png")
        write_image(written[-1], tiles[-1])
    cameras = material.cameras
    angle = np.degrees(2 * np.arctan(0.5 * cameras.size[0] / cameras.intrinsics[:, 0, 0].numpy()))
    colors = None if material.cloud.colors is None else material.cloud.colors[chosen]
    around = [draw_cameras(cameras.cam_to_world.numpy(), field_of_view=angle, points=points, colors=colors, path=False,
                           direction=direction) for direction in _DIRECTIONS.values()]
    for name, picture in zip(_DIRECTIONS, around, strict=True):
        cv2.putText(picture, f"from the {name}", (12, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (90, 90, 90), 2, cv2.LINE_AA)
    sheets = [folder / "contact_sheet.png", folder / "cameras.png"]
    write_image(sheets[0], contact_sheet(tiles, min(4, len(tiles))))
    write_image(sheets[1], contact_sheet(around, 3, 960))
    return sheets + written


def _over_photograph(material: Material, points: np.ndarray, i: int) -> np.ndarray:
    """The cloud over the i-th photograph, with the matte's outline and what it covers."""
    width, height = material.cameras.size
    scale = min(1.0, _LONGEST / max(width, height))
    camera = material.cameras[i].resized((round(width * scale), round(height * scale)))
    pixels, depth = (result[0].numpy() for result in project(torch.from_numpy(points)[None], camera))
    front = depth > 0
    caption, matte = f"{i + 1}: {material.images[i].name}", None
    if material.mattes is not None:
        matte = material.mattes[i]
        small = material.cameras[i].resized((matte.shape[1], matte.shape[0]))
        covered = coverage(points, small, [matte])[0]
        spilled = coverage(points, small, [matte], threshold=TRACE)[1]
        caption += f"  covered {covered:.1%}  spilled {spilled:.1%}"
    photograph = read_image(material.images[i])[..., :3]
    return draw_projection(photograph, pixels[front], depth[front], size=camera.size, matte=matte, caption=caption)
