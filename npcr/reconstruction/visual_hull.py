# SPDX-License-Identifier: Apache-2.0
"""A point cloud out of mattes: space carving to the visual hull's surface, then even sampling.

Cells of a grid are split from coarse to fine where the surface may pass (`SilhouetteField.may_intersect`), so memory
grows with the surface. Sampled points are moved onto the surface along the gradient of the one view that
bounds them (Newton's method).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from npcr.cameras import Cameras
from npcr.errors import SceneError
from npcr.progress import Progress, no_progress
from npcr.reconstruction.mattes import reduce_matte, reduced_size
from npcr.reconstruction.silhouette_field import UNCONSTRAINED, SilhouetteField

_CHUNK = 1 << 18  # points looked up at once
_WALL_POINTS = 64  # along each side of a wall that is searched for the hull
_NEWTON_STEPS = 3
_ON_SURFACE = 0.3  # pixels
_BOUNDS_SIDE = 320  # longest side of the mattes that bounds are estimated from, pixels
_RAYS, _RAY_POINTS = 2000, 96  # by which the views that see the object are counted, and points along each
_RAY_SLACK = 1.5  # pixels: the points along a ray may miss a thin part by so much
_LOOSE = 1.3  # times the tightest hull that fills the mattes: a hull this long has loose ends
_UNEXPLAINED = 0.01  # share of the mattes' pixels that may be a matte's mistake


def carve(field: SilhouetteField, bounds: tuple[np.ndarray, np.ndarray], resolution: int, *,
          progress: Progress = no_progress) -> tuple[Tensor, float]:
    """Find the cells of a grid that the hull's surface may pass through.

    Args:
        field: the mattes.
        bounds: lowest and highest corner (3,) of the grid, world coordinates.
        resolution: cells along the longest side, rounded up to 8 times a power of two.
        progress: wraps the chunks of every level of the grid.

    Returns:
        Centers (M, 3) float32 and side of the finest cells.

    Raises:
        SceneError: no cell is left, or the bounds have no volume.
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


def reached_walls(field: SilhouetteField, bounds: tuple[np.ndarray, np.ndarray]) -> list[str]:
    """Tell through which walls of a box the hull passes; the object then goes on beyond.

    Args:
        field: the mattes.
        bounds: lowest and highest corner (3,) of the box, world coordinates.

    Returns:
        Names such as "-x" and "+z".
    """
    low, high = (torch.as_tensor(corner, dtype=torch.float32) for corner in bounds)
    steps = torch.linspace(0, 1, _WALL_POINTS)
    across = torch.cartesian_prod(steps, steps)
    walls = []
    for axis in range(3):
        for sign, place in (("-", 0.0), ("+", 1.0)):
            wall = torch.cat([across[:, :axis], torch.full((len(across), 1), place), across[:, axis:]], 1)
            if (field.distance(low + wall * (high - low))[0] > 0).any():
                walls.append(f"{sign}{'xyz'[axis]}")
    return walls


