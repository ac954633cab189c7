# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from npcr.camera_paths import sphere_band
from npcr.cameras import Cameras
from npcr.commands import carve_hull as command
from npcr.config import load_config
from npcr.data.cloud_geometry import near_far_size, point_spacing
from npcr.data.scene_config import scene_settings, write_scene_config
from npcr.errors import NpcrError, SceneError
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.camera_files import write_cam_poses, write_intrinsics
from npcr.io.images import write_image
from npcr.io.points import read_points
from npcr.reconstruction.mattes import coverage, fill_holes, signed_distance
from npcr.reconstruction.point_colors import color_points
from npcr.reconstruction.silhouette_field import SilhouetteField
from npcr.reconstruction.silhouettes import Silhouettes, check_silhouettes, load_silhouettes
from npcr.reconstruction.visual_hull import (
    carve,
    estimate_bounds,
    fewest_views,
    sample_surface,
    subsample_evenly,
)

SHARED = os.environ.get("NPCR_SHARED")
CENTER, RADIUS = np.array([0.2, -0.1, 0.3]), 0.5


def ball_mattes(cameras: Cameras, softness: float = 0.0) -> list[np.ndarray]:
    """(H, W) uint8 each: the ball as every camera sees it; softness: width of a fuzzy rim, world units."""
    mattes = []
    for i in range(len(cameras)):
        pose, matrix = cameras.cam_to_world[i].double().numpy(), cameras.intrinsics[i].double().numpy()
        y, x = np.mgrid[:cameras.size[1], :cameras.size[0]]
        rays = np.stack([x, y, np.ones(x.shape)], -1) @ (pose[:3, :3] @ np.linalg.inv(matrix)).T
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        offset = pose[:3, 3] - CENTER
        miss = np.sqrt(np.maximum((offset**2).sum() - (rays @ offset) ** 2, 0))
        pixel = np.linalg.norm(offset) / matrix[0, 0]
        mattes.append(np.rint(255 * np.clip((RADIUS - miss) / max(softness, pixel) + 0.5, 0, 1)).astype(np.uint8))
    return mattes


def ball_cameras(count: int = 16, size: tuple[int, int] = (120, 96), focal: float = 190.0) -> Cameras:
    intrinsics = torch.tensor([[focal, 0, (size[0] - 1) / 2], [0, focal, (size[1] - 1) / 2], [0, 0, 1]])
    poses = torch.from_numpy(sphere_band(count, 3.0, elevation=(-70, 70), center=CENTER)).float()
    return Cameras(poses, intrinsics.expand(count, 3, 3), size)


@pytest.fixture(scope="module")
def ball() -> tuple[Cameras, list[np.ndarray]]:
    cameras = ball_cameras()
    return cameras, ball_mattes(cameras)


def hull(cameras, mattes, count=4000, resolution=64, **options):
    field = SilhouetteField.from_mattes(mattes, cameras, **options)
    cells, side = carve(field, estimate_bounds(cameras, mattes, **options), resolution)
    return sample_surface(field, cells, side, count)


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - CENTER, axis=1)


def test_signed_distance_of_a_straight_edge():
    matte = np.zeros((20, 40), np.uint8)
    matte[:, 15:] = 255
    np.testing.assert_allclose(signed_distance(matte, 0.5)[10, 8:24], np.arange(8, 24) - 14.5, atol=0.1)


def test_bounds_are_found_from_cameras_and_mattes(ball):
    low, high = estimate_bounds(*ball)
    assert (low < CENTER - RADIUS).all()
    assert (high > CENTER + RADIUS).all()
    assert (high - low < 2 * RADIUS * 1.35).all()


