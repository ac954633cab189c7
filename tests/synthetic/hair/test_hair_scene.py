# SPDX-License-Identifier: Apache-2.0
import importlib.util
import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.cameras import project
from npcr.config import load_config
from npcr.data.scene import load_clouds, load_scene
from npcr.errors import ConfigError, NpcrError, SceneError
from npcr.io.camera_files import read_cameras
from npcr.io.images import read_image, read_matte
from npcr.reconstruction.mattes import coverage
from npcr.synthetic.hair import scene as module
from npcr.synthetic.hair.cameras import path_cameras, view_cameras
from npcr.synthetic.hair.model import HairModel, build_model
from npcr.synthetic.hair.options import HairOptions
from npcr.synthetic.hair.recipe import has_recipe, make_recipe, write_recipe
from npcr.synthetic.hair.scene import _make_job, make_hair_scene
from npcr.synthetic.hair.strands import Strands

needs_mitsuba = pytest.mark.skipif(importlib.util.find_spec("mitsuba") is None,
                                   reason="mitsuba is not installed: pip install 'npcr[hair]'")
OPTIONS = HairOptions(preset="fur", number=400, length=0.3, views=6, holdout_every=3, size=24, samples=4,
                      path_frames=3, path_degrees=9, points=3000, thickness=0.02, seed=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("hair") / "animal"
    make_hair_scene(place, OPTIONS, workers=2)
    return place


@needs_mitsuba
def test_the_scene_loads_with_its_own_configuration(folder):
    cfg = load_config(folder / "scene.yml")
    scene = load_scene(cfg.DATASETS.TRAIN, size_raw=cfg.INPUT.SIZE_RAW, frame_num=1, mask=True,
                       center=cfg.DATASETS.CENTER)
    assert len(scene.cameras) == 6
    assert cfg.DATASETS.HOLDOUT_EVERY == 3
    assert cfg.DATASETS.ALPHA_MODE == "straight"
    (cloud,) = load_clouds(folder, 1)
    assert len(cloud) == 3000
    assert cloud.colors is not None
    assert cloud.colors.std() > 5
    distance = float(scene.cameras.cam_to_world[0, :3, 3].norm())
    near, far, _ = cfg.INPUT.NEAR_FAR_SIZE
    assert near < distance < far


@needs_mitsuba
def test_as_jpeg_it_is_the_same_scene(folder, tmp_path):
    place = tmp_path / "animal"
    make_hair_scene(place, replace(OPTIONS, format="jpg", path_frames=0), workers=2)
    assert load_config(place / "scene.yml").DATASETS.ALPHA_MODE == "premultiplied"
    for i in (1, 6):
        straight = read_image(folder / f"img/0/img_{i:04d}.png").astype(float) / 255
        jpeg = read_image(place / f"img/0/img_{i:04d}.jpg").astype(float) / 255
        np.testing.assert_array_equal(read_matte(place / f"img/0/img_{i:04d}_alpha.png") / 255, straight[..., 3])
        assert np.abs(jpeg - straight[..., :3] * straight[..., 3:]).mean() < 0.02
    first, second = (load_clouds(where, 1)[0] for where in (folder, place))
    np.testing.assert_array_equal(first.positions, second.positions)
    assert np.abs(first.colors.astype(float) - second.colors).mean() < 5
    make_hair_scene(place, replace(OPTIONS, format="jpg", path_frames=0))  # whole: nothing is rendered again


@needs_mitsuba
def test_the_cloud_fills_the_mattes(folder):
    cameras = read_cameras(folder / "CamPose.inf", folder / "Intrinsic.inf", (24, 24))
    mattes = [read_image(folder / f"img/0/img_{i:04d}.png")[..., 3] for i in range(1, 7)]
    covered, spilled = coverage(load_clouds(folder, 1)[0].positions, cameras, mattes)
    assert covered > 0.97
    assert spilled < 0.15  # a pixel of so small a picture is wide


@needs_mitsuba
def test_the_path_has_true_depth_and_positions(folder):
    cameras = read_cameras(folder / "path/CamPose.inf", folder / "path/Intrinsic.inf", (24, 24))
    assert len(cameras) == 3
    for i in range(3):
        alpha = read_image(folder / f"path/img_{i + 1:04d}.png")[..., 3]
        with np.load(folder / f"path/geometry_{i + 1:04d}.npz") as arrays:
            position, depth = arrays["position"], arrays["depth"]
        hit = depth > 0
        assert (alpha[hit] > 0).mean() > 0.95
        assert hit[alpha == 255].mean() > 0.95
        pixels, z = project(torch.from_numpy(position[hit])[None], cameras[i])
        y, x = np.nonzero(hit)
        np.testing.assert_allclose(pixels[0], np.stack([x, y], axis=1), atol=5e-3)
        np.testing.assert_allclose(z[0], depth[hit], rtol=1e-5)


@pytest.mark.parametrize(("kind", "index", "samples"), [("view", 0, 4), ("view", 2, 16), ("frame", 0, 16)])
def test_more_light_paths_go_to_what_models_are_judged_by(kind, index, samples):
    cameras = view_cameras(build_model(OPTIONS), OPTIONS)
    assert _make_job(kind, index, cameras, replace(OPTIONS, truth_samples=16)).samples == samples
    assert _make_job(kind, index, cameras, OPTIONS).samples == 4


@pytest.mark.parametrize("cameras_of", [view_cameras, path_cameras])
def test_nearer_cameras_look_the_same_way_through_the_same_lens(cameras_of):
    strand = Strands(np.zeros((2, 3)), np.zeros(2), np.array([2]), np.zeros((1, 2)))
    model = HairModel(None, strand, center=np.array([0.1, 0.2, 0.3]), radius=1.5)
    far, nearer = cameras_of(model, OPTIONS), cameras_of(model, replace(OPTIONS, distance=0.5))
    center = torch.from_numpy(model.center).float()
    torch.testing.assert_close(nearer.intrinsics, far.intrinsics)
    torch.testing.assert_close(nearer.cam_to_world[:, :3, :3], far.cam_to_world[:, :3, :3])
    torch.testing.assert_close(2 * (nearer.cam_to_world[:, :3, 3] - center), far.cam_to_world[:, :3, 3] - center)


def test_a_recipe_from_before_an_option_was_there_goes_on(tmp_path):
    recipe = make_recipe(OPTIONS)
    old = recipe | {"options": {name: value for name, value in recipe["options"].items() if name != "distance"}}
    write_recipe(tmp_path, old)
    assert has_recipe(tmp_path, recipe)
    with pytest.raises(SceneError, match=r"was begun with distance 1.0, not 0.5"):
        has_recipe(tmp_path, make_recipe(replace(OPTIONS, distance=0.5)))


def test_truth_samples_of_zero_are_refused():
    with pytest.raises(ConfigError, match=r"--truth-samples is 0; it must be from 1"):
        HairOptions(truth_samples=0)


@needs_mitsuba
def test_a_stopped_run_goes_on_and_workers_change_nothing(folder, tmp_path, monkeypatch):
    place = tmp_path / "animal"
    shutil.copytree(folder, place)
    kept, cut, lost = (place / f"img/0/img_000{i}.png" for i in (1, 2, 3))
    kept_time = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:-200])
    lost.unlink()
    (place / "path/geometry_0002.npz").write_bytes(b"PK\x03\x04")
    (place / "scene.yml").unlink()
    seen = []
    make_hair_scene(place, OPTIONS, workers=1,
                    progress=lambda items, total, done: (seen.append((total, done)), items)[1])
    assert seen == [(9, 6)]
    assert kept.stat().st_mtime_ns == kept_time
    for file in sorted(path.relative_to(folder) for path in folder.rglob("*.*")):
        if file.suffix == ".npz":
            with np.load(folder / file) as first, np.load(place / file) as second:
                np.testing.assert_array_equal(first["position"], second["position"])
        else:
            assert (place / file).read_bytes() == (folder / file).read_bytes(), file