def sample_surface(field: SilhouetteField, cells: Tensor, side: float, count: int, *, fuzz: float = 0.0,
                   outer: SilhouetteField | None = None, seed: int = 0,
                   progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """Sample points evenly over the hull's surface.

    Args:
        field: the mattes.
        cells: (M, 3) float32, centers of the cells that the surface passes through, from `carve`.
        side: of the cells, world units.
        count: number of points.
        fuzz: thickness in world units of a layer outside the surface that takes half of the points; 0: none.
        outer: the field of the mattes at a lower threshold, which bounds that layer; None: nothing bounds it.
        seed: of the random generator.
        progress: wraps the rounds of sampling.

    Returns:
        Points (count, 3) float32 and their outward normals (count, 3).

    Raises:
        SceneError: the surface is too thin to hold so many points.
    """
    generator = torch.Generator().manual_seed(seed)
    candidates, normals = _candidates(field, cells, side, max(4 * count, 1000), generator, progress)
    if fuzz > 0:
        lifted = candidates + normals * fuzz * torch.rand(len(candidates), 1, generator=generator) ** 1.5
        allowed = (outer or field).distance(lifted)[0] >= (0 if outer else -UNCONSTRAINED + 1)
        fuzzy = torch.rand(len(candidates), generator=generator) < 0.5
        keep = ~fuzzy | allowed
        candidates = torch.where(fuzzy[:, None], lifted, candidates)[keep]
        normals = normals[keep]
    if len(candidates) < count:
        raise SceneError(f"carving: the hull's surface gave {len(candidates)} of {count} points; a higher --resolution "
                         "or a lower --threshold may help")
    chosen = subsample_evenly(candidates.numpy(), count, seed)
    return candidates.numpy()[chosen], normals.numpy()[chosen]


def subsample_evenly(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Choose points that are spread evenly: of those that share a voxel one stays.

    The voxels' size is found by bisection; several grids at random offsets in turn keep points apart that lie on
    either side of another grid's wall.

    Args:
        points: (N, 3).
        count: number of points to choose; all where there are no more.
        seed: of the random generator.

    Returns:
        (min(N, count),) indices of the points.
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
    """Find the object's bounding box from cameras and mattes alone.

    The search starts at the point nearest to the rays through the mattes' middles, with a cube that spans twice the
    widest silhouette at that distance. The cube is carved coarsely, grown while the hull touches its walls, and
    shrunk to the hull with a margin of two cells.

    Args:
        cameras: the views, at the mattes' size.
        mattes: (H, W) uint8, one for each camera.
        threshold: coverage, 0 to 1, from which a pixel counts as the object.
        min_views: a point that fewer views constrain is outside; None: as `fewest_views` finds.
        tolerated: as of `SilhouetteField.from_mattes`.

    Returns:
        Lowest and highest corner (3,), world coordinates.

    Raises:
        SceneError: the mattes have nothing in common.
    """
    small = [reduce_matte(matte, _BOUNDS_SIDE) for matte in mattes]
    field = SilhouetteField.from_mattes(small, cameras.resized(reduced_size(cameras.size, _BOUNDS_SIDE)),
                                        threshold=threshold, min_views=min_views, tolerated=tolerated)
    if min_views is None:
        field = replace(field, min_views=fewest_views(field, small, threshold))
    return _hull_box(field, *_rough_sphere(field.cameras, small, threshold))


def fewest_views(field: SilhouetteField, mattes: Sequence[np.ndarray], threshold: float = 0.5) -> int:
    """Find how many views must agree on a point, where mattes touch the borders of their pictures.

    Beyond these borders views say nothing, and a hull on which only a few views must agree may go on without end along
    their rays. The fewest views are taken with which it is not much larger than the tightest hull that still fills the
    mattes.

    Args:
        field: the mattes, with the fewest views that are allowed.
        mattes: (H, W) uint8, one for each view.
        threshold: coverage, 0 to 1, from which a pixel counts as the object.

    Returns:
        The number; that of the field where no matte touches a border.
    """
    if not field.open_sides.any():
        return field.min_views
    low, high = field.min_views, _views_that_fill(field, mattes, threshold)
    start = _rough_sphere(field.cameras, mattes, threshold)

    def extent(views: int) -> np.ndarray:
        return np.ptp(_hull_box(replace(field, min_views=views), *start), axis=0)

    largest = _LOOSE * extent(high)
    middle = low  # nearly always enough
    while low < high:
        if (extent(middle) <= largest).all():
            high = middle
        else:
            low = middle + 1
        middle = (low + high) // 2
    return high


def _views_that_fill(field: SilhouetteField, mattes: Sequence[np.ndarray], threshold: float) -> int:
    """The most views that must agree with the hull still filling the mattes.

    Along the ray through a pixel of a matte some point must lie in the hull, and so many views agree on the best one.
    """
    center, radius = _rough_sphere(field.cameras, mattes, threshold)
    rng = np.random.default_rng(0)
    agreeing = []
    for i, matte in enumerate(mattes):
        pixels = np.argwhere(matte > 255 * threshold)[:, ::-1]
        pixels = rng.permutation(pixels)[:math.ceil(_RAYS / len(mattes))]
        pose, matrix = field.cameras.cam_to_world[i].double().numpy(), field.cameras.intrinsics[i].double().numpy()
        rays = np.column_stack([pixels, np.ones(len(pixels))]) @ (pose[:3, :3] @ np.linalg.inv(matrix)).T
        away = float(np.linalg.norm(center - pose[:3, 3]))
        depths = np.linspace(max(away - 2 * radius, 0.05 * away), away + 2 * radius, _RAY_POINTS)
        points = torch.from_numpy((pose[:3, 3] + depths[:, None, None] * rays).reshape(-1, 3)).float()
        views = field.views_within(points, _RAY_SLACK).reshape(_RAY_POINTS, -1)
        agreeing.append(views.max(0).values.numpy())
    found = np.concatenate(agreeing)
    found = found[found >= field.min_views]  # the rest no hull fills
    return int(np.quantile(found, _UNEXPLAINED)) if len(found) else field.min_views


def _hull_box(field: SilhouetteField, center: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The box of the hull, which is searched for around a sphere."""
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


def _on_surface(field: SilhouetteField, cells: Tensor, side: float, progress: Progress,
                offsets: Tensor | None = None) -> Tensor:
    """The cells that lie neither wholly outside nor wholly inside; with `offsets` (1, 8, 3), of their octants.

    Cells are split a chunk at a time: only those on the surface are ever held all at once.
    """
    chunks = cells.split(_CHUNK if offsets is None else _CHUNK // 8)
    reach = side * math.sqrt(3) / 2
    kept = []
    for chunk in progress(chunks, len(chunks)):
        parts = chunk if offsets is None else (chunk[:, None] + offsets).reshape(-1, 3)
        kept.append(parts[field.may_intersect(parts, reach)])
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
        _, view = field.distance(points)
        for i in view.unique().tolist():
            if i < 0:
                continue
            mine = view == i
            move, normals[mine] = field.newton_step(points[mine], i)
            points = points.index_put((mine,), points[mine] + move)
    distance, view = field.distance(points)
    normals[(distance.abs() > _ON_SURFACE) | (view < 0)] = 0
    return points, normals


def _first_of_each(keys: np.ndarray) -> np.ndarray:
    """Rows at which each distinct key (N, 3) occurs first, in order."""
    keys = keys - keys.min(0)
    span = keys.max(0) + 1
    flat = (keys[:, 0] * span[1] + keys[:, 1]) * span[2] + keys[:, 2]
    return np.sort(np.unique(flat, return_index=True)[1])


def _rough_sphere(cameras: Cameras, mattes: Sequence[np.ndarray], threshold: float) -> tuple[np.ndarray, float]:
    """The point nearest to the rays through the mattes' middles, and a radius that holds all silhouettes around it."""
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
