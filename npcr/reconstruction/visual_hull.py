# SPDX-License-Identifier: Apache-2.0
"""A point cloud out of mattes: space carving to the visual hull's surface, then even sampling.

Each matte becomes a signed distance to its silhouette in pixels, positive inside; the smallest over the views
that see a point tells whether, and by how much, it lies within the hull. Cells of a grid are split from coarse
to fine where the surface may pass, so memory grows with the surface. Sampled points are moved onto the surface
along the gradient of the one view that bounds them (Newton's method).

A view says nothing about what lies behind it or beyond a border of its picture that the matte touches. Beyond a
border that the matte does not touch there is nothing of the object.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras, project
from npcr.errors import SceneError

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps an iteration of so many steps

_UNSEEN = 1e6  # pixels: the distance where no view has a say
_CHUNK = 1 << 18  # points looked up at once
_NEWTON_STEPS = 3
_ON_SURFACE = 0.3  # pixels
_INSET = 0.5  # pixels: a point is drawn at least a pixel wide, so its center stays half a pixel within the matte


@dataclass(frozen=True)
class SilhouetteField:
    """The mattes as signed distances in pixels, with the cameras at their size."""

    distances: list[Tensor]  # (1, 3, H, W) float32 each: distance, its derivative along x and along y
    open_sides: Tensor  # (views, 4) bool: left, top, right, bottom border that the matte touches
    cameras: Cameras
    min_views: int  # a point on which fewer views have a say is outside
    tolerated: int = 0  # views that may show a point outside without its being outside

    @classmethod
    def from_mattes(cls, mattes: Sequence[np.ndarray], cameras: Cameras, *, threshold: float = 0.5,
                    min_views: int | None = None, tolerated: int = 0) -> SilhouetteField:
        """Of mattes (H, W) uint8, one for each camera and of its size.

        threshold: share of coverage, 0 to 1, from which a pixel counts as the object. min_views: default a
        quarter of the cameras, at least two. tolerated: so many views may be wrong about a point. Raises
        `SceneError` where no matte shows anything.
        """
        if len(mattes) != len(cameras):
            raise SceneError(f"carving: {len(mattes)} mattes for {len(cameras)} cameras")
        if not any((matte > 255 * threshold).any() for matte in mattes):
            raise SceneError(f"carving: no pixel of the {len(mattes)} mattes is above the threshold {threshold:g}")
        least = max(2, math.ceil(len(mattes) / 4)) if min_views is None else min_views
        touched = [[bool((border > 255 * threshold).any()) for border in (m[:, 0], m[0], m[:, -1], m[-1])]
                   for m in mattes]
        return cls([_with_slope(signed_distance(matte, threshold) - _INSET) for matte in mattes], torch.tensor(touched),
                   cameras, min(least, len(mattes)), tolerated)

    def inside(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """For world points (N, 3): distance (N,) in pixels to the hull's surface as the view (N,) that bounds
        them sees it, positive inside; -_UNSEEN and view -1 where too few views have a say."""
        smallest = _Smallest(len(points), self.tolerated)
        seen = torch.zeros(len(points), dtype=torch.int32)
        for i in range(len(self.cameras)):
            distance, known, _ = self._look_up(points, i)
            seen += known
            smallest.add(distance.masked_fill(~known, _UNSEEN), i)
        hidden = seen < self.min_views
        return smallest.value.masked_fill(hidden, -_UNSEEN), smallest.view.masked_fill(hidden, -1)

    def straddled(self, centers: Tensor, radius: float) -> Tensor:
        """(N,) bool: whether the hull's surface may pass through spheres of `radius` (world units)."""
        least, most = (_Smallest(len(centers), self.tolerated) for _ in range(2))
        seen = torch.zeros(len(centers), dtype=torch.int32)
        for i in range(len(self.cameras)):
            distance, known, scale = self._look_up(centers, i)
            seen += known
            least.add((distance - scale * radius).masked_fill(~known, _UNSEEN), i)
            most.add((distance + scale * radius).masked_fill(~known, _UNSEEN), i)
        # A pixel of slack: the distances are those of pixels, not of the silhouette itself.
        return (seen >= self.min_views) & (most.value > -1) & (least.value < 1)

    def _look_up(self, points: Tensor, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distance (N,) in the view, whether it has a say on the point, and pixels per world unit there."""
        camera, image = self.cameras[view], self.distances[view]
        pixels, depth = (result[0] for result in project(points[None], camera))
        last = torch.tensor([camera.size[0] - 1.0, camera.size[1] - 1.0])
        beyond = torch.cat([-0.5 - pixels, pixels - last - 0.5], 1) > 0  # (N, 4) left, top, right, bottom
        known = (depth > 0) & ~(beyond & self.open_sides[view]).any(1)
        nearest = torch.minimum(pixels.nan_to_num(0).clamp_min(0), last)
        distance = _sample(image[:, :1], nearest)[:, 0] - (pixels - nearest).norm(dim=1).nan_to_num(_UNSEEN, _UNSEEN)
        scale = camera.intrinsics[0, 0, 0] / depth.clamp_min(1e-12)
        return distance, known, scale

    def step(self, points: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """(N, 3) the move that brings points to the silhouette of `view`, and (N, 3) the outward normals."""
        camera = self.cameras[view]
        matrix = camera.intrinsics[0]
        pixels, depth = (result[0] for result in project(points[None], camera))
        values = _sample(self.distances[view], pixels)
        slope = values[:, 1:]
        across = slope @ matrix[:2, :2]
        along = -(slope * (pixels - matrix[:2, 2])).sum(1, keepdim=True)
        gradient = torch.cat([across, along], 1) / depth[:, None] @ camera.cam_to_world[0, :3, :3].T
        square = (gradient**2).sum(1, keepdim=True).clamp_min(1e-20)
        return -values[:, :1] * gradient / square, -gradient / square.sqrt()


def carve(field: SilhouetteField, bounds: tuple[np.ndarray, np.ndarray], resolution: int, *,
          progress: Progress = lambda jobs, count: jobs) -> tuple[Tensor, float]:
    """Centers (M, 3) and side of the finest cells that the hull's surface may pass through.

    bounds: (lowest, highest) corner. resolution: cells along the longest side, rounded up to 8 times a power
    of two. Raises `SceneError` where nothing is left.
    """
    low, high = (torch.as_tensor(corner, dtype=torch.float32) for corner in bounds)
    extent = float((high - low).max())
    if not extent > 0:
        raise SceneError(f"carving: the bounds {low.tolist()} to {high.tolist()} have no volume")
    levels = max(0, math.ceil(math.log2(resolution / 8)))
    side = extent / 8
    counts = ((high - low) / side).ceil().clamp_min(1).int().tolist()
    axes = [low[i] + side * (torch.arange(counts[i]) + 0.5) for i in range(3)]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    offsets = torch.stack(torch.meshgrid(*[torch.tensor([-0.25, 0.25])] * 3, indexing="ij"), -1).reshape(1, 8, 3)
    cells = _on_surface(field, cells, side, progress)
    for _ in range(levels):
        side /= 2
        cells = _on_surface(field, cells, side, progress, 2 * side * offsets)
    if not len(cells):
        raise SceneError("carving: the mattes have nothing in common within the bounds; do cameras and mattes "
                         "belong together, and are the bounds right?")
    return cells, side


def sample_surface(field: SilhouetteField, cells: Tensor, side: float, count: int, *, fuzz: float = 0.0,
                   outer: SilhouetteField | None = None, seed: int = 0,
                   progress: Progress = lambda jobs, count: jobs) -> tuple[np.ndarray, np.ndarray]:
    """`count` points (N, 3) float32 spread evenly over the hull's surface, and outward normals (N, 3).

    fuzz: thickness in world units of a layer outside the surface that takes half of the points; with `outer`,
    the field of the mattes at a lower threshold, only as far as all mattes show at least something. Raises
    `SceneError` where the surface is too thin to hold a point.
    """
    generator = torch.Generator().manual_seed(seed)
    candidates, normals = _candidates(field, cells, side, max(4 * count, 1000), generator, progress)
    if fuzz > 0:
        lifted = candidates + normals * fuzz * torch.rand(len(candidates), 1, generator=generator) ** 1.5
        allowed = (outer or field).inside(lifted)[0] >= (0 if outer else -_UNSEEN + 1)
        fuzzy = torch.rand(len(candidates), generator=generator) < 0.5
        keep = ~fuzzy | allowed
        candidates = torch.where(fuzzy[:, None], lifted, candidates)[keep]
        normals = normals[keep]
    if len(candidates) < count:
        raise SceneError(f"carving: the hull's surface gave {len(candidates)} of {count} points; a higher --resolution "
                         "or a lower --threshold may help")
    chosen = thin_evenly(candidates.numpy(), count, seed)
    return candidates.numpy()[chosen], normals.numpy()[chosen]


def thin_evenly(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Rows of `count` of the points (N, 3), evenly spread: of points that share a small cube one stays.

    The cubes' size is found by bisection; several grids at random offsets in turn keep points apart that
    another grid's walls let through.
    """
    if len(points) <= count:
        return np.arange(len(points))
    rng = np.random.default_rng(seed)
    order, offsets = rng.permutation(len(points)), rng.random((4, 3))
    low, high = 0.0, float(np.ptp(points, axis=0).max())
    best = order
    for _ in range(14):
        middle = (low + high) / 2
        kept = order
        for offset in offsets:
            kept = kept[_first_of_each(np.floor(points[kept] / middle + offset).astype(np.int64))]
            if len(kept) < count:
                break
        if len(kept) >= count:
            low, best = middle, kept
        else:
            high = middle
    return best[:count] if len(best) == count else rng.choice(best, count, replace=False)


def estimate_bounds(cameras: Cameras, mattes: Sequence[np.ndarray], *, threshold: float = 0.5,
                    min_views: int | None = None, tolerated: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(lowest, highest) corner of the object, from cameras and mattes alone; options as of `SilhouetteField`.

    Starts at the point nearest to the rays through the mattes' middles, with a cube that spans twice the
    widest silhouette at that distance; carves it coarsely; grows it while the hull touches its walls; and
    shrinks it to the hull, with a margin of two cells. Raises `SceneError` where the mattes have nothing in
    common.
    """
    small = [_small(matte) for matte in mattes]
    field = SilhouetteField.from_mattes(small, _small_cameras(cameras), threshold=threshold, min_views=min_views,
                                        tolerated=tolerated)
    center, radius = _rough_sphere(field.cameras, small, threshold)
    for _ in range(4):
        low, high = center - radius, center + radius
        cells, side = carve(field, (low, high), 64)
        least, most = cells.numpy().min(0), cells.numpy().max(0)
        if (least > low + side).all() and (most < high - side).all():
            break
        radius *= 1.6
    for _ in range(2):
        cells, side = carve(field, (least - 2 * side, most + 2 * side), 64)
        least, most = cells.numpy().min(0), cells.numpy().max(0)
    return least - 2 * side, most + 2 * side


def coverage(points: np.ndarray, cameras: Cameras, mattes: Sequence[np.ndarray], radius: float = 2.0,
             threshold: float = 0.5) -> tuple[float, float]:
    """(covered, spilled): share of matte pixels within `radius` pixels of a projected point, and share of the
    projections whose pixel lies outside the matte, over all views."""
    near = total = outside = projected = 0
    cloud = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    for i, matte in enumerate(mattes):
        pixels, depth = project(cloud[None], cameras[i])
        place = torch.floor(pixels[0][depth[0] > 0] + 0.5).long().numpy()
        height, width = matte.shape
        place = place[((place >= 0) & (place < [width, height])).all(1)]
        hit = np.full((height, width), 255, np.uint8)
        hit[place[:, 1], place[:, 0]] = 0
        shown = matte > 255 * threshold
        near += int((cv2.distanceTransform(hit, cv2.DIST_L2, 5)[shown] <= radius).sum())
        total += int(shown.sum())
        outside += int((~shown[place[:, 1], place[:, 0]]).sum())
        projected += len(place)
    return near / max(total, 1), outside / max(projected, 1)


def filled(matte: np.ndarray, share: float, threshold: float = 0.5) -> np.ndarray:
    """A copy of a matte (H, W) uint8 with holes closed that are enclosed by the object and smaller than `share`
    of its area; such holes are often shadows that a keyer took for background."""
    shown = (matte > 255 * threshold).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - shown, connectivity=4)
    at_border = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    result = matte.copy()
    for label in range(1, count):
        if label not in at_border and stats[label, cv2.CC_STAT_AREA] < share * shown.sum():
            hole = cv2.dilate((labels == label).astype(np.uint8), np.ones((3, 3), np.uint8))
            result[hole > 0] = 255
    return result


def signed_distance(matte: np.ndarray, threshold: float) -> np.ndarray:
    """(H, W) float32: pixels to the silhouette where a matte (H, W) uint8 crosses `threshold`, positive inside.

    Smoothed a little, so that the stairs of the pixels do not become stairs of the hull.
    """
    values = cv2.GaussianBlur(matte.astype(np.float32) / 255, (0, 0), 0.6) - threshold
    inside = (values > 0).astype(np.uint8)
    if not inside.any() or inside.all():
        return np.full(matte.shape, _UNSEEN / 10 if inside.any() else -_UNSEEN / 10, np.float32)
    distance = (cv2.distanceTransform(inside, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 5))
    distance -= np.sign(distance) * 0.5  # the border runs between pixel centers
    return cv2.GaussianBlur(distance, (0, 0), 0.8)


class _Smallest:
    """The (`skipped` + 1)-th smallest of the values added for each of `count` points, and whose it was."""

    def __init__(self, count: int, skipped: int) -> None:
        self._values = torch.full((count, skipped + 1), _UNSEEN)
        self._views = torch.full((count, skipped + 1), -1)

    def add(self, values: Tensor, view: int) -> None:
        """Offer `values` (count,) of `view`."""
        for rank in range(self._values.shape[1]):  # insertion into a sorted row
            held, owner = self._values[:, rank], self._views[:, rank]
            smaller = values < held
            if rank == 0:
                views = torch.full_like(owner, view)
            self._values[:, rank], values = torch.where(smaller, values, held), torch.where(smaller, held, values)
            self._views[:, rank], views = torch.where(smaller, views, owner), torch.where(smaller, owner, views)

    @property
    def value(self) -> Tensor:
        return self._values[:, -1]

    @property
    def view(self) -> Tensor:
        return self._views[:, -1]


def _with_slope(distance: np.ndarray) -> Tensor:
    slope = [cv2.Scharr(distance, cv2.CV_32F, *order) / 32 for order in ((1, 0), (0, 1))]
    return torch.from_numpy(np.stack([distance, *slope]))[None]


def _sample(images: Tensor, pixels: Tensor) -> Tensor:
    """(N, C) bilinear values of images (1, C, H, W) at pixels (N, 2); the border's value beyond it."""
    height, width = images.shape[2:]
    grid = (pixels + 0.5) / torch.tensor([width / 2, height / 2]) - 1
    sampled = torch.nn.functional.grid_sample(images, grid.nan_to_num(9)[None, None], padding_mode="border",
                                              align_corners=False)
    return sampled[0, :, 0].T


def _on_surface(field: SilhouetteField, cells: Tensor, side: float, progress: Progress,
                offsets: Tensor | None = None) -> Tensor:
    """The cells that neither lie wholly outside nor wholly inside; with `offsets` (1, 8, 3), of their eighths.

    Cells are split a chunk at a time: only those on the surface are ever held all at once.
    """
    chunks = cells.split(_CHUNK if offsets is None else _CHUNK // 8)
    reach = side * math.sqrt(3) / 2
    kept = []
    for chunk in progress(chunks, len(chunks)):
        parts = chunk if offsets is None else (chunk[:, None] + offsets).reshape(-1, 3)
        kept.append(parts[field.straddled(parts, reach)])
    return torch.cat(kept)


def _candidates(field: SilhouetteField, cells: Tensor, side: float, count: int, generator: torch.Generator,
                progress: Progress) -> tuple[Tensor, Tensor]:
    """About `count` points on the surface with normals: random points of the cells, moved onto it."""
    points, normals = [], []
    rounds = max(1, math.ceil(count / _CHUNK))
    for _ in progress(range(rounds), rounds):
        rows = torch.randint(len(cells), (math.ceil(count / rounds),), generator=generator)
        start = cells[rows] + side * (torch.rand(len(rows), 3, generator=generator) - 0.5)
        moved, normal = _to_surface(field, start)
        # Points that wandered off would pile up where many start from afar.
        fine = ((moved - start).norm(dim=1) < 1.5 * side) & (normal.norm(dim=1) > 0.5)
        points.append(moved[fine])
        normals.append(normal[fine])
    return torch.cat(points), torch.cat(normals)


def _to_surface(field: SilhouetteField, points: Tensor) -> tuple[Tensor, Tensor]:
    """Points moved onto the hull's surface, and outward normals; the normal is 0 where that failed."""
    normals = torch.zeros_like(points)
    for _ in range(_NEWTON_STEPS):
        _, view = field.inside(points)
        for i in view.unique().tolist():
            if i < 0:
                continue
            mine = view == i
            move, normals[mine] = field.step(points[mine], i)
            points = points.index_put((mine,), points[mine] + move)
    distance, view = field.inside(points)
    normals[(distance.abs() > _ON_SURFACE) | (view < 0)] = 0
    return points, normals


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """Rows at which each distinct key (N, 3) occurs first, in order."""
    keys = keys - keys.min(0)
    span = keys.max(0) + 1
    flat = (keys[:, 0] * span[1] + keys[:, 1]) * span[2] + keys[:, 2]
    return np.sort(np.unique(flat, return_index=True)[1])


def _small(matte: np.ndarray) -> np.ndarray:
    scale = min(1.0, 320 / max(matte.shape))
    return cv2.resize(matte, (max(1, round(matte.shape[1] * scale)), max(1, round(matte.shape[0] * scale))),
                      interpolation=cv2.INTER_AREA)


def _small_cameras(cameras: Cameras) -> Cameras:
    width, height = cameras.size
    scale = min(1.0, 320 / max(width, height))
    return cameras.resized((max(1, round(width * scale)), max(1, round(height * scale))))


def _rough_sphere(cameras: Cameras, mattes: Sequence[np.ndarray], threshold: float) -> tuple[np.ndarray, float]:
    """The point nearest to the rays through the mattes' middles, and a radius around all silhouettes there."""
    normal_sum, target, widths = np.zeros((3, 3)), np.zeros(3), []
    for i, matte in enumerate(mattes):
        y, x = np.nonzero(matte > 255 * threshold)
        if not len(x):
            continue
        pose, matrix = cameras.cam_to_world[i].double().numpy(), cameras.intrinsics[i].double().numpy()
        ray = pose[:3, :3] @ np.linalg.inv(matrix) @ [x.mean(), y.mean(), 1]
        ray /= np.linalg.norm(ray)
        across = np.eye(3) - np.outer(ray, ray)
        normal_sum += across
        target += across @ pose[:3, 3]
        widths.append((pose[:3, 3], max(np.ptp(x), np.ptp(y), 1) / matrix[0, 0]))
    center = np.linalg.lstsq(normal_sum, target, rcond=None)[0]
    radius = max(np.linalg.norm(center - eye) * width for eye, width in widths)
    return center, float(radius)
