# SPDX-License-Identifier: Apache-2.0
"""The projections of the published implementation, every camera and layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.ops import Fragments, compiled_available, rasterize
from tests.devices import DEVICES

CAMERAS, LAYERS, SIZE = 3, 4, (120, 96)
needs_kernel = pytest.mark.skipif(not compiled_available(), reason="no compiled CPU kernel")
BACKENDS = ["torch", pytest.param("compiled", marks=needs_kernel)]


@pytest.fixture(scope="module")
def expected(parity: Path) -> dict[str, np.ndarray]:
    with np.load(parity / "expected.npz") as arrays:
        return {name: arrays[name] for name in arrays if name.startswith(("cam", "step"))}


def read_poses(path: Path) -> torch.Tensor:
    """CamPose.inf: rotation column 3, column 1, column 2, then t. Written out, to test no reader of ours."""
    rows = np.loadtxt(path)
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, 2], poses[:, :3, 0], poses[:, :3, 1] = rows[:, 0:3], rows[:, 3:6], rows[:, 6:9]
    poses[:, :3, 3] = rows[:, 9:12]
    return torch.tensor(poses, dtype=torch.float32)


def project(parity: Path, backend: str, device: str) -> Fragments:
    scene = parity / "scene"
    points = torch.tensor(np.loadtxt(scene / "pointclouds" / "frame1.xzy")[:, :3], dtype=torch.float32)
    intrinsics = torch.tensor([[130.56, 0, 80], [0, 130.56, 64], [0, 0, 1]])  # Intrinsic.inf, all alike
    intrinsics[:2] *= 0.75
    poses = read_poses(scene / "CamPose.inf")[:CAMERAS]
    return rasterize(points.to(device), poses.to(device), intrinsics.repeat(CAMERAS, 1, 1).to(device), SIZE, near=3,
                     far=6, max_size=1.5, layers=LAYERS, backend=backend)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_published_indices_and_depths(parity: Path, expected: dict[str, np.ndarray], backend: str, device: str) -> None:
    found = Fragments(*(part.cpu() for part in project(parity, backend, device)))
    for camera in range(CAMERAS):
        for layer in range(LAYERS):
            name = f"cam{camera}_layer{layer}"
            assert np.array_equal(found.index[camera, layer].numpy(), expected[f"{name}_index"]), name
            depth = found.depth[camera, layer].numpy()
            np.testing.assert_allclose(depth, expected[f"{name}_depth"], rtol=1e-6, atol=0, err_msg=name)


def test_cameras_are_those_of_the_training_steps(parity: Path, expected: dict[str, np.ndarray]) -> None:
    poses = read_poses(parity / "scene" / "CamPose.inf").numpy()
    for step in range(2):
        assert any(np.allclose(pose, expected[f"step{step}_T"], atol=1e-6) for pose in poses)