def test_points_lie_on_the_hull_evenly(ball):
    points, normals = hull(*ball)
    assert points.shape == normals.shape == (4000, 3)
    assert points.dtype == np.float32
    assert distances(points).min() > 0.97 * RADIUS  # a hull holds the object, less half a pixel
    assert np.median(distances(points)) < 1.04 * RADIUS
    covered, spilled = coverage(points, *ball)
    assert covered > 0.995
    assert spilled < 0.005
    outward = (normals * (points - CENTER)).sum(1) / distances(points)
    assert np.median(outward) > 0.97
    near = torch.cdist(torch.from_numpy(points), torch.from_numpy(points)).fill_diagonal_(9).min(1).values.numpy()
    # Points at random would give 0.52, a perfect lattice 0.
    assert near.std() / near.mean() < 0.3
    x, y, z = ((points - CENTER) / distances(points)[:, None]).T
    patches = np.histogram2d(z, np.arctan2(y, x), bins=(6, 8), range=((-1, 1), (-np.pi, np.pi)))[0]  # of equal area
    assert patches.min() > 0.7 * patches.mean()
    assert patches.max() < 1.3 * patches.mean()


def test_cells_grow_with_the_surface_only(ball):
    cameras, mattes = ball
    field = SilhouetteField.from_mattes(mattes, cameras)
    bounds = estimate_bounds(cameras, mattes)
    few, side = carve(field, bounds, 32)
    many, half = carve(field, bounds, 64)
    assert side == pytest.approx(2 * half)
    assert len(many) < 6 * len(few)  # a volume would give 8, a surface gives 4
    reach = np.sqrt(3) * half
    assert (distances(many.numpy()) > RADIUS - reach - 0.03).all()


def test_views_that_see_only_a_part_are_tolerated():
    near = ball_cameras(16)
    close = ball_cameras(6, focal=700.0)  # fills the picture: the silhouette lies outside it
    close_mattes = ball_mattes(close)
    assert all(m.min() == 255 for m in close_mattes)
    cameras = Cameras(torch.cat([near.cam_to_world, close.cam_to_world]),
                      torch.cat([near.intrinsics, close.intrinsics]), near.size)
    points, _ = hull(cameras, ball_mattes(near) + close_mattes)
    assert distances(points).min() > 0.97 * RADIUS
    assert np.median(distances(points)) < 1.04 * RADIUS


def cut_ball(rows: slice, focal: float, shift: float) -> tuple[Cameras, list[np.ndarray]]:
    """Cameras whose pictures' border cuts the ball on one side."""
    cameras = ball_cameras(focal=focal)
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 2] += shift
    cameras = Cameras(cameras.cam_to_world, intrinsics, cameras.size)[rows]
    return cameras, ball_mattes(cameras)


def test_mattes_cut_by_the_border_leave_no_loose_ends():
    cameras, mattes = cut_ball(slice(0, 16, 2), 300.0, 40.0)
    low, high = estimate_bounds(cameras, mattes, min_views=2)
    assert (high - low).max() > 6 * RADIUS
    assert fewest_views(SilhouetteField.from_mattes(mattes, cameras), mattes) == 4
    low, high = estimate_bounds(cameras, mattes)
    assert (low < CENTER - RADIUS).all()
    assert (high > CENTER + RADIUS).all()
    assert (high - low).max() < 3 * RADIUS


def test_no_more_views_must_agree_where_the_hull_is_closed(ball):
    cameras, mattes = ball
    assert fewest_views(SilhouetteField.from_mattes(mattes, cameras), mattes) == 4
    cameras, mattes = cut_ball(slice(0, 16), 260.0, 25.0)
    field = SilhouetteField.from_mattes(mattes, cameras)
    assert field.open_sides.any()
    assert fewest_views(field, mattes) == 4


def test_beyond_an_untouched_border_there_is_nothing(ball):
    cameras, mattes = ball
    field = SilhouetteField.from_mattes(mattes, cameras)
    far_off = torch.tensor([[5.0, 5.0, 5.0], [0.2, -0.1, 4.0]])
    assert (field.distance(far_off)[0] < 0).all()


