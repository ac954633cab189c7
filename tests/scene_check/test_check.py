# SPDX-License-Identifier: Apache-2.0
"""Wrong conventions in a clean generated scene are found and named; clean scenes of all sorts pass."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.camera_paths import sphere_band
from npcr.cameras import Cameras
from npcr.io.camera_files import read_cameras
from npcr.io.mattes import read_matte
from npcr.io.points import PointCloud, read_points
from npcr.ops import rasterize
from npcr.scene_check import check
from npcr.scene_check.check import check_scene
from npcr.scene_check.consistency import Consistency
from npcr.scene_check.diagnosis import Diagnosis, diagnose_silhouettes
from npcr.scene_check.findings import Report
from npcr.scene_check.hypotheses import Reconstruction, discrete_hypotheses
from npcr.scene_check.measurements import check_raw_size, measure_geometry
from npcr.scene_check.report import format_report
from npcr.scene_check.scene_data import SceneData, load_scene_data
from npcr.synthetic.creature_scene import FuzzyOptions, make_fuzzy_scene

_SIDE = 24  # columns added left and right, so that width and height differ
OPENGL = torch.diag(torch.tensor([1.0, -1, -1]))


@pytest.fixture(scope="module")
def clean(tmp_path_factory) -> SceneData:
    folder = tmp_path_factory.mktemp("scene") / "animal"
    make_fuzzy_scene(folder, FuzzyOptions(views=12, size=72, strands=2500, points=4000, path_views=2, seed=1))
    square = load_scene_data(folder)
    assert square.mattes is not None
    size = (72 + 2 * _SIDE, 72)
    pad = ((0, 0), (_SIDE, _SIDE))
    intrinsics = square.cameras.intrinsics.clone()
    intrinsics[:, 0, 2] += _SIDE
    return replace(square, cameras=Cameras(square.cameras.cam_to_world, intrinsics, size),
                   photographs=[np.pad(p, (*pad, (0, 0))) for p in square.photographs],
                   mattes=[np.pad(m, pad) for m in square.mattes])


def names(report: Report) -> list[str]:
    return [problem.name for problem in report.problems]


def with_poses(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[SceneData], SceneData]:
    def apply(data: SceneData) -> SceneData:
        poses = change(data.cameras.cam_to_world.clone())
        return replace(data, cameras=Cameras(poses, data.cameras.intrinsics, data.cameras.size))
    return apply


def with_intrinsics(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[SceneData], SceneData]:
    def apply(data: SceneData) -> SceneData:
        intrinsics = change(data.cameras.intrinsics.clone())
        return replace(data, cameras=Cameras(data.cameras.cam_to_world, intrinsics, data.cameras.size))
    return apply


def with_points(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[SceneData], SceneData]:
    def apply(data: SceneData) -> SceneData:
        points, colors = np.ascontiguousarray(change(data.cloud.positions), np.float32), data.cloud.colors
        return replace(data, cloud=PointCloud(points, colors if len(points) == len(data.cloud) else None))
    return apply


def rotations(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def apply(poses: torch.Tensor) -> torch.Tensor:
        poses[:, :3, :3] = change(poses[:, :3, :3].clone())
        return poses
    return apply


def rolled(data: SceneData, cameras: int = 0, mattes: int = 0) -> SceneData:
    order = torch.arange(len(data.cameras)).roll(cameras)
    assert data.mattes is not None
    return replace(data, cameras=data.cameras[order], mattes=data.mattes[-mattes:]
                   + data.mattes[:-mattes] if mattes else data.mattes, separate_mattes=bool(mattes))


def alphabetical(data: SceneData) -> SceneData:
    order = sorted(range(len(data.cameras)), key=lambda i: str(i + 1))
    return replace(data, cameras=data.cameras[order])


WRONG = {
    "opengl-axes": with_poses(rotations(lambda r: r @ OPENGL)),
    "transposed-rotation": with_poses(rotations(lambda r: r.transpose(1, 2))),
    "world-to-camera": with_poses(torch.linalg.inv),
    "world-to-camera+opengl-axes": with_poses(lambda p: torch.linalg.inv(rotations(lambda r: r @ OPENGL)(p))),
    "column-order": with_poses(rotations(lambda r: r[:, :, [1, 2, 0]])),
    "intrinsics-resolution": with_intrinsics(lambda k: torch.diag(torch.tensor([2.0, 2, 1])) @ k),
    "swapped-width-height": with_intrinsics(lambda k: k[:, [1, 0, 2]][:, :, [1, 0, 2]]),
    "turned-pictures": with_intrinsics(lambda k: torch.tensor([[0.0, 1, 0], [-1, 0, 119], [0, 0, 1]]) @ k),
    "shifted-photographs": lambda data: rolled(data, cameras=1),
    "shifted-mattes": lambda data: rolled(data, mattes=1),
    "alphabetical-order": alphabetical,
    "cloud-axes": with_points(lambda p: p[:, [0, 2, 1]] * [1, 1, -1]),
    "cloud-units": with_points(lambda p: 1000 * p),
    "inverted-mattes": lambda data: replace(data, mattes=[255 - matte for matte in data.mattes or []]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_conventions_are_named_with_their_fix(clean, name):
    report = check_scene(WRONG[name](clean))
    assert [n for n in names(report) if n not in ("nothing-seen", "blind-cameras")] == [name]
    fix = {"intrinsics-resolution": r"0.50", "cloud-units": "0.00", "cloud-axes": "(x, -z, y)",
           "shifted-photographs": "rows of CamPose.inf by 1"}.get(name, "")
    assert fix in report.problems[-1].fix
    assert len(report.problems[-1].fix) > 20
    assert f"PROBLEM: {name}: " in format_report(report)


@pytest.mark.parametrize("factor", [0.93])
def test_the_factor_of_a_scale_is_found(clean, factor):
    report = check_scene(with_intrinsics(lambda k: torch.diag(torch.tensor([factor, factor, 1])) @ k)(clean))
    assert names(report) == ["intrinsics-resolution"]
    stated = float(report.problems[0].fix.split(" by ")[1].split(",")[0])
    assert stated == pytest.approx(1 / factor, rel=0.025)


def partial(data: SceneData) -> SceneData:
    keep = data.cloud.positions[:, 0] > 0.2
    return with_points(lambda p: p[keep])(data)


def with_surroundings(data: SceneData) -> SceneData:
    floor = np.random.default_rng(0).uniform(-4, 4, (3000, 3)) * [1, 1, 0] - [0, 0, 1.6]
    return with_points(lambda p: np.concatenate([p, floor]))(data)


def fewer(data: SceneData, rows: list[int]) -> SceneData:
    assert data.mattes is not None
    return replace(data, cameras=data.cameras[rows], images=[data.images[i] for i in rows],
                   photographs=[data.photographs[i] for i in rows], mattes=[data.mattes[i] for i in rows])


@pytest.mark.parametrize("change", [
    partial, lambda data: partial(fewer(data, [0, 1, 4])), with_points(lambda p: p[::20])],
    ids=["partial", "partial of three", "sparse"])
def test_no_false_alarm(clean, change):
    report = check_scene(change(clean))
    assert names(report) == []
    assert "nothing wrong was found" in format_report(report)


def test_background_is_only_remarked(clean):
    report = check_scene(with_surroundings(clean))
    assert names(report) == []
    assert "surroundings" in {remark.name for remark in report.remarks}
    assert "nothing wrong was found" in format_report(report)


def test_a_cloud_that_runs_out_of_the_pictures_is_a_problem_though_colors_agree(clean, monkeypatch):
    """Points that lie within the mattes where they are seen, behind most of the cameras."""
    agreement = Consistency(torch.ones(12), 0.2, 0.77)
    monkeypatch.setattr(check, "diagnose_silhouettes", lambda *_, **__: Diagnosis([], agreement, None, False))
    monkeypatch.setattr(check, "diagnose_photographs", lambda *_, **__: Diagnosis([], agreement, None, True))
    report = check_scene(clean)
    assert [problem.name for problem in report.problems] == ["no-agreement"]
    assert "20% of the points lie within all mattes and cover 77% of them; colors agree" in report.problems[0].text
    around = check_scene(with_points(lambda p: np.concatenate([p, 1.6 * p, 1.7 * p, 1.8 * p, 1.9 * p]))(clean))
    assert names(around) == []
    assert "surroundings" in {remark.name for remark in around.remarks}


def test_measures_of_a_clean_scene(clean):
    report = check_scene(clean, size_raw=(120, 72), near_far_size=(3.5, 10.0, 1.0), size_test=(120, 72))
    assert names(report) == []
    assert "nothing wrong was found" in format_report(report)
    measures = report.measures
    assert measures["covered"] > 0.98
    assert measures["spilled"] < 0.02
    assert measures["points_outside_all_mattes"] == 0
    assert measures["views_per_point"] == 12
    assert 3.4 < measures["depths"][0] < 5 < measures["depths"][2] < 6.6
    assert measures["matte_opaque"] + measures["matte_partial"] + measures["matte_empty"] == pytest.approx(1, abs=1e-3)
    assert 1 < measures["splat_pixels"] < 3


def test_size_and_depths_configured_wrongly(clean):
    report = check_scene(clean, size_raw=(72, 120), near_far_size=(20.0, 30.0, 1.0))
    assert names(report) == ["swapped-width-height", "near-far"]
    report = Report({})
    check_raw_size(report, (800, 800), clean.cameras.size)
    assert names(report) == ["size-raw"]


def test_one_wrong_camera_and_one_blank_matte(clean):
    poses = clean.cameras.cam_to_world.clone()
    poses[4, :3, 3] += 1.5 * poses[4, :3, 0]
    odd = check_scene(replace(clean, cameras=Cameras(poses, clean.cameras.intrinsics, clean.cameras.size)))
    assert names(odd) == ["odd-cameras"]
    assert "5" in odd.problems[0].text
    assert clean.mattes is not None
    blank = replace(clean, mattes=[*clean.mattes[:3], np.zeros_like(clean.mattes[0]), *clean.mattes[4:]])
    assert "blank-mattes" in names(check_scene(blank))


def test_blank_mattes_leave_the_cameras_unchecked_and_it_is_said(clean):
    assert clean.mattes is not None
    report = check_scene(replace(clean, mattes=[np.zeros_like(clean.mattes[0]), *clean.mattes[1:]]))
    assert names(report) == ["blank-mattes"]
    assert "not-checked" in [remark.name for remark in report.remarks]


def test_centers_that_were_lost(clean):
    poses = clean.cameras.cam_to_world.clone()
    poses[:, :3, 3] = torch.tensor([0.0, 0.0, 3.0])
    lost = replace(clean, cameras=Cameras(poses, clean.cameras.intrinsics, clean.cameras.size))
    report = Report({})
    measure_geometry(report, lost)
    assert [(problem.name, problem.text) for problem in report.problems] == [
        ("one-place", "all 12 cameras stand at one place, (0, 0, 3)")]


def test_duplicates(clean):
    report = Report({})
    measure_geometry(report, with_points(lambda p: np.concatenate([p, p]))(clean))
    assert report.measures["duplicates"] == 4000
    assert "duplicates" in [remark.name for remark in report.remarks]


@pytest.mark.parametrize(("offset", "found"), [(0, False), (100, False), (40e3, True)])
def test_coordinates_far_from_the_origin(clean, offset, found):
    def moved(poses: torch.Tensor) -> torch.Tensor:
        poses[:, 0, 3] += offset
        return poses
    report = Report({})
    measure_geometry(report, with_points(lambda p: p + np.float32([offset, 0, 0]))(with_poses(moved)(clean)))
    assert ("far-from-origin" in names(report)) is found


BOB = Path(__file__).resolve().parents[2] / "datasets" / "bob"


@pytest.fixture(scope="module")
def bob() -> Reconstruction:
    return Reconstruction(read_cameras(BOB / "CamPose.inf", BOB / "Intrinsic.inf", (200, 200)),
                          torch.from_numpy(read_points(BOB / "pointclouds" / "frame1.ply").positions),
                          torch.arange(60))


def thinned(bob: Reconstruction, points: int, seed: int = 0, noise: float = 0.0) -> tuple[Reconstruction, list]:
    """Eight of the cameras with their mattes, and a cloud of so many points."""
    cameras = np.linspace(0, 59, 8).round().astype(int).tolist()
    mattes = [read_matte(BOB / "img" / "0" / f"img_{camera + 1:04d}_alpha.png") for camera in cameras]
    rng = np.random.default_rng(seed)
    cloud = bob.points[torch.from_numpy(rng.choice(len(bob.points), points, replace=False))]
    cloud += torch.from_numpy(rng.normal(0, noise, cloud.shape)).float()
    return Reconstruction(bob.cameras[cameras], cloud, torch.arange(8)), mattes


@pytest.mark.parametrize(("points", "seed", "noise"), [
    (50, 1, 0), (100, 0, 0), (400, 0, 0), *(pytest.param(*row, marks=pytest.mark.slow) for row in (
        (200, 0, 0), (400, 1, 0), (400, 0, 0.04), (1000, 0, 0), (2000, 0, 0), (2000, 0, 0.04), (3500, 0, 0.08)))])
def test_no_false_alarm_by_chance_in_thin_and_noisy_clouds(bob, points, seed, noise):
    diagnosis = diagnose_silhouettes(*thinned(bob, points, seed, noise))
    assert [hypothesis.name for hypothesis in diagnosis.hypotheses] == []
    assert diagnosis.decided


THIN_AND_WRONG = {
    "cloud-units": lambda scene: replace(scene, points=1.15 * scene.points),
    "opengl-axes": lambda scene: replace(scene, cameras=Cameras(
        scene.cameras.cam_to_world @ torch.diag(torch.tensor([1.0, -1, -1, 1])), scene.cameras.intrinsics,
        scene.cameras.size)),
    "intrinsics-resolution": lambda scene: replace(scene, cameras=Cameras(
        scene.cameras.cam_to_world, torch.diag(torch.tensor([0.9, 0.9, 1])) @ scene.cameras.intrinsics,
        scene.cameras.size)),
}


@pytest.mark.parametrize("name", [name if name == "cloud-units" else pytest.param(name, marks=pytest.mark.slow)
                                  for name in THIN_AND_WRONG])
def test_true_mistakes_are_found_by_few_points_too(bob, name):
    scene, mattes = thinned(bob, 400)
    diagnosis = diagnose_silhouettes(THIN_AND_WRONG[name](scene), mattes)
    assert name in [hypothesis.name for hypothesis in diagnosis.hypotheses]


def textured(colors: bool) -> SceneData:
    """Without mattes: a ball of smooth colors before gray."""
    rng = np.random.default_rng(0)
    poses = torch.from_numpy(sphere_band(10, 2.0)).float()
    points, dense = (0.8 * torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(count, 3))).float(), dim=1)
                     for count in (6000, 60000))
    waves = torch.from_numpy(rng.normal(size=(6, 3))).float() * 4
    shades, dense_shades = (torch.sin(p @ waves.T).unflatten(1, (2, 3)).sum(1) * 0.25 + 0.5 for p in (points, dense))
    matrix = torch.tensor([[100.0, 0, 63.5], [0, 100, 47.5], [0, 0, 1]]).expand(10, 3, 3)
    cameras = Cameras(poses, matrix, (128, 96))
    pictures = []
    index = rasterize(dense, cameras.cam_to_world, cameras.intrinsics, cameras.size, near=1.0, far=9.0, max_size=0.0,
                      layers=1).index[:, 0].long()
    for row in index:
        picture = torch.where((row >= 0)[..., None], dense_shades[row.clamp_min(0)], torch.full((3,), 0.4))
        pictures.append((255 * picture.clamp(0, 1)).byte().numpy())
    cloud = PointCloud(points.numpy(), (255 * shades.clamp(0, 1)).byte().numpy() if colors else None)
    return SceneData(folder=__file__, cameras=cameras, images=[], photographs=pictures,  # type: ignore[arg-type]
                    mattes=None, separate_mattes=False, cloud=cloud)


@pytest.mark.parametrize(("name", "colors"), [("clean", True), ("clean", False), ("opengl-axes", False),
                                              ("shifted-photographs", True), ("intrinsics-resolution", False)])
def test_colors_stand_in_for_mattes(name, colors):
    data = textured(colors)
    changed = {"clean": lambda data: data, "shifted-photographs": lambda data: replace(
        data, cameras=data.cameras[torch.arange(10).roll(1)])}.get(name, WRONG.get(name))
    assert changed is not None
    report = check_scene(changed(data))
    expected = [] if name == "clean" else [name]
    assert [n for n in names(report) if n not in ("nothing-seen", "blind-cameras")] == expected
    assert report.measures["evidence"] == "colors"
    if name == "clean":
        assert report.remarks == []


def test_without_mattes_and_texture_it_cannot_tell(clean):
    gray = [np.full_like(p, 128) for p in clean.photographs]
    report = check_scene(replace(clean, mattes=None, photographs=gray))
    assert names(report) == []
    assert [remark.name for remark in report.remarks] == ["cannot-tell"]


def test_hypotheses_differ_from_each_other(clean):
    reconstruction = Reconstruction(clean.cameras, torch.from_numpy(clean.cloud.positions), torch.arange(12))
    seen = set()
    for hypothesis in discrete_hypotheses(reconstruction):
        if hypothesis.name == "swapped-width-height":  # with square pixels it is the same to swap fx with fy, or not
            continue
        corrected = hypothesis.correct(reconstruction)
        arrays = (corrected.cameras.cam_to_world, corrected.cameras.intrinsics, corrected.points[:9], corrected.images)
        key = tuple(np.round(a.double().numpy(), 3).tobytes() for a in arrays)
        assert key not in seen, hypothesis.name
        seen.add(key)
