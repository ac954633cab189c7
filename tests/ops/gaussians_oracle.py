# SPDX-License-Identifier: Apache-2.0
"""Gaussians and their picture by the definition alone: every pixel against every Gaussian, with whole matrices.

It is slow and shares no formula with the operators. In float64 its rounding does not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from npcr.ops import composite_gaussians, project_gaussians

FILTER, SMALLEST, LARGEST, STOP, COVERED = 0.2, 1 / 255, 0.999, 1e-4, 1e-3
KINDS = ("mixed", "thin", "big", "tiny", "ties", "skew", "off-center", "outside")
SIZES = ((33, 17), (1, 1), (17, 33), (40, 50), (16, 16), (15, 31), (64, 7), (1, 37))
CHANNELS = (3, 0, 1, 11, 40)
SCENES = range(2 * len(KINDS))


class Scene(NamedTuple):
    """Gaussians, their camera, what they show, and the picture's size."""

    means: Tensor
    strands: Tensor
    widths: Tensor
    opacities: Tensor
    cam_to_world: Tensor
    intrinsics: Tensor
    values: Tensor
    size: tuple[int, int]

    def to(self, dtype: torch.dtype) -> Scene:
        """In another precision; leaves of a graph of their own, all with gradients."""
        return Scene(*(x.detach().to(dtype, copy=True).requires_grad_() for x in self.tensors), self.size)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self[:7]


class Truth(NamedTuple):
    """A picture, and of which pixels rounding decides nothing."""

    image: Tensor
    mean_depth: Tensor
    certain: Tensor


def rotation(generator: torch.Generator) -> Tensor:
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    return turn * torch.linalg.det(turn).sign()


