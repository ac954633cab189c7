# SPDX-License-Identifier: Apache-2.0
"""Previews of a scene: cameras around a cloud in perspective, and a cloud projected over its photograph."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from npcr.camera_paths import look_at

_PAPER = (250, 250, 248)
_GRID = (222, 222, 218)
_PATH = (150, 160, 175)
_POINT = (120, 120, 120)
_OUTLINE = (20, 170, 60)
_AXIS = {"x": (214, 56, 50), "y": (44, 160, 60), "z": (50, 90, 220)}
_SCALE = 2  # supersampling: drawn this many times larger and averaged down


def draw_cameras(cam_to_world: np.ndarray, *, field_of_view: float | Sequence[float] = 40.0,
                 points: np.ndarray | None = None, colors: np.ndarray | None = None, path: bool = True,
                 size: tuple[int, int] = (960, 720), max_frusta: int = 40, max_points: int = 40000,
                 direction: Sequence[float] = (0.62, -1.0, 0.62)) -> np.ndarray:
    """Draw cameras as frusta around a cloud, with world axes and a ground grid.

    Frusta run from blue (first) to red (last), with the upper side of the image marked by a tick. The first one is
    bold and labeled.

    Args:
        cam_to_world: (B, 4, 4) poses.
        field_of_view: horizontal angle in degrees, one for all cameras or one each.
        points: (N, 3) of the cloud; None: none.
        colors: (N, 3) uint8 of the points; None: gray.
        path: whether to connect the cameras by a line.
        size: (width, height) of the result, pixels.
        max_frusta: of more cameras, so many evenly chosen ones are drawn; the path runs through all.
        max_points: of more points, so many are drawn.
        direction: from the middle to the viewer; the default looks from the upper front.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    canvas = _Canvas(size, *_sphere_around(cam_to_world[:, :3, 3], points), direction)
    canvas.ground()
    canvas.axes()
    if points is not None and len(points):
        canvas.points(*_subsample(points, colors, max_points))
    centers = cam_to_world[:, :3, 3]
    if path and len(centers) > 1:
        for start, end in itertools.pairwise(centers):
            canvas.line(start, end, _PATH, 1.2)
    chosen = np.unique(np.linspace(0, len(centers) - 1, min(len(centers), max_frusta)).round().astype(int))
    depth = canvas.depths(centers[chosen])
    views = np.broadcast_to(np.asarray(field_of_view, dtype=np.float64), (len(centers),))
    for i in chosen[np.argsort(-depth)]:  # far ones first
        share = i / max(len(centers) - 1, 1)
        color = _spectrum(share)
        canvas.frustum(cam_to_world[i], views[i], color, 2.4 if i == 0 else 1.2)
    canvas.label(centers[0], "camera 1", _spectrum(0.0))
    return canvas.finished()


