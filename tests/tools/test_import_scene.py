# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest

from npcr.camera_paths import sphere_band
from npcr.commands import import_scene as command
from npcr.config import load_config
from npcr.errors import SceneError
from npcr.io.camera_files import read_intrinsics
from npcr.io.images import write_image
from npcr.io.points import PointCloud, read_points, write_points
from tests.captures import points, write_colmap, write_metashape, write_transforms
from tests.importers.test_nhr import write_nhr


@pytest.fixture
def import_scene():
    def run(*arguments: object) -> None:
        command.main([*map(str, arguments)])
    return run


@pytest.fixture
def capture(tmp_path) -> Path:
    """Four photographs without mattes, of which one does not exist."""
    folder = tmp_path / "capture"
    frames = []
    for i, pose in enumerate(sphere_band(4, 2.0)):
        if i:
            write_image(folder / f"{i}.png", np.full((80, 120, 3), 20 * i, np.uint8))
        frames.append({"file_path": f"{i}.png", "transform_matrix": (pose @ np.diag([1, -1, -1, 1])).tolist()})
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 100, "cx": 60, "cy": 40, "frames": frames}))
    return folder


def test_transforms(import_scene, capture, tmp_path, capsys, caplog):
    import_scene("transforms", capture, tmp_path / "scene", "--downscale", 2)
    assert "1 of 4 photographs" in caplog.text
    assert "0.png" in caplog.text
    out = capsys.readouterr().out
    assert "3 photographs of 60x40" in out
    assert "no point cloud, and the scene no mattes to carve one from" in out
    np.testing.assert_allclose(read_intrinsics(tmp_path / "scene/Intrinsic.inf")[0],
                               [[50, 0, 29.5], [0, 50, 19.5], [0, 0, 1]])


@pytest.mark.parametrize("more", [{"ply_file_path": "gone.ply"}, {"ply_file_path": "c.ply", "applied_scale": 1.0}])
def test_a_cloud_of_the_source_is_no_matter_where_points_names_another(import_scene, tmp_path, caplog, more):
    folder, cloud = write_transforms(tmp_path / "capture", **more), tmp_path / "points.ply"
    write_points(cloud, PointCloud(points().astype(np.float32)))
    arguments = ["--undo-applied-transform"] if "applied_scale" in more else []
    import_scene("transforms", folder, tmp_path / "scene", "--points", cloud, *arguments)
    assert caplog.text == ""
    import_scene("transforms", folder, tmp_path / "bare", *arguments)
    assert str(more["ply_file_path"]) in caplog.text
    assert "--points names a" in caplog.text


def test_pixel_origin_center(import_scene, capture, tmp_path):
    import_scene("transforms", capture, tmp_path / "scene", "--pixel-origin", "center")
    assert read_intrinsics(tmp_path / "scene/Intrinsic.inf")[0, :2, 2].tolist() == [60, 40]


def test_mattes_may_be_demanded(import_scene, capture, tmp_path):
    with pytest.raises(SceneError, match="3 of 3 photographs have neither"):
        import_scene("transforms", capture, tmp_path / "scene", "--mask")


def test_photographs_must_not_end_up_tiny(import_scene, capture, tmp_path):
    with pytest.raises(SceneError, match="photographs of 12x8"):
        import_scene("transforms", capture, tmp_path / "scene", "--downscale", 10)
    assert not (tmp_path / "scene").exists()


def test_a_kind_is_needed(import_scene, capture, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        import_scene(capture, tmp_path / "scene")
    assert ended.value.code == 2
    assert "transforms" in capsys.readouterr().err


def test_every_kind_makes_a_scene(import_scene, tmp_path):
    pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")
    write_colmap(tmp_path / "colmap")
    sources = {"colmap": tmp_path / "colmap", "transforms": write_transforms(tmp_path / "t"),
               "nhr": write_nhr(tmp_path / "n"), "metashape": write_metashape(tmp_path / "m")}
    for kind, source in sources.items():
        import_scene(kind, source, tmp_path / "scenes" / kind)
        load_config(tmp_path / "scenes" / kind / "scene.yml")


def test_a_cloud_of_ones_own_is_edited(import_scene, tmp_path):
    write_points(tmp_path / "mine.xyz", PointCloud(np.concatenate([points(400), [[9, 9, 9]]]).astype(np.float32)))
    import_scene("transforms", write_transforms(tmp_path / "t"), tmp_path / "scene", "--points", tmp_path / "mine.xyz",
                 "--outliers", 3, "--crop", -1, -1, -1, 1, 1, 0.2, "--voxel", 0.05, "--max-points", 50)
    cloud = read_points(tmp_path / "scene/pointclouds/frame1.ply").positions
    assert len(cloud) == 50
    assert -1 < cloud.min() < cloud[:, 2].max() <= 0.2


def test_densify_needs_a_cloud_to_begin_with(import_scene, capture, tmp_path):
    with pytest.raises(SceneError, match="--densify needs a sparse cloud"):
        import_scene("transforms", capture, tmp_path / "scene", "--densify", 1000)
    assert not (tmp_path / "scene").exists()


def test_background_is_a_color(import_scene, capture, tmp_path, capsys):
    for wrong in ("1,2", "red"):
        with pytest.raises(SystemExit):
            import_scene("transforms", capture, tmp_path / "scene", "--background", wrong)
    import_scene("transforms", capture, tmp_path / "scene", "--background", "0,0,0", "--tolerance", 5, 30)
    assert f"npcr carve {tmp_path / 'scene'} makes one from the mattes" in capsys.readouterr().out
    assert load_config(tmp_path / "scene/scene.yml").DATASETS.ALPHA_MODE == "composited"


@pytest.mark.parametrize("has_cloud", [False, True])
@pytest.mark.parametrize(("offset", "accepted"), [(100, True), (40e3, False), (4.2e6, False)])
def test_coordinates_that_float32_would_blur_are_refused(import_scene, tmp_path, offset, accepted, has_cloud):
    folder = write_transforms(tmp_path / "t")
    values = json.loads((folder / "transforms.json").read_text())
    for frame in values["frames"]:
        frame["transform_matrix"][0][3] += offset
    (folder / "transforms.json").write_text(json.dumps(values))
    np.savetxt(folder / "cloud.xyz", points() + [offset, 0, 0])
    options = ("--points", folder / "cloud.xyz") if has_cloud else ()
    if accepted:
        import_scene("transforms", folder, tmp_path / "scene", *options)
    else:
        with pytest.raises(SceneError, match=r"float32 misplaces points by .* pixels; 0\.05 are allowed") as caught:
            import_scene("transforms", folder, tmp_path / "scene", *options)
        subtracted = str(caught.value).partition("such as ")[2].partition(",")[0].split()
        np.testing.assert_allclose([float(word) for word in subtracted], [offset, 0, 0], atol=10)