def random_scene(seed: int, count: int = 60) -> Scene:
    """A scene of the kind KINDS[seed % 8] in float64; some of its Gaussians round, some behind the camera."""
    generator = torch.Generator().manual_seed(seed)
    exact: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    kind, size = KINDS[seed % len(KINDS)], SIZES[(seed * 5 + seed // len(KINDS)) % len(SIZES)]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, **exact)

    spread = 5.0 if kind == "outside" else 1.0  # five times as far as the picture reaches
    means = uniform(-1, 1, count, 3) * torch.tensor([spread, spread, 1])
    if kind == "ties":
        means[:, 2] = (2 * means[:, 2]).round() / 2
    widths = {"thin": 0.002, "big": 0.5, "tiny": 0.01}.get(kind, 0.05) * uniform(0.3, 1.5, count)
    lengths = {"thin": 300.0, "tiny": 3.0, "big": 2.0}.get(kind, 10.0) * uniform(0, 1, count) * widths
    strands = torch.nn.functional.normalize(torch.randn(count, 3, **exact), dim=1) * lengths[:, None]
    strands[::7] = 0
    pose = torch.eye(4, dtype=torch.float64)
    if kind != "ties":  # their depths stay exact
        pose[:3, :3] = rotation(generator)
    pose[:3, 3] = -(6.0 if kind == "big" else 2.0) * pose[:3, 2]
    focal = {"big": 3.0, "outside": 1.5}.get(kind, 1.2) * max(size)
    intrinsics = torch.tensor([[focal, 0, size[0] / 2 - 0.5], [0, 0.9 * focal, size[1] / 2 - 0.5], [0, 0, 1]],
                              dtype=torch.float64)
    if kind == "skew":
        intrinsics = intrinsics + focal * torch.tensor([[0, 0.3, 0.1], [0.1, 0, 0], [0, 0, 0]])
        intrinsics[2] = torch.tensor([0.05, -0.1, 1.1], dtype=torch.float64)
    if kind == "off-center":
        intrinsics[:2, 2] += torch.tensor([0.4 * size[0], -0.5 * size[1]])
    means = means + uniform(0, 1, count, 1).gt(0.95) * -4.0 * pose[:3, 2]  # these lie behind
    channels = CHANNELS[seed % len(CHANNELS)]
    return Scene(means, strands, widths, uniform(0.02, 1.2, count).clamp(max=1), pose, intrinsics,
                 torch.randn(count, channels, **exact), size)


def render(scene: Scene, backend: str) -> tuple[Tensor, Tensor]:
    """By the operators."""
    ellipses = project_gaussians(*scene[:6], scene.size, backend=backend)
    return composite_gaussians(ellipses, scene.values, scene.size, backend=backend)


def truth(scene: Scene) -> Truth:
    """By the definition."""
    (width, height), pose, intrinsics = scene.size, scene.cam_to_world, scene.intrinsics
    covariance = scene.widths.square()[:, None, None] * torch.eye(3, dtype=pose.dtype) + torch.einsum(
        "ni,nj->nij", scene.strands, scene.strands)
    to_camera = pose[:3, :3].T
    at = (to_camera @ (scene.means - pose[:3, 3]).T).T
    reach = scene.widths + (to_camera @ scene.strands.T)[2].abs()

    def pixel(place: Tensor) -> Tensor:
        homogeneous = (intrinsics @ place.T).T
        return homogeneous[:, :2] / homogeneous[:, 2:]

    center = pixel(at)
    border = torch.tensor([width, height], dtype=pose.dtype)
    bounded = torch.minimum(torch.maximum(center, -0.15 * border - 0.5), 1.15 * border - 0.5)
    # The place at the border of the picture whose derivative stands for all that lie farther out.
    depth = (intrinsics @ at.T)[2]
    homogeneous = torch.cat([bounded, torch.ones_like(depth)[:, None]], 1) * depth[:, None]
    derivative = _derivative(pixel, torch.linalg.solve(intrinsics, homogeneous.T).T)
    seen = derivative @ to_camera @ covariance @ to_camera.T @ derivative.mT
    filtered = seen + FILTER * torch.eye(2, dtype=pose.dtype)
    opacity = scene.opacities * (torch.linalg.det(seen) / torch.linalg.det(filtered)).clamp(min=0).sqrt()

    order = torch.argsort(at[:, 2], stable=True)
    order = order[(at[:, 2] > reach)[order]]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    away = torch.stack([x, y], -1).to(pose.dtype).reshape(1, -1, 2) - center[order][:, None]
    distance2 = torch.einsum("npi,nij,npj->np", away, torch.linalg.inv(filtered[order]), away)
    share = opacity[order][:, None] * torch.exp(-distance2 / 2)
    certain = (_apart(share, SMALLEST, 1e-3) & _apart(share, LARGEST, 1e-4)).all(0)
    share = torch.where(share >= SMALLEST, share.clamp(max=LARGEST), 0)
    passing = torch.cumprod(1 - share, 0)
    before = torch.cat([torch.ones_like(passing[:1]), passing[:-1]])
    certain &= _apart(before, STOP, 1e-2).all(0)
    weight = torch.where(before >= STOP, share * before, 0)
    image = torch.cat([weight.T @ scene.values[order], weight.sum(0)[:, None]], 1)
    coverage, moment = image[:, -1], (weight * at[order][:, 2, None]).sum(0)
    mean_depth = torch.where(coverage > COVERED, moment / coverage, 0)
    return Truth(image.reshape(height, width, -1), mean_depth.reshape(height, width).detach(),
                 certain.reshape(height, width))


def _derivative(pixel: Callable[[Tensor], Tensor], places: Tensor) -> Tensor:
    """(N, 2, 3), differentiable."""
    with torch.enable_grad():
        places = places if places.requires_grad else places.requires_grad_()
        pixels = pixel(places)
        rows = [torch.autograd.grad(pixels[:, i].sum(), places, create_graph=True)[0] for i in range(2)]
    return torch.stack(rows, 1)


def _apart(x: Tensor, threshold: float, relative: float) -> Tensor:
    return (x / threshold - 1).abs() > relative


def gradients(scene: Scene, image: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Of a weighted sum over the picture, by all that the scene has."""
    found = torch.autograd.grad((image * weight).sum(), scene.tensors, allow_unused=True, materialize_grads=True)
    return dict(zip(Scene._fields, found, strict=False))


def along_rigid_motions(cam_to_world: Tensor, grad: Tensor) -> Tensor:
    """The gradient of a pose, by three turns and three shifts: all that a rigid one can do."""
    motions = torch.zeros(6, 4, 4, dtype=grad.dtype)
    for i, (row, column) in enumerate(((0, 1), (1, 2), (2, 0))):
        motions[i, row, column], motions[i, column, row] = 1, -1
        motions[3 + i, i, 3] = 1
    return torch.einsum("ij,kij->k", grad, cam_to_world.detach().to(grad.dtype) @ motions)


def relative(found: Tensor, wanted: Tensor) -> float:
    """How far two tensors are apart, in parts of the second."""
    norm = float(wanted.double().norm())
    return float((found.double() - wanted.double()).norm()) / norm if norm else float(found.double().norm())


def simple_camera(size: tuple[int, int], focal: float = 20.0) -> tuple[Tensor, Tensor]:
    """At the origin, along z, the axis through the picture's middle pixel."""
    return torch.eye(4), torch.tensor([[focal, 0, size[0] // 2], [0, focal, size[1] // 2], [0, 0, 1]])


def line_up(count: int, size: tuple[int, int], **changes: Any) -> Scene:
    """Round Gaussians two pixels wide behind each other before a simple camera, but for what `changes` says."""
    fields = {"means": torch.stack([torch.zeros(count), torch.zeros(count), 2 + torch.arange(count) / 8], 1),
              "strands": torch.zeros(count, 3), "widths": torch.full((count,), 0.2),
              "opacities": torch.full((count,), 0.5), "values": torch.arange(1.0, count + 1)[:, None]}
    pose, intrinsics = simple_camera(size)
    return Scene(**({**fields, "cam_to_world": pose, "intrinsics": intrinsics, "size": size} | changes))
