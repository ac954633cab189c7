# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.cameras import project
from npcr.commands import make_fuzzy_scene as command
from npcr.config import load_config
from npcr.data.scene import load_clouds, load_scene
from npcr.errors import NpcrError, SceneError
from npcr.io.camera_files import read_cam_poses, read_cameras
from npcr.io.images import read_image
from npcr.reconstruction.mattes import coverage
from npcr.synthetic.creature_scene import CENTER, DISTANCE, RADIUS, FuzzyOptions, make_fuzzy_scene, make_lit_points

OPTIONS = FuzzyOptions(views=9, size=48, strands=2500, points=4000, path_views=10, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("fuzzy") / "animal"
    make_fuzzy_scene(place, OPTIONS)
    return place


def test_the_scene_loads_with_its_own_configuration(folder):
    cfg = load_config(folder / "scene.yml")
    scene = load_scene(cfg.DATASETS.TRAIN, size_raw=cfg.INPUT.SIZE_RAW, frame_num=cfg.DATASETS.FRAME_NUM,
                       mask=cfg.DATASETS.MASK, center=cfg.DATASETS.CENTER)
    assert len(scene.cameras) == 9
    assert cfg.DATASETS.HOLDOUT_EVERY == 3
    (cloud,) = load_clouds(folder, 1)
    assert len(cloud) == 4000
    assert cloud.colors is not None
    near, far, size = cfg.INPUT.NEAR_FAR_SIZE
    assert DISTANCE - RADIUS < near < DISTANCE < far
    assert size > 0


def test_the_cloud_fills_the_pictures_it_came_from(folder):
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", (48, 48))
    mattes = [read_image(folder / f"img/0/img_{i:04d}.png")[..., 3] for i in range(1, 10)]
    covered, spilled = coverage(load_clouds(folder, 1)[0].positions, cameras, mattes)
    assert covered > 0.99
    assert spilled < 0.03


def test_the_pictures_are_of_something_fuzzy(folder):
    for i in range(1, 10):
        picture = read_image(folder / f"img/0/img_{i:04d}.png")
        alpha = picture[..., 3]
        assert 0.2 < (alpha > 127).mean() < 0.7
        assert len(np.unique(alpha)) > 10  # coverage comes in steps of 1/16
        rim = (alpha > 0) & (alpha < 255)
        assert rim.sum() > 0.1 * (alpha > 0).sum()
        assert not alpha[0].any()
        assert not alpha[:, -1].any()
        assert (picture[alpha == 0] == 0).all()
        assert picture[alpha > 127][:, :3].std(0).min() > 20


def test_colors_of_the_cloud_are_those_of_the_pictures(folder):
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", (48, 48))
    (cloud,) = load_clouds(folder, 1)
    assert cloud.colors is not None
    front = np.linalg.norm(cloud.positions - cameras.cam_to_world[0, :3, 3].numpy(), axis=1) < DISTANCE - 0.5
    pixels = project(torch.from_numpy(cloud.positions[front])[None], cameras[0])[0][0].round().long().numpy()
    picture = read_image(folder / "img/0/img_0001.png")[pixels[:, 1], pixels[:, 0]].astype(float)
    solid = picture[:, 3] > 200
    seen, given = picture[solid, :3], cloud.colors[front][solid].astype(float)
    assert solid.sum() > 200
    assert np.corrcoef(seen[:, 2], given[:, 2])[0, 1] > 0.4  # rust, cream and dark fur differ most in blue


def test_the_path_circles_the_animal(folder):
    path = read_cam_poses(folder / "CamPose_path.inf")
    assert len(path) == 10
    toward = CENTER - path[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(toward, axis=1), DISTANCE, atol=1e-6)
    np.testing.assert_allclose((path[:, :3, 2] * toward).sum(1), DISTANCE, atol=1e-6)


def test_the_seed_decides(folder, tmp_path):
    make_fuzzy_scene(tmp_path / "again", OPTIONS)
    for name in ("img/0/img_0005.png", "pointclouds/frame1.ply", "CamPose.inf"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    other = FuzzyOptions(**{**vars(OPTIONS), "seed": 4, "views": 1})
    make_fuzzy_scene(tmp_path / "other", other)
    assert (tmp_path / "other/img/0/img_0001.png").read_bytes() != (folder / "img/0/img_0001.png").read_bytes()


def test_the_animal_fits_its_sphere():
    fur, skin = make_lit_points(FuzzyOptions(size=48), np.random.default_rng(0))
    reach = (fur.positions - torch.from_numpy(CENTER).float()).norm(dim=1)
    assert reach.quantile(0.9999 if len(reach) < 1e7 else 0.99) < RADIUS
    assert (skin.positions - torch.from_numpy(CENTER).float()).norm(dim=1).max() < RADIUS
    for light in (fur.key, fur.rim, skin.key, skin.rim):
        assert light.min() >= 0
        assert light.max() <= 1
        assert light.std() > 0.05


@pytest.mark.parametrize(("name", "value"), [("views", 0), ("size", 4), ("strands", 0), ("points", 1), ("seed", -1)])
def test_options_are_checked(name, value):
    with pytest.raises(NpcrError, match=f"{name} is {value}"):
        FuzzyOptions(**{name: value})


def test_the_command_takes_care_of_what_is_there(tmp_path, capsys):
    arguments = ["--views", "2", "--size", "32", "--strands", "300", "--points", "500", "--path-views", "3"]

    def run(*more: str) -> None:
        command.main([str(tmp_path / "demo"), *arguments, *more])

    run()
    assert "scene.yml" in capsys.readouterr().out
    with pytest.raises(SceneError, match="not empty"):
        run()
    run("--overwrite", "--views", "3")
    assert len(list((tmp_path / "demo/img/0").iterdir())) == 3
