# SPDX-License-Identifier: Apache-2.0
import copy
import hashlib
import json
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from npcr.camera_paths import look_at, sphere_band
from npcr.cameras import Cameras, project
from npcr.config import load_config
from npcr.data.scene import load_scene
from npcr.errors import NpcrError, SceneError
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.camera_files import read_cam_poses, read_intrinsics
from npcr.io.images import read_image, read_matte, write_image
from npcr.io.points import PointCloud, read_points, write_points

SHARED = os.environ.get("NPCR_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="NPCR_SHARED does not name the shared data")
TO_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


def ball_picture(pose: np.ndarray, focal: float, size: tuple[int, int], center: tuple[float, float]) -> np.ndarray:
    """(H, W, 4) RGBA of a ball of radius 0.5 about the origin, red on its upper half, blue below."""
    y, x = np.mgrid[:size[1], :size[0]]
    rays = np.stack([(x - center[0]) / focal, (y - center[1]) / focal, np.ones(x.shape)], -1) @ pose[:3, :3].T
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    along = -(rays @ pose[:3, 3])
    gap = 0.25 - ((pose[:3, 3] + along[..., None] * rays) ** 2).sum(-1)
    z = pose[2, 3] + (along - np.sqrt(np.maximum(gap, 0))) * rays[..., 2]
    picture = np.zeros((*x.shape, 4), np.uint8)
    picture[gap > 0] = [20, 40, 230, 255]
    picture[(gap > 0) & (z > 0)] = [230, 40, 20, 255]
    return picture


@pytest.fixture
def capture(tmp_path) -> tuple[Path, dict]:
    """A folder with eight RGBA photographs of 64x48 and what its transforms.json holds."""
    folder = tmp_path / "capture"
    values = {"w": 64, "h": 48, "fl_x": 80.0, "fl_y": 80.0, "cx": 32.0, "cy": 24.0, "frames": []}
    for i, pose in enumerate(sphere_band(8, 3.0)):
        write_image(folder / "images" / f"{i:03d}.png", ball_picture(pose, 80.0, (64, 48), (31.5, 23.5)))
        values["frames"].append({"file_path": f"images/{i:03d}.png", "transform_matrix": (pose @ TO_OPENGL).tolist()})
    save(folder, values)
    return folder, values


def save(folder: Path, values: object, name: str = "transforms.json") -> Path:
    (folder / name).write_text(json.dumps(values))
    return folder / name


def digest(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(folder.rglob("*")) if p.is_file()}


def test_axes_and_pixel_origin(capture):
    folder, _ = capture
    view = read_transforms(folder).views[3]
    np.testing.assert_allclose(view.cam_to_world, sphere_band(8, 3.0)[3], atol=1e-12)
    assert view.lens.center == (31.5, 23.5)
    assert read_transforms(folder, pixel_origin="center").views[3].lens.center == (32.0, 24.0)


def test_import_gives_a_scene_whose_cameras_fit_its_pictures(capture, tmp_path):
    folder, _ = capture
    before = digest(folder)
    import_capture(read_transforms(folder), tmp_path / "scenes" / "ball")
    assert digest(folder) == before
    assert [p.name for p in (tmp_path / "scenes").iterdir()] == ["ball"]  # no temporary folder is left
    scene = tmp_path / "scenes" / "ball"
    assert (scene / "img/0/img_0001.png").read_bytes() == (folder / "images/000.png").read_bytes()
    write_points(scene / "pointclouds" / "frame1.ply", PointCloud(np.zeros((1, 3), np.float32)))
    cfg = load_config(scene / "scene.yml")
    loaded = load_scene(cfg.DATASETS.TRAIN, size_raw=cfg.INPUT.SIZE_RAW, frame_num=1, mask=cfg.DATASETS.MASK,
                        center=cfg.DATASETS.CENTER)
    top = torch.tensor([0.0, 0.0, 0.3]).expand(8, 1, 3)
    pixels, _ = project(top, loaded.cameras)
    for i, (x, y) in enumerate(pixels[:, 0].round().int().tolist()):
        assert read_image(loaded.frames[0].images[i])[y, x].tolist() == [230, 40, 20, 255]
    near, far, _ = cfg.INPUT.NEAR_FAR_SIZE
    assert 2.0 < near < 2.5
    assert far == pytest.approx(6, rel=0.05)
    np.testing.assert_allclose(cfg.DATASETS.CENTER, [24, 32], atol=1)
    assert cfg.DATASETS.HOLDOUT_EVERY == 2
    assert cfg.INPUT.SIZE_TRAIN == [64, 48]


def test_downscale_keeps_the_projection(capture, tmp_path):
    folder, _ = capture
    cameras = import_capture(read_transforms(folder), tmp_path / "small", downscale=2)
    assert cameras.size == (32, 24)
    picture = read_image(tmp_path / "small/img/0/img_0002.png")
    expected = ball_picture(sphere_band(8, 3.0)[1], 40.0, (32, 24), (15.5, 11.5))
    np.testing.assert_allclose(read_intrinsics(tmp_path / "small/Intrinsic.inf")[1],
                               [[40, 0, 15.5], [0, 40, 11.5], [0, 0, 1]])
    agree = (picture[..., 3] > 127) == (expected[..., 3] > 127)
    assert agree.mean() > 0.98
    # Averaged premultiplied: where the matte is partly clear no black of the background darkens the color.
    soft = (picture[..., 3] > 20) & (picture[..., 3] < 250)
    assert soft.any()
    assert (picture[soft][:, :3].max(1) > 150).all()


def test_angle_of_view_and_missing_suffix_of_nerf_synthetic(capture, tmp_path):
    folder, values = capture
    angle = 2 * math.atan(32 / 80)
    frames = [{"file_path": f"./images/{i:03d}", "transform_matrix": f["transform_matrix"]}
              for i, f in enumerate(values["frames"])]
    (folder / "transforms.json").unlink()
    save(folder, {"camera_angle_x": angle, "frames": frames}, "transforms_train.json")
    import_capture(read_transforms(folder), tmp_path / "scene")
    np.testing.assert_allclose(read_intrinsics(tmp_path / "scene/Intrinsic.inf")[0],
                               [[80, 0, 31.5], [0, 80, 23.5], [0, 0, 1]], atol=1e-9)


def test_intrinsics_of_a_frame_and_of_another_size(capture, tmp_path):
    folder, values = capture
    values["frames"][2].update(fl_x=160.0, fl_y=168.0, cx=66.0, cy=48.0, w=128, h=96)
    save(folder, values)
    import_capture(read_transforms(folder), tmp_path / "scene")
    intrinsics = read_intrinsics(tmp_path / "scene/Intrinsic.inf")
    np.testing.assert_allclose(intrinsics[2], [[80, 0, 32.5], [0, 84, 23.5], [0, 0, 1]])
    np.testing.assert_allclose(intrinsics[1], [[80, 0, 31.5], [0, 80, 23.5], [0, 0, 1]])


def test_masks_go_with_jpegs(capture, tmp_path):
    folder, values = capture
    for i, frame in enumerate(values["frames"]):
        picture = read_image(folder / frame["file_path"])
        write_image(folder / f"photo/{i}.jpg", picture[..., :3])
        write_image(folder / f"masks/{i}.png", picture[..., 3])
        frame.update(file_path=f"photo/{i}.jpg", mask_path=f"masks/{i}.png")
    save(folder, values)
    import_capture(read_transforms(folder), tmp_path / "scene")
    place = tmp_path / "scene/img/0"
    assert (place / "img_0004.jpg").read_bytes() == (folder / "photo/3.jpg").read_bytes()
    np.testing.assert_array_equal(read_matte(place / "img_0004_alpha.png"), read_matte(folder / "masks/3.png"))
    import_capture(read_transforms(folder), tmp_path / "bare", mask=False)
    assert not list((tmp_path / "bare/img/0").glob("*_alpha.png"))
    assert load_config(tmp_path / "bare/scene.yml").DATASETS.MASK is False


def test_no_mask_leaves_the_alpha_channel_out(capture, tmp_path):
    import_capture(read_transforms(capture[0]), tmp_path / "scene", mask=False)
    assert read_image(tmp_path / "scene/img/0/img_0001.png").shape == (48, 64, 3)


@pytest.mark.parametrize("fisheye", [False, True])
def test_distortion_is_undone(capture, tmp_path, fisheye):
    """Dots drawn where a distorted lens puts them end up where the imported pinhole camera projects them."""
    folder, values = capture
    size, matrix = (320, 240), np.array([[250.0, 0, 161.5], [0, 255.0, 118.5], [0, 0, 1]])
    coefficients = np.array([0.12, -0.05, 0.02, 0.01]) if fisheye else np.array([-0.25, 0.08, 0.002, -0.003])
    pose = look_at((0, -3, 0), (0, 0, 0))
    grid = np.stack(np.meshgrid(np.linspace(-1.1, 1.1, 5), [0.0], np.linspace(-0.8, 0.8, 4)), -1).reshape(-1, 3)
    local = ((grid - pose[:3, 3]) @ pose[:3, :3])[:, None]
    draw = cv2.fisheye.projectPoints if fisheye else cv2.projectPoints
    seen = draw(local, np.zeros(3), np.zeros(3), matrix, coefficients)[0].reshape(-1, 2)
    y, x = np.mgrid[:size[1], :size[0]]
    light = np.exp(-((x[..., None] - seen[:, 0]) ** 2 + (y[..., None] - seen[:, 1]) ** 2) / (2 * 1.8**2)).sum(-1)
    write_image(folder / "dots.png", np.repeat(light[..., None], 3, 2).clip(0, 1).astype(np.float32))
    names = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2")
    values.update(dict(zip(names, coefficients.tolist(), strict=True)), fl_x=250.0, fl_y=255.0, cx=162.0, cy=119.0,
                  w=size[0], h=size[1], camera_model="OPENCV_FISHEYE" if fisheye else "OPENCV",
                  frames=[{"file_path": "dots.png", "transform_matrix": (pose @ TO_OPENGL).tolist()}])
    save(folder, values)
    cameras = import_capture(read_transforms(folder), tmp_path / "scene")
    picture = read_image(tmp_path / "scene/img/0/img_0001.png")[..., 0].astype(float)
    pixels = project(torch.from_numpy(grid).float()[None], cameras)[0][0].numpy()
    checked = 0
    for px, py in pixels:
        column, row = round(px), round(py)
        if 8 <= column < size[0] - 8 and 8 <= row < size[1] - 8:
            window = picture[row - 6:row + 7, column - 6:column + 7]
            dy, dx = np.mgrid[-6:7, -6:7]
            found = np.array([(window * dx).sum(), (window * dy).sum()]) / window.sum() + [column, row]
            np.testing.assert_allclose(found, [px, py], atol=0.25)
            checked += 1
    assert checked >= 8


def test_the_cloud_comes_along(capture, tmp_path):
    folder, values = capture
    ball = np.random.default_rng(0).normal(size=(3000, 3))
    ball = (0.5 * ball / np.linalg.norm(ball, axis=1, keepdims=True)).astype(np.float32)
    write_points(folder / "sparse.ply", PointCloud(ball))
    save(folder, {**values, "ply_file_path": "sparse.ply"})
    import_capture(read_transforms(folder), tmp_path / "scene")
    np.testing.assert_array_equal(read_points(tmp_path / "scene/pointclouds/frame1.ply").positions, ball)
    near, far, size = load_config(tmp_path / "scene/scene.yml").INPUT.NEAR_FAR_SIZE
    assert 2.4 < near < 2.6
    assert 5.7 < far < 6.3
    assert 0.35 < size < 2


def test_missing_photographs_are_counted_and_left_out(capture, tmp_path):
    folder, values = capture
    values["frames"][5]["file_path"] = "images/none.png"
    (folder / "images/002.png").unlink()
    save(folder, values)
    read = read_transforms(folder)
    assert [p.name for p in read.missing] == ["002.png", "none.png"]
    assert len(read.views) == 6
    import_capture(read, tmp_path / "scene")
    np.testing.assert_allclose(read_cam_poses(tmp_path / "scene/CamPose.inf")[2], sphere_band(8, 3.0)[3], atol=1e-12)


def test_a_failed_overwrite_keeps_the_old_scene(capture, tmp_path):
    folder, _ = capture
    import_capture(read_transforms(folder), tmp_path / "scene")
    before = digest(tmp_path / "scene")
    with pytest.raises(SceneError, match="not empty"):
        import_capture(read_transforms(folder), tmp_path / "scene")
    whole = (folder / "images/007.png").read_bytes()
    (folder / "images/007.png").write_bytes(whole[:-40])
    with pytest.raises(SceneError, match="cut short"):
        import_capture(read_transforms(folder), tmp_path / "scene", overwrite=True)
    assert digest(tmp_path / "scene") == before
    (folder / "images/007.png").write_bytes(whole)
    import_capture(read_transforms(folder), tmp_path / "scene", downscale=2, overwrite=True)
    assert read_image(tmp_path / "scene/img/0/img_0001.png").shape == (24, 32, 4)


def test_overwrite_replaces_scenes_only(capture, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to_mother.txt").write_text("Dear")
    with pytest.raises(SceneError, match="holds no scene"):
        import_capture(read_transforms(capture[0]), tmp_path / "letters", overwrite=True)
    for place in (capture[0], capture[0] / "scene", tmp_path):
        with pytest.raises(SceneError, match=r"not empty|within the source"):
            import_capture(read_transforms(capture[0]), place)


def test_a_photograph_of_another_shape_than_the_file_says(capture, tmp_path):
    folder, _ = capture
    write_image(folder / "images/001.png", np.zeros((20, 30, 4), np.uint8))
    with pytest.raises(SceneError, match=r"transforms.json, frames\[1\]: .*001.png is 30x20, but its camera "
                       "was calibrated for 64x48; put the picture there"):
        import_capture(read_transforms(folder), tmp_path / "scene")


def _with_splits(folder, values, names):
    (folder / "transforms.json").unlink()
    for split, frames in names.items():
        save(folder, {**values, "frames": [values["frames"][i] for i in frames]}, f"transforms_{split}.json")


def test_splits_of_nerf_synthetic_are_kept(capture, tmp_path):
    folder, values = capture
    _with_splits(folder, values, {"train": [0, 1, 2, 3], "val": [4], "test": [5, 6, 7]})
    assert len(import_capture(read_transforms(folder), tmp_path / "scene")) == 4
    write_points(tmp_path / "scene/pointclouds/frame1.ply", PointCloud(np.zeros((5, 3), np.float32)))
    cfg = load_config(tmp_path / "scene/scene.yml")
    assert (Path(cfg.DATASETS.TEST), cfg.DATASETS.HOLDOUT_EVERY) == (tmp_path / "scene/test", 0)
    # What training opens: held-out views beside their own cameras, with the parent's cloud.
    for place, frames in (("test", [5, 6, 7]), ("val", [4])):
        held_out = load_scene(tmp_path / "scene" / place, size_raw=cfg.INPUT.SIZE_RAW, frame_num=1, mask=True,
                              center=cfg.DATASETS.CENTER)
        np.testing.assert_allclose(held_out.cameras.cam_to_world, sphere_band(8, 3.0)[frames], atol=1e-6)
        assert held_out.frames[0].images[0].read_bytes() == (folder / f"images/{frames[0]:03d}.png").read_bytes()


def test_splits_of_nerfstudio_are_kept(capture, tmp_path):
    folder, values = capture
    names = [frame["file_path"] for frame in values["frames"]]
    save(folder, {**values, "train_filenames": names[:6], "val_filenames": names[6:]})
    views = read_transforms(folder).views
    assert [view.split for view in views] == ["train"] * 6 + ["val"] * 2
    import_capture(read_transforms(folder), tmp_path / "scene")
    assert Path(load_config(tmp_path / "scene/scene.yml").DATASETS.TEST).name == "val"


def test_a_file_alone_is_no_split(capture, tmp_path):
    folder, values = capture
    _with_splits(folder, values, {"train": [0, 1], "test": [5, 6, 7]})
    assert {view.split for view in read_transforms(folder / "transforms_test.json").views} == {"train"}


def test_an_applied_transform_can_be_undone(capture):
    """Cameras and ply_file_path share a frame; a cloud from before the transform needs the cameras of before it."""
    folder, values = capture
    applied = np.array([[1.0, 0, 0, 0.5], [0, 0, 1, 0], [0, -1, 0, 2.0]])
    poses = [np.array(frame["transform_matrix"]) for frame in values["frames"]]
    for frame, pose in zip(values["frames"], poses, strict=True):
        frame["transform_matrix"] = (np.vstack([applied, [0, 0, 0, 1]]) @ pose).tolist()
    save(folder, {**values, "applied_transform": applied.tolist()})
    moved = read_transforms(folder).views[2].cam_to_world
    np.testing.assert_allclose(moved, np.vstack([applied, [0, 0, 0, 1]]) @ sphere_band(8, 3.0)[2], atol=1e-12)
    undone = read_transforms(folder, undo_applied_transform=True).views[2].cam_to_world
    np.testing.assert_allclose(undone, sphere_band(8, 3.0)[2], atol=1e-12)


@pytest.mark.parametrize(("change", "message"), [
    (lambda v: v.pop("frames"), "needs a list 'frames'"),
    (lambda v: v.update(frames=[]), "needs a list 'frames'"),
    (lambda v: v["frames"].__setitem__(1, 7), r"frames\[1\].*found int"),
    (lambda v: v["frames"][1].pop("file_path"), r"frames\[1\]: file_path is missing"),
    (lambda v: v["frames"][1].update(file_path=3), "file_path is 3"),
    (lambda v: v["frames"][1].pop("transform_matrix"), "transform_matrix is missing"),
    (lambda v: v["frames"][1].update(transform_matrix=[[1, 2], [3, 4]]), "4 rows of 4"),
    (lambda v: v["frames"][1].update(transform_matrix=[["a"] * 4] * 4), "4 rows of 4"),
    (lambda v: v["frames"][1]["transform_matrix"][0].__setitem__(3, math.nan), "4 rows of 4"),
    (lambda v: v["frames"][1]["transform_matrix"][0].__setitem__(0, 5.0), "not orthonormal"),
    (lambda v: v["frames"][1]["transform_matrix"].__setitem__(0, [-x for x in v["frames"][1]["transform_matrix"][0]]),
     "right-handed"),
    (lambda v: v.pop("fl_x"), "fl_x is missing; .* camera_angle_x"),
    (lambda v: v.update(fl_x=0), "fl_x is 0"),
    (lambda v: v.update(fl_y=-3.0), "fl_y is -3.0"),
    (lambda v: v.update(fl_x="wide"), "fl_x is 'wide'"),
    (lambda v: v.update(cx=math.inf), "cx is inf"),
    (lambda v: v.update(w=0), "at least 1x1"),
    (lambda v: v.update(w=48, h=64), "calibrated for 48x64; turn its pixels"),
    (lambda v: v.update(camera_model="EQUIRECTANGULAR"), "EQUIRECTANGULAR"),
    (lambda v: v.update(k4=0.1), "k4 is 0.1"),
    (lambda v: [f.update(file_path="gone.png") for f in v["frames"]], "none of its 8"),
])
def test_malformed_files_are_named(capture, tmp_path, change, message):
    folder, values = capture
    broken = copy.deepcopy(values)
    change(broken)
    save(folder, broken)
    with pytest.raises(NpcrError, match=message) as caught:
        import_capture(read_transforms(folder), tmp_path / "scene")
    assert "transforms.json" in str(caught.value)
    assert not (tmp_path / "scene").exists()


@pytest.mark.parametrize(("text", "message"), [
    ("{", "line 1: not JSON"), ("[]", "needs an object"), ("\udce9", "not text"), ("[" * 100000, "not JSON|nested")])
def test_files_that_are_not_json(tmp_path, text, message):
    (tmp_path / "transforms.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SceneError, match=message):
        read_transforms(tmp_path)
    with pytest.raises(SceneError, match="has neither"):
        read_transforms(tmp_path.parent)


@pytest.mark.parametrize("downscale", [0.5, math.nan])
def test_downscale_is_checked(capture, tmp_path, downscale):
    with pytest.raises(SceneError, match="--downscale"):
        import_capture(read_transforms(capture[0]), tmp_path / "scene", downscale=downscale)


def test_a_demand_for_mattes_that_are_not_there(capture, tmp_path):
    folder, _ = capture
    write_image(folder / "images/004.png", np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(SceneError, match=r"1 of 8 photographs.*004.png"):
        import_capture(read_transforms(folder), tmp_path / "scene", mask=True)
    import_capture(read_transforms(folder), tmp_path / "scene")
    assert read_image(tmp_path / "scene/img/0/img_0001.png").shape[2] == 3


@needs_shared
def test_fox_names_17_files_that_do_not_exist(tmp_path):
    read = read_transforms(Path(str(SHARED)) / "data" / "fox")
    assert len(read.missing) == 17
    assert len(read.views) == 50
    cameras = import_capture(read, tmp_path / "fox", downscale=4)
    assert cameras.size == (135, 240)
    assert isinstance(cameras, Cameras)
    assert load_config(tmp_path / "fox/scene.yml").DATASETS.MASK is False


def test_a_cloud_that_no_camera_sees_is_refused_before_the_photographs_are_converted(capture, tmp_path):
    folder, values = capture
    write_points(folder / "fused.ply", PointCloud(np.random.default_rng(0).uniform(-0.4, 0.4, (50, 3))))
    for frame in values["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ TO_OPENGL).tolist()  # OpenCV's axes
    file = save(folder, {**values, "ply_file_path": "fused.ply"})
    with pytest.raises(SceneError, match=rf"^{file}: none of the 8 cameras sees a point of the cloud "
                                         rf"{folder / 'fused.ply'}: likely .* axes .*npcr check"):
        import_capture(read_transforms(folder), tmp_path / "scene")
    assert not (tmp_path / "scene").exists()