def test_tolerated_views_may_be_wrong(ball):
    cameras, mattes = ball
    broken = [np.where(np.arange(120) > 60, 0, m).astype(np.uint8) if i == 4 else m for i, m in enumerate(mattes)]
    strict, _ = hull(cameras, broken)
    loose, _ = hull(cameras, broken, tolerated=1)
    assert coverage(strict, cameras, mattes)[0] < 0.97
    assert coverage(loose, cameras, mattes)[0] > 0.99


def test_small_holes_are_filled_and_large_ones_kept(ball):
    matte = ball[1][0].copy()
    y, x = np.argwhere(matte == 255).mean(0).round().astype(int)
    matte[y - 2:y + 2, x - 2:x + 2] = 0
    np.testing.assert_array_equal(fill_holes(matte, 0.02), np.where(matte, matte, fill_holes(matte, 0.02)))
    assert fill_holes(matte, 0.02)[y, x] == 255
    assert fill_holes(matte, 0.001)[y, x] == 0
    assert fill_holes(matte, 0.02)[0, 0] == 0  # the background is no hole


def test_fuzz_lies_outside_the_hull_and_within_soft_mattes():
    cameras = ball_cameras()
    mattes = ball_mattes(cameras, softness=0.16)
    field = SilhouetteField.from_mattes(mattes, cameras)
    outer = SilhouetteField.from_mattes(mattes, cameras, threshold=0.02)
    cells, side = carve(field, estimate_bounds(cameras, mattes), 64)
    points, _ = sample_surface(field, cells, side, 4000, fuzz=0.2, outer=outer)
    lifted = field.distance(torch.from_numpy(points))[0].numpy() < -1
    assert 0.25 < lifted.mean() < 0.6
    assert coverage(points, cameras, mattes, threshold=0.02)[1] < 0.01
    assert distances(points).max() < RADIUS + 0.16


def test_the_same_seed_gives_the_same_points(ball):
    np.testing.assert_array_equal(hull(*ball, count=500)[0], hull(*ball, count=500)[0])


def test_subsampling_keeps_points_apart():
    points = np.random.default_rng(0).random((20000, 3)).astype(np.float32) * [1, 1, 0]
    rows = subsample_evenly(points, 2000)
    assert len(set(rows.tolist())) == 2000
    kept = torch.from_numpy(points[rows])
    near = torch.cdist(kept, kept).fill_diagonal_(9).min(1).values
    assert near.mean() > 0.65 * np.sqrt(1 / 2000)  # at random: 0.5
    np.testing.assert_array_equal(subsample_evenly(points, 99999), np.arange(20000))


def test_mattes_without_anything_in_common(ball):
    cameras, mattes = ball
    empty = [np.zeros_like(m) for m in mattes]
    with pytest.raises(SceneError, match="no pixel"):
        SilhouetteField.from_mattes(empty, cameras)
    with pytest.raises(SceneError, match="nothing in common"):
        estimate_bounds(cameras, [np.roll(m, 70 * (i % 2), 1) for i, m in enumerate(mattes)])
    field = SilhouetteField.from_mattes(mattes, cameras)
    with pytest.raises(SceneError, match="no volume"):
        carve(field, (CENTER, CENTER), 32)


def test_spacing_and_splat_size_follow_the_density():
    cameras = ball_cameras()
    rng = np.random.default_rng(0)
    sphere = rng.normal(size=(40000, 3))
    points = (CENTER + RADIUS * sphere / np.linalg.norm(sphere, axis=1, keepdims=True)).astype(np.float32)
    true = np.sqrt(4 * np.pi * RADIUS**2 / 40000)
    assert point_spacing(points) == pytest.approx(true, rel=0.15)
    assert point_spacing(points[:400]) == pytest.approx(10 * true, rel=0.2)
    dense, sparse = near_far_size(points, cameras), near_far_size(points[:400], cameras)
    for near, far, _ in (dense, sparse):
        assert 2.4 < near < 2.55
        assert 5.7 < far < 6.3
    assert sparse[2] > 3 * dense[2]
    assert dense[2] >= 0.35
    with pytest.raises(SceneError, match="sees a point"):
        near_far_size(points + 100, cameras)


