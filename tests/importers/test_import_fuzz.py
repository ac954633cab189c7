# SPDX-License-Identifier: Apache-2.0
"""Damaged captures: an importer writes a whole scene or says in its own words why not; nothing half, no hang.

NPCR_FUZZ=1000 runs so many damaged inputs for each importer instead of a few.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="hypothesis (npcr[dev]) is not installed")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npcr.config import load_config
from npcr.data.scene import load_scene
from npcr.errors import NpcrError
from npcr.importers.base import Capture
from npcr.importers.colmap import read_colmap
from npcr.importers.metashape import read_metashape
from npcr.importers.nhr import read_nhr
from npcr.importers.scene_writer import import_capture
from npcr.importers.transforms import read_transforms
from npcr.io.points import PointCloud, write_points
from tests.captures import points, write_colmap, write_metashape, write_transforms
from tests.importers.test_nhr import write_nhr

COUNT = int(os.environ.get("NPCR_FUZZ", "15"))
SECONDS = 20  # far above what any of these takes
PROFILE = settings(max_examples=COUNT, deadline=None, database=None, derandomize="NPCR_FUZZ" not in os.environ,
                   suppress_health_check=list(HealthCheck))

# A change of bytes: what to do, where (a share of the file), with which bytes.
BYTES = st.lists(st.tuples(st.sampled_from(["set", "cut", "insert", "delete", "repeat"]), st.floats(0, 1),
                           st.binary(min_size=1, max_size=9) | st.sampled_from(
                               [b"\xff" * 8, b"\0" * 8, b"nan", b"1e999", b"-1", b"\n", b'"', b"<", b"&a;"])),
                 min_size=1, max_size=3)
JUNK = st.sampled_from([None, True, -1, 0, 1e308, -1e308, 10**400, float("nan"), float("inf"), "", "\0", "../..", "/",
                        "x" * 5000, [], {}, [[]], [1, 2, 3], [[1, 0, 0, 0]] * 4, {"a": 1}, "\ud800"])


def _with_bytes(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, share, new in changes:
        at = int(share * len(data))
        data = {"set": data[:at] + new + data[at + len(new):], "cut": data[:at], "insert": data[:at] + new + data[at:],
                "delete": data[:at] + data[at + len(new):], "repeat": data[:at] + data[max(0, at - 40):]}[what]
    return data


def _with_junk(text: str, picks: list[float], junk: Any) -> str:
    """JSON with the value at a random place, found by going down while `picks` last, replaced."""
    values = json.loads(text)
    place, key = {"": values}, ""
    for pick in picks:
        inner: Any = place[key]
        if not isinstance(inner, (dict, list)) or not inner:
            break
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        place, key = inner, keys[min(int(pick * len(keys)), len(keys) - 1)]
    place[key] = junk
    return json.dumps(values)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise AssertionError(f"an import ran for more than {SECONDS} seconds")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _whole_or_nothing(pristine: Path, damage: Callable[[Path], Any], read: Callable[[Path], Capture]) -> None:
    with tempfile.TemporaryDirectory() as place:
        source, scene = Path(place) / "source", Path(place) / "scenes" / "new"
        shutil.copytree(pristine, source)
        damage(source)
        said = None
        with _time_limit():
            try:
                import_capture(read(source), scene, workers=1)
            except (NpcrError, OSError) as error:  # what the script prints as one line
                said = str(error)
        if said is not None:
            assert said.strip()
            assert not scene.parent.exists() or not list(scene.parent.iterdir())
            return
        assert [path.name for path in scene.parent.iterdir()] == ["new"]
        cfg = load_config(scene / "scene.yml")
        if (scene / "pointclouds").is_dir():
            load_scene(scene, size_raw=cfg.INPUT.SIZE_RAW, frame_num=cfg.DATASETS.FRAME_NUM, mask=cfg.DATASETS.MASK,
                       center=cfg.DATASETS.CENTER)


def _damage(pick: float, changes: list[tuple[str, float, bytes]], names: str = "*") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        files = [file for file in sorted(folder.rglob(names)) if file.is_file()]
        file = files[min(int(pick * len(files)), len(files) - 1)]
        file.write_bytes(_with_bytes(file.read_bytes(), changes))
    return damage


@pytest.fixture(scope="module")
def transforms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_transforms(tmp_path_factory.mktemp("fuzz") / "t", k1=0.01, camera_model="OPENCV",
                              ply_file_path="cloud.ply", applied_transform=np.eye(4)[:3].tolist(),
                              test_filenames=["images/3.png"])
    write_points(folder / "cloud.ply", PointCloud(points().astype(np.float32)))
    return folder


@PROFILE
@given(st.floats(0, 1), BYTES)
def test_transforms_bytes(transforms: Path, pick: float, changes: list[tuple[str, float, bytes]]) -> None:
    _whole_or_nothing(transforms, _damage(pick, changes), read_transforms)


@PROFILE
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), JUNK)
def test_transforms_values(transforms: Path, picks: list[float], junk: Any) -> None:
    def damage(folder: Path) -> None:
        file = folder / "transforms.json"
        file.write_text(_with_junk(file.read_text(), picks, junk))
    _whole_or_nothing(transforms, damage, read_transforms)


@pytest.fixture(scope="module")
def colmap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pycolmap", reason="pycolmap (npcr[colmap]) is not installed")
    folder = tmp_path_factory.mktemp("fuzz")
    for name, binary in (("binary", True), ("text", False)):
        write_colmap(folder / name, binary=binary, model="OPENCV", params=(50, 50, 24, 18, 0.02, 0, 0, 0))
    return folder


@PROFILE
@given(st.floats(0, 1), BYTES, st.sampled_from(["binary", "text"]))
def test_colmap(colmap: Path, pick: float, changes: list[tuple[str, float, bytes]], kind: str) -> None:
    names = "*.bin" if kind == "binary" else "*.txt"
    _whole_or_nothing(colmap / kind, _damage(pick, changes, names), read_colmap)


@pytest.fixture(scope="module")
def metashape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_metashape(tmp_path_factory.mktemp("fuzz") / "m", calibration="<f>50</f><cx>1</cx><k1>0.02</k1>"
                           "<b2>0.1</b2>", chunk="<transform><scale>2</scale></transform>").parent


@PROFILE
@given(BYTES)
def test_metashape(metashape: Path, changes: list[tuple[str, float, bytes]]) -> None:
    _whole_or_nothing(metashape, _damage(0, changes, "cameras.xml"),
                      lambda source: read_metashape(source / "cameras.xml"))


@pytest.fixture(scope="module")
def nhr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nhr(tmp_path_factory.mktemp("fuzz") / "n")


@PROFILE
@given(st.floats(0, 1), BYTES, st.sampled_from(["*", "*.inf"]))
def test_nhr(nhr: Path, pick: float, changes: list[tuple[str, float, bytes]], names: str) -> None:
    _whole_or_nothing(nhr, _damage(pick, changes, names), read_nhr)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz") / "clouds"
    folder.mkdir()
    cloud = PointCloud(points().astype(np.float32), np.full((40, 3), 7, np.uint8))
    for suffix in (".ply", ".obj", ".xyz", ".npy"):
        write_points(folder / f"cloud{suffix}", cloud)
    laspy = pytest.importorskip("laspy", reason="laspy (npcr[las]) is not installed")
    las = laspy.create(point_format=2, file_version="1.2")
    las.x, las.y, las.z = points().T
    for suffix in (".las", ".laz"):
        las.write(folder / f"cloud{suffix}")
    write_transforms(folder / "capture")
    return folder


@PROFILE
@given(st.floats(0, 1), BYTES)
def test_clouds(clouds: Path, pick: float, changes: list[tuple[str, float, bytes]]) -> None:
    names = [file.name for file in sorted(clouds.glob("cloud.*"))]
    name = names[min(int(pick * len(names)), len(names) - 1)]

    def read(source: Path) -> Capture:
        capture = read_transforms(source / "capture")
        return Capture(capture.file, capture.views, clouds=[source / name])

    _whole_or_nothing(clouds, _damage(0, changes, name), read)
