# SPDX-License-Identifier: Apache-2.0
"""Random clouds and cameras for the projection's tests: ties, borders and hostile values included."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def random_case(seed: int) -> tuple[tuple[Tensor, Tensor, Tensor, tuple[int, int]], dict[str, Any]]:
    """Positional and keyword arguments for `rasterize`: sizes, cameras and settings drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    count = (0, 1, 40, 700, 3000)[seed % 5]
    size = (pick(1, 60), pick(1, 60))
    batch = pick(1, 3)
    points = torch.randn(count, 3, generator=generator)
    if seed % 2:
        points = (points * 4).round() / 4  # many equal depths, many coordinates on pixel borders
    if seed % 3 == 0 and count > 10:
        hostile = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, -3e38, 1e-42, 0.0])
        rows = torch.randint(0, count, (count // 10,), generator=generator)
        columns = torch.randint(0, 3, (len(rows),), generator=generator)
        points[rows, columns] = hostile[torch.randint(0, len(hostile), (len(rows),), generator=generator)]
    cam_to_world = torch.eye(4).repeat(batch, 1, 1)
    if seed % 4:
        cam_to_world[:, :3, :3] = torch.linalg.qr(torch.randn(batch, 3, 3, generator=generator)).Q
    cam_to_world[:, :3, 3] = -cam_to_world[:, :3, 2] * (1.0 + 2.0 * torch.rand(batch, 1, generator=generator))
    intrinsics = torch.zeros(batch, 3, 3)
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = float(max(size))
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = size[0] / 2 - 0.5, size[1] / 2 - 0.5
    intrinsics[:, 2, 2] = 1.0
    if seed % 5 == 4:
        intrinsics += 0.1 * torch.randn(batch, 3, 3, generator=generator)  # any matrix will do
    settings = {
        "near": 1.0,
        "far": 4.0,
        "max_size": (0.0, 0.5, 1.0, 2.5, 30.0)[pick(0, 4)],
        "layers": pick(1, 5),
    }
    return (points, cam_to_world, intrinsics, size), settings
