# SPDX-License-Identifier: Apache-2.0
"""What carving needs of a scene that has no point cloud yet: cameras, photographs, reduced mattes; colors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from npcr.cameras import Cameras, project
from npcr.data.scene import find_frames, frame_names
from npcr.data.scene_config import near_far_size, point_spacing
from npcr.errors import SceneError
from npcr.io.camera_files import read_cameras
from npcr.io.images import inspect_image, read_image, read_matte
from npcr.ops import rasterize
from npcr.reconstruction.visual_hull import Progress


@dataclass(frozen=True)
class Silhouettes:
    """The mattes of one frame of a scene, reduced, and where its photographs are."""

    cameras: Cameras  # at the photographs' size
    images: list[Path]
    mattes: list[np.ndarray]  # (h, w) uint8, all of one size

    @property
    def matte_cameras(self) -> Cameras:
        """The cameras at the mattes' size."""
        return self.cameras.resized((self.mattes[0].shape[1], self.mattes[0].shape[0]))


def load_silhouettes(folder: str | Path, frame: int, longest_side: int) -> Silhouettes:
    """Cameras and mattes of the `frame`-th frame (from 1); mattes are averaged down to `longest_side` pixels.

    Raises `SceneError` where files are missing or wrong, mattes included.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SceneError(f"{folder}: no such scene folder")
    if frame < 1:
        raise SceneError(f"--frame is {frame}; frames count from 1")
    place = folder / "img" / frame_names(folder, frame)[frame - 1]
    first = next(iter(sorted(place.glob("img_*"))), None)
    if first is None:
        raise SceneError(f"{place}: has no photograph img_0001 (.jpg, .jpeg, .png)")
    size, _ = inspect_image(first)
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", size)
    found = find_frames(folder, cameras, frame, mask=True)[frame - 1]
    with ThreadPoolExecutor(4) as pool:
        mattes = list(pool.map(lambda image, matte: _reduced(image, matte, longest_side), found.images, found.mattes))
    return Silhouettes(cameras, found.images, mattes)


def color_points(points: np.ndarray, normals: np.ndarray, silhouettes: Silhouettes, *,
                 progress: Progress = lambda jobs, count: jobs) -> np.ndarray:
    """(N, 3) uint8: each point's color in the photograph that sees it at the best angle.

    A photograph sees a point (N, 3) where no other point of the cloud lies in front of it; of those that do,
    the one counts that looks most along the outward normal (N, 3). Points that none sees get the mean color.
    """
    cloud, outward = torch.from_numpy(points).float(), torch.from_numpy(normals).float()
    cameras = silhouettes.cameras
    scale = min(1.0, 800 / max(cameras.size))
    small = cameras.resized((max(1, round(cameras.size[0] * scale)), max(1, round(cameras.size[1] * scale))))
    near, far, radius = near_far_size(points, small)
    tolerance = 4 * point_spacing(points)
    best = torch.zeros(len(cloud))
    colors = torch.zeros(len(cloud), 3)
    with ThreadPoolExecutor(2) as pool:
        photographs = pool.map(read_image, silhouettes.images)
        for i, photograph in enumerate(progress(photographs, len(cameras))):
            front = rasterize(cloud, small.cam_to_world[i:i + 1], small.intrinsics[i:i + 1], small.size, near=near,
                              far=far, max_size=max(1.0, radius), layers=1).depth[0, 0]
            pixels, depth = (result[0] for result in project(cloud[None], small[i]))
            inside = (depth > 0) & (pixels > -0.5).all(1) & (pixels < torch.tensor(small.size) - 0.5).all(1)
            place = torch.where(inside[:, None], pixels, torch.zeros(())).round().long()
            visible = inside & (depth <= front[place[:, 1], place[:, 0]] + tolerance)
            toward = torch.nn.functional.normalize(cameras.cam_to_world[i, :3, 3] - cloud, dim=1)
            angle = (toward * outward).sum(1)
            better = visible & (angle > best)
            best[better] = angle[better]
            raw = project(cloud[better][None], cameras[i])[0][0].numpy()
            colors[better] = torch.from_numpy(_bilinear(photograph, raw))
    if (best == 0).any() and (best > 0).any():
        colors[best == 0] = colors[best > 0].mean(0)
    return colors.round().clamp(0, 255).byte().numpy()


def _reduced(image: Path, matte_path: Path | None, longest_side: int) -> np.ndarray:
    # A photograph's own alpha channel counts even where it is opaque throughout.
    matte = read_matte(matte_path) if matte_path not in (None, image) else read_image(image)[..., 3]
    scale = min(1.0, longest_side / max(matte.shape))
    size = (max(1, round(matte.shape[1] * scale)), max(1, round(matte.shape[0] * scale)))
    return cv2.resize(np.ascontiguousarray(matte), size, interpolation=cv2.INTER_AREA)


def _bilinear(photograph: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """(N, 3) float32 colors at pixels (N, 2); weighted by alpha, so that no background shines in."""
    values = photograph.astype(np.float32)
    if values.shape[2] == 4:
        values[..., :3] *= values[..., 3:] / 255
    sampled = np.zeros((len(pixels), values.shape[2]), np.float32)
    for start in range(0, len(pixels), 30000):  # cv2.remap takes maps of fewer than 32768 rows
        part = pixels[start:start + 30000].astype(np.float32)
        sampled[start:start + 30000] = cv2.remap(values, part[:, :1], part[:, 1:], cv2.INTER_LINEAR,
                                                 borderMode=cv2.BORDER_REPLICATE).reshape(len(part), -1)
    if values.shape[2] == 4:
        return sampled[:, :3] * 255 / np.maximum(sampled[:, 3:], 1)
    return sampled[:, :3]
