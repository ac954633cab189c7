# SPDX-License-Identifier: Apache-2.0
"""Tiny scenes for tests of reading, written without the package's own writers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from npcr.cameras import Cameras

SIZE = (24, 16)  # (width, height)


def orbit_poses(count: int, radius: float = 4.0) -> np.ndarray:
    """(count, 4, 4) camera-to-world matrices on a circle around z, looking at the origin, z upwards."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    for index, pose in enumerate(poses):
        angle = 2 * math.pi * index / max(count, 1)
        eye = np.array([radius * math.cos(angle), radius * math.sin(angle), 0.5])
        forward = -eye / np.linalg.norm(eye)
        right = np.cross(forward, [0, 0, 1])
        right /= np.linalg.norm(right)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = eye
    return poses


def default_intrinsics(size: tuple[int, int] = SIZE) -> np.ndarray:
    """A K whose principal point is the middle of the image, and whose focal length is its width."""
    width, height = size
    return np.array([[width, 0, width / 2 - 0.5], [0, width, height / 2 - 0.5], [0, 0, 1]], dtype=np.float64)


def orbit_cameras(count: int, size: tuple[int, int] = SIZE) -> Cameras:
    """Cameras of `orbit_poses` with `default_intrinsics`."""
    return Cameras(torch.from_numpy(orbit_poses(count)).float(),
                   torch.from_numpy(default_intrinsics(size)).float().repeat(count, 1, 1), size)


def write_poses(path: Path, poses: np.ndarray, digits: int = 8) -> None:
    rows = [np.concatenate([pose[:3, 2], pose[:3, 0], pose[:3, 1], pose[:3, 3]]) for pose in poses]
    path.write_text("".join(" ".join(f"{value:.{digits}f}" for value in row) + "\n" for row in rows))


def write_blocks(path: Path, matrices: np.ndarray, first: int = 0) -> None:
    text = ""
    for index, matrix in enumerate(matrices, first):
        rows = [" ".join(f"{value:.6f}" for value in row) for row in matrix]
        text += "\n".join([str(index), *rows]) + "\n\n"
    path.write_text(text)


def photograph(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 4) uint8: smooth colors, and a matte that is a soft disc in the middle."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 5 + seed + shift) * np.cos(y / 4 - shift) for shift in (0, 1, 2)]
    distance = np.hypot(x - (width - 1) / 2, y - (height - 1) / 2)
    alpha = np.clip((0.4 * min(size) - distance) / 2 + 0.5, 0, 1)
    return np.rint(np.dstack([*(0.5 + 0.5 * wave for wave in waves), alpha]) * 255).astype(np.uint8)


def write_tiny_scene(folder: Path, *, cameras: int = 4, size: tuple[int, int] = SIZE, frames: int = 1,
                     points: int = 20, first_image: int = 1, first_frame: int = 0, first_cloud: int = 1,
                     digits: int = 4, image_suffix: str = ".png", mattes: str = "alpha",
                     cloud_suffix: str = ".xyz", blocks: int = 1, first_block: int = 0) -> Path:
    """Write a scene in any of the layouts that are read; return `folder`.

    `mattes`: alpha (img_0001_alpha.png), mask (img/FRAME/mask), outer_mask (FRAME/mask), rgba, none.
    """
    (folder / "pointclouds").mkdir(parents=True)
    write_poses(folder / "CamPose.inf", orbit_poses(cameras))
    write_blocks(folder / "Intrinsic.inf", np.repeat(default_intrinsics(size)[None], blocks, 0), first_block)
    rng = np.random.default_rng(0)
    for frame in range(frames):
        rows = rng.uniform(-0.5, 0.5, (points, 3))
        text = "".join(f"{x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in rows)
        (folder / "pointclouds" / f"frame{frame + first_cloud}{cloud_suffix}").write_text(text)
        image_folder = folder / "img" / str(frame + first_frame)
        masks = {"mask": image_folder / "mask", "outer_mask": folder / str(frame + first_frame) / "mask"}
        mask_folder = masks.get(mattes)
        for directory in (image_folder, mask_folder):
            if directory is not None:
                directory.mkdir(parents=True)
        for camera in range(cameras):
            stem = f"img_{camera + first_image:0{digits}d}"
            pixels = photograph(10 * frame + camera, size)
            Image.fromarray(pixels if mattes == "rgba" else np.ascontiguousarray(pixels[..., :3])).save(
                image_folder / f"{stem}{image_suffix}", quality=95)
            matte = Image.fromarray(np.ascontiguousarray(pixels[..., 3]))
            if mattes == "alpha":
                matte.save(image_folder / f"{stem}_alpha.png")
            elif mask_folder is not None:
                matte.save(mask_folder / f"{stem}.jpg", quality=95)
    return folder