def draw_projection(photograph: np.ndarray, pixels: np.ndarray, depth: np.ndarray | None = None, *,
                    size: tuple[int, int] | None = None, matte: np.ndarray | None = None,
                    caption: str = "") -> np.ndarray:
    """Draw projected points as dots over a paled photograph.

    Args:
        photograph: (h, w, 3 or 4) uint8.
        pixels: (N, 2) x and y in the result, pixel centers at whole numbers; those outside are left out.
        depth: (N,), colors the dots from near (red) to far (blue); None: all red.
        size: (width, height) of the result; None: the photograph's.
        matte: (h, w) uint8, whose outline is drawn in green; None: none.
        caption: text at the top.

    Returns:
        (H, W, 3) uint8.
    """
    image: np.ndarray = photograph[..., :3].astype(np.float32)
    if photograph.shape[2] == 4:
        alpha = photograph[..., 3:].astype(np.float32) / 255
        image = image * alpha + 255 * (1 - alpha)
    if size is not None:
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    height, width = image.shape[:2]
    image = image * 0.5 + 127
    inside = np.isfinite(pixels).all(1) & (np.abs(pixels) < 1e6).all(1)
    pixel = np.zeros(pixels.shape, dtype=np.int64)
    pixel[inside] = np.floor(pixels[inside] + 0.5).astype(np.int64)
    inside &= ((pixel >= 0) & (pixel < [width, height])).all(1)
    pixel = pixel[inside]
    if depth is None:
        image[pixel[:, 1], pixel[:, 0]] = (220, 30, 30)
    else:
        z = depth[inside]
        order = np.argsort(-z)  # the nearest is written last
        share = (z - z.min()) / max(float(np.ptp(z)), 1e-12) if len(z) else z
        palette = np.array([_spectrum(1 - s) for s in np.linspace(0, 1, 256)], dtype=np.float32)
        image[pixel[order, 1], pixel[order, 0]] = palette[(share[order] * 255).astype(int)]
    drawn = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    if matte is not None:
        silhouette = (cv2.resize(matte, (width, height), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
        outlines, _ = cv2.findContours(silhouette, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outlines, -1, _OUTLINE, max(1, round(max(width, height) / 400)), cv2.LINE_AA)
    if caption:
        scale, font = max(0.4, max(width, height) / 1100), cv2.FONT_HERSHEY_SIMPLEX
        (text_width, text_height), below = cv2.getTextSize(caption, font, scale, 1)
        drawn[:text_height + 2 * below, :text_width + 2 * below] = _PAPER
        cv2.putText(drawn, caption, (below, text_height + below), font, scale, (20, 20, 20), 1, cv2.LINE_AA)
    return drawn


def contact_sheet(images: Sequence[np.ndarray], columns: int, width: int = 480) -> np.ndarray:
    """Arrange images row by row, each row as high as its highest image.

    Args:
        images: (h, w, 3) uint8 each.
        columns: images in a row.
        width: pixels, to which each image is resized.

    Returns:
        (H, W, 3) uint8.
    """
    tiles = [cv2.resize(p, (width, max(1, round(p.shape[0] * width / p.shape[1]))), interpolation=cv2.INTER_AREA)
             for p in images]
    rows = []
    for start in range(0, len(tiles), columns):
        row = tiles[start:start + columns]
        sheet = np.full((max(tile.shape[0] for tile in row), width * columns, 3), 255, np.uint8)
        for i, tile in enumerate(row):
            sheet[:tile.shape[0], i * width:(i + 1) * width] = tile
        rows.append(sheet)
    return np.concatenate(rows)


class _Canvas:
    """An image of the space around a sphere, seen by a camera of its own."""

    def __init__(self, size: tuple[int, int], middle: np.ndarray, radius: float, floor: float,
                 direction: Sequence[float]) -> None:
        self.width, self.height = size[0] * _SCALE, size[1] * _SCALE
        self.middle, self.radius, self.floor = middle, radius, floor
        self.image = np.full((self.height, self.width, 3), _PAPER, dtype=np.uint8)
        distance = 3.4 * radius
        eye = middle + np.asarray(direction) / np.linalg.norm(direction) * distance
        self.world_to_cam = np.linalg.inv(look_at(eye, middle))
        self.focal = 0.47 * min(self.width, self.height) * math.sqrt(distance**2 - radius**2) / radius

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        camera = points @ self.world_to_cam[:3, :3].T + self.world_to_cam[:3, 3]
        depth = np.maximum(camera[..., 2], 1e-3 * self.radius)
        pixels = camera[..., :2] / depth[..., None] * self.focal
        return pixels + [self.width / 2, self.height / 2], depth

    def depths(self, points: np.ndarray) -> np.ndarray:
        return self.project(points)[1]

    def line(self, start: np.ndarray, end: np.ndarray, color: tuple[int, int, int], width: float) -> None:
        (a, b), _ = self.project(np.stack([start, end]))
        # Sixteenths of a pixel: the fixed-point coordinates OpenCV draws anti-aliased lines with.
        a, b = ((np.clip(p, -1e5, 1e5) * 16).round().astype(int).tolist() for p in (a, b))
        cv2.line(self.image, a, b, color, max(1, round(width * _SCALE)), cv2.LINE_AA, shift=4)

    def ground(self) -> None:
        """Draw a grid below the lowest point and camera, with a round spacing."""
        step = 10.0 ** math.floor(math.log10(self.radius))
        step *= 1 if self.radius / step < 3 else 2
        floor = self.floor
        low = np.floor((self.middle[:2] - self.radius) / step).astype(int)
        high = np.ceil((self.middle[:2] + self.radius) / step).astype(int)
        for i in range(low[0], high[0] + 1):
            self.line(np.array([i * step, low[1] * step, floor]), np.array([i * step, high[1] * step, floor]), _GRID, 1)
        for i in range(low[1], high[1] + 1):
            self.line(np.array([low[0] * step, i * step, floor]), np.array([high[0] * step, i * step, floor]), _GRID, 1)
        text = f"grid {step:g}"
        cv2.putText(self.image, text, (10 * _SCALE, self.height - 12 * _SCALE), cv2.FONT_HERSHEY_SIMPLEX,
                    0.5 * _SCALE, (130, 130, 130), _SCALE, cv2.LINE_AA)

    def axes(self) -> None:
        for name, direction in zip("xyz", np.eye(3), strict=True):
            tip = direction * self.radius * 0.3
            self.line(np.zeros(3), tip, _AXIS[name], 2)
            self.label(tip * 1.08, name, _AXIS[name])

    def points(self, points: np.ndarray, colors: np.ndarray | None) -> None:
        pixels, depth = self.project(points)
        pixel = np.floor(pixels).astype(int)
        inside = ((pixel >= 0) & (pixel < [self.width - 1, self.height - 1])).all(1)
        order = np.flatnonzero(inside)[np.argsort(-depth[inside])]
        shade = colors if colors is not None else np.broadcast_to(np.array(_POINT, np.uint8), points.shape)
        for dy in range(_SCALE):
            for dx in range(_SCALE):
                self.image[pixel[order, 1] + dy, pixel[order, 0] + dx] = shade[order]

    def frustum(self, pose: np.ndarray, view: float, color: tuple[int, int, int], width: float) -> None:
        reach = 0.14 * self.radius
        half = min(math.tan(math.radians(view) / 2), 1.0) * reach
        corners = np.array([[-half, -0.75 * half, reach], [half, -0.75 * half, reach],
                            [half, 0.75 * half, reach], [-half, 0.75 * half, reach]])
        top = np.array([0, -1.25 * half, reach])
        corners, top = (x @ pose[:3, :3].T + pose[:3, 3] for x in (corners, top))
        for i in range(4):
            self.line(pose[:3, 3], corners[i], color, width)
            self.line(corners[i], corners[(i + 1) % 4], color, width)
        self.line(corners[0], top, color, width)
        self.line(top, corners[1], color, width)

    def label(self, position: np.ndarray, text: str, color: tuple[int, int, int]) -> None:
        (pixel,), _ = self.project(position[None])
        x, y = (int(v) for v in np.clip(pixel, -1e5, 1e5))
        cv2.putText(self.image, text, (x + 5 * _SCALE, y - 5 * _SCALE), cv2.FONT_HERSHEY_SIMPLEX, 0.5 * _SCALE,
                    color, _SCALE, cv2.LINE_AA)

    def finished(self) -> np.ndarray:
        return cv2.resize(self.image, (self.width // _SCALE, self.height // _SCALE), interpolation=cv2.INTER_AREA)


def _sphere_around(centers: np.ndarray, points: np.ndarray | None) -> tuple[np.ndarray, float, float]:
    """Middle, radius and lowest height of the cameras, the bulk of the points and, where near, the origin."""
    groups = [centers]
    if points is not None and len(points):
        groups.append(np.percentile(points, [1, 99], axis=0))
    corners = np.concatenate(groups)
    middle = (corners.min(0) + corners.max(0)) / 2
    spread = float(np.linalg.norm(np.ptp(corners, axis=0)))
    if np.linalg.norm(middle) < 2 * spread or len(centers) == 1:
        corners = np.concatenate([corners, np.zeros((1, 3))])
        middle = (corners.min(0) + corners.max(0)) / 2
    radius = max(float(np.linalg.norm(corners - middle, axis=1).max()), 1e-6) * 1.2
    return middle, radius, float(corners[:, 2].min()) - 0.15 * radius


def _subsample(points: np.ndarray, colors: np.ndarray | None, limit: int) -> tuple[np.ndarray, np.ndarray | None]:
    if len(points) <= limit:
        return points, colors
    chosen = np.random.default_rng(0).choice(len(points), limit, replace=False)
    return points[chosen], None if colors is None else colors[chosen]


def _spectrum(share: float) -> tuple[int, int, int]:
    """Color from blue (0) over violet to red (1)."""
    return round(40 + 190 * share), round(90 - 40 * share), round(220 - 170 * share)