@pytest.fixture
def carve_hull():
    def run(*arguments: object) -> None:
        command.main([*map(str, arguments)])
    return run


def write_ball_scene(folder: Path, cameras: Cameras, mattes: list[np.ndarray]) -> None:
    write_cam_poses(folder / "CamPose.inf", cameras.cam_to_world)
    write_intrinsics(folder / "Intrinsic.inf", cameras.intrinsics)
    for i, matte in enumerate(mattes):
        picture = np.dstack([np.full((*matte.shape, 3), [200, 30, 60], np.uint8), matte])
        picture[matte < 128, :3] = 0
        write_image(folder / f"img/0/img_{i + 1:04d}.png", picture)


def test_the_tool_writes_cloud_picture_and_configuration(carve_hull, tmp_path, ball, capsys):
    scene = tmp_path / "ball"
    write_ball_scene(scene, *ball)
    write_scene_config(scene, scene_settings("ball", ball[0], mask=True), "a test")
    carve_hull(scene, "--points", 3000, "--resolution", 64)
    printed = capsys.readouterr().out
    assert "covered: 9" in printed or "covered: 100" in printed
    cloud = read_points(scene / "pointclouds/frame1.ply")
    assert len(cloud) == 3000
    assert cloud.colors is not None
    assert np.abs(cloud.colors.astype(int) - [200, 30, 60]).max(1).mean() < 3
    assert (scene / "carved.png").exists()
    near, far, _ = load_config(scene / "scene.yml").INPUT.NEAR_FAR_SIZE
    assert 2.3 < near < 2.6
    assert 5.7 < far < 6.3
    assert load_config(scene / "scene.yml").DATASETS.HOLDOUT_EVERY == 5  # other values stay
    assert (scene / "scene.yml").read_text().startswith("# Made by a test")
    with pytest.raises(SceneError, match="is there already"):
        carve_hull(scene)


@pytest.mark.parametrize(("arguments", "message"), [
    (["--points", "0"], "--points is 0"),
    (["--threshold", "2"], "--threshold is 2"),
    (["--resolution", "4"], "--resolution is 4"),
    (["--bounds", "0", "0", "0", "1", "1", "-1"], "first corner"),
    (["--bounds", "8", "8", "8", "9", "9", "9"], "nothing in common"),
    (["--frame", "2"], "no such frame"),
    (["--min-views", "17"], "--min-views is 17; the scene has 16 views"),
    (["--tolerate", "16"], "--tolerate is 16; the scene has 16 mattes"),
])
def test_the_tools_mistakes(carve_hull, tmp_path, ball, arguments, message):
    write_ball_scene(tmp_path, *ball)
    with pytest.raises(NpcrError, match=message):
        carve_hull(tmp_path, *arguments)
    assert not (tmp_path / "pointclouds").exists()


def test_mattes_that_show_nothing_or_everything(carve_hull, tmp_path, ball, caplog):
    cameras, mattes = ball
    empty, full = np.zeros_like(mattes[0]), np.full_like(mattes[0], 255)
    write_ball_scene(tmp_path, cameras, [empty, *mattes[1:3], full, *mattes[4:]])
    with pytest.raises(SceneError, match=r"img_0001.png: its matte shows nothing above 0.5, as 1 of 16 mattes do; a "
                                         r"hull lies within all mattes: mend these, .*, or --tolerate 1$"):
        carve_hull(tmp_path)
    carve_hull(tmp_path, "--tolerate", 1, "--points", 500, "--resolution", 16)
    assert [record.getMessage().replace(str(tmp_path), "SCENE") for record in caplog.records] == [
        "SCENE/img/0/img_0001.png: its matte shows nothing above 0.5, as 1 of 16 mattes do; they are tolerated",
        "SCENE/img/0/img_0004.png: its matte is the object throughout, as are 1 of 16 mattes; they carve nothing"]
    with pytest.raises(SceneError, match=r"a.png: its matte is the object throughout, as are all 16; nothing can be"):
        check_silhouettes(Silhouettes(cameras, [Path("a.png")] * 16, [full] * 16), 0.5, 0)


