# SPDX-License-Identifier: Apache-2.0
"""A small fuzzy scene, rendered by this project's rasterizer: strands as dense points, supersampled and averaged.

Shading is Kajiya and Kay's ("Rendering fur with three dimensional textures", SIGGRAPH 1989) under a key and a rim
light, with ambient light that fades towards the roots and soft shadows of the fur on itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from npcr.camera_paths import look_at, orbit, sphere_band
from npcr.cameras import Cameras
from npcr.data.scene_config import point_settings, scene_settings, write_scene_config
from npcr.data.scene_folder import new_scene_folder
from npcr.errors import NpcrError
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.images import write_image
from npcr.io.points import PointCloud, write_points
from npcr.ops import rasterize
from npcr.synthetic.creature import ShadingPoints, cover_skin, grow_fur
from npcr.synthetic.tone_mapping import to_srgb

CENTER, RADIUS = np.array([0.0, 0.2, -0.04]), 1.5  # bounding sphere of the animal
DISTANCE = 5.0  # of the cameras from its center
_KEY, _KEY_COLOR = (-0.45, -0.75, 0.75), (2.1, 1.95, 1.75)
_RIM, _RIM_COLOR = (0.55, 0.8, 0.55), (0.75, 0.9, 1.15)
_SKY, _GROUND = (0.42, 0.46, 0.52), (0.20, 0.16, 0.13)
_SUPERSAMPLING = 4
_STRAND_WIDTH = 0.004  # world units: one supersampled pixel of a 200-pixel picture


@dataclass(frozen=True)
class FuzzyOptions:
    """The options of a fuzzy scene."""

    views: int = 48  # photographs
    size: int = 200  # their width and height, pixels
    strands: int = 14000
    points: int = 75000  # of the point cloud
    path_views: int = 120  # cameras of the video path
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("views", 1), ("size", 8), ("strands", 1), ("points", 10), ("path_views", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise NpcrError(f"{name} is {getattr(self, name)}; it must be at least {least}")


@dataclass(frozen=True)
class LitPoints:
    """`ShadingPoints` as tensors, with the fractions of key and rim light that reach them."""

    positions: Tensor  # (N, 3)
    normals: Tensor  # (N, 3)
    tangents: Tensor  # (N, 3)
    albedo: Tensor  # (N, 3)
    occlusion: Tensor  # (N,)
    gloss: Tensor  # (N,)
    key: Tensor  # (N,) 0..1
    rim: Tensor  # (N,) 0..1


def make_fuzzy_scene(destination: str | Path, options: FuzzyOptions, *, overwrite: bool = False,
                     progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> None:
    """Write a scene in the native layout, with scene.yml and the cameras of a video path.

    Args:
        destination: folder of the scene.
        options: of the scene.
        overwrite: replace a scene in `destination`.
        progress: wraps the iterable of views.

    Raises:
        SceneError: `destination` is not empty, or with `overwrite` contains something else than a scene.
    """
    with new_scene_folder(destination, overwrite=overwrite) as folder:
        rng = np.random.default_rng(options.seed)
        cameras = fuzzy_cameras(sphere_band(options.views, DISTANCE, elevation=(-15, 45), center=CENTER), options.size)
        fur, skin = make_lit_points(options, rng)
        for i in progress(range(options.views)):
            write_image(folder / "img" / "0" / f"img_{i + 1:04d}.png", render_view(fur, skin, cameras[i]))
        cloud = sample_cloud(fur, skin, options.points, rng)
        write_points(folder / "pointclouds" / "frame1.ply", cloud)
        write_cam_poses(folder / "CamPose.inf", cameras.cam_to_world)
        write_intrinsics(folder / "Intrinsic.inf", cameras.intrinsics[:1])
        start = look_at(CENTER + DISTANCE * np.array([0.0, -math.cos(0.25), math.sin(0.25)]), CENTER)
        path = orbit(start, options.path_views, center=CENTER, elevation_wave=(12, 2), endpoint=False)
        write_cam_poses(folder / "CamPose_path.inf", path)
        write_intrinsics(folder / "Intrinsic_path.inf", cameras.intrinsics[:1])
        settings = scene_settings(Path(destination).resolve().name, cameras, mask=True)
        for section, values in point_settings(cloud.positions, cameras, settings["INPUT"]["SIZE_TEST"]).items():
            settings[section].update(values)
        write_scene_config(folder, settings, "npcr fuzzy")


def fuzzy_cameras(cam_to_world: np.ndarray, size: int) -> Cameras:
    """Return cameras of square images that the animal fills from `DISTANCE`.

    Args:
        cam_to_world: (B, 4, 4).
        size: width and height, pixels.

    Returns:
        B cameras.
    """
    focal = 0.49 * size * math.sqrt(DISTANCE**2 - RADIUS**2) / RADIUS
    middle = (size - 1) / 2
    intrinsics = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    poses = torch.from_numpy(cam_to_world).float()
    return Cameras(poses, intrinsics.expand(len(poses), 3, 3), (size, size))


def make_lit_points(options: FuzzyOptions, rng: np.random.Generator) -> tuple[LitPoints, LitPoints]:
    """Make fur and skin, dense enough for images of `options.size`, and light them.

    Args:
        options: of the scene.
        rng: source of the random numbers.

    Returns:
        The points of the fur, and those of the skin.
    """
    focal = float(fuzzy_cameras(np.eye(4)[None], options.size * _SUPERSAMPLING).intrinsics[0, 0, 0])
    pixel = (DISTANCE - RADIUS) / focal  # of the supersampled picture, on the side that faces the camera
    fur = grow_fur(options.strands, pixel, rng)
    skin = cover_skin(max(2000, round(1.0 / (pixel * pixel))), rng)
    everything = torch.from_numpy(np.concatenate([fur.positions, skin.positions]))
    key, rim = (_transmittance(everything, direction) for direction in (_KEY, _RIM))
    n = len(fur.positions)
    return _light(fur, key[:n], rim[:n]), _light(skin, key[n:], rim[n:])


def render_view(fur: LitPoints, skin: LitPoints, camera: Cameras) -> np.ndarray:
    """Render an image.

    Args:
        fur: points of the fur.
        skin: points of the skin.
        camera: one camera.

    Returns:
        (H, W, 4) uint8 straight RGBA; alpha is the covered fraction of the pixel.
    """
    factor = _SUPERSAMPLING
    large = camera.resized((camera.size[0] * factor, camera.size[1] * factor))
    width = _STRAND_WIDTH * float(large.intrinsics[0, 0, 0]) / DISTANCE
    fur_index, fur_depth = _nearest(fur.positions, large, max(0.0, (width - 1) / 2))
    skin_index, skin_depth = _nearest(skin.positions, large, 2.6)
    eye = camera.cam_to_world[0, :3, 3]
    picture = torch.zeros(*fur_depth.shape, 3)
    in_front = (fur_depth > 0) & ((skin_depth == 0) | (fur_depth < skin_depth))
    behind = (skin_depth > 0) & ~in_front
    picture[in_front] = _shade(fur, fur_index[in_front].long(), eye)
    picture[behind] = _shade(skin, skin_index[behind].long(), eye)
    layers = torch.cat([picture, (in_front | behind)[..., None].float()], dim=-1)
    # Averaged in linear light, as by a sensor.
    small = torch.nn.functional.avg_pool2d(layers.permute(2, 0, 1)[None], factor)[0].permute(1, 2, 0)
    alpha = small[..., 3:]
    color = to_srgb(small[..., :3] / alpha.clamp_min(1e-6))
    return (torch.cat([color, alpha], dim=-1) * 255 + 0.5).to(torch.uint8).numpy()


def sample_cloud(fur: LitPoints, skin: LitPoints, count: int, rng: np.random.Generator) -> PointCloud:
    """Sample a colored point cloud: a tenth of the points from the skin, the others from the fur.

    Args:
        fur: points of the fur.
        skin: points of the skin.
        count: number of points, less where there are not as many.
        rng: source of the random numbers.

    Returns:
        The point cloud, with colors of the diffuse light.
    """
    positions, colors = [], []
    for model, wanted in ((skin, count // 10), (fur, count - count // 10)):
        chosen = torch.from_numpy(rng.choice(len(model.positions), min(wanted, len(model.positions)), replace=False))
        positions.append(model.positions[chosen])
        colors.append(to_srgb(_shade_diffuse(model, chosen)))
    return PointCloud(torch.cat(positions).numpy(), (torch.cat(colors) * 255 + 0.5).to(torch.uint8).numpy())


def _light(points: ShadingPoints, key: Tensor, rim: Tensor) -> LitPoints:
    return LitPoints(**{name: torch.from_numpy(array) for name, array in vars(points).items()}, key=key, rim=rim)


def _nearest(points: Tensor, camera: Cameras, radius: float) -> tuple[Tensor, Tensor]:
    """(H, W) index and depth of the nearest point; near and far make splats of `radius` pixels at every depth."""
    result = rasterize(points, camera.cam_to_world, camera.intrinsics, camera.size, near=100.0, far=101.0,
                       max_size=radius, layers=1)
    return result.index[0, 0], result.depth[0, 0]


def _transmittance(points: Tensor, direction: tuple[float, float, float], resolution: int = 384) -> Tensor:
    """(N,) fraction of the light of a distant source in `direction` that reaches each point.

    Fur absorbs light by depth: a point at distance d behind the first one that the light hits receives
    exp(-d / reach). The depth of the first is averaged over a window, which softens the shadows' borders.
    """
    far = 12 * RADIUS
    pose = look_at(CENTER + far * np.array(direction) / np.linalg.norm(direction), CENTER)
    focal = 0.48 * resolution * far / RADIUS
    middle = (resolution - 1) / 2
    intrinsics = torch.tensor([[[focal, 0, middle], [0, focal, middle], [0, 0, 1]]])
    light = Cameras(torch.from_numpy(pose)[None].float(), intrinsics, (resolution, resolution))
    _, first = _nearest(points, light, 0.0)
    total = torch.zeros(len(points))
    camera = points @ light.world_to_cam[0, :3, :3].T + light.world_to_cam[0, :3, 3]
    grid = camera[:, :2] / camera[:, 2:] * focal / (resolution / 2)
    for window, reach in ((5, 0.10), (13, 0.16)):
        hit = (first > 0).float()[None, None]
        sums = [torch.nn.functional.avg_pool2d(x, window, 1, window // 2) for x in (first[None, None] * hit, hit)]
        mean = sums[0] / sums[1].clamp_min(1e-6)
        depth = torch.nn.functional.grid_sample(mean, grid[None, None], align_corners=False)[0, 0, 0]
        total += 0.5 * torch.exp(-(camera[:, 2] - depth).clamp_min(0) / reach)
    return total


def _shade_diffuse(model: LitPoints, index: Tensor) -> Tensor:
    """(M, 3) diffuse radiance of the points `index` (M,), linear."""
    tangent, normal = model.tangents[index], model.normals[index]
    is_hair = (tangent != 0).any(1)
    light = torch.zeros(len(index), 3)
    for direction, color, reaching in ((_KEY, _KEY_COLOR, model.key), (_RIM, _RIM_COLOR, model.rim)):
        toward = torch.nn.functional.normalize(torch.tensor(direction), dim=0)
        along = tangent @ toward
        facing = normal @ toward
        strand = (1 - along * along).clamp_min(0).sqrt() * (0.5 + 0.5 * facing).clamp_min(0)
        received = torch.where(is_hair, strand, facing.clamp_min(0)) * reaching[index]
        light += received[:, None] * torch.tensor(color)
    up = (0.5 + 0.5 * normal[:, 2:])
    ambient = up * torch.tensor(_SKY) + (1 - up) * torch.tensor(_GROUND)
    return model.albedo[index] * (0.62 * light + ambient * model.occlusion[index, None])


def _shade(model: LitPoints, index: Tensor, eye: Tensor) -> Tensor:
    """(M, 3) radiance of the points `index` (M,) towards `eye`, linear."""
    color = _shade_diffuse(model, index)
    tangent, normal = model.tangents[index], model.normals[index]
    view = torch.nn.functional.normalize(eye - model.positions[index], dim=1)
    hair = (tangent != 0).any(1).float() * (0.25 + 0.75 * model.occlusion[index])
    for direction, tint, reaching in ((_KEY, _KEY_COLOR, model.key), (_RIM, _RIM_COLOR, model.rim)):
        toward = torch.nn.functional.normalize(torch.tensor(direction), dim=0)
        t_light, t_view = tangent @ toward, (tangent * view).sum(1)
        cosine = ((1 - t_light**2).clamp_min(0) * (1 - t_view**2).clamp_min(0)).sqrt() - t_light * t_view
        facing = (0.35 + 0.65 * (normal @ toward)).clamp_min(0)
        strength = hair * facing * reaching[index] * (0.055 * cosine.clamp_min(0) ** 48)
        # The second lobe is light that passed through the strand and took on its color.
        tinted = (hair * facing * reaching[index] * 0.22 * cosine.clamp_min(0) ** 12)[:, None] * model.albedo[index]
        half = torch.nn.functional.normalize(view + toward, dim=1)
        wet = model.gloss[index] * ((normal * half).sum(1).clamp_min(0) ** 90) * 0.9
        color = color + ((strength + wet)[:, None] + tinted) * torch.tensor(tint)
    return color
