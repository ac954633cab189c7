# SPDX-License-Identifier: Apache-2.0
"""Tiny captures whose photographs and mattes tell who they are, in the layout of each importer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from npcr.camera_paths import sphere_band
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.images import write_image
from npcr.io.points import PointCloud, write_points

COUNT, WIDTH, HEIGHT, FOCAL = 5, 32, 26, 40.0
POSES = sphere_band(COUNT, 3.0)
POINTS = np.random.default_rng(5).uniform(-0.5, 0.5, (8, 3)).astype(np.float32)
COLORS = np.random.default_rng(6).integers(1, 255, (8, 3)).astype(np.uint8)
_TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def color_of(identity: int) -> tuple[int, int, int]:
    return (30 + 40 * identity, 200 - 30 * identity, 90)


def rows_of(identity: int) -> int:
    """How many rows of its matte are opaque."""
    return 4 + 3 * identity


def write_photographs(folder: Path, name: str = "{}.png") -> None:
    for i in range(COUNT):
        write_image(folder / name.format(i), np.full((HEIGHT, WIDTH, 3), color_of(i), np.uint8))


def write_masks(folder: Path, name: str) -> None:
    for i in range(COUNT):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[:rows_of(i)] = 255
        write_image(folder / name.format(i), mask)


def write_transforms(folder: Path) -> Path:
    write_photographs(folder / "images")
    write_masks(folder / "masks", "{}.png")
    write_points(folder / "cloud.ply", PointCloud(POINTS, COLORS))
    frames = [{"file_path": f"images/{i}.png", "mask_path": f"masks/{i}.png",
               "transform_matrix": (pose @ _TO_OPENGL).tolist()} for i, pose in enumerate(POSES)]
    values = {"camera_model": "OPENCV", "fl_x": FOCAL, "fl_y": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH,
              "h": HEIGHT, "k1": 0.0, "k2": 0.0, "p1": 0.0, "p2": 0.0, "ply_file_path": "cloud.ply",
              "train_filenames": [f"images/{i}.png" for i in range(COUNT - 1)],
              "test_filenames": [f"images/{COUNT - 1}.png"], "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(values, indent=1))
    return folder


def write_colmap(folder: Path, binary: bool) -> Path:
    import pycolmap
    write_photographs(folder / "images")
    write_masks(folder / "masks", "{}.png.png")
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model="PINHOLE", width=WIDTH, height=HEIGHT,
                             params=[FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], camera_id=1)
    model.add_camera_with_trivial_rig(camera)
    for i, pose in enumerate(POSES):
        world_to_cam = np.linalg.inv(pose)
        seen = POINTS @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
        model.add_image_with_trivial_frame(pycolmap.Image(
            name=f"{i}.png", camera_id=1, image_id=i + 1, points2D=pycolmap.Point2DList(
                [pycolmap.Point2D(p) for p in camera.img_from_cam(seen)])), pycolmap.Rigid3d(world_to_cam[:3]))
    for k, (point, color) in enumerate(zip(POINTS, COLORS, strict=True)):
        track = pycolmap.Track()
        for i in range(COUNT):
            track.add_element(i + 1, k)
        model.add_point3D(point.astype(float), track, color)
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    (model.write_binary if binary else model.write_text)(place)
    for name in ("rigs", "frames"):  # as older versions and most other programs write it
        for file in place.glob(f"{name}.*"):
            file.unlink()
    return folder


def write_metashape(folder: Path) -> Path:
    write_photographs(folder / "images")
    write_masks(folder / "masks", "{}.png")
    write_points(folder / "cloud.ply", PointCloud(POINTS, COLORS))
    rows = "\n".join(f'<camera id="{i}" sensor_id="0" label="{i}.png" enabled="true">\n<transform>'
                     f'{" ".join(repr(float(v)) for v in pose.ravel())}</transform>\n</camera>'
                     for i, pose in enumerate(POSES))
    size = f'<resolution width="{WIDTH}" height="{HEIGHT}"/>'
    (folder / "cameras.xml").write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<document version="2.0.0">\n<chunk label="Chunk 1" enabled="true">\n'
        f'<sensors next_id="1">\n<sensor id="0" label="unknown" type="frame">\n{size}\n'
        f'<calibration type="frame" class="adjusted">\n{size}\n<f>{FOCAL}</f>\n<cx>0</cx>\n<cy>0</cy>\n<k1>0</k1>\n'
        f'<k2>0</k2>\n</calibration>\n</sensor>\n</sensors>\n<cameras next_id="{COUNT}">\n{rows}\n</cameras>\n'
        f'<transform>\n<scale>1</scale>\n<translation>0 0 0</translation>\n</transform>\n</chunk>\n</document>\n')
    return folder


def write_nhr(folder: Path) -> Path:
    write_cam_poses(folder / "CamPose.inf", POSES)
    matrix = [[FOCAL, 0, (WIDTH - 1) / 2], [0, FOCAL, (HEIGHT - 1) / 2], [0, 0, 1]]
    write_intrinsics(folder / "Intrinsic.inf", np.tile(matrix, (COUNT, 1, 1)))
    write_photographs(folder / "img" / "0", "img_{:04d}.png")
    write_masks(folder / "img" / "0" / "mask", "img_{:04d}.png")
    write_points(folder / "pointclouds" / "frame1.ply", PointCloud(POINTS, COLORS))
    return folder