@needs_mitsuba
def test_another_recipe_is_refused(folder):
    before = (folder / "recipe.json").read_bytes()
    with pytest.raises(SceneError, match=r"was begun with samples 4, not 8.*--overwrite"):
        make_hair_scene(folder, replace(OPTIONS, samples=8))
    assert (folder / "recipe.json").read_bytes() == before
    assert json.loads(before)["groom"]["number"] == 400


@needs_mitsuba
def test_what_is_no_scene_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(SceneError, match=r"not empty|holds no scene"):
            make_hair_scene(tmp_path, OPTIONS, overwrite=overwrite)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@needs_mitsuba
def test_a_stop_ends_the_processes_and_keeps_what_is_finished(tmp_path):
    def stop(items, total, done):
        yield next(iter(items))
        raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        make_hair_scene(tmp_path / "x", OPTIONS, workers=1, progress=stop)
    for child in set(multiprocessing.active_children()) - before:
        child.join(5)
        assert not child.is_alive()
    assert len(list((tmp_path / "x").rglob("img_*.png"))) == 1
    assert not (tmp_path / "x/scene.yml").exists()
    assert not list((tmp_path / "x").rglob("*.tmp*"))


def test_without_mitsuba_the_error_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mitsuba", None)
    with pytest.raises(NpcrError, match=r"pip install 'npcr\[hair\]'"):
        module.make_hair_scene(tmp_path / "x", OPTIONS)


@pytest.mark.parametrize(("change", "message"), [
    ({"views": 0}, "--views is 0"), ({"size": 4}, "--size is 4"), ({"holdout_every": 1}, "--holdout-every is 1"),
    ({"skin_share": 1.5}, "--skin-share is 1.5"),
    ({"distance": 0.0}, "--distance is 0; it must be from 0.31"), ({"preset": "mohawk"}, "allowed: bob"),
    ({"hair": "x.hair"}, "--length shapes procedural strands"), ({"frizz": 2.0}, "--frizz is 2"),
])
def test_options_are_checked(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **change)