def test_bounds_that_cut_the_hull_are_said(carve_hull, tmp_path, ball, caplog):
    write_ball_scene(tmp_path, *ball)
    low, high = CENTER - 1.2 * RADIUS, CENTER + 1.2 * RADIUS
    high[0] = CENTER[0]
    carve_hull(tmp_path, "--bounds", *low, *high, "--points", 500, "--resolution", 32)
    assert [record.getMessage() for record in caplog.records] == [
        "the hull reaches the bounds at +x; what lies beyond is left out. Widen --bounds"]


def test_mattes_that_touch_the_border_are_said(carve_hull, tmp_path, caplog, capsys):
    cameras, mattes = cut_ball(slice(0, 16, 2), 300.0, 40.0)
    write_ball_scene(tmp_path, cameras, mattes)
    carve_hull(tmp_path, "--points", 500, "--resolution", 16)
    printed = capsys.readouterr().out
    assert " of 8 must agree on a point. 8 mattes touch the border of their picture, first img_0001.png; if" in printed
    assert " 2 of 8 must" not in printed
    carve_hull(tmp_path, "--points", 500, "--resolution", 16, "--min-views", 2, "--overwrite")
    assert any(record.getMessage().endswith("with --bounds, or raise --min-views above 2") for record in caplog.records)


def test_points_that_no_photograph_sees_are_said(ball, caplog):
    cameras, mattes = ball
    points = (CENTER + [[0, 0, RADIUS], [0, 0, 0]]).astype(np.float32)
    silhouettes = Silhouettes(cameras, [Path("a.png")] * 16, mattes)
    files = {"a.png": np.full((96, 120, 3), 90, np.uint8)}
    outward = np.array([[0, 0, 1.0], [0, 0, 0]])
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO", "npcr"):
        patch.setattr("npcr.reconstruction.point_colors.read_image", lambda path: files[str(path)])
        assert color_points(points, outward, silhouettes).tolist() == [[90] * 3] * 2
        assert color_points(points, 0 * outward, silhouettes).tolist() == [[0] * 3] * 2
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "colors: 1 of 2 points are hidden in all photographs; they get the mean color of the others"),
        ("WARNING", "colors: none of the 16 photographs sees a point; all points are black")]


def test_a_scene_without_mattes(carve_hull, tmp_path, ball):
    write_ball_scene(tmp_path, *ball)
    write_image(tmp_path / "img/0/img_0003.png", np.zeros((96, 120, 3), np.uint8))
    with pytest.raises(SceneError, match="has no matte"):
        carve_hull(tmp_path)
    with pytest.raises(SceneError, match="no such scene"):
        carve_hull(tmp_path / "nowhere")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED, reason="NPCR_SHARED does not name the shared data")
def test_dino(carve_hull, tmp_path):
    """The carved cloud covers the mattes and keeps within them, and within the bounds known for the object."""
    capture = read_transforms(Path(str(SHARED)) / "data" / "dino", pixel_origin="center")
    cameras = import_capture(capture, tmp_path / "dino")
    carve_hull(tmp_path / "dino", "--points", 60000, "--resolution", 128)
    points = read_points(tmp_path / "dino/pointclouds/frame1.ply").positions
    low, high = np.array([-0.0619, -0.0189, -0.0579]), np.array([0.0109, 0.0682, 0.0155])
    assert ((points > low - 0.008) & (points < high + 0.008)).all()
    silhouettes = load_silhouettes(tmp_path / "dino", 1, 640)
    covered, spilled = coverage(points, cameras, silhouettes.mattes)
    assert covered >= 0.98
    assert spilled <= 0.02
