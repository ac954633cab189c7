# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from npcr.cameras import Cameras, project
from npcr.errors import TrainingError
from npcr.refine.clips import SMALLEST_TURN, ArcClips, PathClips
from tests.path_stub import orbit
from tests.scenes import orbit_cameras

PIVOT = np.array([0.1, -0.2, 0.3])


def centers(cameras: Cameras) -> np.ndarray:
    return cameras.cam_to_world[:, :3, 3].double().numpy() - PIVOT


def turns(cameras: Cameras) -> np.ndarray:
    """Degrees between successive cameras about the pivot."""
    directions = centers(cameras) / np.linalg.norm(centers(cameras), axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip((directions[1:] * directions[:-1]).sum(axis=1), -1, 1)))


def test_clips_of_a_path_are_neighbors_in_it() -> None:
    path = orbit(7)
    starts = set()
    for seed in range(40):
        clip = PathClips(path, 3).draw(np.random.default_rng(seed))
        start = round(clip.cam_to_world[0, 0, 3].item() / 0.05)
        assert torch.equal(clip.cam_to_world, path.cam_to_world[start:start + 3])
        starts.add(start)
    assert starts == set(range(5))


def test_a_path_shorter_than_a_clip_is_one_clip_but_one_camera_is_no_path() -> None:
    assert len(PathClips(orbit(2), 4).draw(np.random.default_rng(0))) == 2
    with pytest.raises(TrainingError, match="at least 2 cameras; this one has 1"):
        PathClips(orbit(1), 2)


def test_arcs_are_fine_keep_their_distance_and_frame_what_cameras_framed() -> None:
    cameras = orbit_cameras(12)
    arcs = ArcClips(cameras, 4, 1.5, PIVOT)
    radii = np.linalg.norm(centers(cameras), axis=1)
    pivot = torch.from_numpy(PIVOT).float()
    drawn = []
    for seed in range(60):
        arc = arcs.draw(np.random.default_rng(seed))
        assert len(arc) == 4
        distance = np.linalg.norm(centers(arc), axis=1)
        np.testing.assert_allclose(distance, distance[0], rtol=1e-5)
        assert radii.min() - 1e-4 <= distance[0] <= radii.max() + 1e-4
        pixels, depth = project(pivot.expand(4, 1, 3), arc)
        assert (depth > 0).all()
        assert (pixels >= 0).all()
        assert (pixels[..., 0] < arc.size[0]).all()
        drawn.append(turns(arc))
    drawn_turns = np.concatenate(drawn)
    assert drawn_turns.max() <= 1.5 * 1.01
    assert drawn_turns.min() >= 1.5 * SMALLEST_TURN * 0.95
    assert np.std(drawn_turns) > 0.1


def test_arcs_begin_between_cameras_as_well_and_depend_on_the_generator_alone() -> None:
    cameras = orbit_cameras(6)
    arcs = ArcClips(cameras, 2, 1.0, PIVOT)
    first, again = (arcs.draw(np.random.default_rng(3)) for _ in range(2))
    assert torch.equal(first.cam_to_world, again.cam_to_world)
    begins = np.stack([centers(arcs.draw(np.random.default_rng(seed)))[0] for seed in range(30)])
    nearest = np.linalg.norm(begins[:, None] - centers(cameras)[None], axis=-1).min(axis=1)
    assert nearest.max() > 0.5  # the cameras stand 4 apart
    ArcClips(cameras[0], 2, 1.0, PIVOT).draw(np.random.default_rng(0))  # one camera has no neighbor
